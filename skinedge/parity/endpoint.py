"""One figure of a certificate: estimate, interval, margin, verdict, and in words how they came about."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from skinedge.measure.document import Record
from skinedge.parity import margins
from skinedge.parity.equivalence import (
    ALPHA,
    POWER,
    Margin,
    Verdict,
    hall,
    needed_for_spread,
    needed_if_equal,
    needed_of_pairs,
    tost,
)
from skinedge.parity.statistics import Float64, Interval, mcnemar_exact, paired_difference, ratio_of_sums, wilson
from skinedge.parity.tango import tango

Topic = Literal["tokens", "sequence", "answer", "structure", "scores", "findings"]
# A share is shown in percent and its difference in points of percent; ``score`` is on the scale from 0 to 5.
Unit = Literal["share", "points", "score", "nats", "ratio", "tokens"]
ALL = "all"
_BOOTSTRAP = "bootstrap of cases, 10,000 resamples"
_BOTH_SIDES = 0.9  # two one-sided tests at 80 % together need 90 % each where the truth is 0


class Limits(Record):
    """From ``low`` to ``high``; an end that is not there is ``None``."""

    low: float | None = None
    high: float | None = None


class Endpoint(Record):
    """What was found of one thing in one group of cases.

    ``verdict`` is ``None`` for what is reported and not judged, ``estimate`` where there was nothing to estimate it from;
    ``needed`` is the number of cases that would do, ``None`` where none would or the verdict stands; ``n`` counts cases.
    """

    name: str
    topic: Topic
    group: str
    unit: Unit
    n: int
    estimate: float | None = None
    interval: Limits | None = None
    confidence: float | None = None
    method: str = ""
    margin: Limits | None = None
    verdict: Verdict | None = None
    needed: int | None = None
    note: str = ""

    @property
    def gated(self) -> bool:
        """Whether it has a say in the whole verdict."""
        return self.verdict is not None


def _of(interval: Interval | Margin | None) -> Limits | None:
    """The same as a part of a document."""
    return Limits(low=interval.low, high=interval.high) if interval else None


def share(name: str, topic: Topic, group: str, hits: int, n: int, *, margin: Margin | None = None, note: str = "") -> Endpoint:
    """A share with Wilson's interval; judged by its lower end if there is a margin."""
    what = Endpoint(name=name, topic=topic, group=group, unit="share", n=n, margin=_of(margin), note=note)
    if not n:
        return what.model_copy(update={"verdict": "not enough data" if margin else None})
    found = wilson(hits, n)
    verdict = margin.judge(found) if margin else None
    more = None
    if verdict == "not enough data" and margin and margin.low is not None and hits / n > margin.low:
        more = max(needed_for_spread(hits / n * (1 - hits / n), hits / n - margin.low), needed_if_equal(1 - margin.low))
    update = {
        "estimate": hits / n,
        "interval": _of(found),
        "confidence": 0.95,
        "method": "Wilson",
        "verdict": verdict,
        "needed": more,
    }
    return what.model_copy(update=update)


def value(name: str, topic: Topic, group: str, unit: Unit, n: int, estimate: float | None, note: str = "") -> Endpoint:
    """A reported figure without an interval."""
    return Endpoint(name=name, topic=topic, group=group, unit=unit, n=n, estimate=estimate, note=note)


def paired_shares(
    name: str, topic: Topic, group: str, first: Sequence[bool], second: Sequence[bool], margin: Margin | None
) -> Endpoint:
    """How much larger the second arm's share is, by Tango; judged by its lower end if there is a margin."""
    pairs = list(zip(first, second, strict=True))
    n, lost, won = len(pairs), sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    what = Endpoint(name=name, topic=topic, group=group, unit="points", n=n, margin=_of(margin))
    if not n:
        return what.model_copy(update={"verdict": "not enough data" if margin else None, "note": "no case can be judged"})
    interval = tango(lost, won, n)
    verdict = margin.judge(interval) if margin else None
    more = needed_of_pairs(lost, won, n, -margin.low) if verdict == "not enough data" and margin and margin.low else None
    note = f"{lost} in the reference alone, {won} in the bundle alone; McNemar p {mcnemar_exact(lost, won):.2g}"
    return what.model_copy(
        update={
            "estimate": (won - lost) / n, "interval": _of(interval), "confidence": 0.95, "method": "Tango score",
            "verdict": verdict, "needed": more, "note": note,
        }
    )  # fmt: skip


def mean_difference(name: str, group: str, differences: Float64, margin: Margin | None, *, note: str = "") -> Endpoint:
    """A mean of differences of scores, ``[n]``, by two one-sided t-tests; with one end of the margin, by one.

    Judged is the wider of Student's interval, which is that of the tests, and Hall's.
    """
    what = value(name, "scores", group, "score", len(differences), None, note).model_copy(update={"margin": _of(margin)})
    if len(differences) < 2:
        return _too_few(what, margins.LEAST_SCORES) if margin else what
    student, skewed = tost(differences, margins.WIDTH_OF_SCORES), hall(differences)
    ends = _wider(student.interval, skewed)
    found = {"estimate": student.mean, "interval": _of(ends), "confidence": 0.90, "method": "two one-sided tests, t and Hall"}
    more = _needed_of_mean(student.mean, float(differences.var(ddof=1)), margin) if margin else None
    return _judged(what.model_copy(update=found), ends, margin, margins.LEAST_SCORES, more)


def _needed_of_mean(mean: float, variance: float, margin: Margin, alpha: float = 0.05) -> int | None:
    """For the end of the margin that is nearer, where each end is tested at ``alpha``; both ends need more than one."""
    ends = [e for e in (margin.low, margin.high) if e is not None]
    if margin.judge(Interval(mean, mean)) != "pass":
        return None
    power = _BOTH_SIDES if len(ends) == 2 else POWER
    return needed_for_spread(variance, min(abs(mean - e) for e in ends), alpha=alpha, power=power)


def _judged(what: Endpoint, ends: Interval, margin: Margin | None, least: int, more: int | None) -> Endpoint:
    """With a verdict if there is a margin; fewer than ``least`` cases pass nothing."""
    if margin is None:
        return what
    verdict = margin.judge(ends)
    if verdict == "pass" and what.n < least:
        return _too_few(what, least)
    enough = None if verdict != "not enough data" or more is None else max(more, least, what.n + 1)
    return what.model_copy(update={"verdict": verdict, "needed": enough})


def _too_few(what: Endpoint, least: int) -> Endpoint:
    return what.model_copy(update={"verdict": "not enough data", "needed": least})


def ratio(
    name: str, topic: Topic, group: str, unit: Unit, above: Float64, below: Float64, margin: Margin | None = None, note: str = ""
) -> Endpoint:
    """A sum over cases divided by another, with a bootstrap of cases; judged is the wider of that and Hall's interval."""
    what = value(name, topic, group, unit, len(above), None, note).model_copy(update={"margin": _of(margin)})
    if not below.sum():
        return _too_few(what, margins.LEAST_LENGTHS) if margin else what
    found = ratio_of_sums(above, below)
    what = what.model_copy(
        update={"estimate": found.value, "interval": _of(found.interval), "confidence": 0.95, "method": _BOOTSTRAP}
    )
    if margin is None:
        return what
    adds = found.value + (above - found.value * below) / below.mean()  # what each case brings to the ratio (the delta method)
    ends = _wider(found.interval, hall(adds, alpha=ALPHA))
    what = what.model_copy(update={"interval": _of(ends), "method": "bootstrap of cases and Hall"})
    more = _needed_of_mean(found.value, float(adds.var()), margin, ALPHA)
    return _judged(what, ends, margin, margins.LEAST_LENGTHS, more)


def _wider(first: Interval, second: Interval) -> Interval:
    return Interval(min(first.low, second.low), max(first.high, second.high))


def ratio_difference(name: str, topic: Topic, group: str, above: Float64, below: Float64) -> Endpoint:
    """The second arm's sum over sum minus the first's, both ``[n, 2]``, with a bootstrap of cases; reported."""
    n = len(above)
    # Linear in what each case adds, so that one bootstrap of a mean serves (the delta method).
    rates, size = above.sum(0) / below.sum(0), below.mean(0)
    parts = (above - rates * below) / size
    found = paired_difference(parts[:, 0] + rates[0], parts[:, 1] + rates[1])
    note = f"{rates[1]:.1%}, reference {rates[0]:.1%}"
    what = value(name, topic, group, "points", n, float(rates[1] - rates[0]), note)
    update = {"interval": _of(found.interval), "confidence": 0.95, "method": _BOOTSTRAP}
    return what.model_copy(update=update)


def exponential(endpoint: Endpoint) -> Endpoint:
    """The endpoint of a logarithm as one of the number."""
    return _mapped(endpoint, math.exp)


def square_root(endpoint: Endpoint) -> Endpoint:
    """The endpoint of a square as one of the number."""
    return _mapped(endpoint, math.sqrt)


def _mapped(endpoint: Endpoint, rising: Callable[[float], float]) -> Endpoint:
    if endpoint.estimate is None or endpoint.interval is None:
        return endpoint
    low, high = (rising(v) for v in (endpoint.interval.low, endpoint.interval.high) if v is not None)
    return endpoint.model_copy(update={"estimate": rising(endpoint.estimate), "interval": Limits(low=low, high=high)})
