"""The paper's kind of table: models x accuracy, models x six dimensions, and paired differences on the same items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from skinedge.console import Json, say, table
from skinedge.errors import UsageError
from skinedge.evaluation.figures import paired_by_unit
from skinedge.evaluation.result import AnswerRecord, Evaluation, MeanRecord, ShareRecord, read_evaluation
from skinedge.evaluation.run import scorer_name
from skinedge.evaluation.scores import DIMENSIONS, mean_score
from skinedge.parity.statistics import Interval, PairedDifference, mcnemar_exact, wilson

ABSENT = "-"


@dataclass(frozen=True)
class Grid:
    """A table for people."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Pair:
    """Two models on the items of a benchmark that both answered: ``second - first``, in shares and points of 5.

    ``accuracy`` and ``score`` are ``None`` where the benchmark has no truth or not both were scored by one judge.
    """

    dataset: str
    first: str
    second: str
    common: int
    accuracy: PairedDifference | None
    only_first: int
    only_second: int
    p: float | None
    score: PairedDifference | None


@dataclass(frozen=True)
class Comparison:
    """Results side by side; ``names`` are those of the models, ``pairs`` each against the first of its benchmark."""

    results: tuple[Evaluation, ...]
    names: tuple[str, ...]
    pairs: tuple[Pair, ...]

    def grids(self) -> Iterator[Grid]:
        """All tables that there is something to say in."""
        yield from _accuracy_grids(self)
        yield from _dimension_grids(self)
        if self.pairs:
            yield _pair_grid(self.pairs)

    def to_json(self) -> dict[str, Json]:
        """One JSON object; shares and scores with their intervals."""
        return {
            "kind": "comparison-of-models",
            "results": [_result_json(name, e) for name, e in zip(self.names, self.results, strict=True)],
            "pairs": [_pair_json(pair) for pair in self.pairs],
        }

    def to_markdown(self) -> str:
        """The tables as Markdown."""
        return "\n".join(_markdown(grid) for grid in self.grids())

    def show(self) -> None:
        """The tables on a terminal."""
        for number, grid in enumerate(self.grids()):
            say(("\n" if number else "") + grid.title)
            table(grid.headers, grid.rows)


def read_all(paths: Sequence[Path]) -> tuple[Evaluation, ...]:
    """Results from files; a folder stands for the JSON files in it, the same result given twice counts once.

    Raises:
        UsageError: a file is none, or a folder holds none.
    """
    found: dict[str, Evaluation] = {}
    for path in paths:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise UsageError(f"{path} holds no JSON file.", hint="Make one: skinedge evaluate MODEL --data DIR --out result.json")
        for file in files:
            one = read_evaluation(file)
            found.setdefault(one.digest, one)
    return tuple(found.values())


def compare(results: Sequence[Evaluation]) -> Comparison:
    """Put results side by side; each model against the first one given of the same benchmark."""
    names = tuple(_names(results))
    pairs = []
    for places in _by_dataset(results):
        first, *others = places
        pairs += [_pair(results[first], results[other], names[first], names[other]) for other in others]
    return Comparison(tuple(results), names, tuple(pairs))


def _names(results: Sequence[Evaluation]) -> Iterator[str]:
    """A name each; models of one name that are not one are told apart by kind, scheme and digest."""
    who: dict[str, set[tuple[tuple[str, str], ...]]] = {}
    for one in results:
        who.setdefault(one.model.name, set()).add(tuple(sorted(one.model.identity.items())))
    for one in results:
        known = one.model.identity
        more = " ".join(filter(None, (known.get("target", known["kind"]), known.get("scheme"), known.get("digest", "")[:8])))
        yield one.model.name if len(who[one.model.name]) == 1 else f"{one.model.name} ({more})"


def _dataset_name(one: Evaluation) -> str:
    several = f" {one.selection.split}" if one.selection.split else ""
    task = "" if one.dataset.task in ("diagnosis", "closed", "narrative") else f", {one.dataset.task}"
    return f"{one.dataset.title}{several}{task}"


def _dataset_key(one: Evaluation) -> tuple[str, ...]:
    return (_dataset_name(one), one.dataset.digest, one.dataset.task, one.dataset.rule, one.selection.question or "")


def _by_dataset(results: Sequence[Evaluation]) -> Iterator[list[int]]:
    order = sorted(range(len(results)), key=lambda i: _dataset_key(results[i]))
    for _, places in groupby(order, key=lambda i: _dataset_key(results[i])):
        yield list(places)


def _pair(a: Evaluation, b: Evaluation, first: str, second: str) -> Pair:
    theirs = {(x.id, x.image): x for x in b.answers}
    both = [(x, theirs[x.id, x.image]) for x in a.answers if (x.id, x.image) in theirs]
    judged = [(x, y) for x, y in both if x.correct is not None and y.correct is not None]
    right = [(bool(x.correct), bool(y.correct)) for x, y in judged]
    only_first, only_second = sum(x and not y for x, y in right), sum(y and not x for x, y in right)
    accuracy = _difference([(float(bool(x.correct)), float(bool(y.correct)), x.unit) for x, y in judged])
    if accuracy and not only_first + only_second:
        accuracy = _unseen(accuracy, len({x.unit for x, _ in judged}))
    score = _score_difference(both) if a.judge == b.judge else None
    p = mcnemar_exact(only_first, only_second) if right else None
    return Pair(_dataset_name(a), first, second, len(both), accuracy, only_first, only_second, p, score)


def _unseen(found: PairedDifference, units: int) -> PairedDifference:
    """Where no pair differs no draw does: the interval is that of a share of which nothing was seen, as Tango's is then."""
    most = wilson(0, units).high
    return PairedDifference(found.mean, Interval(-most, most), found.n)


def _difference(cases: Sequence[tuple[float, float, str]]) -> PairedDifference | None:
    """Of what each model has and the unit it is of."""
    return paired_by_unit(*map(list, zip(*cases, strict=True))) if cases else None


def _score_difference(both: Sequence[tuple[AnswerRecord, AnswerRecord]]) -> PairedDifference | None:
    scored = [(x.scores, y.scores, x.unit) for x, y in both]
    return _difference([(mean_score(x), mean_score(y), unit) for x, y, unit in scored if x is not None and y is not None])


def _accuracy_grids(found: Comparison) -> Iterator[Grid]:
    for places in _by_dataset(found.results):
        shown = [i for i in places if found.results[i].figures.accuracy is not None]
        if not shown:
            continue
        groups = list(dict.fromkeys(g for i in shown for g in found.results[i].figures.groups))
        headers = (
            "model",
            "answered",
            "accuracy, %",
            "balanced, %",
            *(f"skin {g}, %" for g in groups),
            "worst",
            "think/answer form, %",
        )
        rows = tuple(_accuracy_row(found.names[i], found.results[i], groups) for i in shown)
        yield Grid(f"{_dataset_name(found.results[shown[0]])}: right answers (95 % intervals)", headers, rows)


def _accuracy_row(name: str, one: Evaluation, groups: Sequence[str]) -> tuple[str, ...]:
    figures = one.figures
    by_group = (percent(figures.groups[g]) if g in figures.groups else ABSENT for g in groups)
    asked = figures.answered + len(one.failed) + len(one.missing)
    accuracy = figures.accuracy_by_unit or figures.accuracy
    answered = f"{figures.answered} of {asked}"
    return (
        name, answered, percent(accuracy), percent(figures.balanced_accuracy), *by_group, _worst(one),
        percent(figures.structure),
    )  # fmt: skip


def _worst(one: Evaluation) -> str:
    """The worst skin group and how many answers that rests on."""
    worst = one.figures.worst_group
    return f"{worst} (n {one.figures.groups[worst].n})" if worst else ABSENT


def _dimension_grids(found: Comparison) -> Iterator[Grid]:
    for places in _by_dataset(found.results):
        scored = [i for i in places if found.results[i].figures.mean_score is not None]
        judges = list(dict.fromkeys(tuple(sorted((found.results[i].judge or {}).items())) for i in scored))
        for judge in judges:
            rows = tuple(
                _dimension_row(found.names[i], found.results[i])
                for i in scored
                if tuple(sorted((found.results[i].judge or {}).items())) == judge
            )
            who = scorer_name(dict(judge))
            title = f"{_dataset_name(found.results[scored[0]])}: six dimensions, 0 to 5, by {who} (95 % intervals)"
            yield Grid(title, ("model", "scored", *DIMENSIONS, "mean"), rows)


def _dimension_row(name: str, one: Evaluation) -> tuple[str, ...]:
    figures = one.figures
    means = (score(figures.dimensions.get(d)) for d in DIMENSIONS)
    n = figures.mean_score.n if figures.mean_score else 0
    return (name, f"{n} of {figures.answered}", *means, score(figures.mean_score))


def _pair_grid(pairs: Sequence[Pair]) -> Grid:
    headers = ("benchmark", "difference", "items", "accuracy, points", "right alone", "McNemar p", "mean score")
    return Grid("Differences on the same items (95 % intervals)", headers, tuple(map(_pair_row, pairs)))


def _pair_row(pair: Pair) -> tuple[str, ...]:
    alone = f"{pair.only_second} : {pair.only_first}" if pair.accuracy else ABSENT
    p = ABSENT if pair.p is None else f"{pair.p:.3g}"
    name = f"{pair.second} - {pair.first}"
    return (pair.dataset, name, str(pair.common), _signed(pair.accuracy, 100, 1), alone, p, _signed(pair.score, 1, 2))


def _signed(found: PairedDifference | None, times: float, digits: int) -> str:
    if found is None:
        return ABSENT
    low, high = found.interval.low * times, found.interval.high * times
    return f"{found.mean * times:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def percent(found: ShareRecord | MeanRecord | None) -> str:
    """A share with its interval in percent."""
    return ABSENT if found is None else f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def score(found: MeanRecord | None) -> str:
    """A mean score with its interval."""
    return ABSENT if found is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _markdown(grid: Grid) -> str:
    lines = [grid.headers, tuple("---" for _ in grid.headers), *grid.rows]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"### {grid.title}\n\n{body}\n"


def _result_json(name: str, one: Evaluation) -> dict[str, Json]:
    figures: Mapping[str, Json] = one.figures.model_dump(mode="json")
    shown = {"layout": one.dataset.layout, "task": one.dataset.task, "title": one.dataset.title, "digest": one.dataset.digest}
    dataset: dict[str, Json] = {**shown, "split": one.selection.split}
    judge: Json = dict(one.judge) if one.judge else None
    gaps: dict[str, Json] = {"missing": len(one.missing), "failed": len(one.failed)}
    return {"model": name, "identity": dict(one.model.identity), "dataset": dataset, "judge": judge, **gaps, "figures": figures}


def _pair_json(pair: Pair) -> dict[str, Json]:
    return {
        "dataset": pair.dataset, "first": pair.first, "second": pair.second, "items": pair.common,
        "accuracy": _difference_json(pair.accuracy), "only_first_right": pair.only_first, "only_second_right": pair.only_second,
        "mcnemar_p": pair.p, "mean_score": _difference_json(pair.score),
    }  # fmt: skip


def _difference_json(found: PairedDifference | None) -> Json:
    return None if found is None else {"mean": found.mean, "low": found.interval.low, "high": found.interval.high, "n": found.n}
