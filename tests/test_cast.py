"""Rounding between float types: every bfloat16 there is."""

from __future__ import annotations

import numpy as np
import pytest

from skinedge.errors import QuantizeError
from skinedge.weights.cast import all_finite, through_f16
from skinedge.weights.source import BF16, F16, F32

EVERY = np.arange(1 << 16, dtype=np.uint16).view(BF16)
FITTING = EVERY[np.abs(EVERY.astype(F32)) <= 65504]


@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
def test_through_f16_is_what_two_conversions_make(dtype: np.dtype[np.generic]) -> None:
    block = FITTING.astype(dtype).reshape(-1, 2)
    two = block.astype(F16).astype(F32)
    np.testing.assert_array_equal(through_f16(block, "w").view(np.uint32), two.view(np.uint32))


@pytest.mark.parametrize("value", [65536.0, -1e30, np.inf, -np.inf, np.nan])
def test_what_f16_cannot_hold_is_refused(value: float) -> None:
    with pytest.raises(QuantizeError, match=r"tensor 'w' holds .*, which 16-bit floats cannot"):
        through_f16(np.array([[1.0, value]], F32).astype(BF16), "w")


def test_only_infinities_and_nan_are_not_finite() -> None:
    assert all_finite(EVERY[np.isfinite(EVERY.astype(F32))])
    for value in EVERY[~np.isfinite(EVERY.astype(F32))]:
        assert not all_finite(np.array([[0, value]], BF16))
    assert all_finite(np.empty((0, 4), BF16))
    assert not all_finite(np.array([1, np.nan], F32))
