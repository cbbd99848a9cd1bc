"""How sure a count of right answers is: an interval for one share, two tests for a pair of arms.

Sources: the score interval of Wilson (1927), McNemar's test in its exact, binomial form, and Efron's percentile
bootstrap over cases; REFERENCE section 7 has the values that ``tests/test_statistics.py`` checks.  They are written
out here, in the standard library and numpy, because they are a few lines each and a device that judges its own
answers has no other reason to install scipy; the tests hold them against scipy's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from skinedge.errors import UsageError

RESAMPLES = 10_000
_BLOCK = 1 << 22  # drawn cases at a time: 32 MiB of indices
Float64 = npt.NDArray[np.float64]
Values = Float64 | npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``."""

    low: float
    high: float


@dataclass(frozen=True)
class Share:
    """``successes`` of ``n`` independent cases."""

    successes: int
    n: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.successes / self.n

    @property
    def interval(self) -> Interval:
        """Wilson's interval of 95 %."""
        return wilson(self.successes, self.n)


@dataclass(frozen=True)
class PairedDifference:
    """Mean of ``second - first`` over ``n`` cases, with its bootstrap interval."""

    mean: float
    interval: Interval
    n: int


@dataclass(frozen=True)
class Ratio:
    """Sum over sum of ``n`` cases, with its bootstrap interval."""

    value: float
    interval: Interval
    n: int


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a share.

    >>> round(100 * wilson(0, 300).high, 2)
    1.26

    Raises:
        UsageError: there are no cases, or more successes than cases.
    """
    if not 0 <= successes <= n or n == 0:
        raise UsageError(f"{successes} of {n} cases is no share.")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, z2 = successes / n, z * z / n
    middle = (share + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * math.sqrt(share * (1 - share) / n + z2 / (4 * n))
    # Where no case, or every case, succeeds, one end is exactly 0 or 1 but for rounding.
    return Interval(middle - half if successes else 0.0, middle + half if successes < n else 1.0)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test: min(1, 2 P(Bin(b + c, 1/2) <= min(b, c))).

    Args:
        only_first: b, cases that the first arm alone got right.
        only_second: c, cases that the second arm alone got right.

    >>> round(mcnemar_exact(5, 15), 4)
    0.0414

    Raises:
        UsageError: a count is negative.
    """
    if only_first < 0 or only_second < 0:
        raise UsageError(f"{min(only_first, only_second)} is no number of cases.")
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / (1 << n))


def paired_difference(
    first: Values, second: Values, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> PairedDifference:
    """How much better ``second`` is than ``first`` on the same cases: mean difference, percentile bootstrap over cases.

    Args:
        first: one score a case, ``[n]``: right or wrong, or a number.
        second: those of the other arm, in the same order.
        confidence: of the interval.
        resamples: how often the cases are drawn anew.
        seed: fixes the draws.

    Raises:
        UsageError: there are no cases, or the arms have different numbers of them.
    """
    if len(first) != len(second) or not len(first):
        raise UsageError(f"{len(first)} and {len(second)} cases cannot be paired.")
    difference = second.astype(np.float64) - first.astype(np.float64)
    means = np.concatenate([difference[drawn].mean(1) for drawn in _draws(len(difference), resamples, seed)])
    return PairedDifference(float(difference.mean()), _percentiles(means, confidence), len(difference))


def ratio_of_sums(
    numerator: Float64, denominator: Float64, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Ratio:
    """A sum over cases divided by another, percentile bootstrap over cases: what a case brings stays together.

    Args:
        numerator: one value a case, ``[n]``, itself a sum over whatever the case has (its tokens).
        denominator: likewise; not all of them 0.
        confidence: of the interval.
        resamples: how often the cases are drawn anew.
        seed: fixes the draws.

    Raises:
        UsageError: there are no cases, different numbers of them, or nothing to divide by.
    """
    if len(numerator) != len(denominator) or not len(numerator) or denominator.sum() == 0:
        raise UsageError(f"{len(numerator)} and {len(denominator)} sums of cases have no ratio.")
    sums = [(numerator[drawn].sum(1), denominator[drawn].sum(1)) for drawn in _draws(len(numerator), resamples, seed)]
    above, below = np.concatenate([s[0] for s in sums]), np.concatenate([s[1] for s in sums])
    drawn_ratios = above[below != 0] / below[below != 0]  # a draw of cases that all have nothing says nothing
    return Ratio(float(numerator.sum() / denominator.sum()), _percentiles(drawn_ratios, confidence), len(numerator))


def _draws(n: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Blocks ``[k, n]`` of cases drawn anew, ``resamples`` rows in all."""
    rng, block = np.random.default_rng(seed), max(1, _BLOCK // n)
    for done in range(0, resamples, block):
        yield rng.integers(n, size=(min(block, resamples - done), n))


def _percentiles(values: Float64, confidence: float) -> Interval:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
