"""The portable ONNX graphs, written node by node from the configuration."""
