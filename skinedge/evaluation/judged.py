"""What a judge found: mean scores by arm, differences between arms, and the judge's own noise beside the margin.

The noise is that of judging the same narrative twice (A/A): the standard deviation of the difference of two judgings
says how far a mean difference of zero may stray by the judge alone.  Intervals are of the normal distribution, which
the mean of the pairs follows well enough from some 30 pairs on.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skinedge.console import Json
from skinedge.evaluation.judge_file import Written
from skinedge.evaluation.scorer import Scored
from skinedge.evaluation.scores import DIMENSIONS, mean_score
from skinedge.parity.margins import WIDTH_OF_SCORES

MEAN = "mean of the six"
_Z95 = statistics.NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Paired:
    """Differences of pairs: how many, their mean, and their standard deviation (``None`` for fewer than two)."""

    n: int
    mean: float | None
    sd: float | None

    def half_width(self, n: int) -> float | None:
        """Half the 95 % interval of the mean of ``n`` such differences."""
        return None if self.sd is None or not n else _Z95 * self.sd / math.sqrt(n)

    def to_json(self, n: int) -> dict[str, Json]:
        """With the interval's half width for ``n`` pairs, and whether it is inside the margin."""
        half = self.half_width(n)
        return {
            "pairs": self.n, "mean": self.mean, "sd": self.sd, "half_width_95": half, "at_n": n,
            "inside_margin": None if half is None else half <= WIDTH_OF_SCORES,
        }  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """One narrative with its judgement, and its second one where it was judged again."""

    written: Written
    first: Scored
    second: Scored | None = None

    def to_json(self) -> dict[str, Json]:
        shown = {"id": self.written.one.id, "arm": self.written.arm, **_scored_json(self.first)}
        return shown if self.second is None else {**shown, "again": _scored_json(self.second)}


@dataclass(frozen=True)
class Findings:
    """All judgements, in the order in which they were asked for."""

    judged: Sequence[Judged]

    @property
    def invalid(self) -> int:
        """Judgements that hold no scores, second ones not counted."""
        return sum(j.first.scores is None for j in self.judged)

    def means(self) -> dict[str, dict[str, float | None]]:
        """By arm, the mean of each dimension over its valid judgements; ``None`` where there are none."""
        arms: dict[str, list[Mapping[str, float]]] = {j.written.arm: [] for j in self.judged}
        for one in self.judged:
            if one.first.scores is not None:
                arms[one.written.arm].append(_with_mean(one.first.scores))
        return {
            arm: {name: statistics.fmean(s[name] for s in scores) if scores else None for name in _NAMES}
            for arm, scores in sorted(arms.items())
        }

    def noise(self) -> dict[str, Paired]:
        """Second judgement less the first, by dimension, over narratives with both."""
        return _paired([(j.first, j.second) for j in self.judged if j.second is not None])

    def differences(self) -> dict[str, Paired]:
        """Where there are two arms: the second by name less the first, by dimension, over cases with both."""
        arms = sorted({j.written.arm for j in self.judged})
        if len(arms) != 2:
            return {}
        by_case: dict[str, dict[str, Scored]] = {}
        for one in self.judged:
            by_case.setdefault(one.written.one.id, {})[one.written.arm] = one.first
        return _paired([(case[arms[0]], case[arms[1]]) for case in by_case.values() if len(case) == 2])

    def cases(self) -> int:
        """How many cases there are: what an interval of a mean is made from."""
        return len({j.written.one.id for j in self.judged})

    def to_json(self) -> dict[str, Json]:
        """The figures; not the judgements one by one."""
        reasons = [j.first.invalid for j in self.judged if j.first.scores is None]
        return {
            "narratives": len(self.judged),
            "cases": self.cases(),
            "invalid": self.invalid,
            "invalid_reasons": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
            "judged_again": sum(j.second is not None for j in self.judged),
            "margin": WIDTH_OF_SCORES,
            "means": {arm: dict(means) for arm, means in self.means().items()},
            "noise": {name: paired.to_json(self.cases()) for name, paired in self.noise().items()},
            "differences": {name: paired.to_json(paired.n) for name, paired in self.differences().items()},
        }


_NAMES = (*DIMENSIONS, MEAN)


def _with_mean(scores: Mapping[str, float]) -> dict[str, float]:
    return {**scores, MEAN: mean_score(scores)}


def _paired(pairs: Sequence[tuple[Scored, Scored]]) -> dict[str, Paired]:
    valid = [(_with_mean(a.scores), _with_mean(b.scores)) for a, b in pairs if a.scores is not None and b.scores is not None]
    return {name: _differences([b[name] - a[name] for a, b in valid]) for name in _NAMES} if pairs else {}


def _differences(values: Sequence[float]) -> Paired:
    mean = statistics.fmean(values) if values else None
    return Paired(len(values), mean, statistics.stdev(values) if len(values) > 1 else None)


def _scored_json(scored: Scored) -> dict[str, Json]:
    scores = None if scored.scores is None else dict(scored.scores)
    return {"scores": scores, "invalid": scored.invalid, "answer": scored.answer}
