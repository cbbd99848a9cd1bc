"""Weights as a stream: safetensors, LoRA merged while it is read, full accounting, writing."""
