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

import ml_dtypes
import numpy as np

from skinedge.weights.cast import FLOATS, cast
from skinedge.weights.source import F32, Array, Float32, TensorSource, col_blocks, row_blocks
from skinedge.weights.stream import Payload

ONNX_TYPES = {"f32": "FLOAT", "f16": "FLOAT16", "bf16": "BFLOAT16"}
_NUMPY = {ONNX_TYPES[kind]: dtype for kind, dtype in FLOATS.items()} | {
    "INT8": np.dtype(np.int8),
    "FLOAT8E4M3FN": np.dtype(ml_dtypes.float8_e4m3fn),
}
_COLUMN_STEP = 128


@dataclass(frozen=True)
class StoredTensor:
    """One stored array: its ONNX element type, shape and bytes to come."""

    onnx_type: str
    shape: tuple[int, ...]
    payload: Payload

    def values(self) -> Float32:
        """The elements, of ``shape``; two of four bits share a byte, the first in its low half (ONNX, "TensorProto.INT4")."""
        data = np.concatenate([np.ascontiguousarray(part()).reshape(-1).view(np.uint8) for part in self.payload.parts])
        if self.onnx_type in _NUMPY:
            plain: Float32 = data.view(_NUMPY[self.onnx_type]).astype(F32).reshape(self.shape)
            return plain
        nibbles = np.stack((data & 15, data >> 4), -1).reshape(self.shape)
        if self.onnx_type == "FLOAT4E2M1":
            few: Float32 = nibbles.view(ml_dtypes.float4_e2m1fn).astype(F32)
            return few
        # In INT4 the highest bit counts -8.
        return nibbles.astype(F32) if self.onnx_type == "UINT4" else (nibbles ^ 8).astype(F32) - F32.type(8)


@dataclass(frozen=True)
class StoredMatrix:
    """A linear layer's weight ``[in, out]``, with scales if it is quantized and zero points if zero is no fixed step.

    Scales of few bits are multiplied with a scale of their own, ``outer``.

    ``block`` is the number of input channels that share a scale; ``None`` means one scale per output
    channel.  ``bits`` counts the scales and zero points.
    """

    values: StoredTensor
    scales: StoredTensor | None
    block: int | None
    scheme: str
    bits: float
    zero_points: StoredTensor | None = None
    outer: StoredTensor | None = None

    @property
    def nbytes(self) -> int:
        """All that is stored."""
        return sum(stored.payload.nbytes for stored in (self.values, self.scales, self.zero_points, self.outer) if stored)

    def restore(self) -> Float32:
        """``[in, out]``, what is left of the matrix (ONNX DequantizeLinear-21); its bytes are computed for it."""
        values = self.values.values()
        if self.scales is None:
            return values
        scales = self.scales.values() * (self.outer.values() if self.outer else F32.type(1))
        if self.block is None:
            values *= scales
            return values
        blocks = values.reshape(len(scales), self.block, -1)
        if self.zero_points:
            blocks -= self.zero_points.values()[:, None]
        blocks *= scales[:, None]
        return values


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
