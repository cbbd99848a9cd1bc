"""A stage of a comparison: the worst of its figures over all pictures, the limit it is held to, the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from skinedge.parity.tolerances import Limit

if TYPE_CHECKING:
    from skinedge.console import Json

STAGES = ("pixels", "tokens", "features", "bias", "prefill", "steps", "text", "answer")
# Of these the smallest is the worst.
_LEAST_IS_WORST = {"top1", "same_tokens", "same"}

Measured = Mapping[str, float]


@dataclass(frozen=True)
class Stage:
    """One stage over all images: the worst of each metric, the limit if it is gated, the verdict.

    Infinity and NaN mark what cannot be compared (another shape, a missing bias, overflow): they fail any stage.
    """

    name: str
    measured: Measured
    limit: Limit | None
    images: int

    @property
    def passed(self) -> bool:
        """Comparable, and within tolerance if it is gated."""
        comparable = all(map(math.isfinite, self.measured.values()))
        # A metric that only the first pictures have may be absent from later ones, and is then no reason to fail.
        return comparable and (self.limit is None or self.measured.get(self.limit.metric, 0.0) <= self.limit.value)

    @property
    def verdict(self) -> str:
        """``ok``, ``FAIL``, or ``reported`` for a stage that is not gated."""
        return "FAIL" if not self.passed else "ok" if self.limit else "reported"

    def line(self) -> str:
        """The stage on one line."""
        figures = "  ".join(f"{name} {value:.3g}" for name, value in self.measured.items())
        bound = f"  ({self.limit.metric} <= {self.limit.value:g})" if self.limit else ""
        return f"{self.name:9} {self.verdict:8} {figures}{bound}"

    def to_json(self) -> Json:
        """The stage; a figure that is not finite is null."""
        measured = {name: value if math.isfinite(value) else None for name, value in self.measured.items()}
        return {**asdict(self), "measured": measured, "passed": self.passed}


class StageTally:
    """Stages as pictures come by: only the worst of each figure is kept."""

    def __init__(self, limits: Mapping[str, Limit]) -> None:
        self._limits = limits
        self._worst: dict[str, Measured] = {}
        self._count: dict[str, int] = {}

    def add(self, measured: Mapping[str, Measured]) -> None:
        """One picture's figures, by stage."""
        for name, figures in measured.items():
            known = self._worst.get(name)
            self._worst[name] = figures if known is None else worst_of([known, figures])
            self._count[name] = self._count.get(name, 0) + 1

    def stages(self) -> tuple[Stage, ...]:
        """The stages in order, up to the first that is out of tolerance: what comes after it says nothing of its own."""
        found: list[Stage] = []
        for name in (n for n in STAGES if n in self._worst):
            found.append(Stage(name, self._worst[name], self._limits.get(name), self._count[name]))
            if not found[-1].passed:
                break
        return tuple(found)


def worst_of(measured: Iterable[Measured]) -> Measured:
    """The worst of each metric over all images; one that some images lack is the worst of the others."""
    rows = list(measured)
    names = dict.fromkeys(name for row in rows for name in row)
    # numpy's extremes, because Python's own pass over a NaN that is not the first.
    return {m: float((np.min if m in _LEAST_IS_WORST else np.max)([row[m] for row in rows if m in row])) for m in names}
