"""8-bit floats (E4M3, arXiv 2209.05433), one scale per output channel, nearest (see ``_channel.py``); weights only.

Four bits of significand at every size, where int8 has seven for the largest weights and fewer below.  TensorRT-RTX 1.7.1
keeps them packed in a plan; ``docs/decisions/0012-fp8-nvfp4.md`` says what it does with nvfp4.
"""

from __future__ import annotations

import ml_dtypes

from skinedge.quantize import _channel
from skinedge.quantize._rounding import NEAREST, Rounding
from skinedge.quantize._storage import StoredMatrix
from skinedge.weights.source import Array, Float32, TensorSource

TARGETS = ("trt",)
LARGEST = 448.0  # E4M3 has no infinity: what is larger would become not-a-number


def store(source: TensorSource, name: str, activations: str, rounding: Rounding = NEAREST) -> StoredMatrix:
    """E4M3 values ``[in, out]`` and scales ``[out]`` in the type of the activations."""
    del rounding
    return _channel.store(source, name, activations, _channel.EightBits("fp8", "FLOAT8E4M3FN", LARGEST, _to_nearest))


def _to_nearest(steps: Float32) -> Array:
    values: Array = steps.astype(ml_dtypes.float8_e4m3fn)
    return values
