"""Margins, verdicts, Tango's interval, two one-sided tests and the numbers of cases."""

from __future__ import annotations

import math
from statistics import NormalDist
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinedge.errors import UsageError
from skinedge.parity.equivalence import (
    ALPHA,
    Margin,
    _student,
    hall,
    needed,
    needed_by_score,
    needed_for_spread,
    needed_if_equal,
    needed_of_pairs,
    power_of,
    tost,
)
from skinedge.parity.statistics import Interval, paired_difference, ratio_of_sums, wilson
from skinedge.parity.tango import score, tango, tango_limits


@pytest.fixture(scope="module")
def stats() -> ModuleType:
    """scipy's own, to compare with."""
    module: ModuleType = pytest.importorskip("scipy.stats")
    return module


# Cavo et al. 2012 in Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8, there as
# first - second; and what PropCIs 0.3 for R gives for scoreci.mp(25, 28, 618) at 90 %.
@pytest.mark.parametrize(
    ("b", "c", "n", "confidence", "low", "high"),
    [(6, 16, 161, 0.95, 0.0054, 0.1240), (16, 6, 161, 0.95, -0.1240, -0.0054), (25, 28, 618, 0.90, -0.0148, 0.0247)],
)
def test_tango_gives_the_published_intervals(b: int, c: int, n: int, confidence: float, low: float, high: float) -> None:
    found = tango(b, c, n, confidence=confidence)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5.1e-5)


def _most_likely(b: int, c: int, n: int, d: float) -> float:
    """The share of cases that the first arm alone gets right under a difference of ``d``, by looking everywhere."""
    low, high = max(0.0, -d), (1 - d) / 2
    for _ in range(5):
        q = np.linspace(low, high, 2001)[1:-1]
        both = np.maximum(1 - 2 * q - d, 1e-300)
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [(b, q), (c, q + d), (n - b - c, both)]
            value = sum(k * np.log(np.maximum(p, 1e-300)) for k, p in parts if k)
        best = int(np.argmax(value))
        low, high = float(q[max(best - 1, 0)]), float(q[min(best + 1, len(q) - 1)])
    return (low + high) / 2


@pytest.mark.parametrize(("b", "c", "n"), [(6, 16, 161), (3, 0, 60), (1, 9, 20), (30, 30, 100), (12, 5, 600)])
def test_tango_is_the_inversion_of_the_score_test_by_brute_force(b: int, c: int, n: int) -> None:
    z = NormalDist().inv_cdf(0.975)
    grid = np.linspace(-0.999, 0.999, 3997)
    kept = []
    for d in grid:
        q = _most_likely(b, c, n, float(d))
        if abs(c - b - n * d) <= z * math.sqrt(n * (2 * q + d - d * d)) * (1 + 1e-6):
            kept.append(float(d))
    found, step = tango(b, c, n), float(grid[1] - grid[0])
    assert (kept[0], kept[-1]) == pytest.approx((found.low, found.high), abs=1.5 * step)


def test_at_a_difference_of_nothing_the_score_is_mcnemars() -> None:
    assert score(5, 15, 400, 0.0) == pytest.approx((15 - 5) / math.sqrt(20))


def test_arms_that_never_disagree_have_an_interval_of_wilsons_kind() -> None:
    z2 = NormalDist().inv_cdf(0.975) ** 2
    assert tango(0, 0, 600).high == pytest.approx(z2 / (600 + z2), abs=1e-12)
    assert tango(0, 0, 600).low == -tango(0, 0, 600).high
    assert tango(0, 0, 600).high == pytest.approx(wilson(0, 600).high, abs=1e-12)


tables = st.integers(1, 1500).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda b: st.tuples(st.just(b), st.integers(0, n - b), st.just(n)))
)


@given(tables, st.sampled_from([0.8, 0.9, 0.95, 0.99]))
@settings(deadline=None)  # the machine may be busy
def test_tangos_interval_is_in_order_and_symmetric(table: tuple[int, int, int], confidence: float) -> None:
    b, c, n = table
    found, swapped = tango(b, c, n, confidence=confidence), tango(c, b, n, confidence=confidence)
    assert -1 <= found.low <= (c - b) / n <= found.high <= 1
    assert (found.low, found.high) == (-swapped.high, -swapped.low)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    for end, sign in ((found.low, 1), (found.high, -1)):
        if abs(end) < 1 - 1e-9:
            assert score(b, c, n, end) == pytest.approx(sign * z, abs=1e-5)
    wider = tango(b, c, n, confidence=0.999)
    assert wider.low <= found.low
    assert found.high <= wider.high


@given(tables, st.integers(2, 5))
@settings(deadline=None)  # the machine may be busy
def test_tangos_interval_narrows_as_cases_are_added_in_the_same_shares(table: tuple[int, int, int], times: int) -> None:
    b, c, n = table
    few, many = tango(b, c, n), tango(b * times, c * times, n * times)
    assert many.high - many.low < few.high - few.low


@given(tables)
@settings(deadline=None)  # the machine may be busy
def test_many_tables_at_once_are_the_same_as_one_by_one(table: tuple[int, int, int]) -> None:
    b, c, n = table
    low, high = tango_limits([b, c, 0], [c, b, 0], n)
    assert Interval(float(low[0]), float(high[0])) == tango(b, c, n)
    assert high[2] == -low[2]


@pytest.mark.parametrize(("b", "c", "n"), [(-1, 0, 10), (0, 0, 0), (6, 5, 10)])
def test_what_is_no_table_is_refused(b: int, c: int, n: int) -> None:
    with pytest.raises(UsageError, match=f"{b} and {c} of {n} cases are no discordant pairs"):
        tango(b, c, n)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.01, 0.01, "pass"), (-0.019, 0.5, "pass"), (-0.02, 0.01, "not enough data"), (-0.05, 0.01, "not enough data"),
        (-0.05, -0.02, "not enough data"), (-0.05, -0.021, "fail"),
    ],
)  # fmt: skip
def test_the_interval_is_judged_by_its_margin(low: float, high: float, verdict: str) -> None:
    assert Margin(low=-0.02).judge(Interval(low, high)) == verdict
    assert Margin(high=0.02).judge(Interval(-high, -low)) == verdict


def test_a_margin_of_two_sides() -> None:
    length = Margin(low=0.9, high=1.1)
    assert length.judge(Interval(0.95, 1.05)) == "pass"
    assert length.judge(Interval(0.85, 1.15)) == "not enough data"
    assert length.judge(Interval(1.12, 1.3)) == length.judge(Interval(0.5, 0.8)) == "fail"


@given(st.integers(0, 2**32), st.floats(0.05, 0.4), st.integers(5, 200))
@settings(max_examples=40, deadline=None)  # the first call imports scipy
def test_tost_rejects_where_its_interval_lies_inside_the_margin_and_only_there(seed: int, margin: float, n: int) -> None:
    values = np.random.default_rng(seed).normal(0.05, 0.6, n)
    found = tost(values, margin)
    assert (found.p < 0.05) == (-margin < found.interval.low and found.interval.high < margin)
    assert found.interval.low <= found.mean <= found.interval.high
    mirrored = tost(-values, margin)
    assert (mirrored.interval.low, mirrored.interval.high) == pytest.approx((-found.interval.high, -found.interval.low))


def test_tost_is_students_by_hand(stats: ModuleType) -> None:
    values = np.array([0.1, -0.2, 0.3, 0.0, 0.05, -0.1, 0.2, 0.0])
    found, error = tost(values, 0.25), float(values.std(ddof=1)) / math.sqrt(8)
    t = stats.t(7)
    assert found.interval.low == pytest.approx(values.mean() - t.ppf(0.95) * error)
    assert found.p == pytest.approx(max(t.sf((values.mean() + 0.25) / error), t.cdf((values.mean() - 0.25) / error)))


def test_scores_that_never_differ_are_equivalent_and_a_constant_loss_is_not() -> None:
    assert tost(np.zeros(50), 0.1).p == 0
    assert tost(np.full(50, -0.2), 0.1).p == 1
    assert tost(np.zeros(50), 0.1).interval == Interval(0, 0)
    with pytest.raises(UsageError, match=r"1 differences cannot be held against a margin of 0\.1"):
        tost(np.zeros(1), 0.1)


@pytest.mark.parametrize(("discordant", "margin", "n"), [(0.10, 0.03, 873), (0.10, 0.05, 314)])
def test_needed_numbers_of_the_reference(discordant: float, margin: float, n: int) -> None:
    assert needed(discordant, margin) == n
    assert power_of(n, discordant, margin) == pytest.approx(0.8, abs=0.06)


def test_power_grows_with_cases_and_falls_with_disagreement() -> None:
    powers = [power_of(n, 0.1, 0.03) for n in (100, 300, 900, 3000)]
    assert powers == sorted(powers)
    assert power_of(600, 0.02, 0.03) > power_of(600, 0.2, 0.03)
    assert power_of(380, 0.0, 0.01) == 0
    assert power_of(381, 0.0, 0.01) == 1


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.03, 0.05])
def test_the_least_number_without_one_disagreement_is_exact(margin: float) -> None:
    n = needed_if_equal(margin)
    assert tango(0, 0, n).low > -margin >= tango(0, 0, n - 1).low
    assert NormalDist().inv_cdf(1 - ALPHA) == pytest.approx(1.96, abs=1e-3)


@pytest.mark.parametrize("discordant", [0.0, 0.005, 0.02, 0.1])
@pytest.mark.parametrize("margin", [0.01, 0.03])
def test_the_number_by_the_score_test_has_the_power_it_says(discordant: float, margin: float) -> None:
    n = needed_by_score(discordant / 2, discordant / 2, margin)
    assert n is not None
    assert power_of(n, discordant, margin) >= 0.8
    assert power_of(n - 1, discordant, margin) < 0.8 or discordant == 0
    rng = np.random.default_rng(5)
    b, c, _ = rng.multinomial(n, [discordant / 2, discordant / 2, 1 - discordant], 4000).T
    low, _ = tango_limits(b, c, n)
    # Few discordant cases come in lumps: at 0.005 the chance jumps by a tenth from one count to the next.
    assert (low > -margin).mean() > 0.8 - (0.12 if discordant < 0.02 else 0.04)


def test_where_many_cases_are_discordant_the_rule_of_thumb_is_near() -> None:
    assert needed_by_score(0.05, 0.05, 0.03) == pytest.approx(needed(0.10, 0.03), rel=0.05)
    assert (needed_by_score(0.005, 0.005, 0.02) or 0) > 1.5 * needed(0.01, 0.02)
    assert needed_by_score(0, 0, 0.01) == needed_if_equal(0.01) == 381


def test_needed_from_what_was_seen() -> None:
    assert needed_of_pairs(30, 30, 600, 0.03) == needed_by_score(0.05, 0.05, 0.03)
    assert needed_of_pairs(20, 40, 600, 0.03) == needed_by_score(0.05, 0.05, 0.03)  # a gain is not taken for true
    assert (needed_of_pairs(40, 30, 600, 0.03) or 0) > 2 * needed(0.11, 0.03)  # a loss is
    assert needed_of_pairs(40, 20, 600, 0.03) is None
    assert needed_of_pairs(0, 0, 100, 0.01) == 381


@given(st.integers(0, 2**32), st.integers(10, 300), st.sampled_from([0.0, 1.0, 3.0]))
@settings(max_examples=40, deadline=None)
def test_halls_interval_leans_toward_the_long_tail(seed: int, n: int, tail: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.3, n) - tail * (rng.random(n) < 0.1)
    found, mirrored, student = hall(values), hall(-values), tost(values, 0.1).interval
    assert found.low <= values.mean() <= found.high
    assert (found.low, found.high) == pytest.approx((-mirrored.high, -mirrored.low))
    skew = ((values - values.mean()) ** 3).mean() / values.std() ** 3
    if skew < -0.5:
        assert found.low < student.low
    if abs(skew) < 1e-3:
        assert (found.low, found.high) == pytest.approx((student.low, student.high), abs=1e-3)


@pytest.mark.parametrize("p", [0.9, 0.95, 0.975, 0.995])
def test_students_quantile_without_scipy_is_scipys(stats: ModuleType, p: float) -> None:
    for freedom in (20, 50, 99, 600, 10_000):
        assert _student(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), abs=1e-4)


def test_halls_interval_undoes_halls_transformation(stats: ModuleType) -> None:
    values = np.random.default_rng(3).exponential(1, 50)
    found, spread = hall(values), float(values.std(ddof=1))
    skew = float(((values - values.mean()) ** 3).mean()) / spread**3
    for end, sign in ((found.low, 1), (found.high, -1)):
        t = (values.mean() - end) / spread
        transformed = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / (6 * 50)
        assert math.sqrt(50) * transformed == pytest.approx(sign * stats.t.ppf(0.95, 49))
    assert hall(np.zeros(20)) == Interval(0, 0)


def test_numbers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match=r"1\.5 is no share of cases"):
        needed(1.5, 0.03)
    with pytest.raises(UsageError, match=r"no number of cases shows what lies 0\.1 beyond its margin"):
        needed_for_spread(1.0, -0.1)


def test_ratio_of_sums_keeps_a_case_together() -> None:
    rng = np.random.default_rng(1)
    size = rng.integers(1, 50, 300).astype(float)
    level = rng.normal(1, 0.5, 300)  # each case has its own: tokens of a case are no independent samples
    found = ratio_of_sums(level * size, size)
    assert found.value == pytest.approx((level * size).sum() / size.sum())
    error = math.sqrt(((level - found.value) ** 2 * size**2).sum()) / size.sum()
    assert (found.interval.high - found.interval.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.05)
    ones = np.ones(300)
    assert ratio_of_sums(level, ones).interval == paired_difference(np.zeros(300), level).interval


def test_ratios_of_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="2 and 2 sums of cases have no ratio"):
        ratio_of_sums(np.ones(2), np.zeros(2))
