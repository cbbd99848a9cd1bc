"""What is known of each device, one TOML file each."""
