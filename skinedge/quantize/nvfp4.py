"""4-bit floats (E2M1) in blocks of 16 input channels under E4M3 scales and one scale of all: NVIDIA's NVFP4; weights only.

``W[o, i] = g * s[i // 16, o] * q[i, o]`` with ``q`` one of 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.  ``g`` takes the
largest block's scale to the largest E4M3 number.  Steps widen with size, where int4's are even; a scale costs half
a bit a weight, as int4's 16-bit one does for 32.  Source: OCP Microscaling Formats 1.0, 5.3.3 (E2M1), and ONNX opset 23.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np

from skinedge.quantize._rounding import NEAREST, Rounding
from skinedge.quantize._storage import ONNX_TYPES, Once, StoredMatrix, StoredTensor, positive, store_float
from skinedge.weights.cast import FLOATS, cast
from skinedge.weights.source import F32, Array, Float32, TensorSource, TensorSpec, col_blocks
from skinedge.weights.stream import Payload

TARGETS = ("trt",)
BLOCK, STEP = 16, 128
LARGEST = 6.0
E2M1, E4M3 = np.dtype(ml_dtypes.float4_e2m1fn), np.dtype(ml_dtypes.float8_e4m3fn)
_LARGEST_SCALE = 448.0


def store(source: TensorSource, name: str, activations: str, rounding: Rounding = NEAREST) -> StoredMatrix:
    """Packed E2M1 values ``[in, out]``, E4M3 scales ``[in / 16, out]`` and their scale, in the type of the activations."""
    del rounding
    spec, dtype = source.spec(name), FLOATS[activations]
    if spec.cols % BLOCK or spec.rows % 2:
        return store_float(source, name, activations)
    scales = Once(lambda: _scales(source, spec, dtype))

    def part(cols: slice) -> Callable[[], Array]:
        return lambda: _packed(source.read(name, cols=cols).T.astype(F32, order="C"), *scales(), cols)

    values = Payload(f"{name}.nvfp4", spec.size // 2, [part(c) for c in col_blocks(spec, STEP)])
    shape = (spec.cols // BLOCK, spec.rows)
    return StoredMatrix(
        values=StoredTensor("FLOAT4E2M1", (spec.cols, spec.rows), values),
        scales=StoredTensor("FLOAT8E4M3FN", shape, Payload(f"{name}.scale", spec.size // BLOCK, [lambda: scales()[0]])),
        outer=StoredTensor(ONNX_TYPES[activations], (), Payload(f"{name}.outer", dtype.itemsize, [lambda: scales()[1]])),
        block=BLOCK,
        scheme="nvfp4",
        bits=4 + 8 / BLOCK + dtype.itemsize * 8 / spec.size,
    )


def _scales(source: TensorSource, spec: TensorSpec, dtype: np.dtype[np.generic]) -> tuple[Array, Array]:
    """The blocks' scales, as they are stored, and the scale of them all."""
    peaks = [_peaks(source.read(spec.name, cols=cols)) for cols in col_blocks(spec, STEP)]
    wanted = np.concatenate(peaks) / F32.type(LARGEST)
    outer = positive(cast(np.array(wanted.max() / F32.type(_LARGEST_SCALE), F32), dtype, spec.name))
    inner = np.minimum(wanted / outer.astype(F32), F32.type(_LARGEST_SCALE))
    return positive(inner.astype(E4M3)), outer


def _peaks(weights: Array) -> Float32:
    """``[in / 16, out]``, the largest magnitude of each block of ``[out, in]``."""
    blocks = np.abs(weights.T.astype(F32)).reshape(-1, BLOCK, len(weights))
    peaks: Float32 = blocks.max(1)
    return peaks


def _packed(weights: Float32, scales: Array, outer: Array, cols: slice) -> Array:
    """``[in, out]`` weights to two values a byte, the first in the low half."""
    inside = scales[cols.start // BLOCK : -(-cols.stop // BLOCK)].astype(F32) * outer.astype(F32)
    blocks = weights.reshape(len(inside), BLOCK, -1) / inside[:, None]
    np.clip(blocks, -LARGEST, LARGEST, out=blocks)
    nibbles = blocks.astype(E2M1).view(np.uint8).reshape(weights.shape)
    packed: Array = nibbles[:, 1::2] << 4 | nibbles[:, 0::2]
    return packed
