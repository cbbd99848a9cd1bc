"""Cast rules: how a block of weights becomes another float type.

Rounding is to nearest even, as PyTorch rounds.  A finite value that would become infinite stops the
export: half precision ends at 65504 and a weight beyond it would poison everything downstream.
"""

from __future__ import annotations

import numpy as np

from skinedge.errors import QuantizeError
from skinedge.weights.source import BF16, F16, F32, Array

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
