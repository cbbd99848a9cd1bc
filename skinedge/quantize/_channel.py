"""Eight bits with one scale per output channel, symmetric, nearest: what ``int8`` and ``fp8`` share.

``W[o, i] = s[o] * q[i, o]`` with ``s[o] = max|W[o, :]|`` over the type's largest value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skinedge.quantize._storage import ONNX_TYPES, Once, StoredMatrix, StoredTensor, positive
from skinedge.weights.cast import FLOATS, cast
from skinedge.weights.source import F32, Array, Float32, TensorSource, col_blocks, row_blocks
from skinedge.weights.stream import Payload

STEP = 128


@dataclass(frozen=True)
class EightBits:
    """A type of eight bits: the scheme's name, ONNX's, its largest value, and how multiples of a scale become it."""

    scheme: str
    onnx_type: str
    most: float
    to_nearest: Callable[[Float32], Array]


def store(source: TensorSource, name: str, activations: str, kind: EightBits) -> StoredMatrix:
    """Values ``[in, out]`` and scales ``[out]`` in the type of the activations."""
    spec, dtype = source.spec(name), FLOATS[activations]

    def measure() -> Array:
        peaks = [np.abs(source.read(name, rows).astype(F32)).max(1) for rows in row_blocks(spec)]
        return positive(cast(np.concatenate(peaks) / F32.type(kind.most), dtype, name))

    scales = Once(measure)

    def part(cols: slice) -> Callable[[], Array]:
        return lambda: quantize(source.read(name, cols=cols).T.astype(F32, order="C"), scales().astype(F32), kind)

    values = Payload(f"{name}.{kind.scheme}", spec.size, [part(c) for c in col_blocks(spec, STEP)])
    return StoredMatrix(
        values=StoredTensor(kind.onnx_type, (spec.cols, spec.rows), values),
        scales=StoredTensor(
            ONNX_TYPES[activations], (spec.rows,), Payload(f"{name}.scale", spec.rows * dtype.itemsize, [scales])
        ),
        block=None,
        scheme=kind.scheme,
        bits=8 + dtype.itemsize * 8 / spec.cols,
    )


def quantize(weights: Float32, scales: Float32, kind: EightBits) -> Array:
    """``[in, out]`` weights under the scales as they will be stored."""
    steps = weights / scales
    np.clip(steps, -kind.most, kind.most, out=steps)
    return kind.to_nearest(steps)
