"""What a weight scheme of the ONNX family is: how a linear layer's matrix lies in the file.

A checkpoint holds a linear layer as ``W [out, in]``; an ONNX ``MatMul`` wants ``[in, out]``.  Every
scheme therefore writes the transpose, in slices of input channels, and a quantized one adds scales
that the graph's ``DequantizeLinear`` applies.  A scheme is a module of this folder with::

    TARGETS: tuple[str, ...]      # targets that take it
    def store(source, name, activations, rounding) -> StoredMatrix

where ``rounding`` (``_rounding.py``) matters to the schemes of a few bits only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from skinedge.weights.cast import FLOATS, cast
from skinedge.weights.source import F32, Array, TensorSource, col_blocks, row_blocks
from skinedge.weights.stream import Payload

ONNX_TYPES = {"f32": "FLOAT", "f16": "FLOAT16", "bf16": "BFLOAT16"}
_COLUMN_STEP = 128


@dataclass(frozen=True)
class StoredTensor:
    """One stored array: its ONNX element type, shape and bytes to come."""

    onnx_type: str
    shape: tuple[int, ...]
    payload: Payload


@dataclass(frozen=True)
class StoredMatrix:
    """A linear layer's weight ``[in, out]``, with scales if it is quantized and zero points if zero is no fixed step.

    ``block`` is the number of input channels that share a scale; ``None`` means one scale per output
    channel.  ``bits`` counts the scales and zero points.
    """

    values: StoredTensor
    scales: StoredTensor | None
    block: int | None
    scheme: str
    bits: float
    zero_points: StoredTensor | None = None


def store_float(source: TensorSource, name: str, kind: str) -> StoredMatrix:
    """The transpose in a float type (``f32``, ``f16``, ``bf16``)."""
    spec, dtype = source.spec(name), FLOATS[kind]

    def part(cols: slice) -> Callable[[], Array]:
        return lambda: cast(source.read(name, cols=cols).T, dtype, name)

    payload = Payload(name, spec.size * dtype.itemsize, [part(c) for c in col_blocks(spec, _COLUMN_STEP)])
    values = StoredTensor(ONNX_TYPES[kind], (spec.cols, spec.rows), payload)
    return StoredMatrix(values, None, None, kind, dtype.itemsize * 8.0)


def store_rows(source: TensorSource, name: str, kind: str) -> StoredTensor:
    """A tensor as it lies (an embedding, a bias, a norm) in a float type, in its own shape."""
    spec, dtype = source.spec(name), FLOATS[kind]

    def part(rows: slice) -> Callable[[], Array]:
        return lambda: cast(source.read(name, rows), dtype, name)

    payload = Payload(name, spec.size * dtype.itemsize, [part(r) for r in row_blocks(spec)])
    return StoredTensor(ONNX_TYPES[kind], spec.shape, payload)


T = TypeVar("T")


class Once(Generic[T]):
    """A value computed by whichever thread asks first (scales that several parts need)."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute, self._lock = compute, threading.Lock()
        self._value: list[T] = []

    def __call__(self) -> T:
        with self._lock:
            if not self._value:
                self._value.append(self._compute())
        return self._value[0]


def positive(scales: Array) -> Array:
    """Scales with zeros replaced by one: TensorRT refuses a zero scale, and 0 x 1 is still 0."""
    return np.where(scales.astype(F32) > 0, scales, np.ones((), scales.dtype))
