"""A certificate as a page for people: one file that asks nothing of any network, for a screen, a phone and paper."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skinedge.evaluation.agreement import changes
from skinedge.parity.certificate import Certificate
from skinedge.parity.endpoint import ALL, Endpoint
from skinedge.parity.margins import answer_margin
from skinedge.parity.record import SKIN_GROUPS
from skinedge.parity.show import figure, interval_words, margin_words, verdict_words
from skinedge.report.page import template
from skinedge.report.sections import bundle_label, machine_facts

# What an endpoint asks, in words for a reader who knows skin and not statistics.
PLAIN = {
    "agreement": "How often do both name the same diagnosis?",
    "accuracy of the reference": "How often is the original right?",
    "accuracy of the bundle": "How often is the bundle right?",
    "accuracy difference": "Is the bundle right less often than the original?",
    "malignant to benign": "Does the bundle call something benign that the original calls malignant?",
    "structure of the bundle": "How many answers have the form that they should?",
    "structure difference": "Does the form of the answers suffer?",
    "mean of six scores": "Is the reasoning as good, over all six dimensions?",
    "Safety": "Is the advice as safe?",
    "length ratio": "Are the answers as long?",
    "cut short": "How many answers were cut short?",
    "in a loop": "How many answers go in circles?",
    "same narrative": "How many answers are the same word for word?",
    "findings kept": "How much of what the original says of the skin does the bundle say, too?",
    "findings invented": "How much of what the bundle says of the skin does the original not say?",
    "findings turned": "How often does one call present what the other calls absent?",
    "sides turned": "How often does one say left where the other says right?",
    "KL, mean": "How far apart are the probabilities of the next word?",
    "same likeliest token": "How often is the likeliest next word the same?",
}
_MEANING = {
    "pass": "On these pictures the bundle loses no more than the margins allow, and there are enough of them to say so.",
    "fail": "On these pictures the bundle is worse than the original by more than a margin allows.",
    "not enough data": "Nothing shows that the bundle is worse than allowed, but too few pictures were compared to exclude it.",
}
_PX_PER_MARGIN, _MOST = 90.0, 2.8


@dataclass(frozen=True)
class Piece:
    """Some text, and whether the other narrative lacks it."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Whisker:
    """One endpoint of the picture: where its interval lies, in widths of its own margin from what equality would give."""

    endpoint: Endpoint
    low: float
    middle: float
    high: float
    two_sided: bool


def render(certificate: Certificate) -> str:
    """The text of the page; everything from outside is escaped."""
    context = certificate.context
    whole = certificate.of(ALL)
    return template("certificate.html.jinja").render(
        c=certificate,
        label=bundle_label(context.bundle),
        meaning=_MEANING[certificate.verdict],
        judged=[e for e in whole if e.gated],
        reported=[e for e in whole if not e.gated and e.n],
        diagnoses=sorted(certificate.data.by_diagnosis.items(), key=lambda d: (-d[1], d[0])),
        groups=[(g, certificate.data.by_skin.get(g, 0)) for g in SKIN_GROUPS],
        whiskers=[w for e in whole if (w := whisker(e))],
        margin=answer_margin(context.bits),
        facts=list(machine_facts(context.machine)),
        examples=[(e, *marked(e.reference, e.bundle), by_kind(e.reference, e.bundle)) for e in certificate.examples],
        plain=PLAIN,
        figure=figure,
        interval_words=interval_words,
        margin_words=margin_words,
        verdict_words=verdict_words,
        kind=lambda e: (e.verdict or "").replace(" ", "-"),
    )


def by_kind(reference: str, bundle: str) -> dict[str, list[str]]:
    """The findings that the bundle's narrative has ``lost``, ``turned`` and ``invented``, those that there are."""
    found: dict[str, list[str]] = {}
    for kind, words in changes(reference, bundle):
        found.setdefault(kind, []).append(words)
    return found


def marked(reference: str, bundle: str) -> tuple[Sequence[Piece], Sequence[Piece]]:
    """Both texts in pieces; joined they are the texts again."""
    a, b = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (reference, bundle))
    steps = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    return list(_pieces(a, [(s[0], s[1], s[2]) for s in steps])), list(_pieces(b, [(s[0], s[3], s[4]) for s in steps]))


def _pieces(words: Sequence[str], steps: Sequence[tuple[str, int, int]]) -> Iterator[Piece]:
    for kind, start, end in steps:
        if text := "".join(words[start:end]):
            yield Piece(text, kind != "equal")


def whisker(endpoint: Endpoint) -> Whisker | None:
    """Where a judged interval lies beside its margin; ``None`` where there is no width to measure in."""
    margin, ends, middle = endpoint.margin, endpoint.interval, endpoint.estimate
    if not endpoint.gated or margin is None or ends is None or middle is None or margin.low is None:
        return None
    equal = 1.0 if endpoint.unit in ("ratio", "share") else 0.0
    width = equal - margin.low
    if width <= 0 or ends.low is None or ends.high is None:
        return None
    low, high = (max(-_MOST, min(_MOST, (v - equal) / width)) * _PX_PER_MARGIN for v in (ends.low, ends.high))
    at = max(-_MOST, min(_MOST, (middle - equal) / width)) * _PX_PER_MARGIN
    return Whisker(endpoint, low, at, high, margin.high is not None)
