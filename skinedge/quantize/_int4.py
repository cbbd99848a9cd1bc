"""Four-bit integers in blocks of input channels: what the schemes ``int4*`` share.

``W[o, i] = s[i // block, o] * (q[i, o] - z[i // block, o])``: symmetric ones have ``q`` in -8..7 and no zero point,
asymmetric ones ``q`` and ``z`` in 0..15.  Where a block does not divide the input width, the next smaller of 128, 64 and 32
that does is taken; where none does, or the number of outputs is odd, the matrix stays in the type of the activations.
What was stored is said by name (``StoredMatrix.scheme``), and the manifest repeats it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from skinedge.quantize._rounding import NEAREST, Grid, Int8, Rounding, rounder, segment
from skinedge.quantize._storage import ONNX_TYPES, StoredMatrix, StoredTensor, store_float
from skinedge.weights.cast import FLOATS
from skinedge.weights.source import F32, Array, TensorSource, TensorSpec, col_blocks
from skinedge.weights.stream import Part, Payload

BLOCKS = (128, 64, 32)
# Outputs that are rounded at a time: their weights, candidates and errors are what an export holds.
OUTPUTS = 2048


def scheme_name(block: int, *, asymmetric: bool) -> str:
    """The scheme's file name; a block of 32 goes without saying."""
    return f"int4{'a' if asymmetric else ''}{'' if block == 32 else f'_b{block}'}"


def store(
    source: TensorSource, name: str, activations: str, rounding: Rounding = NEAREST, *, block: int, asymmetric: bool
) -> StoredMatrix:
    """Packed values ``[in, out]``, scales ``[in / block, out]`` in the type of the activations and packed zero points."""
    spec = source.spec(name)
    fitting = [b for b in BLOCKS if b <= block and spec.cols % b == 0]
    # Two values share a byte, so a slice of columns must end on a whole byte: rows must be even too.
    if not fitting or spec.rows % 2:
        return store_float(source, name, activations)
    grid = Grid(fitting[0], asymmetric, FLOATS[activations])
    return _Matrix(source, spec, grid, rounding).stored(activations)


def pack(values: Int8) -> Array:
    """Two of four bits to a byte along the last axis, the first in the low half (ONNX specification, "TensorProto.INT4")."""
    packed: Array = ((values[:, 1::2] & 15) << 4 | (values[:, 0::2] & 15)).astype(np.uint8)
    return packed


@dataclass(frozen=True)
class _Packed:
    """A slice of input channels, as it is written."""

    values: Array
    scales: Array
    zeros: Array

    @classmethod
    def joined(cls, parts: Sequence[_Packed]) -> _Packed:
        """Outputs side by side."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts], 1) for f in fields(cls)))


class _Matrix:
    """A matrix as three payloads of the same slices of input channels.

    Values come first in the file; the scales and zero points made on the way are kept so that nothing is computed twice,
    and dropped when they are written.  After an interruption those of a slice may be asked for without its values.
    """

    def __init__(self, source: TensorSource, spec: TensorSpec, grid: Grid, rounding: Rounding) -> None:
        self._source, self._spec, self._grid, self._rounding = source, spec, grid, rounding
        self._later = ("scales", "zeros") if grid.asymmetric else ("scales",)
        self._made: dict[tuple[str, int], Array] = {}
        self._lock = threading.Lock()

    def stored(self, activations: str) -> StoredMatrix:
        spec, grid = self._spec, self._grid
        blocks, itemsize = spec.cols // grid.block, grid.dtype.itemsize
        few, shape = ("UINT4" if grid.asymmetric else "INT4"), (blocks, spec.rows)
        zeros = StoredTensor(few, shape, self._payload("zero", "zeros", blocks * spec.rows // 2)) if grid.asymmetric else None
        return StoredMatrix(
            values=StoredTensor(few, (spec.cols, spec.rows), self._payload("int4", "values", spec.size // 2)),
            scales=StoredTensor(ONNX_TYPES[activations], shape, self._payload("scale", "scales", blocks * spec.rows * itemsize)),
            zero_points=zeros,
            block=grid.block,
            scheme=scheme_name(grid.block, asymmetric=grid.asymmetric),
            bits=4 + (itemsize * 8 + 4 * grid.asymmetric) / grid.block,
        )

    def _payload(self, suffix: str, kind: str, nbytes: int) -> Payload:
        return Payload(f"{self._spec.name}.{suffix}", nbytes, [self._part(kind, cols) for cols in self._slices()])

    def _slices(self) -> Sequence[slice]:
        # Narrow slices of a mapped checkpoint are slow to read.
        step = segment(self._grid, self._rounding) if self._rounding.method == "gptq" else max(BLOCKS)
        return list(col_blocks(self._spec, step))

    def _part(self, kind: str, cols: slice) -> Part:
        def part() -> Array:
            with self._lock:
                kept = self._made.pop((kind, cols.start), None)
            return kept if kept is not None else self._compute(kind, cols)

        return part

    def _compute(self, kind: str, cols: slice) -> Array:
        made = _Packed.joined(list(self._rounded(cols)))
        if kind == "values":
            with self._lock:
                self._made |= {(other, cols.start): getattr(made, other) for other in self._later}
        found: Array = getattr(made, kind)
        return found

    def _rounded(self, cols: slice) -> Iterator[_Packed]:
        """The slice, some outputs at a time."""
        name, quantize = self._spec.name, rounder(self._grid, self._rounding, cols, self._spec.name)
        for start in range(0, self._spec.rows, OUTPUTS):
            rows = slice(start, min(start + OUTPUTS, self._spec.rows))
            found = quantize(self._source.read(name, rows, cols).T.astype(F32, order="C"))
            yield _Packed(pack(found.values), found.scales, pack(found.zeros))
