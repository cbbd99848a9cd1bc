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
import numpy.typing as npt

from skinedge.errors import MissingDependencyError, UsageError
from skinedge.parity.statistics import Interval

Verdict = Literal["pass", "fail", "not enough data"]
ALPHA, POWER = 0.025, 0.8
_INSTALL = 'pip install "skinedge[evaluate]"'
# For a mean of scores or lengths: with fewer cases an interval from their spread is not to be trusted (docs/decisions/0020).
LEAST_CASES = 200


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


def tost(differences: npt.NDArray[np.float64], margin: float, *, alpha: float = 0.05) -> Equivalence:
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


def needed(discordant: float, margin: float, *, alpha: float = ALPHA, power: float = POWER) -> int:
    """Cases for a paired difference of shares to be shown above ``-margin``: (z_(1-alpha) + z_power)² ψ / δ², rounded up.

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


def power_of(n: int, discordant: float, margin: float, *, alpha: float = ALPHA) -> float:
    """The chance that ``n`` cases show a true difference of 0 above ``-margin``; the inverse of ``needed``."""
    if _share(discordant) == 0:
        return float(n >= needed_if_equal(margin, alpha=alpha))
    z = NormalDist()
    return z.cdf(margin * math.sqrt(n / discordant) - z.inv_cdf(1 - alpha))


def needed_if_equal(margin: float, *, alpha: float = ALPHA) -> int:
    """Cases that Tango's interval needs to lie above ``-margin`` where the arms never disagree: n > z² (1 - δ) / δ."""
    z = NormalDist().inv_cdf(1 - alpha)
    return math.floor(z * z * (1 - margin) / margin) + 1


def needed_of_pairs(only_first: int, only_second: int, n: int, margin: float) -> int | None:
    """Cases that would do if things go on as they were seen; ``None`` where no number would, the difference being beyond.

    A loss that was seen is taken for true, a gain is not: it may be luck.
    """
    discordant, difference = (only_first + only_second) / n, min((only_second - only_first) / n, 0.0)
    if difference <= -margin:
        return None
    found = needed_for_spread(discordant - difference**2, margin + difference)
    return max(found, needed_if_equal(margin), n + 1)


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
