"""int4 in blocks of 128 input channels, symmetric around zero (see ``_int4.py``).

TensorRT wants positive scales, so a block uses the end of -8..7 on whichever side needs it more.
"""

from __future__ import annotations

from skinedge.quantize import _int4
from skinedge.quantize._rounding import NEAREST, Rounding
from skinedge.quantize._storage import StoredMatrix
from skinedge.weights.source import TensorSource

TARGETS = ("onnx", "trt")
BLOCK = 128


def store(source: TensorSource, name: str, activations: str, rounding: Rounding = NEAREST) -> StoredMatrix:
    """Packed int4 values ``[in, out]``, scales ``[in / 128, out]``."""
    return _int4.store(source, name, activations, rounding, block=BLOCK, asymmetric=False)
