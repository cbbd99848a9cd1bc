"""int4 in blocks of 64 input channels, asymmetric: a zero point for every block (see ``_int4.py``).

Not for TensorRT: the parser of TensorRT-RTX 1.7.1 imports no uint4 initializer.
"""

from __future__ import annotations

from skinedge.quantize import _int4
from skinedge.quantize._rounding import NEAREST, Rounding
from skinedge.quantize._storage import StoredMatrix
from skinedge.weights.source import TensorSource

TARGETS = ("onnx",)
BLOCK = 64


def store(source: TensorSource, name: str, activations: str, rounding: Rounding = NEAREST) -> StoredMatrix:
    """Packed uint4 values ``[in, out]``, scales ``[in / 64, out]`` and zero points."""
    return _int4.store(source, name, activations, rounding, block=BLOCK, asymmetric=True)
