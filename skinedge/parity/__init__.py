"""Does the bundle say what PyTorch says?  Stage by stage."""
