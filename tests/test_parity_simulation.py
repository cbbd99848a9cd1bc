"""The simulation of a certificate's statistics: its exact parts at a small size, and what was committed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from benchmarks import parity_simulation as simulation

RESULT = Path(simulation.__file__).parent / "results" / "parity_simulation.json"


def test_tables_are_the_trinomial() -> None:
    b, c, p = simulation.tables(60, 0.10, -0.04)
    assert p.sum() == pytest.approx(1)
    assert (p * b).sum() == pytest.approx(60 * 0.07)
    assert (p * c).sum() == pytest.approx(60 * 0.03)
    drawn = np.random.default_rng(0).multinomial(60, [0.07, 0.03, 0.90], 20_000)
    one = float(((drawn[:, 0] == 4) & (drawn[:, 1] == 2)).mean())
    assert float(p[(b == 4) & (c == 2)][0]) == pytest.approx(one, abs=0.005)


def test_the_bootstrap_by_counts_is_the_bootstrap_by_cases() -> None:
    from skinedge.parity.statistics import paired_difference

    first, second = np.arange(200) < 15, np.arange(200) >= 190
    by_cases = paired_difference(first, second).interval
    low, high = simulation._resampled_limits(np.random.default_rng(1), 200, 15, 10)
    assert (low, high) == pytest.approx((by_cases.low, by_cases.high), abs=0.006)


def test_score_losses_have_the_mean_they_should() -> None:
    rng = np.random.default_rng(2)
    for draw in simulation.SCORES.values():
        assert draw(rng, (100, 2000), -0.10).mean() == pytest.approx(-0.10, abs=0.01)


def test_the_intervals_of_many_sets_are_those_of_one() -> None:
    from skinedge.parity.equivalence import hall, tost

    sets = simulation.SCORES["one in thirty loses 3 points, the others differ by 0.2"](np.random.default_rng(4), (5, 120), -0.10)
    (t_low, t_high), (low, high) = simulation._score_limits(sets)
    for i, one in enumerate(sets):
        student, skewed = tost(one, 0.1).interval, hall(one)
        assert (t_low[i], t_high[i]) == pytest.approx((student.low, student.high))
        assert (low[i], high[i]) == pytest.approx((min(student.low, skewed.low), max(student.high, skewed.high)))


def test_the_committed_summary_is_that_of_the_committed_figures() -> None:
    found = json.loads(RESULT.read_text())
    assert found["summary"] == list(simulation.summary(found))


def test_what_is_judged_keeps_its_word() -> None:
    """What decision 20 promises: a coverage of 93 % of a nominal 95, sizes of 3 % of 2.5 (7 for lengths) and 6.5 of 5."""
    found = json.loads(RESULT.read_text())
    assert all(row["coverage"] > 0.93 and row.get("size", 0) < 0.03 for row in found["tango"])
    assert all(row["wider, size"] < 0.065 for row in found["scores"] if row["judged"])
    assert all(row["power"] > 0.7 for row in found["power"])
    assert all(row.get("wider, size", 0) < 0.07 for row in found["lengths"] if row["judged"])
