"""int8, one scale per output channel, symmetric, nearest.

``W[o, i] = s[o] * q[i, o]`` with ``s[o] = max|W[o, :]| / 127``.  TensorRT keeps per-channel int8 packed in
its plan (blockwise int8 it expands again), and ONNX Runtime fuses the pair into ``MatMulNBits``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from skinedge.quantize._storage import ONNX_TYPES, Once, StoredMatrix, StoredTensor, positive
from skinedge.weights.cast import FLOATS, cast
from skinedge.weights.source import F32, Array, Float32, TensorSource, col_blocks, row_blocks
from skinedge.weights.stream import Payload

TARGETS = ("onnx", "trt")
STEP = 128


def store(source: TensorSource, name: str, activations: str) -> StoredMatrix:
    """int8 values ``[in, out]`` and scales ``[out]`` in the type of the activations."""
    spec, dtype = source.spec(name), FLOATS[activations]

    def measure() -> Array:
        peaks = [np.abs(source.read(name, rows).astype(F32)).max(1) for rows in row_blocks(spec)]
        return positive(cast(np.concatenate(peaks) / np.float32(127), dtype, name))

    scales = Once(measure)

    def part(cols: slice) -> Callable[[], Array]:
        return lambda: quantize(source.read(name, cols=cols).T.astype(F32, order="C"), scales().astype(F32))

    values = Payload(f"{name}.int8", spec.size, [part(c) for c in col_blocks(spec, STEP)])
    return StoredMatrix(
        values=StoredTensor("INT8", (spec.cols, spec.rows), values),
        scales=StoredTensor(
            ONNX_TYPES[activations], (spec.rows,), Payload(f"{name}.scale", spec.rows * dtype.itemsize, [scales])
        ),
        block=None,
        scheme="int8",
        bits=8 + dtype.itemsize * 8 / spec.cols,
    )


def quantize(weights: Float32, scales: Float32) -> Array:
    """``[in, out]`` weights to int8 under the scales as they will be stored."""
    steps = weights / scales
    np.clip(np.rint(steps, out=steps), -127, 127, out=steps)
    values: Array = steps.astype(np.int8)
    return values
