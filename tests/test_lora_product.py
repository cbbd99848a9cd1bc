"""The quick merge of a LoRA: any order of sums where nobody can tell, and the fixed order elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinedge.weights import lora
from skinedge.weights.source import ALL, BF16, F16, F32


@pytest.mark.parametrize("dtype", [BF16, F16, F32], ids=str)
@pytest.mark.parametrize("embedding", [False, True])
@settings(max_examples=60, deadline=None)
@given(
    rank=st.integers(1, 70),
    rows=st.integers(1, 70),
    cols=st.integers(1, 90),
    scale=st.sampled_from([-3.0, 1e-3, 0.5, 2.0, 32.0]),
    power=st.integers(-30, 4),
    seed=st.integers(0, 1 << 16),
)
def test_a_quick_product_changes_no_bit(dtype, embedding, rank, rows, cols, scale, power, seed) -> None:
    """The merge may sum in any order only where the order cannot be seen."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((rank, cols)).astype(F32)
    b = (rng.standard_normal((rows, rank)) * 2.0**power).astype(F32)
    weight = (rng.standard_normal((rows, cols)) * rng.choice([0, 1e-6, 0.02, 1], (rows, cols))).astype(dtype)
    # Weights that nearly cancel the update, or lie half way between two values of the type after it.
    weight[::3] = (-(b @ a) * np.float32(scale))[::3].astype(dtype)
    update = lora.LowRank(a, b, scale, ("a", "b"), embedding)
    merged = update.added_to(weight, ALL, ALL)
    in_order = update._add(weight, lora._product(b, a))
    kind = np.uint32 if dtype == F32 else np.uint16
    np.testing.assert_array_equal(merged.view(kind), in_order.view(kind))


def test_the_quick_product_is_used_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((16, 512)).astype(F32), 0.01 * rng.standard_normal((256, 16)).astype(F32)
    weight = (0.02 * rng.standard_normal((256, 512))).astype(BF16)
    update = lora.LowRank(a, b, 2.0, ("a", "b"))
    expected = update.added_to(weight, ALL, ALL)
    summed = []
    monkeypatch.setattr(lora, "_products", lambda left, right, f=lora._products: summed.append(len(left)) or f(left, right))
    monkeypatch.setattr(lora, "_product", lambda left, right: pytest.fail("all products were summed in order"))
    np.testing.assert_array_equal(update.added_to(weight, ALL, ALL).view(np.uint16), expected.view(np.uint16))
    assert 0 < sum(summed) < weight.size // 50
