"""int8, one scale per output channel, symmetric, nearest (see ``_channel.py``).

TensorRT keeps per-channel int8 packed in its plan (blockwise int8 it expands again), and ONNX Runtime fuses the pair
into ``MatMulNBits``.
"""

from __future__ import annotations

import numpy as np

from skinedge.quantize import _channel
from skinedge.quantize._rounding import NEAREST, Rounding
from skinedge.quantize._storage import StoredMatrix
from skinedge.weights.source import Array, Float32, TensorSource

TARGETS = ("onnx", "trt")


def store(source: TensorSource, name: str, activations: str, rounding: Rounding = NEAREST) -> StoredMatrix:
    """int8 values ``[in, out]`` and scales ``[out]`` in the type of the activations."""
    del rounding
    return _channel.store(source, name, activations, _channel.EightBits("int8", "INT8", 127, _to_nearest))


def _to_nearest(steps: Float32) -> Array:
    np.rint(steps, out=steps)
    values: Array = steps.astype(np.int8)
    return values
