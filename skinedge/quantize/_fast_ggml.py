"""Q4_K without importances, several times faster than ggml's own kernel and equal to it bit by bit.

ggml searches each block of 32 values by itself, value after value; those sums are what an export of a 7B waits
for.  Here 64 blocks lie side by side, ``[32, 64]``, and every instruction works on a row of them.  Within a
block the sums keep ggml's order and its single precision, so nothing rounds differently.  numba compiles the loops (extra
``fast``); its LLVM fuses no multiplication with an addition unless it is asked to, and neither does the wheel's ggml.

That is checked, not believed: the first call compares awkward and ordinary blocks with the installed ggml, and any
difference, or a numba that is missing, leaves the work to ggml (``quantize`` returns None).  Blocks at the edge of the
number range are always left to it.

Source of the search: ``make_qkx2_quants`` and ``quantize_row_q4_K_ref`` in ggml-quants.c.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from skinedge.weights.source import F32, Float32

Bytes = npt.NDArray[np.uint8]
BLOCK, SUPER, LANES = 32, 256, 64
LEVELS = 15
STEPS = np.float32(-1) + np.float32(0.1) * np.arange(21, dtype=F32) + np.float32(LEVELS)
WORTH = 1 << 17  # fewer values than this are quantized before the loops are loaded
_lock = threading.Lock()


def quantize(rows: Float32, reference: Callable[[Float32], Bytes]) -> Bytes | None:
    """``[n, cols]`` to ``[n, cols / 256 * 144]`` as ``reference``, ggml's own, writes it; None where that has to do it."""
    if rows.size < WORTH:
        return None
    with _lock:
        loops = _checked(reference)
    return None if loops is None else _rows(rows, loops, reference)


@functools.cache
def _checked(reference: Callable[[Float32], Bytes]) -> Any:
    """The compiled loops, if their bytes are those of ggml."""
    if not importlib.util.find_spec("numba"):
        return None
    try:
        loops = _compiled()
        probe = awkward()
        return loops if np.array_equal(_rows(probe, loops, reference), reference(probe)) else None
    except Exception:  # numba refuses in many ways (no cache folder, a processor it does not know); ggml always works
        return None


def awkward() -> Float32:
    """Blocks that have led quantizers astray: ``[64, 512]``, ordinary ones among them."""
    random = np.random.default_rng(7)
    rows = random.standard_normal((64, 2 * SUPER)).astype(F32) * np.exp2(random.integers(-20, 8, (64, 1))).astype(F32)
    rows[0], rows[1], rows[2], rows[3, 32:] = 0, -0.5, 3, 0
    rows[4] = np.abs(rows[4])
    rows[5] = -np.abs(rows[5]) - 4
    rows[6] = np.round(rows[6] * 4) / 4
    rows[7, ::32] *= 300
    rows[8] *= np.float32(1e-7)
    rows[9] = np.where(np.arange(2 * SUPER) % 2, -1, np.nextafter(np.float32(-1), np.float32(0)))
    rows[10] = np.sort(rows[10])
    rows[11] *= random.integers(0, 2, 2 * SUPER)
    return rows


def _rows(rows: Float32, loops: Any, reference: Callable[[Float32], Bytes]) -> Bytes:
    search, pack = loops
    blocks = rows.reshape(-1, BLOCK)
    scales, mins, steps, offsets = (np.empty(len(blocks), F32) for _ in range(4))
    odd = np.zeros(len(blocks), np.uint8)
    search(blocks, STEPS, scales, mins, steps, offsets, odd)
    heads, factors, shifts = _heads(scales.reshape(-1, 8), mins.reshape(-1, 8))
    out = np.empty((len(rows), rows.shape[1] // SUPER * 144), np.uint8)
    packed = out.reshape(-1, 144)
    packed[:, :16] = heads
    pack(blocks, factors.ravel(), shifts.ravel(), steps, offsets, packed)
    again = np.flatnonzero(odd.reshape(len(rows), -1).any(axis=1))
    if len(again):
        out[again] = reference(rows[again])
    return out


def _heads(scales: Float32, mins: Float32) -> tuple[Bytes, Float32, Float32]:
    """The first 16 bytes of each super-block ``[n, 16]``, and the scales and minima that they leave to its blocks ``[n, 8]``."""
    heads = np.empty((len(scales), 16), np.uint8)
    sixes, left = [], []
    for at, values in enumerate((scales, mins)):
        most = np.maximum(values.max(axis=1, keepdims=True), 0)
        with np.errstate(over="ignore", invalid="ignore"):  # of rows so small that ggml makes them again
            inverse = np.divide(np.float32(63), most, out=np.zeros_like(most), where=most > 0)
            whole = np.minimum(np.rint(inverse * values), 63).astype(np.uint8)
        d = (most / np.float32(63)).astype(np.float16)
        heads[:, 2 * at : 2 * at + 2] = d.view(np.uint8)
        sixes.append(whole)
        left.append(d.astype(F32) * whole.astype(F32))
    scale, shift = sixes
    heads[:, 4:8] = scale[:, :4] | (scale[:, 4:] >> 4) << 6
    heads[:, 8:12] = shift[:, :4] | (shift[:, 4:] >> 4) << 6
    heads[:, 12:] = scale[:, 4:] & 15 | (shift[:, 4:] & 15) << 4
    return heads, left[0], left[1]


@functools.cache
def _compiled() -> Any:
    import numba

    zero, one, top = np.float32(0), np.float32(1), np.float32(LEVELS)
    magic = np.float32(12582912)  # 1.5 * 2**23: adding it and taking it away rounds half to even
    # Beyond these, sums of squares and f16 scales leave the range of their types.
    least, most = np.float32(1e-25), np.float32(1e5)
    jit = numba.njit(nogil=True, cache=True, error_model="numpy")

    @jit
    def search(  # type: ignore[no-untyped-def]
        blocks, tries, scales, mins, steps, offsets, odd
    ):
        x, w = np.empty((BLOCK, LANES), np.float32), np.empty((BLOCK, LANES), np.float32)
        level = np.empty((BLOCK, LANES), np.float32)
        lanes = np.empty((16, LANES), np.float32)
        low, high, minimum, scale, error, best = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4], lanes[5]
        sum_w, sum_x, sum_l, sum_l2, sum_xl = lanes[6], lanes[7], lanes[8], lanes[9], lanes[10]
        inverse, step, offset, new_scale, new_min = lanes[11], lanes[12], lanes[13], lanes[14], lanes[15]
        for first in range(0, len(blocks), LANES):
            count = min(LANES, len(blocks) - first)
            for b in range(count):
                for i in range(BLOCK):
                    x[i, b] = blocks[first + b, i]
            for b in range(count, LANES):
                for i in range(BLOCK):
                    x[i, b] = one
            error[:] = zero
            for i in range(BLOCK):
                for b in range(LANES):
                    error[b] += x[i, b] * x[i, b]
            for b in range(LANES):
                error[b] = np.sqrt(error[b] / np.float32(BLOCK))
                low[b] = high[b] = x[0, b]
            for i in range(BLOCK):
                for b in range(LANES):
                    v = x[i, b]
                    w[i, b] = error[b] + abs(v)
                    low[b] = v if v < low[b] else low[b]
                    high[b] = v if v > high[b] else high[b]
            for b in range(LANES):
                sum_w[b] = w[0, b]
                sum_x[b] = w[0, b] * x[0, b]
            for i in range(1, BLOCK):
                for b in range(LANES):
                    sum_w[b] += w[i, b]
                    sum_x[b] += w[i, b] * x[i, b]
            for b in range(LANES):
                minimum[b] = zero if low[b] > zero else low[b]
                inverse[b] = top / (high[b] - minimum[b])
                scale[b] = one / inverse[b]
                step[b], offset[b] = inverse[b], minimum[b]
                best[b] = zero
            for i in range(BLOCK):
                for b in range(LANES):
                    v = (inverse[b] * (x[i, b] - minimum[b]) + magic) - magic
                    v = v if v > zero else zero
                    v = v if v < top else top
                    diff = scale[b] * v + minimum[b] - x[i, b]
                    best[b] += w[i, b] * (diff * diff)
            for t in range(len(tries)):
                for b in range(LANES):
                    inverse[b] = tries[t] / (high[b] - minimum[b])
                sum_l[:] = zero
                sum_l2[:] = zero
                sum_xl[:] = zero
                error[:] = zero
                for i in range(BLOCK):
                    for b in range(LANES):
                        v = (inverse[b] * (x[i, b] - minimum[b]) + magic) - magic
                        v = v if v > zero else zero
                        v = v if v < top else top
                        level[i, b] = v
                        wl = w[i, b] * v
                        sum_l[b] += wl
                        sum_l2[b] += wl * v
                        sum_xl[b] += wl * x[i, b]
                for b in range(LANES):
                    d = sum_w[b] * sum_l2[b] - sum_l[b] * sum_l[b]
                    s = (sum_w[b] * sum_xl[b] - sum_x[b] * sum_l[b]) / d
                    m = (sum_l2[b] * sum_x[b] - sum_l[b] * sum_xl[b]) / d
                    above = m > zero
                    new_scale[b] = sum_xl[b] / sum_l2[b] if above else s
                    new_min[b] = zero if above else m
                    sum_l[b] = d
                for i in range(BLOCK):
                    for b in range(LANES):
                        diff = new_scale[b] * level[i, b] + new_min[b] - x[i, b]
                        error[b] += w[i, b] * (diff * diff)
                for b in range(LANES):
                    if sum_l[b] > zero and error[b] < best[b]:
                        best[b] = error[b]
                        scale[b] = new_scale[b]
                        step[b], offset[b] = inverse[b], minimum[b]
                        minimum[b] = new_min[b]
            for b in range(count):
                at = first + b
                size = max(abs(low[b]), abs(high[b]))
                span = high[b] - minimum[b]
                flat = high[b] == (zero if low[b] > zero else low[b])
                odd[at] = not (size == zero or (size > least and size < most and (flat or span > least * size)))
                scales[at] = zero if flat else scale[b]
                mins[at] = -minimum[b]
                steps[at] = zero if flat else step[b]
                offsets[at] = offset[b]

    @jit
    def pack(blocks, factors, shifts, steps, offsets, out):  # type: ignore[no-untyped-def]
        level = np.empty((2, BLOCK), np.uint8)
        for pair in range(len(blocks) // 2):
            for half in range(2):
                at = 2 * pair + half
                d, shift = factors[at], shifts[at]
                kept = d == zero
                for i in range(BLOCK):
                    x = blocks[at, i]
                    v = steps[at] * (x - offsets[at]) if kept else (x + shift) / d
                    v = (v + magic) - magic
                    v = v if v > zero else zero
                    level[half, i] = np.uint8(v if v < top else top)
            place = 16 + BLOCK * (pair % 4)
            for i in range(BLOCK):
                out[pair // 4, place + i] = level[0, i] | level[1, i] << 4

    return search, pack
