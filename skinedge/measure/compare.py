"""Two bundles against each other: A B B A in fresh processes, and A against itself in the same way as the noise floor.

The order is ``A B B A A' A'`` over and over (``schedule``): an A between two others ends an A B B A block and begins an
A A' A' A one.  Every process gives the fastest of its runs for each metric, because what disturbs a run only adds to it (on two
cores with other work the fastest differ by 1 % from process to process, the medians by 4 to 12 %).  Neighbours are pairs, and
a difference is called one only where the interval of the median ratio excludes 1 and the ratio lies beyond what A against
itself shows.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from skinedge.bundle import check_files
from skinedge.errors import UsageError
from skinedge.measure.bench import Subject, Watched, as_json, assemble, settled, watching
from skinedge.measure.harness import PROTOCOL, Question, Rules
from skinedge.measure.machine import describe
from skinedge.measure.runs import Collected, Show, Told, run_worker
from skinedge.measure.statistics import LEVEL, Judged, judge, least_pairs
from skinedge.measure.suites import Suite
from skinedge.measure.telemetry import Reading, Sampler

if TYPE_CHECKING:
    from skinedge.console import Json
    from skinedge.measure.result import Result

FIRST = "a"
ARMS = ("b", "again")  # what is measured against A: B, and A itself
BLOCKS = 8  # 16 pairs: simulated, 5 % is then found in over 95 of 100 comparisons at 2 % of noise between processes
METRICS = ("ttft_ms", "tpot_ms")
RUNS = 3  # of each process, which warms up like any other


@dataclass(frozen=True)
class Judgement:
    """What was found of one metric of one case."""

    case: str
    metric: str
    judged: Judged

    def sentence(self) -> str:
        """For people."""
        j, name = self.judged, self.metric.removesuffix("_ms")
        if j.verdict == "not enough data":
            return (
                f"{self.case}, {name}: {j.ratio.n} pairs are too few to tell a difference from chance at a level of {j.level:g}"
            )
        if j.verdict == "no difference":
            return f"{self.case}, {name}: no difference that stands out from noise ({span(j)}; A against itself: ±{j.floor:.1%})"
        return f"{self.case}, {name}: B is {'slower' if j.ratio.median > 1 else 'faster'}, {span(j)}; noise ±{j.floor:.1%}"

    def to_json(self) -> Json:
        """One JSON object."""
        j = self.judged
        return {
            "case": self.case, "metric": self.metric, "verdict": j.verdict, "ratio": j.ratio.median,
            "interval": [j.ratio.low, j.ratio.high], "pairs": j.ratio.n, "noise_ratio": j.same.median,
            "noise_interval": [j.same.low, j.same.high], "noise_floor": j.floor, "level": j.level,
        }  # fmt: skip


def span(j: Judged) -> str:
    """``B/A 1.052 (1.047 to 1.058)``."""
    return f"B/A {j.ratio.median:.3f} ({j.ratio.low:.3f} to {j.ratio.high:.3f})"


@dataclass(frozen=True)
class Comparison:
    """All judgements, and what they rest on: a result of A (both times) and one of B."""

    judgements: tuple[Judgement, ...]
    a: Result
    b: Result
    reason: str | None

    @property
    def status(self) -> str:
        """``measured``, or ``invalid`` if something disturbed it."""
        return "invalid" if self.reason else "measured"

    def to_json(self) -> dict[str, Json]:
        """One JSON object, without the samples."""
        found = [j.to_json() for j in self.judgements]
        return {"kind": "comparison", "status": self.status, "reason": self.reason, "judgements": found}


def schedule(blocks: int, arms: Sequence[str] = ARMS) -> tuple[str, ...]:
    """The order of processes: every arm in turn between two of A."""
    return tuple(name for arm in arms for name in (FIRST, arm, arm)) * blocks + (FIRST,)


def pairs(values: Sequence[float], arms: Sequence[str] = ARMS) -> dict[str, list[tuple[float, float]]]:
    """Neighbours in a schedule, by arm: A and it."""
    found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
    for number, start in enumerate(range(0, len(values) - 1, 3)):
        before, one, two, after = values[start : start + 4]
        found[arms[number % len(arms)]] += [(before, one), (after, two)]
    return found


def rules_for(blocks: int, rules: Rules | None = None) -> Rules:
    """Of each process: all of an arm's together then satisfy the protocol."""
    return rules or Rules(PROTOCOL.warmups, max(RUNS, -(-PROTOCOL.runs // (2 * blocks))), PROTOCOL.seconds / (2 * blocks))


def compare(
    a: Subject, b: Subject, suite: Suite, asked: Sequence[Question], blocks: int = BLOCKS, *, rules: Rules | None = None,
    device: str | None = None, show: Show = lambda _: None,
) -> Comparison:  # fmt: skip
    """Measure B against A.

    Args:
        a: the one that B is divided by.
        b: the other; the same as ``a`` for a test of this procedure.
        suite: for its name.
        asked: its cases with photographs (``bench.questions``).
        blocks: six processes each.
        rules: of each process.
        device: what ``skinedge devices`` calls this machine.
        show: is told where it is.

    Raises:
        UsageError: too few blocks to tell anything.
        SkinedgeError: a bundle cannot be opened, or an answer cannot be computed.
    """
    level = LEVEL / (len(METRICS) * len(asked))
    if 2 * blocks < least_pairs(level):
        least = -(-least_pairs(level) // 2)
        raise UsageError(
            f"{blocks} blocks are {2 * blocks} pairs, too few to tell a difference in {len(asked)} cases from chance.",
            hint=f"Use --blocks {least} or more, or a suite of fewer cases.",
        )
    rules = rules_for(blocks, rules)
    subjects = {FIRST: a, "b": b, "again": a}
    manifests = {name: check_files(s.bundle) for name, s in subjects.items()}
    order = schedule(blocks)
    with watching(show) as watched:
        machine = describe(watched.sources, device)
        told, readings = run_all([subjects[arm] for arm in order], asked, rules, watched, show)

    def document(name: str, arms: Sequence[str]) -> Result:
        whole = pooled([t for t, arm in zip(told, order, strict=False) if arm in arms], told[-1].problem)
        return settled(assemble(subjects[name], manifests[name], machine, suite, whole, readings, None), manifests[name])

    documents = document(FIRST, (FIRST, "again")), document("b", ("b",))
    reason = next((d.reason for d in documents if d.status != "measured"), None)
    found = () if told[-1].problem else tuple(judgements(told, asked, level))
    return Comparison(found, *documents, reason)


def run_all(
    subjects: Sequence[Subject], asked: Sequence[Question], rules: Rules, watched: Watched, show: Show
) -> tuple[list[Told], list[Reading]]:
    """Each in a fresh process, in order, to the first that is disturbed; what they told, and telemetry.

    A clock that drops shows over all processes of a subject; another one may load the machine otherwise.
    """
    told: list[Told] = []
    readings: list[Reading] = []
    warm: dict[Subject, list[Reading]] = {subject: [] for subject in subjects}
    for number, subject in enumerate(subjects, 1):
        with Sampler(watched.sources, warm=warm[subject]) as sampler:
            job = subject.opening.job(subject.bundle, questions=as_json(asked), rules=asdict(rules))
            say = _numbered(show, f"process {number} of {len(subjects)}, {subject.bundle.name}")
            told.append(run_worker(job, sampler, watched.watch, say, subject.worker))
        readings += sampler.readings
        if told[-1].problem:
            break
    return told, readings


def judgements(told: Sequence[Told], asked: Sequence[Question], level: float) -> Iterator[Judgement]:
    """Of every metric of every case that could be run."""
    for number, question in enumerate(asked):
        for metric in METRICS:
            values = fastest(told, number, metric)
            if values:
                found = pairs(values)
                yield Judgement(question.name, metric, judge(found["b"], found["again"], level))


def fastest(told: Sequence[Told], number: int, metric: str) -> list[float]:
    """The least of each process, in milliseconds; none at all if one of them has none."""
    each = [[float(v) for s in t.cases[number].samples if (v := getattr(s, metric)) is not None] for t in told]
    return [min(values) for values in each] if all(each) else []


def pooled(told: Sequence[Told], problem: str | None) -> Told:
    """All processes of an arm as one: the largest memory, the median start, every sample."""
    whole = Told(problem=problem, on_gpu=any(t.on_gpu for t in told))
    loads = [t.load_s for t in told if t.load_s is not None]
    whole.load_s = statistics.median(loads) if loads else None
    for name in ("peak_resident", "peak_private", "device_peak"):
        setattr(whole, name, max((v for t in told if (v := getattr(t, name)) is not None), default=None))
    whole.device_at_start = min((t.device_at_start for t in told if t.device_at_start is not None), default=None)
    for t in told:
        for number, found in t.cases.items():
            so_far = whole.cases.setdefault(number, Collected(found.case, found.misfit, found.warmups))
            so_far.samples += found.samples
    return whole


def _numbered(show: Show, where: str) -> Callable[[str], None]:
    return lambda text: show(f"{where}: {text}")
