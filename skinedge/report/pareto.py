"""Quality beside speed, as a picture: which bundles are beaten in both by another."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skinedge.report.sections import Entry, Machine

_LEAST_KL = 1e-12  # what is nearer than that, or the same, has no place on a logarithmic axis


@dataclass(frozen=True)
class Point:
    """A bundle, in percent of the picture's width and height from its lower left; ``interval`` is what its height is sure of."""

    entry: Entry
    x: float
    y: float
    interval: tuple[float, float] | None
    front: bool


@dataclass(frozen=True)
class Picture:
    """All bundles of one machine: right is faster; ticks are (percent, text)."""

    points: tuple[Point, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]

    @property
    def front(self) -> tuple[Point, ...]:
        """What no other bundle that was measured beats in both, from slow to fast."""
        return tuple(sorted((p for p in self.points if p.front), key=lambda p: p.x))


@dataclass(frozen=True)
class _Quality:
    """A bundle's height on the axis, and what it is worth: the more the better."""

    entry: Entry
    worth: float
    height: float
    interval: tuple[float, float] | None = None


def closeness(machine: Machine) -> Picture | None:
    """Divergence from PyTorch (KL, nats) on a logarithmic axis; ``None`` unless two bundles have that and a speed."""
    found = []
    for entry in machine.entries:
        kl = entry.parity.figure("steps", "kl_mean") if entry.parity else None
        if kl is not None:
            found.append(_Quality(entry, -kl, math.log10(max(kl, _LEAST_KL))))
    low = math.floor(min((q.height for q in found), default=0) - 0.2)
    high = math.ceil(max((q.height for q in found), default=0) + 0.2)
    every = max(1, math.ceil((high - low) / 8))
    return _picture(found, [(k, f"1e{k}") for k in range(low, high + 1, every)], low, high)


def rightness(machine: Machine) -> Picture | None:
    """The share of right diagnoses with its interval; ``None`` unless two bundles have that and a speed."""
    found = list(_right(machine))
    ends = [end for q in found for end in q.interval or ()] or [0.0]
    low = math.floor(10 * min(ends))
    high = max(math.ceil(10 * max(ends)), low + 1)
    return _picture(found, [(k / 10, f"{10 * k} %") for k in range(low, high + 1)], low / 10, high / 10)


def _right(machine: Machine) -> Iterator[_Quality]:
    """Bundles that were asked of the same pictures; of several sets, the one with the most of them."""
    asked = [(e, e.certificate) for e in machine.entries if e.certificate]
    sets = Counter(c.data.images for _, c in asked).most_common(1)
    for entry, certificate in asked:
        right = certificate.endpoint("accuracy of the bundle")
        if right is None or right.estimate is None or right.interval is None or certificate.data.images != sets[0][0]:
            continue
        if right.interval.low is not None and right.interval.high is not None:
            yield _Quality(entry, right.estimate, right.estimate, (right.interval.low, right.interval.high))


def _picture(found: Sequence[_Quality], ticks: Sequence[tuple[float, str]], low: float, high: float) -> Picture | None:
    rows = [(q, q.entry.headline.tok_s.median) for q in found if q.entry.headline and q.entry.headline.tok_s]
    if len(rows) < 2:
        return None
    fastest = _round_up(max(speed for _, speed in rows) * 1.05)

    def up(height: float) -> float:
        return 100 * (height - low) / (high - low)

    points = tuple(
        Point(
            entry=q.entry,
            x=100 * speed / fastest,
            y=up(q.height),
            interval=(up(q.interval[0]), up(q.interval[1])) if q.interval else None,
            front=_front(q, speed, rows),
        )
        for q, speed in rows
    )
    return Picture(
        points, tuple((25.0 * i, f"{fastest * i / 4:.4g}") for i in range(5)), tuple((up(at), text) for at, text in ticks)
    )


def _front(quality: _Quality, speed: float, rows: Sequence[tuple[_Quality, float]]) -> bool:
    """Measured, and no other measured bundle is at least as good in both and better in one."""
    mine = (speed, quality.worth)
    rivals = [(s, q.worth) for q, s in rows if _counts(q.entry)]
    return _counts(quality.entry) and not any(s >= mine[0] and w >= mine[1] and (s, w) != mine for s, w in rivals)


def _counts(entry: Entry) -> bool:
    """Neither computed nor impossible."""
    return not entry.estimated and not (entry.headline and entry.headline.above_ceiling)


def _round_up(value: float) -> float:
    """The next 1, 2, 4 or 8 times a power of ten, which quarters divide into round numbers."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value)
