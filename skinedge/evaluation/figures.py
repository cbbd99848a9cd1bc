"""What answers come to: accuracy and its worst skin group, macro recall, confusion, the six dimensions, with intervals.

Shares have Wilson's interval.  Means and macro recall have a percentile bootstrap that draws units (lesions, patients), not
photographs: two photographs of one lesion are one case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from skinedge.evaluation.labels import NO_ANSWER
from skinedge.evaluation.result import AnswerRecord, FiguresRecord, MeanRecord, ShareRecord
from skinedge.evaluation.scores import DIMENSIONS, mean_score
from skinedge.parity.record import UNKNOWN_SKIN
from skinedge.parity.statistics import RESAMPLES, Interval, PairedDifference, Share, paired_difference, wilson

OTHER, NONE = "other", "no answer"
_BLOCK = 1 << 22
Float64 = npt.NDArray[np.float64]


def figures_of(answers: Sequence[AnswerRecord], labels: Sequence[str]) -> FiguresRecord:
    """All figures; ``labels`` are the classes of the benchmark, empty where any disease can be said."""
    judged = [a for a in answers if a.correct is not None]
    scored = [a for a in answers if a.scores is not None]
    groups = _groups(judged)
    return FiguresRecord(
        answered=len(answers),
        units=len({a.unit for a in answers}),
        cut_off=sum(a.finish == "length" for a in answers),
        accuracy=share(sum(bool(a.correct) for a in judged), len(judged)) if judged else None,
        accuracy_by_unit=_accuracy_by_unit(judged),
        commonest=max(Counter(a.truth for a in judged).values()) / len(judged) if judged and labels else None,
        balanced_accuracy=_balanced(judged) if labels and judged else None,
        groups=groups,
        worst_group=min((g for g in groups if g != UNKNOWN_SKIN), key=lambda g: groups[g].value, default=None),
        recall=_recall(judged) if labels else {},
        confusion=_confusion(judged, labels) if labels else {},
        reasons=dict(Counter(a.reason for a in judged if a.reason).most_common()),
        structure=share(sum(a.well_formed for a in answers), len(answers)) if answers else None,
        dimensions={d: _mean(scored, [a.scores[d] for a in scored if a.scores]) for d in DIMENSIONS} if scored else {},
        mean_score=_mean(scored, [mean_score(a.scores) for a in scored if a.scores]) if scored else None,
        unscored=sum(a.unscored is not None for a in answers),
    )


def share(right: int, n: int) -> ShareRecord:
    """A share as a record."""
    found = Share(right, n)
    return ShareRecord(right=right, n=n, value=found.value, low=found.interval.low, high=found.interval.high)


def resampled(totals: Float64, sizes: Float64, *, resamples: int = RESAMPLES, seed: int = 0) -> Float64:
    """Ratios of sums over units drawn anew, ``[resamples, K]``; a column none of whose cases was drawn is NaN.

    Args:
        totals: what each unit adds to each of ``K`` numerators, ``[units, K]``.
        sizes: what it adds to their denominators, ``[units, K]``.
        resamples: how often the units are drawn.
        seed: fixes the draws.
    """
    units, rng, found = len(totals), np.random.default_rng(seed), []
    block = max(1, _BLOCK // units)
    even = np.full(units, 1 / units)
    for done in range(0, resamples, block):
        times = rng.multinomial(units, even, size=min(block, resamples - done)).astype(np.float64)
        below = times @ sizes
        found.append(np.divide(times @ totals, below, out=np.full(below.shape, np.nan), where=below > 0))
    return np.concatenate(found)


def _groups(judged: Sequence[AnswerRecord]) -> dict[str, ShareRecord]:
    skins = sorted({a.skin for a in judged}, key=lambda skin: (skin == UNKNOWN_SKIN, skin))
    return {skin: share(sum(bool(a.correct) for a in judged if a.skin == skin), _count(judged, skin)) for skin in skins}


def _count(judged: Sequence[AnswerRecord], skin: str) -> int:
    return sum(a.skin == skin for a in judged)


def _recall(judged: Sequence[AnswerRecord]) -> dict[str, ShareRecord]:
    there, right = Counter(str(a.truth) for a in judged), Counter(str(a.truth) for a in judged if a.correct)
    return {truth: share(right[truth], there[truth]) for truth in sorted(there)}


def _balanced(judged: Sequence[AnswerRecord]) -> MeanRecord:
    """Mean recall over the classes that are there."""
    classes = sorted({str(a.truth) for a in judged})
    totals, sizes = _tallies(judged, [float(bool(a.correct)) for a in judged], [classes.index(str(a.truth)) for a in judged])
    value = float((totals.sum(0) / sizes.sum(0)).mean())
    return _rate(value, np.nanmean(resampled(totals, sizes), 1), judged)


def _accuracy_by_unit(judged: Sequence[AnswerRecord]) -> MeanRecord | None:
    if not judged or len({a.unit for a in judged}) == len(judged):
        return None
    totals, sizes = _tallies(judged, [float(bool(a.correct)) for a in judged], [0] * len(judged))
    return _rate(float(totals.sum() / sizes.sum()), resampled(totals, sizes)[:, 0], judged)


def _mean(answers: Sequence[AnswerRecord], values: Sequence[float]) -> MeanRecord:
    totals, sizes = _tallies(answers, values, [0] * len(values))
    return _record(float(np.mean(values)), resampled(totals, sizes)[:, 0], len(values))


def _rate(value: float, draws: Float64, judged: Sequence[AnswerRecord]) -> MeanRecord:
    """A share with its interval; where no case or every case is right, no draw differs, and Wilson's for so many units stands."""
    if 0 < value < 1:
        return _record(value, draws, len(judged))
    units = len({a.unit for a in judged})
    interval = wilson(round(value) * units, units)
    return MeanRecord(value=value, low=interval.low, high=interval.high, n=len(judged))


def paired_by_unit(first: Sequence[float], second: Sequence[float], units: Sequence[str]) -> PairedDifference:
    """As ``skinedge.parity.statistics.paired_difference``, drawing units instead of cases where a unit has several."""
    if len(set(units)) == len(units):
        return paired_difference(np.array(first), np.array(second))
    rows = {unit: row for row, unit in enumerate(dict.fromkeys(units))}
    totals, sizes = np.zeros((len(rows), 1)), np.zeros((len(rows), 1))
    for a, b, unit in zip(first, second, units, strict=True):
        totals[rows[unit], 0] += b - a
        sizes[rows[unit], 0] += 1
    low, high = np.quantile(resampled(totals, sizes), [0.025, 0.975])
    return PairedDifference(float(totals.sum() / sizes.sum()), Interval(float(low), float(high)), len(units))


def _record(value: float, draws: Float64, n: int) -> MeanRecord:
    low, high = np.quantile(draws, [0.025, 0.975])
    return MeanRecord(value=value, low=min(value, float(low)), high=max(value, float(high)), n=n)


def _tallies(answers: Sequence[AnswerRecord], values: Sequence[float], columns: Sequence[int]) -> tuple[Float64, Float64]:
    """Sums and counts by unit and column."""
    units = {unit: row for row, unit in enumerate(dict.fromkeys(a.unit for a in answers))}
    totals = np.zeros((len(units), max(columns) + 1))
    sizes = np.zeros_like(totals)
    for answer, value, column in zip(answers, values, columns, strict=True):
        totals[units[answer.unit], column] += value
        sizes[units[answer.unit], column] += 1
    return totals, sizes


def _confusion(judged: Sequence[AnswerRecord], labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """Truth -> what was said -> how often; only truths that are there, and only what was said of them."""
    table: dict[str, dict[str, int]] = {}
    for answer in judged:
        said = NONE if answer.reason == NO_ANSWER else answer.said if answer.said in labels else OTHER
        row = table.setdefault(str(answer.truth), {})
        row[str(said)] = row.get(str(said), 0) + 1
    return {truth: dict(sorted(table[truth].items())) for truth in sorted(table)}
