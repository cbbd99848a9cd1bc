"""Weights are a stream, never a model: the protocol everything reads and everything wraps.

A ``TensorSource`` knows the name, shape and type of every tensor and hands out *blocks* of it on
demand.  Merging a LoRA, renaming or casting is a source wrapped round a source, so that a writer
that pulls blocks never holds more than a few of them, whatever the size of the model.

Every tensor is seen as a matrix: a shape ``(n, a, b, ...)`` is ``n`` rows of ``a*b*...`` columns and
a vector ``(n,)`` is ``n`` rows of one column.  That is the form in which a linear layer, a 3-D
convolution and an embedding look alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.generic]
Float32: TypeAlias = npt.NDArray[np.float32]

BF16 = np.dtype(ml_dtypes.bfloat16)
F16 = np.dtype(np.float16)
F32 = np.dtype(np.float32)

ALL = slice(None)

# Rows are handed out in multiples of this, so that a tensor read in blocks of any size is cut in
# the same places (the quantizers rely on it and the bytes written never depend on the block size).
ROW_STEP = 32
BLOCK_BYTES = 32 << 20


@dataclass(frozen=True)
class TensorSpec:
    """What is known of a tensor before any of it is read."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def rows(self) -> int:
        """Rows of the matrix view."""
        return self.shape[0] if self.shape else 1

    @property
    def cols(self) -> int:
        """Columns of the matrix view."""
        return math.prod(self.shape[1:])

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the stored type."""
        return self.size * self.dtype.itemsize


class TensorSource(Protocol):
    """Tensors by name, read a block at a time."""

    def names(self) -> tuple[str, ...]:
        """All tensor names, in a stable order."""
        ...

    def spec(self, name: str) -> TensorSpec:
        """Shape and stored type of ``name``; raises ``KeyError`` if there is none."""
        ...

    def read(self, name: str, rows: slice = ALL, cols: slice = ALL) -> Array:
        """The block ``[rows, cols]`` of the matrix view, in the stored type, 2-D."""
        ...


def tensor(source: TensorSource, name: str) -> Array:
    """The whole of ``name`` in its own shape: for vectors and other small tensors."""
    return source.read(name).reshape(source.spec(name).shape)


def row_blocks(spec: TensorSpec, block_bytes: int = BLOCK_BYTES, step: int = ROW_STEP) -> Iterator[slice]:
    """Cut the rows of ``spec`` into slices of about ``block_bytes`` as float32."""
    per_row = max(1, spec.cols * 4)
    height = max(step, block_bytes // per_row // step * step)
    for start in range(0, spec.rows, height):
        yield slice(start, min(spec.rows, start + height))


def col_blocks(spec: TensorSpec, step: int, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Cut the columns of ``spec`` into slices of a multiple of ``step``, about ``block_bytes`` each."""
    per_col = max(1, spec.rows * 4)
    width = max(step, block_bytes // per_col // step * step)
    for start in range(0, spec.cols, width):
        yield slice(start, min(spec.cols, start + width))


class MemorySource:
    """A source over arrays already in memory: for tests, and for weights that are computed."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays = dict(arrays)

    def names(self) -> tuple[str, ...]:
        return tuple(self._arrays)

    def spec(self, name: str) -> TensorSpec:
        a = self._arrays[name]
        return TensorSpec(name, a.shape, a.dtype)

    def read(self, name: str, rows: slice = ALL, cols: slice = ALL) -> Array:
        spec = self.spec(name)
        return self._arrays[name].reshape(spec.rows, spec.cols)[rows, cols]


class RenamedSource:
    """A source under other names: ``names`` maps the new name to the one in ``base``."""

    def __init__(self, base: TensorSource, names: dict[str, str]) -> None:
        self._base = base
        self._names = dict(names)

    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    def spec(self, name: str) -> TensorSpec:
        inner = self._base.spec(self._names[name])
        return TensorSpec(name, inner.shape, inner.dtype)

    def read(self, name: str, rows: slice = ALL, cols: slice = ALL) -> Array:
        return self._base.read(self._names[name], rows, cols)
