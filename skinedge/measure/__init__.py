"""How fast, how much memory, how much energy: a bundle measured on the machine at hand, or forecast for another."""
