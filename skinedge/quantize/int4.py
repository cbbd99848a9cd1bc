"""int4 in blocks of 32 input channels, symmetric around zero, nearest.

``W[o, i] = s[i // 32, o] * q[i, o]`` with ``q`` in -8..7.  TensorRT wants positive scales, so a block
uses the end of the range on whichever side needs it more: ``s = max(max W / 7, min W / -8)``.  A matrix
whose input width 32 does not divide stays in the type of the activations, and the manifest says so.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from skinedge.quantize._storage import ONNX_TYPES, StoredMatrix, StoredTensor, positive, store_float
from skinedge.weights.cast import FLOATS, cast
from skinedge.weights.source import F32, Array, Float32, TensorSource, col_blocks
from skinedge.weights.stream import Payload

TARGETS = ("onnx", "trt")
BLOCK = 32

Int8 = npt.NDArray[np.int8]


def store(source: TensorSource, name: str, activations: str) -> StoredMatrix:
    """Packed int4 values ``[in, out]`` and scales ``[in / 32, out]`` in the type of the activations."""
    spec, dtype = source.spec(name), FLOATS[activations]
    # Two values share a byte, so a slice of columns must end on a whole byte: rows must be even too.
    if spec.cols % BLOCK or spec.rows % 2:
        return store_float(source, name, activations)

    # The scales follow the values in the file: those made on the way are kept so that no block is read twice.
    made: dict[int, Array] = {}

    def values(cols: slice) -> Callable[[], Array]:
        def part() -> Array:
            weights = source.read(name, cols=cols).T.astype(F32, order="C")
            made[cols.start] = block_scales(weights, dtype, name)
            return pack(quantize(weights, made[cols.start]))

        return part

    def scales(cols: slice) -> Callable[[], Array]:
        def part() -> Array:
            if cols.start in made:
                return made.pop(cols.start)
            return block_scales(source.read(name, cols=cols).T.astype(F32), dtype, name)

        return part

    slices = list(col_blocks(spec, BLOCK * 4))
    blocks = spec.cols // BLOCK
    return StoredMatrix(
        values=StoredTensor("INT4", (spec.cols, spec.rows), Payload(f"{name}.int4", spec.size // 2, [values(c) for c in slices])),
        scales=StoredTensor(
            ONNX_TYPES[activations],
            (blocks, spec.rows),
            Payload(f"{name}.scale", blocks * spec.rows * dtype.itemsize, [scales(c) for c in slices]),
        ),
        block=BLOCK,
        scheme="int4",
        bits=4 + dtype.itemsize * 8 / BLOCK,
    )


def block_scales(weights: Float32, dtype: np.dtype[np.generic], name: str) -> Array:
    """``[in / 32, out]`` scales of ``[in, out]`` weights, in the type they are stored in."""
    blocks = weights.reshape(-1, BLOCK, weights.shape[1])
    return positive(cast(np.maximum(blocks.max(1) / 7, blocks.min(1) / -8), dtype, name))


def quantize(weights: Float32, scales: Array) -> Int8:
    """``[in, out]`` weights to int8-held int4 values under the scales as they will be stored."""
    blocks = weights.reshape(-1, BLOCK, weights.shape[1]) / scales.astype(F32)[:, None]
    np.clip(np.rint(blocks, out=blocks), -8, 7, out=blocks)
    values: Int8 = blocks.astype(np.int8).reshape(weights.shape)
    return values


def pack(values: Int8) -> Array:
    """Two int4 to a byte, the first in the low half (ONNX specification, "TensorProto.INT4")."""
    flat = values.reshape(-1)
    packed: Array = ((flat[1::2] & 15) << 4 | (flat[0::2] & 15)).astype(np.uint8)
    return packed
