"""The words for dermatological findings, from ``vocabulary.toml``: where in a text they stand, the longest first."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("vocabulary.toml")
NO_FINDING = "none"
_START = re.compile(r"\b[^\W\d_]")
_KEY_LENGTH = 3


@dataclass(frozen=True)
class Term:
    """A finding: its group (``morphology``, ``site``, ...) and its name (``papule``)."""

    group: str
    name: str


@dataclass(frozen=True)
class Found:
    """A word for one or more findings at ``start`` to ``end``; ``negated`` in itself (``non-scaly``, "border is not sharp")."""

    terms: tuple[Term, ...]
    start: int
    end: int
    negated: bool


def find_words(text: str) -> Iterator[Found]:
    """All words for findings in a text, in order, none inside another."""
    index, end = _index(), 0
    for place in _START.finditer(text):
        start = place.start()
        if start < end:
            continue
        prefix = _PREFIX.match(text, start)
        begin = prefix.end() if prefix else start
        for pattern, terms in index.get(text[begin : begin + _KEY_LENGTH].casefold(), ()):
            if match := pattern.match(text, begin):
                end = match.end()
                if terms:
                    yield Found(terms, start, end, prefix is not None or match.lastgroup == _DENIED)
                break


def terms() -> tuple[Term, ...]:
    """All findings, in the order of the file."""
    return tuple(Term(group, name) for group, names in _groups().items() if group != NO_FINDING for name in names)


_PREFIX = re.compile(r"non-?(?=\w{3})", re.IGNORECASE)
# How a border "is" sharp, and how it is not.
_IS, _DENIED = " is ", "denied"
_BEING = (
    rf"(?:s|es)?[\s-]+(?:(?P<{_DENIED}>(?:(?:is|are|was|were)(?:\s+not|n't|n\u2019t)|(?:does|do)(?:\s+not|n't|n\u2019t)\s+"
    r"(?:appear|look|seem)|(?:is|are|appears?)\s+neither)(?:\s+at\s+all)?)|(?:is|are|was|were|appears?|looks?|seems?))"
    r"(?:\s+(?:\w+ly|very|quite|rather))?[\s-]+"
)


@cache
def _groups() -> Mapping[str, Mapping[str, list[str]]]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


@cache
def _index() -> Mapping[str, tuple[tuple[re.Pattern[str], tuple[Term, ...]], ...]]:
    """By the first letters, the patterns of the words that begin so, the longest word first."""
    words: dict[str, tuple[Term, ...]] = {}
    for group, names in _groups().items():
        for name, synonyms in names.items():
            for word in (name.replace("_", " "), *synonyms):
                key = word.casefold().replace("-", " ")
                words[key] = (*words.get(key, ()), *([] if group == NO_FINDING else [Term(group, name)]))
    index: dict[str, list[tuple[re.Pattern[str], tuple[Term, ...]]]] = {}
    for word in sorted(words, key=len, reverse=True):
        index.setdefault(word[:_KEY_LENGTH], []).append((_pattern(word), tuple(dict.fromkeys(words[word]))))
    return {key: tuple(patterns) for key, patterns in index.items()}


def _pattern(word: str) -> re.Pattern[str]:
    stem = _BEING.join(r"[\s-]+".join(map(re.escape, part.split(" "))) for part in word.rstrip("*").split(_IS))
    end = r"\w*" if word.endswith("*") else r"(?:s|es)?(?:-like)?"
    return re.compile(rf"{stem}{end}(?!\w)", re.IGNORECASE)
