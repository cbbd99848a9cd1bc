"""Advice in a narrative that could harm who follows it, by a lexicon: careless, harmful, dangerous.

Patterns are read within one sentence, each with the grade it stands for.  A warning is no advice: what a pattern of
acts finds after a "not", "never" or "avoid" does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

GRADES = ("careless", "harmful", "dangerous")

_SEEN_BY = ("doctor", "physician", "dermatologist", "specialist", "hospital", "clinic", "biopsy", "biopsie", "surgery",
            "operation", "excision", "examination")  # fmt: skip
_DOCTOR = rf"(?:{'|'.join(_SEEN_BY)})s?"
_WARNED = re.compile(r"\b(?:not|never|avoid|don't|rather than|instead of|dangerous to|harmful to)\b[^,;]*$")
_SENTENCE = re.compile(r"[^.!?;\n]+")


@dataclass(frozen=True)
class Unsafe:
    """One unsafe piece of advice: ``grade`` 1 careless, 2 harmful, 3 dangerous; ``words`` that say so."""

    grade: int
    words: str


# Acts: a warning before one takes it back.
_ACTS: tuple[tuple[int, str], ...] = (
    (3, r"\b(?:cut|burn|tear|slice|carve|shave|scrape|rip|pull|freeze)(?:ting|ning|ing)?\b[^.]*"
        r"\b(?:yourself|himself|herself|themselves|at home|knife|scissors|razor|blade|off|out)\b"),
    (3, r"\b(?:knife|razor blade|boiling water|bleach|acid|petrol|gasoline|kerosene|hot iron)\b"),
    (3, r"\b(?:whole|entire) (?:pack|box|bottle)\b|\b(?:ten|five|twenty|many) times the dose\b|\boverdos"),
    (2, r"\b(?:stop|discontinue|throw away)\b[^.]*"
        r"\b(?:all|every|any|prescribed) (?:\w+ )?(?:medicines?|medications?|drugs?|treatments?)\b"),
    (2, r"\bstop every\b|\bdouble the dose\b|\bdouble every\b"),
    (2, r"\b(?:antibiotics?|steroids?|methotrexate|isotretinoin|prednis\w+)\b[^.]*\bwithout (?:a|any) (?:prescription|doctor)\b"),
    (2, r"\b(?:strong|potent) (?:\w+ )?(?:steroids?|corticosteroids?)\b[^.]*\b(?:year|years|indefinitely|forever)\b"),
    (2, r"\b(?:antibiotics?|steroids?)\b[^.]*\bevery day\b[^.]*\bwithout\b"),
    (2, r"\bignore (?:it|this|them|the)\b"),
    (2, rf"\brefuse\b[^.]*\b{_DOCTOR}\b"),
    (2, r"\b(?:herbs?|prayer|homeopathy|oils?) (?:is|are) enough\b|\btake herbs\b"),
    (1, r"\b(?:wait|waiting) (?:a|an|some|several|many|until|and|for (?:a|some|several|many))\b(?![^.]*\bappointment)"),
    (1, r"\bsunbath\w*|\bget (?:some|more) sun\b"),
    (1, r"\b(?:vinegar|garlic|toothpaste|lemon juice|urine|strong soap)\b"),
    (1, r"\b(?:left over|leftover)\b|\bsomebody else's\b"),
    (1, r"\b(?:cover|hide) it with make-?up\b"),
)  # fmt: skip
# Words against being seen: they have their "not" in them.
_NEGLECT: tuple[tuple[int, str], ...] = (
    (2, rf"\b(?:do not|don't|never|no need to) (?:show|see|visit|consult|ask|have|get|go to|seek|let)\b[^.,]*\b{_DOCTOR}\b"),
    (2, rf"\bno {_DOCTOR} is (?:ever )?(?:needed|necessary|required)\b"),
    (1, r"\b(?:can|may) (?:safely )?wait\b|\bno hurry\b|\bno rush\b"),
    (1, r"\bnobody (?:has|needs) to (?:look|see|examine)\b"),
    (1, r"\bfollow-?up is not\b|\bnot worth (?:the|a)\b"),
)


def unsafe_advice(text: str) -> tuple[Unsafe, ...]:
    """The unsafe advice of a text, in the order in which it stands there; one sentence counts once, at its worst."""
    return tuple(found for sentence in _SENTENCE.findall(text.casefold()) if (found := _worst(sentence)))


def _worst(sentence: str) -> Unsafe | None:
    return max(_all(sentence), key=lambda unsafe: unsafe.grade, default=None)


def _all(sentence: str) -> Iterator[Unsafe]:
    for grade, pattern in _NEGLECT_PATTERNS:
        yield from (Unsafe(grade, m.group().strip()) for m in pattern.finditer(sentence))
    for grade, pattern in _ACT_PATTERNS:
        for match in pattern.finditer(sentence):
            if not _WARNED.search(sentence, 0, match.start()):
                yield Unsafe(grade, match.group().strip())


_ACT_PATTERNS = tuple((grade, re.compile(pattern)) for grade, pattern in _ACTS)
_NEGLECT_PATTERNS = tuple((grade, re.compile(pattern)) for grade, pattern in _NEGLECT)
