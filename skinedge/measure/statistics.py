"""Samples in a few numbers, and whether two artefacts differ by more than noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.01  # chance of seeing a difference in a whole comparison where there is none
Verdict = Literal["difference", "no difference", "not enough data"]


@dataclass(frozen=True)
class Summary:
    """``n`` samples: median, first and third quartile, smallest, 90th percentile."""

    n: int
    median: float
    q1: float
    q3: float
    minimum: float
    p90: float

    @property
    def iqr(self) -> float:
        """Between the quartiles."""
        return self.q3 - self.q1

    def to_json(self) -> dict[str, float]:
        """By name."""
        return {"n": self.n, "median": self.median, "iqr": self.iqr, "min": self.minimum, "p90": self.p90}


def summarise(values: Sequence[float]) -> Summary | None:
    """The numbers of ``values``; ``None`` of nothing."""
    if not len(values):
        return None
    q1, median, q3, p90 = (float(v) for v in np.quantile(np.asarray(values, np.float64), (0.25, 0.5, 0.75, 0.9)))
    return Summary(len(values), median, q1, q3, float(min(values)), p90)


@dataclass(frozen=True)
class Ratio:
    """The median of ``n`` paired ratios, and its bootstrap interval."""

    median: float
    low: float
    high: float
    n: int


def paired_ratio(pairs: Sequence[tuple[float, float]], confidence: float, *, seed: int = 0) -> Ratio:
    """Second over first of each pair: the median, and the percentile interval of 10,000 resamples of pairs.

    Raises:
        ValueError: no pair, or a time that is not above 0.
    """
    if not pairs or min(min(p) for p in pairs) <= 0:
        raise ValueError("at least one pair, all of it above 0")
    ratios = np.array([b / a for a, b in pairs])
    drawn = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    medians = np.median(ratios[drawn], axis=1)
    low, high = np.quantile(medians, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))


@dataclass(frozen=True)
class Judged:
    """What a comparison found of one metric.

    ``ratio`` is B over A, ``same`` A over itself measured in the same way; ``floor`` the largest deviation from 1 that
    its interval allows, as a share.
    """

    verdict: Verdict
    ratio: Ratio
    same: Ratio
    floor: float
    level: float


def judge(pairs: Sequence[tuple[float, float]], same: Sequence[tuple[float, float]], level: float = LEVEL) -> Judged:
    """Whether B differs from A: the interval of their ratio excludes 1, and the ratio is farther from 1 than noise goes.

    Args:
        pairs: times of A and of B, run next to each other.
        same: times of A and of A again, likewise: the noise floor.
        level: chance of calling noise a difference.  Percentile intervals of the median of a few pairs cover less often than
            the ``1 - level`` they are drawn for; that noise is not called a difference is the work of the floor.

    Raises:
        ValueError: no pairs, or a time that is not above 0.
    """
    ratio, floor_ratio = paired_ratio(pairs, 1 - level), paired_ratio(same, 1 - level, seed=1)
    floor = math.expm1(max(abs(math.log(floor_ratio.low)), abs(math.log(floor_ratio.high))))
    far = math.expm1(abs(math.log(ratio.median))) > floor
    excludes = ratio.low > 1 or ratio.high < 1
    verdict: Verdict = "difference" if excludes and far else "no difference"
    if min(len(pairs), len(same)) < least_pairs(level):
        verdict = "not enough data"
    return Judged(verdict, ratio, floor_ratio, floor, level)


def least_pairs(level: float) -> int:
    """Fewer pairs than this all fall on one side of 1 by chance more often than ``level``."""
    return 1 + math.ceil(math.log2(1 / level))
