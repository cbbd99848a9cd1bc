"""What the model is: configuration, tensor names, the side branch, the PyTorch reference."""
