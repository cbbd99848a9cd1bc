"""Whether a narrative has the form it was trained to have: ``<think>…</think><answer>…</answer>``, and nothing else.

Every departure is a named fault.  A loop is a run of ``LOOP_WORDS`` words that stands ``LOOP_TIMES`` times in one text,
or one sign ``LOOP_SIGNS`` times on end (what logits that are no numbers look like: ``!!!!``).  All checks take time in
proportion to the text's length.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

# The layers of a narrative, where the model's form has headings for them (SynthDerm's has).
SECTIONS = ("observation", "reasoning", "differential")
LOOP_WORDS, LOOP_TIMES, LOOP_SIGNS = 8, 4, 64

FaultName = Literal[
    "no think", "unclosed think", "double think", "empty think",
    "no answer", "unclosed answer", "double answer", "empty answer", "markup in answer",
    "text before think", "text between", "text after answer", "stray tag",
    "no section", "empty section", "loop", "cut short",
]  # fmt: skip

_Element = Literal["think", "answer"]
_ELEMENTS: tuple[_Element, ...] = ("think", "answer")
_TAG = re.compile(r"<(/?)(think|answer)>")
_TORN_TAG = re.compile(r"</?(?:t(?:h(?:i(?:n(?:k)?)?)?)?|a(?:n(?:s(?:w(?:e(?:r)?)?)?)?)?)?$")
# A word, in pieces of 16 letters: a loop inside one endless word is one too.
_WORD = re.compile(r"\w{1,16}")
_SIGNS = re.compile(rf"([^\w\s])(?:\s?\1){{{LOOP_SIGNS - 1}}}")


@dataclass(frozen=True)
class Fault:
    """One departure from the form; ``detail`` says what was found there, empty where the name says it all."""

    name: FaultName
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


@dataclass(frozen=True)
class Structure:
    """A narrative's parts, empty where there are none, and its faults, each name with each detail once."""

    thought: str
    answer: str
    faults: tuple[Fault, ...]

    @property
    def valid(self) -> bool:
        """Whether the form is kept."""
        return not self.faults

    def has(self, name: FaultName) -> bool:
        """Whether there is a fault of this name."""
        return any(fault.name == name for fault in self.faults)


def check_structure(text: str, *, sections: Sequence[str] = (), finish: str = "stop") -> Structure:
    """Check a narrative's form.

    Args:
        text: what the model wrote, all of it.
        sections: headings that must stand in the thought, each with something under it: ``SECTIONS``, or none.
        finish: why the model ended, where it is known: ``stop``; anything else (``length``, ``context``) is cut short.
    """
    parts = _parts(text)
    thought, answer = (next((p.text for p in parts if p.element == e), "").strip() for e in _ELEMENTS)
    faults = [*_faults(parts), *_section_faults(thought, sections), *_loops(text)]
    open_end = not parts[-1].closed or _TORN_TAG.search(text.rstrip()) is not None
    if finish != "stop" or open_end:
        faults.append(Fault("cut short", "" if finish == "stop" else finish))
    return Structure(thought, answer, tuple(dict.fromkeys(faults)))


def find_loop(text: str) -> str:
    """The words of the commonest run that makes a loop, or the sign; empty if there is none."""
    if signs := _SIGNS.search(text):
        return signs[1]
    words = _WORD.findall(_TAG.sub(" ", text.casefold()))
    runs = Counter(zip(*(words[i:] for i in range(LOOP_WORDS)), strict=False))
    run, times = max(runs.items(), key=lambda item: item[1], default=((), 0))
    return " ".join(run) if times >= LOOP_TIMES else ""


@dataclass(frozen=True)
class _Part:
    """A stretch of text: in an element, between elements (``element`` is empty), or a closing tag that closes nothing."""

    element: _Element | Literal["", "stray"]
    text: str
    closed: bool = True


def _parts(text: str) -> list[_Part]:
    """The text in stretches.  Inside an element only its own closing tag, or the beginning of the other, ends it."""
    parts: list[_Part] = []
    inside: _Element | Literal[""] = ""
    begin = 0
    for tag in _TAG.finditer(text):
        closing, element = bool(tag[1]), _ELEMENTS[tag[2] == "answer"]
        if closing and element != inside:
            parts += [_Part(inside, text[begin : tag.start()], not inside), _Part("stray", tag.group())]
            inside = ""
        else:
            parts.append(_Part(inside, text[begin : tag.start()], closing or not inside))
            inside = "" if closing else element
        begin = tag.end()
    return [*parts, _Part(inside, text[begin:], not inside)]


def _faults(parts: Sequence[_Part]) -> Iterator[Fault]:
    for element in _ELEMENTS:
        yield from _element_faults(element, [part for part in parts if part.element == element])
    yield from (Fault("stray tag", part.text) for part in parts if part.element == "stray")
    order = [part.element for part in parts if part.element in _ELEMENTS]
    if order[:2] == ["answer", "think"]:
        yield Fault("text before think", "the answer stands there")
    yield from _loose_text(parts)
    if any("<" in part.text for part in parts if part.element == "answer"):
        yield Fault("markup in answer")


def _element_faults(element: _Element, found: Sequence[_Part]) -> Iterator[Fault]:
    if not found:
        yield Fault("no think" if element == "think" else "no answer")
    if len(found) > 1:
        yield Fault("double think" if element == "think" else "double answer")
    if not all(part.closed for part in found):
        yield Fault("unclosed think" if element == "think" else "unclosed answer")
    if any(not part.text.strip() for part in found):
        yield Fault("empty think" if element == "think" else "empty answer")


def _loose_text(parts: Sequence[_Part]) -> Iterator[Fault]:
    """Text outside the elements; where there are none, that they are missing says enough."""
    seen: list[str] = []
    for part in parts:
        if part.element in _ELEMENTS:
            seen.append(part.element)
        elif part.element == "" and part.text.strip() and "answer" in seen:
            yield Fault("text after answer", _beginning(part.text))
        elif part.element == "" and part.text.strip() and seen:
            yield Fault("text between", _beginning(part.text))
    first = next((i for i, part in enumerate(parts) if part.element in _ELEMENTS), None)
    if first is not None and (before := "".join(p.text for p in parts[:first] if not p.element).strip()):
        yield Fault("text before think", _beginning(before))


def _section_faults(thought: str, sections: Sequence[str]) -> Iterator[Fault]:
    if not sections:
        return
    names = "|".join(map(re.escape, sections))
    headings = list(
        re.finditer(rf"\b({names})\b\W{{0,3}}:\W{{0,3}}|^#{{1,6}} *({names})\b", thought, re.IGNORECASE | re.MULTILINE)
    )
    ends = [*(h.start() for h in headings[1:]), len(thought)]
    bodies = {(h[1] or h[2]).casefold(): thought[h.end() : end] for h, end in zip(headings, ends, strict=bool(headings))}
    for name in sections:
        if name.casefold() not in bodies:
            yield Fault("no section", name)
        elif not re.search(r"\w", bodies[name.casefold()]):
            yield Fault("empty section", name)


def _loops(text: str) -> Iterator[Fault]:
    if loop := find_loop(text):
        yield Fault("loop", _beginning(loop, 80))


def _beginning(text: str, most: int = 40) -> str:
    words = " ".join(text[: 4 * most].split())
    return words if len(words) <= most else f"{words[: most - 1]}…"
