"""Tango's score interval for the difference of two proportions seen on the same cases.

T. Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design,
Statistics in Medicine 17 (1998), 891-908.  A difference is inside the interval if the score test does not reject it: the
share of cases that one arm alone gets wrong is set to its most likely value under that difference, which is the root of a
quadratic, so that the interval keeps inside [-1, 1] and has a width where the arms never disagree.  scipy has no such interval.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from skinedge.errors import UsageError
from skinedge.parity.statistics import Interval

Float64 = npt.NDArray[np.float64]
_HALVINGS = 60  # of an interval of length 2: below the spacing of float64


def tango(only_first: int, only_second: int, n: int, *, confidence: float = 0.95) -> Interval:
    """The interval of (share of the second arm) - (share of the first).

    Args:
        only_first: cases that the first arm alone got right.
        only_second: cases that the second arm alone got right.
        n: all cases, those included on which both were right or both wrong.
        confidence: of the interval.

    >>> interval = tango(6, 16, 161)
    >>> round(interval.low, 4), round(interval.high, 4)
    (0.0054, 0.124)

    Raises:
        UsageError: a count is negative, there are no cases, or more of one kind than cases.
    """
    if min(only_first, only_second) < 0 or n < 1 or only_first + only_second > n:
        raise UsageError(f"{only_first} and {only_second} of {n} cases are no discordant pairs.")
    low, high = tango_limits(np.array([only_first]), np.array([only_second]), n, confidence=confidence)
    return Interval(float(low[0]), float(high[0]))


def tango_limits(
    only_first: npt.ArrayLike, only_second: npt.ArrayLike, n: int, *, confidence: float = 0.95
) -> tuple[Float64, Float64]:
    """Lower and upper limits of many tables of ``n`` cases at once; counts and limits are ``[k]``."""
    b, c = np.asarray(only_first, np.float64), np.asarray(only_second, np.float64)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    high = _upper(b, c, n, z)
    return -_upper(c, b, n, z), high


def score(only_first: npt.ArrayLike, only_second: npt.ArrayLike, n: int, difference: npt.ArrayLike) -> Float64:
    """Tango's statistic: how many standard errors the observed difference lies above ``difference``."""
    b, c, d = (np.asarray(v, np.float64) for v in (only_first, only_second, difference))
    missed, variance = c - b - n * d, n * restricted_variance(b / n, c / n, d)
    with np.errstate(divide="ignore", invalid="ignore"):
        value: Float64 = np.where(missed == 0, 0.0, missed / np.sqrt(variance))
    return value


def restricted_variance(only_first: npt.ArrayLike, only_second: npt.ArrayLike, difference: npt.ArrayLike) -> Float64:
    """Of one case's difference, if ``difference`` were true and all else as likely as these shares of cases allow."""
    b, c, d = (np.asarray(v, np.float64) for v in (only_first, only_second, difference))
    b, c, d = np.where(d < 0, c, b), np.where(d < 0, b, c), np.abs(d)  # below 0 the arms change places
    half = (2 - c + b) * d - b - c
    root = np.sqrt(half * half + 8 * b * d * (1 - d))
    # The share that the first arm alone gets right: of two forms of the root the one that does not cancel.
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(half > 0, 2 * b * d * (1 - d) / (half + root), (root - half) / 4)
    value: Float64 = 2 * share + d * (1 - d)
    return value


def _upper(b: Float64, c: Float64, n: int, z: float) -> Float64:
    """The largest difference that is not rejected; the statistic falls as the difference grows."""
    low, high = (c - b) / n, np.ones(np.broadcast(b, c).shape)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        inside = score(b, c, n, middle) >= -z
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return np.asarray(low, np.float64)
