"""What runs on a device: images, prompts, sampling, sessions.  Never imports PyTorch."""
