"""Is it close enough?  Margins, verdicts, two one-sided tests, and how many cases would do.

Parity is a claim of non-inferiority, so it is the interval that is judged: inside the margin is a pass, beyond it a fail, and
what straddles it is not enough data (REFERENCE section 7).  A difference that is not significant is no parity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from types import ModuleType
from typing import Literal

import numpy as np

from skinedge.errors import MissingDependencyError, UsageError
from skinedge.parity.statistics import Float64, Interval
from skinedge.parity.tango import restricted_variance

Verdict = Literal["pass", "fail", "not enough data"]
ALPHA, POWER = 0.025, 0.8
_INSTALL = 'pip install "skinedge[evaluate]"'


@dataclass(frozen=True)
class Margin:
    """What is acceptable: above ``low`` and below ``high``; ``None`` is no limit on that side."""

    low: float | None = None
    high: float | None = None

    def judge(self, interval: Interval) -> Verdict:
        """Inside is a pass, wholly beyond one end a fail, and all else not enough data."""
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        if interval.low > low and interval.high < high:
            return "pass"
        return "fail" if interval.high < low or interval.low > high else "not enough data"


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t-tests on a mean of paired differences: ``p`` is the larger of the two, ``interval`` that of 1 - 2 alpha."""

    mean: float
    interval: Interval
    p: float
    n: int


def tost(differences: Float64, margin: float, *, alpha: float = 0.05) -> Equivalence:
    """Schuirmann's two one-sided tests (1987) that the mean of ``differences`` ``[n]`` lies inside ±``margin``.

    The interval lies inside the margin where ``p`` is below ``alpha``, and only there.  Needs scipy.

    Raises:
        UsageError: fewer than two differences, or a margin that is not above 0.
        MissingDependencyError: scipy is not installed.
    """
    if len(differences) < 2 or margin <= 0:
        raise UsageError(f"{len(differences)} differences cannot be held against a margin of {margin:g}.")
    stats = _scipy_stats()
    mean = float(differences.mean())
    if not np.ptp(differences):
        return Equivalence(mean, Interval(mean, mean), 0.0 if abs(mean) < margin else 1.0, len(differences))
    below = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    above = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    interval = stats.ttest_1samp(differences, 0).confidence_interval(1 - 2 * alpha)
    return Equivalence(mean, Interval(float(interval.low), float(interval.high)), float(max(below, above)), len(differences))


def hall(differences: Float64, *, alpha: float = 0.05) -> Interval:
    """An interval of 1 - 2 alpha for a mean whose values are skewed: Hall's transformation (JRSS B 54 (1992), 221-228).

    A few cases that lose much pull Student's lower limit too far up: with losses of two points on one case in twenty, its
    two one-sided tests at 5 % let 12 % pass at 200 cases, and this one 2 % (docs/decisions/0020).
    """
    n, mean = len(differences), float(differences.mean())
    if not np.ptp(differences):
        return Interval(mean, mean)
    spread = float(differences.std(ddof=1))
    t, skew = _student(1 - alpha, n - 1), float(((differences - mean) ** 3).mean()) / spread**3
    return Interval(mean - spread * _untransformed(t, skew, n), mean - spread * _untransformed(-t, skew, n))


def _student(p: float, freedom: int) -> float:
    """Student's quantile without scipy: the expansion in 1 / freedom, Abramowitz and Stegun 26.7.5; within 1e-4 from 20 on."""
    z, v = NormalDist().inv_cdf(p), freedom
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + terms[0] / v + terms[1] / v**2 + terms[2] / v**3


def _untransformed(t: float, skew: float, n: int) -> float:
    """The studentised mean, over the root of n, whose transform is ``t``."""
    straight = t / math.sqrt(n) - skew / (6 * n)
    return straight if abs(skew) < 1e-9 else float(3 / skew * (np.cbrt(1 + skew * straight) - 1))


def needed(discordant: float, margin: float, *, alpha: float = ALPHA, power: float = POWER) -> int:
    """Cases for a paired difference of shares to be shown above ``-margin``: (z_(1-alpha) + z_power)² ψ / δ², rounded up.

    The rule of thumb by which a test set is planned; a certificate counts by ``needed_of_pairs``.

    Args:
        discordant: ψ, the share of cases on which the arms disagree.
        margin: δ, how much worse is acceptable; the true difference is taken to be 0.
        alpha: one-sided.
        power: the chance of a pass.

    >>> needed(0.10, 0.03), needed(0.10, 0.05)
    (873, 314)

    Raises:
        UsageError: a share that is none, or a margin that is not above 0.
    """
    return needed_for_spread(_share(discordant), margin, alpha=alpha, power=power)


def needed_for_spread(variance: float, distance: float, *, alpha: float = ALPHA, power: float = POWER) -> int:
    """The same for any mean of paired differences: their variance, and how far its truth is from the margin.

    Raises:
        UsageError: the distance is not above 0.
    """
    if distance <= 0:
        raise UsageError(f"no number of cases shows what lies {-distance:g} beyond its margin.")
    z = NormalDist()
    return math.ceil((z.inv_cdf(1 - alpha) + z.inv_cdf(power)) ** 2 * variance / distance**2)


def needed_by_score(only_first: float, only_second: float, margin: float) -> int | None:
    """The same for Tango's score test, whose variance at the margin is not that at the truth; ``None`` where no number would do.

    Where few cases are discordant ``needed`` promises too much: at ψ = 0.01 and δ = 0.02 its 197 have a power of 0.47.

    Args:
        only_first: share of cases that the first arm alone gets right.
        only_second: share that the second arm alone gets right.
        margin: δ.
    """
    difference = only_second - only_first
    if difference <= -margin:
        return None
    at_margin, at_truth = _variances(only_first, only_second, margin)
    z = NormalDist()
    errors = z.inv_cdf(1 - ALPHA) * math.sqrt(at_margin) + z.inv_cdf(POWER) * math.sqrt(at_truth)
    return math.floor((errors / (margin + difference)) ** 2) + 1


def power_of(n: int, discordant: float, margin: float) -> float:
    """The chance that Tango's interval from ``n`` cases lies above ``-margin`` where the truth is no difference."""
    half = _share(discordant) / 2
    at_margin, at_truth = _variances(half, half, margin)
    room = margin * math.sqrt(n) - NormalDist().inv_cdf(1 - ALPHA) * math.sqrt(at_margin)
    return NormalDist().cdf(room / math.sqrt(at_truth)) if at_truth else float(room > 0)


def needed_if_equal(margin: float) -> int:
    """Cases that Tango's interval, or Wilson's, needs to clear ``margin`` where no case at all differs: n > z² (1 - δ) / δ."""
    z = NormalDist().inv_cdf(1 - ALPHA)
    return math.floor(z * z * (1 - margin) / margin) + 1


def needed_of_pairs(only_first: int, only_second: int, n: int, margin: float) -> int | None:
    """Cases that would do if things go on as they were seen in ``n``; ``None`` where no number would.

    A loss that was seen is taken for true, a gain is not: it may be luck.
    """
    b, c = only_first / n, only_second / n
    found = needed_by_score(b, c, margin) if c <= b else needed_by_score((b + c) / 2, (b + c) / 2, margin)
    return None if found is None else max(found, n + 1)


def _variances(only_first: float, only_second: float, margin: float) -> tuple[float, float]:
    """Of one case's difference: as Tango's test takes it at the margin, and in truth."""
    at_margin = float(restricted_variance(only_first, only_second, -margin))
    return at_margin, only_first + only_second - (only_second - only_first) ** 2


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise UsageError(f"{value:g} is no share of cases.")
    return value


def _scipy_stats() -> ModuleType:
    try:
        from scipy import stats
    except ModuleNotFoundError as e:
        if e.name != "scipy":
            raise
        raise MissingDependencyError("scores are compared with scipy, which is not installed.", hint=_INSTALL) from e
    module: ModuleType = stats
    return module
