"""Whether the disease that a text names is the right one: closed sets of labels, open names, categories.

The whole name counts, by spelling or by synonym, never a part of it: "not a nevus" and "melanoma or nevus" name no label.
Open names follow the rules that DDI's judge is given (REFERENCE, section 3): synonyms count; a missing or wrong subtype,
a differential without a decision, or several finals are wrong.  ``synonyms.toml`` holds the names.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from skinedge.evaluation.answer import SYNONYMS, normalised, read_answer, usual_name
from skinedge.evaluation.scores import after_thinking

SYNONYMS_FILE = Path(__file__).with_name("synonyms.toml")
NO_ANSWER = "no final answer"
OUTSIDE = "not one of the labels"
SEVERAL_FINALS = "several finals"
DIFFERENTIAL = "a differential, no decision"
SUBTYPE_MISSING = "the subtype is missing"
SUBTYPE_OTHER = "another subtype"
OTHER_DISEASE = "another disease"
UNPLACED = "in no category of the benchmark"

_SEVERAL = re.compile(r"/|\bor\b|\band\b|\bversus\b|\bvs\b")
_UNDECIDED = re.compile(r"^(?:possibl[ey]|suspected|suspicious for|suspicion of|rule out|cannot exclude|differential)\b")
_FILLERS = frozenset({"of", "the", "and", "type", "with"})


@dataclass(frozen=True)
class Verdict:
    """What a text was read as.

    ``said`` is the label, disease or category it counts under, ``None`` where it names none; ``correct`` is ``None`` where
    there is no truth to compare with; ``reason`` says why it is not correct.
    """

    said: str | None
    correct: bool | None
    reason: str = ""


class Rule(Protocol):
    """How the answers of a data set are read."""

    @property
    def name(self) -> str:
        """What the rule is called in a result; it changes whenever a verdict could."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """All that can be said rightly; empty where any name can."""
        ...

    def __call__(self, text: str, truth: str | None) -> Verdict:
        """Read one raw answer."""
        ...


@cache
def synonyms() -> Mapping[str, str]:
    """Another name -> the usual one, both ``normalised``: those of ``answer`` and of ``synonyms.toml``."""
    names = {other: usual for usual, others in _data()["names"].items() for other in others}
    return {**{other: SYNONYMS.get(usual, usual) for other, usual in names.items()}, **SYNONYMS}


@cache
def _data() -> Mapping[str, Mapping[str, Sequence[str]]]:
    with SYNONYMS_FILE.open("rb") as f:
        return tomllib.load(f)


def plain(name: str) -> str:
    """A label for comparison to the letter: letter case, hyphens and punctuation apart, words in brackets kept.

    >>> plain("Melanoma (in situ).")
    'melanoma in situ'
    """
    return " ".join(re.sub(r"[^\w]|_", " ", name.casefold()).split())


def words(name: str) -> frozenset[str]:
    """The words of a disease's usual name in the singular, in any order: "melanoma, acral lentiginous" is what it is.

    >>> words("melanocytic-nevi") == words("nevus, melanocytic")
    True
    """
    known = synonyms()
    plurals = _data()["plurals"]
    singular = [str(plurals.get(word, word)) for word in usual_name(name, known).split() if word not in _FILLERS]
    return frozenset(usual_name(" ".join(singular), known).split())


@dataclass(frozen=True)
class ClosedSet:
    """One of a list of labels; ``labels_to_names`` gives each its other names (a code, say)."""

    labels_to_names: Mapping[str, tuple[str, ...]]

    @property
    def name(self) -> str:
        return "closed-set-1"

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.labels_to_names)

    def match(self, said: str) -> str | None:
        """The label that ``said`` is, by its letters or else by a synonym that no two labels share."""
        return _forms(self)[0].get(plain(said)) or _forms(self)[1].get(usual_name(said, synonyms()))

    def __call__(self, text: str, truth: str | None) -> Verdict:
        said = read_answer(text)
        if said is None:  # a model that was given a list may reply with nothing but the label
            label = self.match(after_thinking(text).strip())
            reason = NO_ANSWER
        else:
            label, reason = self.match(said), OUTSIDE
        if label is None:
            return Verdict(None, None if truth is None else False, reason)
        if truth is None:
            return Verdict(label, None)
        return Verdict(label, label == truth, "" if label == truth else OTHER_DISEASE)


@cache
def _all_forms(labels: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    letters: dict[str, str] = {}
    for label, others in labels:
        for form in (label, *others):
            letters.setdefault(plain(form), label)
    usual: dict[str, set[str]] = {}
    for label, others in labels:
        for form in (label, *others):
            usual.setdefault(usual_name(form, synonyms()), set()).add(label)
    return letters, {form: min(found) for form, found in usual.items() if form and len(found) == 1}


def _forms(rule: ClosedSet) -> tuple[Mapping[str, str], Mapping[str, str]]:
    return _all_forms(tuple(rule.labels_to_names.items()))


@dataclass(frozen=True)
class OpenName:
    """Any disease; right if it is the true one, its subtype and all."""

    @property
    def name(self) -> str:
        return "open-name-1"

    @property
    def labels(self) -> tuple[str, ...]:
        return ()

    def __call__(self, text: str, truth: str | None) -> Verdict:
        said = read_answer(text)
        if said is None:
            return Verdict(None, None if truth is None else False, NO_ANSWER)
        if truth is None:
            return Verdict(said, None)
        reason = difference(said, truth)
        return Verdict(truth if not reason else said, not reason, reason)


def difference(said: str, truth: str) -> str:
    """Why ``said`` is not ``truth``; empty if it is.  A subtype that the truth does not name is another one.

    >>> difference("melanoma", "melanoma-acral-lentiginous")
    'the subtype is missing'
    """
    ours, theirs = words(said), words(truth)
    if ours and ours == theirs:
        return ""
    text = normalised(said)
    if _SEVERAL.search(text):
        return SEVERAL_FINALS
    if _UNDECIDED.search(text):
        return DIFFERENTIAL
    if ours and ours < theirs:
        return SUBTYPE_MISSING
    return SUBTYPE_OTHER if len(ours & theirs) > 0 and ours - theirs and _same_kind(ours, theirs) else OTHER_DISEASE


def _same_kind(ours: frozenset[str], theirs: frozenset[str]) -> bool:
    """Whether two names differ by less than they share."""
    return len(ours & theirs) >= max(len(ours - theirs), len(theirs - ours))


@dataclass(frozen=True)
class Categories:
    """A benchmark's own diseases, each with the categories it is filed under; right if the true one is among them."""

    diseases: Mapping[frozenset[str], frozenset[str]]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Categories:
        """From pairs of disease and category; a category's own name counts as one of its diseases."""
        pairs = tuple(pairs)
        filed: dict[frozenset[str], set[str]] = {}
        for disease, category in (*pairs, *((category, category) for _, category in pairs)):
            filed.setdefault(words(disease), set()).add(category)
        labels = tuple(sorted({category for _, category in pairs}))
        return cls({name: frozenset(found) for name, found in filed.items() if name}, labels)

    @property
    def name(self) -> str:
        return "category-1"

    def __call__(self, text: str, truth: str | None) -> Verdict:
        said = read_answer(text)
        if said is None:
            return Verdict(None, None if truth is None else False, NO_ANSWER)
        found = self.diseases.get(words(said), frozenset())
        if not found:
            return Verdict(None, None if truth is None else False, UNPLACED)
        if truth is None:
            return Verdict(min(found), None)
        right = truth in found
        return Verdict(truth if right else min(found), right, "" if right else OTHER_DISEASE)
