"""The compiled Q4_K: ggml's bytes or none."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skinedge.quantize import _fast_ggml, _ggml
from skinedge.weights.source import Float32

pytest.importorskip("xllamacpp")
Q4_K = _ggml.TYPES["q4_k"]


def reference(rows: Float32) -> np.ndarray:
    return _ggml._by_ggml(Q4_K, rows, None)


def fast(rows: Float32) -> np.ndarray:
    pytest.importorskip("numba")
    return _fast_ggml._rows(rows, _fast_ggml._compiled(), reference)


def test_awkward_blocks_are_those_of_ggml():
    assert np.array_equal(fast(_fast_ggml.awkward()), reference(_fast_ggml.awkward()))


@settings(deadline=None, max_examples=60)
@given(  # beyond f16, ggml's own bytes are undefined
    arrays(np.float32, (1, 256), elements=st.floats(-40000, 40000, width=32)), st.sampled_from([1.0, 1e-9, 1e-30])
)
def test_any_finite_row_is_that_of_ggml(row, factor):
    row = row * np.float32(factor)
    assert np.array_equal(fast(row), reference(row))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.floats(-24, 6), st.sampled_from([0.0, 0.5, -3.0]))
def test_rows_of_weights_are_those_of_ggml(seed, count, power, middle):
    rows = np.random.default_rng(seed).standard_normal((count, 512)).astype(np.float32) + np.float32(middle)
    rows *= np.float32(2.0**power)
    assert np.array_equal(fast(rows), reference(rows))


def test_it_is_used_where_it_is_worth_it_from_any_thread():
    pytest.importorskip("numba")
    rows = np.random.default_rng(3).standard_normal((256, 1024)).astype(np.float32)
    expected = reference(rows)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: _fast_ggml.quantize(rows, reference), range(8)))
    assert all(f is not None and np.array_equal(f, expected) for f in found)
    assert np.array_equal(_ggml.quantize(Q4_K, rows), expected)
    assert _fast_ggml.quantize(rows[:8], reference) is None


def test_a_ggml_that_differs_keeps_the_work():
    pytest.importorskip("numba")
    rows = np.ones((256, 1024), np.float32)
    assert _fast_ggml.quantize(rows, lambda some: reference(some) ^ 1) is None
    assert _fast_ggml.quantize(rows, reference) is not None


def test_without_numba_ggml_does_the_work(monkeypatch):
    monkeypatch.setattr(_fast_ggml.importlib.util, "find_spec", lambda name: None)
    rows = np.random.default_rng(4).standard_normal((256, 1024)).astype(np.float32)
    assert _fast_ggml.quantize(rows, other := lambda some: reference(some)) is None
    assert np.array_equal(_ggml.quantize(Q4_K, rows), other(rows))
