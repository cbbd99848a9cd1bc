"""Findings read out of free dermatological text: which, whether said to be there, and on which side.

The method is NegEx with the scopes of ConText (Chapman et al. 2001, J Biomed Inform 34, 301-10; Harkema et al. 2009,
J Biomed Inform 42, 839-51), its triggers fitted to descriptions of skin: a trigger reaches forward or backward within a
sentence, up to a word that ends its scope.  Words come from ``vocabulary.toml``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from skinedge.evaluation.vocabulary import Found, find_words

# ``general``: what a disease is said to do, not what this skin shows.
Polarity = Literal["present", "absent", "uncertain", "general"]
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


@dataclass(frozen=True)
class _Scope:
    """Text from ``start`` to ``end`` in which findings have a polarity."""

    start: int
    end: int
    polarity: Polarity


def read_text(text: str) -> tuple[Finding, ...]:
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
    scopes = _scopes(sentence, words)
    for word in words:
        polarity: Polarity = "absent" if word.negated else _polarity(word, scopes)
        for term in word.terms:
            side = _side(sentence, word, words) if term.group == SITE else ""
            yield Finding(term.group, term.name, polarity, side, (start + word.start, start + word.end))


def _polarity(word: Found, scopes: Sequence[_Scope]) -> Polarity:
    """That of the first scope that holds the word: scopes come the strongest first."""
    return next((s.polarity for s in scopes if s.start <= word.start and word.end <= s.end), "present")


# ---- triggers ----------------------------------------------------------------------------------------------------------
_BE = r"(?:is|are|was|were|be|been)"
_NOT = r"(?:\s+not|n't|n\u2019t)"
_SEEN = (
    r"(?:seen|present|visible|observed|noted|found|identified|evident|apparent|mentioned|described|detected|reported|shown"
    r"|documented|appreciated|discernible|noticeable|depicted|noticed)"
)
_FORWARD: Sequence[tuple[Polarity, str]] = (
    ("absent", r"\b(?:no|without|absence of|absent|lack(?:s|ing|ed)?(?: of)?|free (?:of|from)|devoid of|negative for"
               r"|neither|nor"
               r"|den(?:y|ies|ied|ying)|never|spar(?:es|ing|ed)|rather than|instead of|excluding|none of the"
               r"|rul(?:es?|ed|ing) out)\b"),
    ("absent", r"\b(?:(?:do|does|did|is|are|was|were|has|have|had|can|could|would|should)(?:\s+not|n't|n\u2019t)|cannot|not)\b"),
    ("uncertain", r"\b(?:possibl[ey]|perhaps|maybe|may|might|could|suspected|suspicion of|questionable|equivocal|whether|if"
                  r"|cannot exclude|can't exclude|difficult to (?:tell|judge|assess)|hard to (?:tell|judge|assess)"
                  r"|should there be)\b"),
)  # fmt: skip
_GENERAL = (
    r"\b(?:typical(?:ly)?|usual(?:ly)?|classic(?:al|ally)?|common(?:ly)?|generally|characteristically|often|frequently|tends? to"
    r"|can (?:present|appear|cause|have|show|affect|occur|lead|be)|may (?:present|appear|show|affect)|characteri[sz]ed by"
    r"|would (?:show|have|present|be|typically|expect|appear)|presents? (?:with|as)|known for|expected|associated with)\b"
)
# What looks like a negation and is none.
_PSEUDO = re.compile(
    r"\b(?:not (?:only|just|merely|necessarily)|no (?:doubt|change|increase|longer|wonder)|cannot (?:exclude|be excluded)"
    r"|not (?:be )?(?:excluded|ruled out)|without (?:doubt|further|treatment)|if not)\b",
    re.IGNORECASE,
)
_STOP = re.compile(
    r"[;:()]|\b(?:but|however|although|though|yet|except|while|whereas|which|that|because|since|with|instead|suggest\w*"
    r"|consistent|indicat\w*|and (?:the|a|an|there|is|are|has|have|it|its|they|shows?)|(?:,|and) (?:it|there|they|the))\b"
    r"|,\s*(?:the|a|an|it|there|they|and (?:the|a|an)|making|ruling|so|thus)\b"
    rf"|(?<!not )(?<!n't )\b(?:is|are|was|were|shows?|has|have)\b(?!{_NOT})|\bon (?:a|an|the) ",
    re.IGNORECASE,
)
_BACKWARD: Sequence[tuple[Polarity, str]] = (
    ("uncertain", r"\b(?:cannot|can\s?not|can't|could not)\s+be\s+(?:\w+ly\s+)?"
                  r"(?:judged|assessed|determined|excluded|ruled out|evaluated|told)"
                  rf"|\b{_BE}\s+(?:\w+ly\s+)?(?:uncertain|questionable|possible|equivocal|unclear|difficult to|hard to)"
                  rf"|\b{_BE}{_NOT}\s+(?:\w+ly\s+)?(?:excluded|ruled out|assessable)"),
    ("absent", rf"(?:,?\s*(?:which|that)\s+)?\b{_BE}{_NOT}\s+(?:\w+ly\s+)?{_SEEN}|\bnot\s+(?:\w+ly\s+)?{_SEEN}"
               rf"|(?:,?\s*(?:which|that)\s+)?\b{_BE}\s+(?:\w+ly\s+)?(?:absent|missing|lacking|denied|ruled out|excluded|spared)"
               r"|\b(?:cannot|can't|could not)\s+be\s+(?:seen|found|made out|identified|observed)|\babsent\b"),
)  # fmt: skip
# What may stand between the findings of a list that is denied together.
_LINK = re.compile(r"(?:[\s,/]|\b(?:and|or|nor|the|a|an|any|of|such|as|other|lesions?|changes?|signs?)\b)*", re.IGNORECASE)

_FORWARD_PATTERNS = tuple((polarity, re.compile(pattern, re.IGNORECASE)) for polarity, pattern in _FORWARD)
_BACKWARD_PATTERNS = tuple((polarity, re.compile(pattern, re.IGNORECASE)) for polarity, pattern in _BACKWARD)
_GENERAL_PATTERN = re.compile(_GENERAL, re.IGNORECASE)


def _scopes(sentence: str, words: Sequence[Found]) -> list[_Scope]:
    """The strongest first: what is denied or doubted afterwards, what diseases do, what is denied, what is doubted."""
    pseudo = [m.span() for m in _PSEUDO.finditer(sentence)]
    inside = [(w.start, w.end) for w in words]  # "not well-defined" is one word
    afterwards = list(_afterwards(sentence, words))
    general = [_Scope(m.start(), len(sentence), "general") for m in _GENERAL_PATTERN.finditer(sentence)]
    before = []
    for polarity, pattern in _FORWARD_PATTERNS:
        for trigger in pattern.finditer(sentence):
            if not any(trigger.start() < end and start < trigger.end() for start, end in (*pseudo, *inside)):
                stop = _STOP.search(sentence, trigger.end())
                before.append(_Scope(trigger.end(), stop.start() if stop else len(sentence), polarity))
    return [*afterwards, *general, *before]


def _afterwards(sentence: str, words: Sequence[Found]) -> Iterator[_Scope]:
    """Scopes of triggers that follow: the nearest finding, and those in one list with it unless the verb is singular."""
    for polarity, pattern in _BACKWARD_PATTERNS:
        for trigger in pattern.finditer(sentence):
            before = [w for w in words if w.end <= trigger.start()]
            if not before or not _near(sentence[before[-1].end : trigger.start()]):
                continue
            first = before[-1]
            singular = re.search(r"\b(?:is|was)\b", trigger.group(), re.IGNORECASE)
            for earlier in reversed(before[:-1]):
                between = sentence[earlier.end : first.start]
                if not _LINK.fullmatch(between) or (singular and re.search(r"\band\b|,", between)):
                    break
                first = earlier
            yield _Scope(first.start, before[-1].end, polarity)


def _near(between: str) -> bool:
    """Whether a trigger may speak of a finding this far before it."""
    return len(between.split()) <= 4 and not _STOP.search(between)


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
