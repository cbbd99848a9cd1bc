"""IEEE half precision: 11 bits of significand, largest value 65504."""

from __future__ import annotations

from skinedge.quantize._rounding import NEAREST, Rounding
from skinedge.quantize._storage import StoredMatrix, store_float
from skinedge.weights.source import TensorSource

TARGETS = ("onnx", "trt", "gguf", "safetensors")


def store(source: TensorSource, name: str, activations: str, rounding: Rounding = NEAREST) -> StoredMatrix:
    """The matrix in this type, whatever the activations."""
    del activations, rounding
    return store_float(source, name, "f16")
