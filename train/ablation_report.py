"""What an ablation found: figures as JSON, a table in Markdown, a plot."""

from __future__ import annotations

import io
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from skinedge.console import Json
from skinedge.errors import MissingDependencyError
from skinedge.parity.record import SKIN_GROUPS
from skinedge.parity.statistics import PairedDifference, Share, mcnemar_exact, paired_difference
from train.arms import Benchmark, Outcome, Place
from train.held_out import Report, summarise

SCHEMA = 1
# Okabe and Ito's palette, told apart with any kind of colour vision; markers differ too.
_COLOURS = {"all": "#000000", "I-II": "#E69F00", "III-IV": "#56B4E9", "V-VI": "#009E73"}
_MARKERS = {"all": "o", "I-II": "s", "III-IV": "^", "V-VI": "D"}
_FEWEST = 50  # pictures of a skin group below which its accuracy says little


@dataclass(frozen=True)
class PairedTest:
    """One arm against an earlier one on the same pictures."""

    arm: str
    against: str
    difference: PairedDifference
    only_arm: int  # pictures that this arm alone got right
    only_other: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """An ablation on one benchmark."""

    benchmark: Benchmark
    outcomes: tuple[Outcome, ...]
    place: Place
    recipe_digest: str

    @property
    def reports(self) -> dict[str, Report]:
        """The report of every arm that has one, by name."""
        return {o.arm.name: summarise(o.verdicts) for o in self.outcomes if o.verdicts}

    def tests(self) -> list[PairedTest]:
        """Every arm that is to be tested, against the arm named, where both were answered."""
        done = {o.arm.name: o for o in self.outcomes if o.verdicts}
        return [paired_test(done[o.arm.against], o) for o in done.values() if o.arm.against in done]

    def to_json(self) -> dict[str, Json]:
        """One JSON object."""
        reports = self.reports
        return {
            "schema": SCHEMA,
            "benchmark": self.benchmark.name,
            "note": self.benchmark.note,
            "base": self.place.base_digest,
            "train": self.benchmark.train_digest,
            "test": self.benchmark.test_digest,
            "recipe": self.recipe_digest,
            "machine": f"{platform.machine()}, {platform.system()}",
            "versions": {name: version(name) for name in ("torch", "transformers", "peft", "numpy")},
            "arms": [
                {
                    "name": o.arm.name,
                    "title": o.arm.title,
                    "status": f"failed: {o.failure}" if o.failure else "measured",
                    "model": o.model_digest,
                    "train_step_seconds": o.train_seconds,
                    "report": reports[o.arm.name].to_json() if o.verdicts else None,
                }
                for o in self.outcomes
            ],
            "tests": [_test_json(t) for t in self.tests()],
        }


def paired_test(other: Outcome, outcome: Outcome) -> PairedTest:
    """McNemar's exact test and the bootstrap of the difference in accuracy; both arms answered the same pictures."""
    first, second = (np.array([v.correct for v in o.verdicts]) for o in (other, outcome))
    only_other, only_arm = int((first & ~second).sum()), int((second & ~first).sum())
    difference = paired_difference(first, second)
    return PairedTest(outcome.arm.name, other.arm.name, difference, only_arm, only_other, mcnemar_exact(only_other, only_arm))


def markdown(comparison: Comparison, plot: str) -> str:
    """The result for a reader; ``plot`` is the file name of the picture."""
    title = {o.arm.name: o.arm.title or o.arm.name for o in comparison.outcomes}
    reports = comparison.reports
    lines = [f"# Ablation: {comparison.benchmark.name}", "", "Written by `python -m train.ablation`.", ""]
    if comparison.benchmark.note:
        lines += [comparison.benchmark.note, ""]
    lines += _rows(
        (
            "arm",
            "diagnoses right",
            *(f"skin {g}" for g in SKIN_GROUPS),
            "worst group below mean",
            "findings P / R",
            "well-formed",
        ),
        [(title[name], *_cells(report)) for name, report in reports.items()],
    )
    lines += ["", *_rows(("arm", "against", "difference in points", "right only here / there", "McNemar exact p"), [
        (title[t.arm], title[t.against], _points(t.difference), f"{t.only_arm} / {t.only_other}", f"{t.p:.2g}")
        for t in comparison.tests()
    ])]  # fmt: skip
    lines += ["", *_remarks(comparison), "", f"![accuracy of each arm]({plot})", ""]
    return "\n".join(lines)


def draw(comparison: Comparison) -> bytes:
    """Accuracy of each arm, of all pictures and by skin group, with Wilson intervals: a PNG."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as e:
        raise MissingDependencyError(
            "the plot needs matplotlib, which is not installed.", hint="Install it: pip install 'skinedge[train]'."
        ) from e
    reports = comparison.reports
    titles = [o.arm.title or o.arm.name for o in comparison.outcomes if o.arm.name in reports]
    series = {"all": [r.accuracy for r in reports.values()]}
    series |= {g: [r.groups[g] for r in reports.values()] for g in SKIN_GROUPS if all(g in r.groups for r in reports.values())}
    figure = Figure(figsize=(3 + 1.5 * len(titles), 4), layout="constrained")
    axes = figure.subplots()
    for number, (name, shares) in enumerate(series.items()):
        places = np.arange(len(titles)) + 0.17 * (number - (len(series) - 1) / 2)
        values = np.array([100 * s.value for s in shares])
        ends = np.array([[100 * s.interval.low, 100 * s.interval.high] for s in shares])
        axes.errorbar(
            places, values, np.abs(ends.T - values), fmt=_MARKERS[name], color=_COLOURS[name], capsize=3, markersize=6,
            label="all pictures" if name == "all" else f"skin {name}",
        )  # fmt: skip
    commonest = next(iter(reports.values())).commonest
    axes.axhline(100 * commonest.value, linestyle="--", color="#999999", label="always the commonest")
    axes.set_xticks(range(len(titles)), titles)
    axes.set_ylabel("diagnoses right, % (95 % Wilson)")
    axes.set_xlabel("arm")
    axes.set_ylim(0, 100)
    axes.set_title(f"{comparison.benchmark.name}: {commonest.n} held-out pictures")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _cells(report: Report) -> tuple[str, ...]:
    whole = report.all_findings
    found = "-" if whole is None else f"{_two(whole.precision)} / {_two(whole.recall)}"
    groups = (_percent(report.groups[g]) if g in report.groups else "-" for g in SKIN_GROUPS)
    gap = f"{100 * report.worst_gap:.1f} points ({report.worst_group})" if report.worst_group else "-"
    return _percent(report.accuracy), *groups, gap, found, f"{100 * report.structure.value:.1f} %"


def _remarks(comparison: Comparison) -> list[str]:
    first = next(iter(comparison.reports.values()), None)
    lines = ["In brackets: 95 % intervals, Wilson's for shares, a bootstrap over pictures (10,000 resamples) for differences."]
    if first is not None:
        few = [f"{name} ({share.n})" for name, share in first.groups.items() if share.n < _FEWEST]
        few += [f"{name} (none)" for name in SKIN_GROUPS if name not in first.groups]
        lines.append(
            f"{first.accuracy.n} pictures; always naming the commonest diagnosis is right in {100 * first.commonest.value:.1f} %."
            + (f" Underpowered skin groups: {', '.join(few)}." if few else "")
        )
    lines.append("Each arm was trained once: the intervals know of other pictures, not of other seeds.")
    return lines + [f"{o.arm.title or o.arm.name} failed: {o.failure}" for o in comparison.outcomes if o.failure]


def _test_json(test: PairedTest) -> Json:
    d = test.difference
    return {
        "arm": test.arm,
        "against": test.against,
        "difference": {"mean": d.mean, "low": d.interval.low, "high": d.interval.high, "n": d.n},
        "only_arm_right": test.only_arm,
        "only_other_right": test.only_other,
        "mcnemar_p": test.p,
    }


def _rows(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (headers, ["---"] * len(headers), *rows)]


def _percent(share: Share) -> str:
    return f"{100 * share.value:.1f} % [{100 * share.interval.low:.1f}, {100 * share.interval.high:.1f}]"


def _points(d: PairedDifference) -> str:
    return f"{100 * d.mean:+.1f} [{100 * d.interval.low:+.1f}, {100 * d.interval.high:+.1f}]"


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
