"""Noise is not called a difference, and a difference is found."""

from __future__ import annotations

import numpy as np
import pytest

from skinedge.measure import statistics
from skinedge.measure.compare import pairs, rules_for, schedule
from skinedge.measure.statistics import judge, least_pairs, paired_ratio, summarise

BLOCKS = 8


def test_a_summary_can_be_recomputed() -> None:
    found = summarise([5.0, 1.0, 3.0, 2.0, 4.0])
    assert found is not None
    assert found.to_json() == {"n": 5, "median": 3.0, "iqr": 2.0, "min": 1.0, "p90": pytest.approx(4.6)}
    assert summarise([]) is None


def test_the_order_is_a_b_b_a_and_every_neighbour_a_pair() -> None:
    assert schedule(2) == ("a", "b", "b", "a", "again", "again", "a", "b", "b", "a", "again", "again", "a")
    found = pairs([float(i) for i in range(13)])
    assert found["b"] == [(0, 1), (3, 2), (6, 7), (9, 8)]
    assert found["again"] == [(3, 4), (6, 5), (9, 10), (12, 11)]
    order = schedule(3, ("b", "c", "again"))
    for arm, neighbours in pairs(list(range(len(order))), ("b", "c", "again")).items():
        assert {(order[i], order[j]) for i, j in neighbours} == {("a", arm)}
        assert len(neighbours) == 6


def test_a_steady_drift_is_no_difference() -> None:
    """A machine that gets slower all the time: one pair of every block is lengthened by it and the other shortened."""
    drifting = [10 * 1.01**i for i in range(len(schedule(BLOCKS)))]
    found = pairs(drifting)
    ratio = paired_ratio(found["b"], 0.99)
    assert ratio.low < 1 < ratio.high
    assert judge(found["b"], found["again"]).verdict == "no difference"


def simulate(rng: np.random.Generator, noise: float, slower: float) -> statistics.Judged:
    """Processes that differ by ``noise``, every eighth of them disturbed; B takes ``slower`` times as long."""
    order = schedule(BLOCKS)
    times = np.exp(rng.normal(0, noise, len(order))) * (1 + (rng.random(len(order)) < 0.125) * rng.exponential(0.1, len(order)))
    found = pairs([float(t) * (slower if arm == "b" else 1) for t, arm in zip(times, order, strict=True)])
    return judge(found["b"], found["again"], 0.005)


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)


def test_noise_is_not_called_a_difference(few_resamples: None) -> None:
    rng = np.random.default_rng(11)
    called = sum(simulate(rng, noise, 1.0).verdict == "difference" for noise in (0.005, 0.02, 0.05) for _ in range(60))
    assert called <= 3


def test_a_slowdown_of_five_percent_is_found_and_its_direction(few_resamples: None) -> None:
    rng = np.random.default_rng(12)
    found = [simulate(rng, 0.01, 1.05) for _ in range(40)]
    assert sum(j.verdict == "difference" for j in found) >= 36
    assert all(j.ratio.median > 1 for j in found)
    faster = [simulate(rng, 0.01, 0.93) for _ in range(10)]
    assert sum(j.verdict == "difference" and j.ratio.high < 1 for j in faster) >= 8


def test_what_is_smaller_than_noise_is_not_claimed() -> None:
    """B is 2 % slower in every pair, but A against itself differs by as much as 4 %."""
    b = [(100.0, 102.0)] * 16
    noisy = [(100.0, 104.0), (100.0, 96.0)] * 8
    assert judge(b, [(100.0, 100.1)] * 16).verdict == "difference"
    found = judge(b, noisy)
    assert found.verdict == "no difference"
    assert found.floor == pytest.approx(0.04, abs=0.003)


def test_too_few_pairs_say_nothing() -> None:
    assert (least_pairs(0.01), least_pairs(0.005)) == (8, 9)
    assert judge([(1.0, 2.0)] * 7, [(1.0, 1.0)] * 16).verdict == "not enough data"
    with pytest.raises(ValueError, match="above 0"):
        paired_ratio([(0.0, 1.0)], 0.99)


def test_all_processes_of_an_arm_together_satisfy_the_protocol() -> None:
    for blocks in (1, 5, 8, 20):
        rules = rules_for(blocks)
        assert rules.warmups >= 3
        assert 2 * blocks * rules.runs >= 10
        assert 2 * blocks * rules.seconds >= 10
