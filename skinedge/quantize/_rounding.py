"""How weights become few-bit integers: nearest, a weighted search for the scale, or the GPTQ solve.

Matrices lie as the graph has them, ``[in, out]``; ``block`` input channels of an output share a scale ``s`` and, on an
asymmetric grid, a zero point ``z``, and stand for ``s * (q - z)``.  With the inputs' mean squares ``m``:

* ``nearest``: the scale takes in the block's extremes, values go to the nearest step.
* ``scale``: the scale (and zero point) with the least ``sum_i m_i (w_i - s (q_i - z))**2``.  Candidates shrink the range
  step by step; for the integers of each the best scale has a closed form.  The outcome is never worse than ``nearest``.
* ``gptq``: input by input, what rounding one weight spoils is made good by the weights still to come, as far as the second
  moment of the inputs says that they can (Frantar et al. 2022, arXiv 2210.17323, algorithm 1).  A block's scales are
  searched when it is reached, on the weights as they then are.

Everything is computed in slices of fixed size, so that the result does not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from skinedge.calibration.statistics import LinearInputs
from skinedge.errors import CalibrationError, UsageError
from skinedge.quantize._storage import positive
from skinedge.registry import check
from skinedge.weights.cast import cast
from skinedge.weights.source import F32, Array, Float32

Int8: TypeAlias = npt.NDArray[np.int8]

METHODS = ("nearest", "scale", "gptq")
SHRINK = tuple(np.linspace(1.0, 0.6, 17, dtype=F32)[1:])
DAMPING = 0.01  # of the mean diagonal
PANEL = 32  # channels between two updates of all the rest


@dataclass(frozen=True)
class Rounding:
    """How one matrix is rounded, and what its layer was given."""

    method: str = "nearest"
    inputs: LinearInputs | None = None


NEAREST = Rounding()


@dataclass(frozen=True)
class Grid:
    """Steps of four bits: ``block`` channels to a scale of type ``dtype``; ``asymmetric`` ones have a zero point."""

    block: int
    asymmetric: bool
    dtype: np.dtype[np.generic]

    @property
    def low(self) -> int:
        """The lowest integer."""
        return 0 if self.asymmetric else -8

    @property
    def high(self) -> int:
        """The highest integer."""
        return self.low + 15


@dataclass(frozen=True)
class Rounded:
    """Integers ``[in, out]``, scales ``[in / block, out]`` as they are stored, and zero points of that shape."""

    values: Int8
    scales: Array
    zeros: Int8

    def restore(self) -> Float32:
        """What the integers stand for, ``[in, out]``."""
        blocks = self.values.reshape(len(self.scales), -1, self.values.shape[1]).astype(F32)
        blocks -= self.zeros[:, None]
        blocks *= self.scales.astype(F32)[:, None]
        return blocks.reshape(self.values.shape)


def choose(asked: str | None, inputs: LinearInputs | None, name: str, width: int) -> Rounding:
    """The rounding of matrix ``name`` with ``width`` inputs: what is asked for, or the best that is known enough for.

    Raises:
        UsageError: there is no such rounding, or it needs statistics that are not there.
        CalibrationError: the statistics are of a layer of another width.
    """
    if inputs is not None and inputs.mean_square.shape != (width,):
        raise CalibrationError(
            f"the calibration has {inputs.mean_square.size} inputs of '{name}' and the weight has {width}.",
            hint="It was made of another model: calibrate this one.",
        )
    best = "nearest" if inputs is None else "scale" if inputs.second_moment is None else "gptq"
    method = check("rounding", asked or best, METHODS)
    if METHODS.index(method) > METHODS.index(best):
        what, option = ("second moments", " --second-moments") if method == "gptq" else ("mean squares", "")
        raise UsageError(
            f"rounding by {method} needs the {what} of the inputs of '{name}', and the calibration has none.",
            hint=f"Make one and give it as --calibration DIR: skinedge calibrate{option} --model DIR --data records.jsonl.",
        )
    return Rounding(method, inputs)


def segment(grid: Grid, rounding: Rounding) -> int:
    """Input channels that must be rounded together: whole blocks and, for ``gptq``, whole blocks of second moments."""
    moment = rounding.inputs.second_moment if rounding.inputs and rounding.method == "gptq" else None
    return int(np.lcm(grid.block, 1 if moment is None else moment.shape[-1]))


def rounder(grid: Grid, rounding: Rounding, cols: slice, name: str) -> Callable[[Float32], Rounded]:
    """What rounds any outputs of the input channels ``cols`` of the matrix ``name``: weights ``[cols, some outputs]``.

    It raises QuantizeError where a scale is too large for the type it is stored in.
    """
    if rounding.inputs is None or rounding.method == "nearest":
        return lambda weights: _flat(_nearest(_blocks(weights, grid), grid, name))
    if rounding.method == "scale" or rounding.inputs.second_moment is None:
        importance = _importance(rounding.inputs.mean_square[cols], grid)
        return lambda weights: _flat(_search(_blocks(weights, grid), importance, grid, name))
    width, moments = segment(grid, rounding), rounding.inputs.second_moment
    solves = [_Solve.of(_moment(moments, first, width), grid, name) for first in range(cols.start, cols.stop, width)]

    def solve(weights: Float32) -> Rounded:
        parts = [solve(weights[k * width : (k + 1) * width]) for k, solve in enumerate(solves)]
        return Rounded(*(np.concatenate([getattr(part, kind) for part in parts]) for kind in ("values", "scales", "zeros")))

    return solve


# --- blocks [blocks, block, out] under scales and zero points [blocks, out] ---------------------------------------------


def _blocks(weights: Float32, grid: Grid) -> Float32:
    return weights.reshape(-1, grid.block, weights.shape[1])


def _flat(rounded: Rounded) -> Rounded:
    return Rounded(rounded.values.reshape(-1, rounded.values.shape[-1]), rounded.scales, rounded.zeros)


def _range(blocks: Float32, grid: Grid) -> tuple[Float32, Int8]:
    """The scale that takes in each block's extremes, and its zero point."""
    high, low = blocks.max(1), blocks.min(1)
    if not grid.asymmetric:
        # Scales are positive, so a block uses the end of the range on whichever side needs it more.
        return np.maximum(high / 7, low / -8), np.zeros(high.shape, np.int8)
    high, low = np.maximum(high, 0), np.minimum(low, 0)  # the zero point must be one of the steps
    scales = (high - low) / F32.type(15)
    return scales, np.rint(-low / positive(scales)).astype(np.int8)


def _steps(blocks: Float32, scales: Float32, zeros: Int8, grid: Grid) -> Float32:
    """The nearest multiples of the scales that the grid has: ``q - z``."""
    steps: Float32 = blocks / scales[:, None]
    np.rint(steps, out=steps)
    if not grid.asymmetric:
        return np.clip(steps, grid.low, grid.high, out=steps)
    zero = zeros.astype(F32)[:, None]
    return np.clip(steps, grid.low - zero, grid.high - zero, out=steps)


def _nearest(blocks: Float32, grid: Grid, name: str) -> Rounded:
    scales, zeros = _range(blocks, grid)
    return _round(blocks, positive(cast(scales, grid.dtype, name)), zeros, grid)


def _round(blocks: Float32, scales: Array, zeros: Int8, grid: Grid) -> Rounded:
    steps = _steps(blocks, scales.astype(F32), zeros, grid)
    if grid.asymmetric:
        steps += zeros[:, None]
    return Rounded(steps.astype(np.int8), scales, zeros)


def _importance(mean_square: Float32, grid: Grid) -> Float32:
    """``[blocks, block]``; a block whose inputs were never anything counts its weights alike."""
    importance = mean_square.reshape(-1, grid.block).astype(F32)
    return np.where(importance.sum(1, keepdims=True) > 0, importance, F32.type(1))


def _search(blocks: Float32, importance: Float32, grid: Grid, name: str) -> Rounded:
    """The least weighted error over scales and zero points; ``importance`` is ``[blocks, block]``."""
    base, zeros = _range(blocks, grid)
    weighted = blocks * importance[:, :, None]
    # sum m (w - s k)^2 is least at s = (sum m w k) / (sum m k^2) and is then sum m w^2 less the gain below.
    scales, best = np.zeros_like(base), np.full(base.shape, -1, F32)
    found = zeros.copy()
    for shrunk, zero in _candidates(base, zeros, grid):
        steps = _steps(blocks, positive(shrunk).astype(F32, copy=False), zero, grid)
        along = np.einsum("bio,bio->bo", weighted, steps)
        np.square(steps, out=steps)
        square = np.einsum("bio,bi->bo", steps, importance)
        scale = np.divide(along, square, out=np.zeros_like(along), where=square > 0)
        gain = along * scale
        better = (gain > best) & (scale > 0)
        np.copyto(best, gain, where=better)
        np.copyto(scales, scale, where=better)
        np.copyto(found, zero, where=better)
    plain = _nearest(blocks, grid, name)
    tuned = _round(blocks, positive(cast(scales, grid.dtype, name)), found, grid)
    keep = _error(blocks, plain, importance) <= _error(blocks, tuned, importance)
    return Rounded(
        np.where(keep[:, None], plain.values, tuned.values),
        np.where(keep, plain.scales, tuned.scales),
        np.where(keep, plain.zeros, tuned.zeros),
    )


def _candidates(base: Float32, zeros: Int8, grid: Grid) -> Iterator[tuple[Float32, Int8]]:
    """Scales below that of the whole range; with a zero point also its neighbours."""
    for shift in (0, -1, 1) if grid.asymmetric else (0,):
        shifted = np.clip(zeros + np.int8(shift), grid.low, grid.high).astype(np.int8) if grid.asymmetric else zeros
        for factor in SHRINK:
            yield base * factor, shifted


def _error(blocks: Float32, rounded: Rounded, importance: Float32) -> Float32:
    """``[blocks, out]``, the weighted squared error."""
    steps = rounded.values.astype(F32)
    steps -= rounded.zeros[:, None]
    steps *= rounded.scales.astype(F32)[:, None]
    np.subtract(blocks, steps, out=steps)
    np.square(steps, out=steps)
    error: Float32 = np.einsum("bio,bi->bo", steps, importance)
    return error


# --- the GPTQ solve -----------------------------------------------------------------------------------------------------


def _moment(blocks: Float32, first: int, width: int) -> Float32:
    """``[width, width]``, the second moment of the inputs from ``first``; zero between its blocks."""
    size = blocks.shape[-1]
    moment = np.zeros((width, width), F32)
    for k in range(width // size):
        place = slice(k * size, (k + 1) * size)
        moment[place, place] = blocks[first // size + k]
    return moment


def _inverse_factor(moment: Float32) -> Float32:
    """Upper triangular ``U`` with ``UᵀU`` the inverse of the damped moment; in double precision on the way."""
    damped = moment.astype(np.float64)
    mean = float(np.trace(damped)) / len(damped)
    damped[np.diag_indices_from(damped)] += DAMPING * mean if mean > 0 else 1.0
    # moment = R Rᵀ with R upper triangular (a Cholesky factor read backwards), so U = R⁻¹.
    upper = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    factor: Float32 = np.triu(np.linalg.inv(upper)).astype(F32)
    return factor


def _order(moment: Float32, grid: Grid) -> npt.NDArray[np.intp]:
    """Channels by falling mean square, block by block: what matters most is rounded while most can still make it good."""
    diagonal = np.diag(moment).reshape(-1, grid.block)
    blocks = np.argsort(-diagonal.sum(1), kind="stable")
    inside = np.argsort(-diagonal, axis=1, kind="stable")
    order: npt.NDArray[np.intp] = (blocks[:, None] * grid.block + inside[blocks]).reshape(-1)
    return order


@dataclass(frozen=True)
class _Solve:
    """The solve for one segment of input channels, of any outputs."""

    grid: Grid
    name: str
    order: npt.NDArray[np.intp]
    factor: Float32
    cost: Float32  # [blocks, block], of an error in a channel once the later ones have made good what they can

    @classmethod
    def of(cls, moment: Float32, grid: Grid, name: str) -> _Solve:
        order = _order(moment, grid)
        factor = _inverse_factor(moment[np.ix_(order, order)])
        return cls(
            grid, name, order, factor, (F32.type(1) / np.square(np.diag(factor))).astype(F32, copy=False).reshape(-1, grid.block)
        )

    def __call__(self, weights: Float32) -> Rounded:
        block, left = self.grid.block, weights[self.order]
        values = np.empty(left.shape, np.int8)
        scales = np.empty((len(left) // block, left.shape[1]), self.grid.dtype)
        zeros = np.empty(scales.shape, np.int8)
        for start in range(0, len(left), PANEL):
            b, panel, rest = start // block, slice(start, start + PANEL), slice(start + PANEL, None)
            if start % block == 0:
                found = _search(left[start : start + block][None], self.cost[b : b + 1], self.grid, self.name)
                scales[b], zeros[b] = found.scales[0], found.zeros[0]
            values[panel], errors = _round_panel(left[panel], self.factor[panel, panel], scales[b], zeros[b], self.grid)
            left[rest] -= self.factor[panel, rest].T @ errors
        return Rounded(values[np.argsort(self.order)], *(x[np.argsort(self.order[::block] // block)] for x in (scales, zeros)))


def _round_panel(left: Float32, factor: Float32, scales: Array, zeros: Int8, grid: Grid) -> tuple[Int8, Float32]:
    """Round channels one after the other: their integers, and their errors over the factor's diagonal, ``[channels, out]``."""
    values, errors, widths = np.empty(left.shape, np.int8), np.empty_like(left), scales.astype(F32)
    for i, weights in enumerate(left):
        steps = _steps(weights[None, None], widths[None], zeros[None], grid)[0, 0]
        values[i] = steps + zeros
        errors[i] = (weights - steps * widths) / factor[i, i]
        left[i + 1 :] -= factor[i, i + 1 :, None] * errors[i]
    return values, errors
