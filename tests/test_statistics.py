"""The statistics of a comparison: against published values and against scipy."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinedge.errors import UsageError
from skinedge.parity.statistics import Interval, Share, mcnemar_exact, paired_difference, wilson


@pytest.fixture(scope="module")
def stats() -> ModuleType:
    """scipy's own, to compare with."""
    module: ModuleType = pytest.importorskip("scipy.stats")
    return module


@pytest.mark.parametrize(("n", "percent"), [(300, 1.26), (656, 0.58)])
def test_no_event_in_n_cases_still_has_an_upper_limit(n: int, percent: float) -> None:
    interval = wilson(0, n)
    assert interval.low == 0
    assert round(100 * interval.high, 2) == percent


@pytest.mark.parametrize(("b", "c", "p"), [(0, 6, 0.0312), (5, 15, 0.0414), (10, 22, 0.0501)])
def test_mcnemar_gives_the_published_values(b: int, c: int, p: float) -> None:
    assert mcnemar_exact(b, c) == pytest.approx(p, abs=5.1e-5)
    assert mcnemar_exact(c, b) == mcnemar_exact(b, c)


def test_arms_that_never_differ_are_not_told_apart() -> None:
    assert mcnemar_exact(0, 0) == 1
    assert mcnemar_exact(7, 7) == 1


counts = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.sampled_from([0.9, 0.95, 0.99]))
def test_wilson_is_scipys(stats: ModuleType, case: tuple[int, int], confidence: float) -> None:
    k, n = case
    theirs = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    mine = wilson(k, n, confidence=confidence)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= mine.low <= k / n <= mine.high <= 1


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_scipys_binomial_test(stats: ModuleType, b: int, c: int) -> None:
    theirs = stats.binomtest(min(b, c), b + c).pvalue if b + c else 1
    assert mcnemar_exact(b, c) == pytest.approx(theirs, rel=1e-9)


def test_the_bootstrap_is_scipys(stats: ModuleType) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(300) < 0.6, rng.random(300) < 0.7
    mine = paired_difference(first, second)
    difference = second.astype(float) - first
    theirs = stats.bootstrap((difference,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    assert mine.mean == pytest.approx(difference.mean())
    assert (mine.interval.low, mine.interval.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_the_bootstrap_is_near_the_normal_interval_for_scores() -> None:
    rng = np.random.default_rng(3)
    first = rng.normal(3, 1, 500)
    second = first + rng.normal(0.2, 0.5, 500)
    found = paired_difference(first, second)
    half = 1.96 * float((second - first).std()) / math.sqrt(500)
    assert found.n == 500
    assert (found.interval.low, found.interval.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.004)


def test_same_seed_same_interval_and_more_resamples_than_one_block() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.random(5000) < 0.5, rng.random(5000) < 0.5
    one, two, other = (paired_difference(first, second, resamples=2000, seed=s) for s in (1, 1, 2))
    assert one == two
    assert one.interval != other.interval


def test_equal_arms_differ_by_nothing() -> None:
    same = np.array([True, False, True])
    assert paired_difference(same, same).interval == Interval(0, 0)


def test_a_share_knows_its_interval() -> None:
    share = Share(70, 100)
    assert share.value == 0.7
    assert share.interval == wilson(70, 100)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_what_is_no_share_is_refused(k: int, n: int) -> None:
    with pytest.raises(UsageError, match=f"{k} of {n} cases is no share"):
        wilson(k, n)


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(UsageError, match="3 and 2 cases cannot be paired"):
        paired_difference(np.ones(3), np.ones(2))
    with pytest.raises(UsageError, match="0 and 0 cases cannot be paired"):
        paired_difference(np.ones(0), np.ones(0))
    with pytest.raises(UsageError, match="-1 is no number of cases"):
        mcnemar_exact(-1, 3)
