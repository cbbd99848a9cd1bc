"""From rows to figures: what two models said about the same pictures, token by token, as a sequence, and as an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from skinedge.evaluation.answer import read_answer, same_diagnosis
from skinedge.evaluation.scorer import Scored
from skinedge.evaluation.scores import DIMENSIONS, mean_score
from skinedge.parity import margins
from skinedge.parity.endpoint import (
    Endpoint,
    exponential,
    mean_difference,
    paired_shares,
    ratio,
    ratio_difference,
    share,
    square_root,
    value,
)
from skinedge.parity.equivalence import Margin
from skinedge.parity.flips import malignant_flips
from skinedge.parity.record import Forced, Row
from skinedge.parity.repetition import is_loop, repeated_share
from skinedge.parity.stated import stated_endpoints
from skinedge.parity.statistics import Float64

_SMALLEST_P = 1e-38  # a float32 that underflowed; its logarithm is -87
NOT_SCORED = "not scored; --judge dermeval scores offline, --judge URL asks a model"
Counts = tuple[int, int, int]  # findings stated rightly, stated, and to be stated


@dataclass(frozen=True)
class Aside:
    """What is known of the narratives beside their text, by the row's id; each is empty or ``None`` where it is not known.

    ``scores`` and ``findings`` hold the reference's and the bundle's; ``well_formed`` says of a text whether its structure
    is right; ``reviewed`` holds what a clinician said of a flip from malignant to benign, by the picture's sha256.
    """

    scores: Mapping[str, tuple[Scored, Scored]] = field(default_factory=dict)
    findings: Mapping[str, tuple[Counts, Counts]] = field(default_factory=dict)
    well_formed: Callable[[str], bool] | None = None
    reviewed: Mapping[str, str] = field(default_factory=dict)


def endpoints(rows: Sequence[Row], group: str, answers: Margin, aside: Aside) -> Iterator[Endpoint]:
    """Every endpoint of ``rows``.

    Args:
        rows: the cases of ``group``.
        group: what they are called: ``all``, or a skin group.
        answers: how much the share of right answers may fall.
        aside: what else is known.
    """
    yield from answer_endpoints(rows, group, answers, aside.reviewed)
    if aside.well_formed:
        yield from structure_endpoints(rows, group, aside.well_formed)
    yield from score_endpoints(rows, group, aside.scores)
    yield from sequence_endpoints(rows, group)
    yield from finding_endpoints(rows, group, aside.findings)
    yield from stated_endpoints(rows, group)
    yield from token_endpoints(rows, group)


def answer_endpoints(rows: Sequence[Row], group: str, margin: Margin, reviewed: Mapping[str, str]) -> Iterator[Endpoint]:
    """Agreement, accuracy of both arms and their difference, flips.

    A case in which neither names a diagnosis, cut short say, is no agreement and no disagreement: it does not count there.
    Where no truth is known the agreement is judged in its place: accuracy cannot differ by more than the answers do.
    """
    said = [(read_answer(r.reference.text), read_answer(r.bundle.text)) for r in rows]
    agree = sum(same_diagnosis(a, b) for a, b in said)
    none = sum(a is b is None for a, b in said)
    named = len(rows) - none
    known = [(r.truth, *pair) for r, pair in zip(rows, said, strict=True) if r.truth is not None]
    notes = [f"in {none} more neither names a diagnosis"] if none else []
    if known:
        yield share("agreement", "answer", group, agree, named, note="".join(notes))
        reference, bundle = ([same_diagnosis(case[0], case[arm]) for case in known] for arm in (1, 2))
        yield share("accuracy of the reference", "answer", group, sum(reference), len(known))
        yield share("accuracy of the bundle", "answer", group, sum(bundle), len(known))
        yield paired_shares("accuracy difference", "answer", group, reference, bundle, margin)
    else:
        note = "; ".join([*notes, "judged in the place of accuracy, which cannot differ by more: no truth is known"])
        least = Margin(low=1 + (margin.low or 0.0))
        yield share("agreement", "answer", group, agree, named, margin=least, note=note)
    yield malignant_flips(rows, group, reviewed)


def structure_endpoints(rows: Sequence[Row], group: str, well_formed: Callable[[str], bool]) -> Iterator[Endpoint]:
    """Whether the narratives have the structure that they should."""
    reference, bundle = ([well_formed(n.text) for n in arm] for arm in ([r.reference for r in rows], [r.bundle for r in rows]))
    yield share("structure of the bundle", "structure", group, sum(bundle), len(bundle))
    yield paired_shares("structure difference", "structure", group, reference, bundle, margins.STRUCTURE)


def score_endpoints(rows: Sequence[Row], group: str, scores: Mapping[str, tuple[Scored, Scored]]) -> Iterator[Endpoint]:
    """The six dimensions and their mean, bundle minus reference; a case with an invalid score counts as that and nothing else.

    Where nobody scored, what is judged is there all the same, undecided: nothing passes for want of a judge.
    """
    pairs = [scores[r.id] for r in rows if r.id in scores]
    if not pairs:
        for name, margin in (("mean of six scores", margins.MEAN_SCORE), ("Safety", margins.SAFETY)):
            yield mean_difference(name, group, np.zeros(0), margin, note=NOT_SCORED if rows else "")
        return
    valid = [(a.scores, b.scores) for a, b in pairs if a.scores is not None and b.scores is not None]
    bad = [sum(arm.scores is None for arm in arms) for arms in zip(*pairs, strict=True)]
    missing = len(rows) - len(pairs)
    note = f"of {len(pairs)} cases {bad[0]} of the reference and {bad[1]} of the bundle have no valid score"
    note += f"; {missing} were not scored" if missing else ""
    means = np.array([mean_score(b) - mean_score(a) for a, b in valid], np.float64)
    yield mean_difference("mean of six scores", group, means, margins.MEAN_SCORE, note=note)
    for name in DIMENSIONS:
        differences = np.array([b[name] - a[name] for a, b in valid], np.float64)
        yield mean_difference(name, group, differences, margins.SAFETY if name == "Safety" else None)


def sequence_endpoints(rows: Sequence[Row], group: str) -> Iterator[Endpoint]:
    """How long, how far the same, how often cut short, how often in circles."""
    reference, bundle = [r.reference for r in rows], [r.bundle for r in rows]
    before, after = (np.array([n.tokens for n in arm], np.float64) for arm in (reference, bundle))
    yield ratio("length ratio", "sequence", group, "ratio", after, before, margins.LENGTH)
    same = sum(r.first_different is None for r in rows)
    yield share("same narrative", "sequence", group, same, len(rows), note="token by token")
    first = [r.first_different for r in rows if r.first_different is not None]
    note = "median over the narratives that differ, counted from 0"
    yield value("first different token", "sequence", group, "tokens", len(first), float(median(first)) if first else None, note)
    cut, cut_now = ([n.finish != "stop" for n in arm] for arm in (reference, bundle))
    yield share("cut short", "sequence", group, sum(cut_now), len(rows), note=f"{sum(cut)} of the reference")
    yield paired_shares("cut short, difference", "sequence", group, cut, cut_now, None)
    loops, loops_now = ([is_loop(n.text) for n in arm] for arm in (reference, bundle))
    yield share("in a loop", "sequence", group, sum(loops_now), len(rows), note=f"{sum(loops)} of the reference")
    again = [np.array([repeated_share(n.text) for n in arm], np.float64) for arm in (reference, bundle)]
    if rows:
        note = f"share of runs of four words that stood before; {again[0].mean():.1%} in the reference"
        yield value("repeated words", "sequence", group, "share", len(rows), float(again[1].mean()), note)


def finding_endpoints(rows: Sequence[Row], group: str, findings: Mapping[str, tuple[Counts, Counts]]) -> Iterator[Endpoint]:
    """Precision and recall of stated findings by what is true, bundle minus reference, over all findings of the cases."""
    pairs = [findings[r.id] for r in rows if r.id in findings]
    if not pairs:
        return
    counts = np.array(pairs, np.float64)  # [case, arm, (right, stated, to be stated)]
    for name, below in (("findings, precision", 1), ("findings, recall", 2)):
        if counts[:, :, below].sum(0).all():
            yield ratio_difference(name, "findings", group, counts[:, :, 0], counts[:, :, below])


def token_endpoints(rows: Sequence[Row], group: str) -> Iterator[Endpoint]:
    """The bundle's next-token distribution beside the reference's, along the reference's own narratives.  Never judged: near
    the reference KL does not rank artefacts.  A case's tokens depend on one another, so cases are drawn, not tokens.
    """
    forced = [r.forced for r in rows if r.forced is not None and r.forced.kl]
    if not forced:
        return
    count = np.array([len(f.kl) for f in forced], np.float64)
    note = f"{int(count.sum())} tokens"
    kl = np.concatenate([f.kl for f in forced])
    yield ratio("KL, mean", "tokens", group, "nats", np.array([sum(f.kl) for f in forced]), count, note=note)
    for name, figure in (
        ("KL, median", np.median(kl)),
        ("KL, 99th percentile", np.quantile(kl, 0.99)),
        ("KL, largest", kl.max()),
    ):
        yield value(name, "tokens", group, "nats", len(forced), float(figure), note)
    same = np.array([sum(f.same_top) for f in forced], np.float64)
    error = _standard_error(same, count)
    yield ratio(
        "same likeliest token", "tokens", group, "share", same, count, note=f"{note}; standard error {error:.2%}, by case"
    )
    p, q = ([np.maximum(np.array(v, np.float64), _SMALLEST_P) for v in arm] for arm in _probabilities(forced))
    surprise = np.array([float(np.log(a / b).sum()) for a, b in zip(p, q, strict=True)])
    yield exponential(ratio("perplexity ratio", "tokens", group, "ratio", surprise, count, note=note))
    squares = np.array([float(((b - a) ** 2).sum()) for a, b in zip(p, q, strict=True)])
    yield square_root(ratio("change of probability, RMS", "tokens", group, "share", squares, count, note=note))


def _probabilities(forced: Sequence[Forced]) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    return [f.reference_p for f in forced], [f.bundle_p for f in forced]


def _standard_error(hits: Float64, count: Float64) -> float:
    """Of a share of tokens, cases being what was drawn (the sandwich estimate of a ratio)."""
    n, rest = len(hits), hits - hits.sum() / count.sum() * count
    return float(np.sqrt((rest**2).sum() * n / max(n - 1, 1)) / count.sum())
