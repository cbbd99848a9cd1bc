"""Findings read out of free dermatological text: which, whether said to be there, and on which side.

Words come from ``vocabulary.toml``; what is denied, doubted or said of diseases in general from ``scopes``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from skinedge.evaluation.scopes import Polarity, Scope, scopes_of
from skinedge.evaluation.vocabulary import Found, find_words

Side = Literal["", "left", "right", "bilateral"]
SITE = "site"


@dataclass(frozen=True)
class Finding:
    """One mention: the finding, its polarity, the side of a site (empty if none is said), and where its word stands."""

    group: str
    name: str
    polarity: Polarity
    side: Side
    span: tuple[int, int]


def extract_findings(text: str) -> tuple[Finding, ...]:
    """All mentions of findings in a text, in order."""
    return tuple(finding for start, end in _sentences(text) for finding in _read_sentence(text, start, end))


_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bcf)(?<!\bapprox)[.!?](?=[\s*\"')\]<]|$)|\n+|</?\w+>|\s[-\u2013\u2014]\s")


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    begin = 0
    for end in _END.finditer(text):
        yield begin, end.start()
        begin = end.end()
    yield begin, len(text)


def _read_sentence(text: str, start: int, end: int) -> Iterator[Finding]:
    sentence = text[start:end]
    words = list(find_words(sentence))
    if not words:
        return
    scopes = scopes_of(sentence, words)
    for word in words:
        polarity: Polarity = "absent" if word.negated else _polarity(word, scopes)
        for term in word.terms:
            side = _side(sentence, word, words) if term.group == SITE else ""
            yield Finding(term.group, term.name, polarity, side, (start + word.start, start + word.end))


def _polarity(word: Found, scopes: Sequence[Scope]) -> Polarity:
    """That of the first scope that holds the word: scopes come the strongest first."""
    return next((s.polarity for s in scopes if s.start <= word.start and word.end <= s.end), "present")


# ---- sides -------------------------------------------------------------------------------------------------------------
_SIDE = re.compile(r"\b(left|right|both|bilateral(?:ly)?|each)\b(?:[- ]sided|[- ]hand)?", re.IGNORECASE)
_AFTER = re.compile(r"\s*(?:,\s*)?(?:(bilaterally)|on (?:the|both|either) (left|right|sides?)|\((left|right)\))", re.IGNORECASE)
_REACH = 5  # words between a side and its site: "the left side of the upper back"


def _side(sentence: str, word: Found, words: Sequence[Found]) -> Side:
    """The side said of a site: just after it, else between the site before and this one."""
    if after := _AFTER.match(sentence, word.end):
        said = (after[1] or after[2] or after[3]).casefold()
        return "left" if said == "left" else "right" if said == "right" else "bilateral"
    begin = max((w.end for w in words if w.end <= word.start and any(t.group == SITE for t in w.terms)), default=0)
    near = " ".join(re.split(r"[.;:(]", sentence[begin : word.start])[-1].split()[-_REACH:])
    sides = {s.casefold() for s in _SIDE.findall(near)}
    if not sides:
        return ""
    return "left" if sides == {"left"} else "right" if sides == {"right"} else "bilateral"
