"""An answer, taken apart while it is written: observation, reasoning, differential, answer.

Tags and headings are not shown; the page has its own, in its own language.  What might be the beginning of one is held
back until it is clear.  A model that writes neither has its text shown as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, get_args

from skinedge.evaluation.structure import SECTIONS

Part = Literal["thought", "observation", "reasoning", "differential", "answer", "other"]
PARTS: tuple[Part, ...] = get_args(Part)

_TAGS: dict[str, Part] = {"<think>": "thought", "</think>": "other", "<answer>": "answer", "</answer>": "other"}
# A heading: the word and a colon, or after "#"; emphasis and a line's beginning belong to it.
_BEGINS = r"(?:(?<=\n)|(?<=[.!?] ))"
_HEADING = re.compile(
    rf"{_BEGINS}(?:[#*_ \t]*({'|'.join(SECTIONS)})[*_ ]*:[*_]*[ \t]*\n?|#+ *[*_]*({'|'.join(SECTIONS)})[*_ ]*\n)", re.IGNORECASE
)
_MARK = re.compile("|".join(map(re.escape, _TAGS)))
_MAYBE_TAG = re.compile(r"<[/a-z]*$")
_MAYBE_HEADING = re.compile(rf"{_BEGINS}[#*_ \t]*([A-Za-z]*)[*_ ]*:?[*_ \t]*$")


class Parts:
    """Feed it text as it comes: ``push`` and ``finish`` return what is certain, as (part, text)."""

    def __init__(self) -> None:
        self._part: Part = "other"
        self._held = ""
        self._before = "\n"  # the last two characters given out of this part, which say whether a heading may begin

    def push(self, text: str) -> list[tuple[Part, str]]:
        """What ``text`` makes certain."""
        self._held += text
        pieces = [*self._tagged(), *self._under_headings()]
        return [*pieces, *self._headed(self._take(len(self._held) - self._unsure()))]

    def finish(self) -> list[tuple[Part, str]]:
        """What is left."""
        return self._headed(self._take(len(self._held)))

    def _take(self, end: int) -> str:
        taken, self._held = self._held[:end], self._held[end:]
        return taken

    def _tagged(self) -> list[tuple[Part, str]]:
        """All up to the last whole tag."""
        pieces: list[tuple[Part, str]] = []
        while tag := _MARK.search(self._held):
            pieces += self._headed(self._take(tag.end())[: tag.start()])
            self._part, self._before = _TAGS[tag.group()], "\n"
        return pieces

    def _under_headings(self) -> list[tuple[Part, str]]:
        """All up to the last whole heading; one at the very end may go on."""
        pieces: list[tuple[Part, str]] = []
        while self._part != "answer" and (found := _HEADING.search(self._before + self._held)):
            end = found.end() - len(self._before)
            if end >= len(self._held):
                break
            pieces += self._headed(self._take(end))
        return pieces

    def _unsure(self) -> int:
        """Characters at the end that a later one could make part of a tag or a heading."""
        tag = _MAYBE_TAG.search(self._held)
        end = tag.start() if tag else len(self._held)
        if self._part != "answer" and (heading := _MAYBE_HEADING.search(self._before + self._held[:end])):
            word = heading[1].casefold()
            if any(name.startswith(word) for name in SECTIONS):
                end = max(0, heading.start() - len(self._before))
        return len(self._held) - end

    def _headed(self, text: str) -> list[tuple[Part, str]]:
        pieces: list[tuple[Part, str]] = []
        while self._part != "answer" and (found := _HEADING.search(self._before + text)):
            begin, end = (max(0, i - len(self._before)) for i in found.span())
            pieces.append((self._part, text[:begin]))
            self._part = _named(found[1] or found[2])
            text, self._before = text[end:], "\n"
        pieces.append((self._part, text))
        self._before = (self._before + text)[-2:]
        return [(part, piece) for part, piece in pieces if piece]


def split(raw: str) -> list[tuple[Part, str]]:
    """A whole answer in parts, in order, neighbours of one part joined, blank ones left out."""
    parts = Parts()
    return joined([*parts.push(raw), *parts.finish()])


def joined(pieces: Iterable[tuple[Part, str]]) -> list[tuple[Part, str]]:
    """Neighbours of one part as one, without the white space around it; blank ones left out."""
    whole: list[tuple[Part, str]] = []
    for part, text in pieces:
        if whole and whole[-1][0] == part:
            whole[-1] = (part, whole[-1][1] + text)
        else:
            whole.append((part, text))
    return [(part, text.strip()) for part, text in whole if text.strip()]


def _named(heading: str) -> Part:
    return next(part for part in PARTS if part == heading.casefold())
