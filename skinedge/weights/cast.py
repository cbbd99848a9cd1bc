"""Cast rules: how a block of weights becomes another float type.

Rounding is to nearest even, as PyTorch rounds.  A finite value that would become infinite stops the
export: half precision ends at 65504 and a weight beyond it would poison everything downstream.
"""

from __future__ import annotations

import numpy as np

from skinedge.errors import QuantizeError
from skinedge.weights.source import BF16, F16, F32, Array, Float32

_SMALLEST_NORMAL = F32.type(2.0**-14)  # of F16; below it values are multiples of 2**-24
_LARGEST = F32.type(65504)

FLOATS: dict[str, np.dtype[np.generic]] = {"f32": F32, "f16": F16, "bf16": BF16}


def cast(block: Array, dtype: np.dtype[np.generic], name: str) -> Array:
    """``block`` in ``dtype``.

    Raises:
        QuantizeError: a value of tensor ``name`` is too large for ``dtype``.
    """
    if block.dtype == dtype:
        return block
    with np.errstate(over="ignore"):
        result = block.astype(dtype)
    if dtype == F16 and not np.isfinite(result).all():
        worst = np.abs(block.astype(F32)).max()
        raise QuantizeError(
            f"tensor '{name}' holds {worst:g}, which 16-bit floats cannot (they end at 65504).", hint="Export it as bf16 or f32."
        )
    return result


def through_f16(block: Array, name: str) -> Float32:
    """``block`` rounded to 16-bit floats, in float32.

    bfloat16 has fewer digits than float16: its values come through as they are, but for those below the smallest normal
    number.  That takes a third of the time of two conversions.

    Raises:
        QuantizeError: a value of tensor ``name`` is too large for 16 bits.
    """
    if block.dtype != BF16:
        return cast(block, F16, name).astype(F32)
    values = block.astype(F32)
    size = np.abs(values)
    if not size.max(initial=0) <= _LARGEST:
        cast(block, F16, name)  # says so
    small = size < _SMALLEST_NORMAL
    few = values[small]
    # Numbers between 0.5 and 1 are multiples of 2**-24 too.
    values[small] = np.copysign((np.abs(few) + F32.type(0.5)) - F32.type(0.5), few)
    return values


def all_finite(block: Array) -> bool:
    """Whether no value is infinite or not a number; bfloat16 by its bits, for numpy asks it one by one."""
    if block.dtype != BF16:
        return bool(np.isfinite(block).all())
    return bool((block.view(np.uint16) & np.uint16(0x7FFF)).max(initial=0) < 0x7F80)
