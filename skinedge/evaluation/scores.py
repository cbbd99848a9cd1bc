"""Six dimensions from 0 to 5: how they are read from a judge's answer, and what passes (REFERENCE, section 3).

The answer's last JSON object after any ``<think>`` counts; names in any case, all six there, each a finite
number from 0 to 5.  Anything else is invalid and said to be so, never repaired.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skinedge.errors import InvalidScoresError

DIMENSIONS = (
    "Accuracy", "Safety", "Medical Groundedness", "Clinical Coverage", "Reasoning Coherence", "Description Precision",
)  # fmt: skip
LOWEST, HIGHEST = 0.0, 5.0

Scores = Mapping[str, float]
_THOUGHT = "</think>"
_BRACE = re.compile(r"[{}]")


@dataclass(frozen=True)
class Thresholds:
    """What each dimension, and the mean of the six, must reach."""

    each: float = 3.0
    mean: float = 4.0

    def shortfall(self, scores: Scores) -> str:
        """Why ``scores`` do not pass; empty if they do."""
        worst = min(DIMENSIONS, key=lambda name: scores[name])
        if scores[worst] < self.each:
            return f"{worst} {scores[worst]:g} is below {self.each:g}"
        mean = mean_score(scores)
        return f"mean {mean:.2f} is below {self.mean:g}" if mean < self.mean else ""


def mean_score(scores: Scores) -> float:
    """The mean of the six dimensions."""
    return math.fsum(scores[name] for name in DIMENSIONS) / len(DIMENSIONS)


def parse_scores(answer: str) -> dict[str, float]:
    """The six scores of a judge's answer, in the order of ``DIMENSIONS``.

    Raises:
        InvalidScoresError: they cannot be read; the message says why.
    """
    found = last_object(answer)
    if found is None:
        raise InvalidScoresError("no JSON object after the reasoning")
    try:
        return {name: _score(name, found) for name in DIMENSIONS}
    except ValueError as e:
        raise InvalidScoresError(str(e)) from e


def is_score(value: float) -> bool:
    """Whether ``value`` is a score at all; NaN is none."""
    return LOWEST <= value <= HIGHEST


def after_thinking(answer: str) -> str:
    """What follows a model's own ``<think>`` block; nothing if the block never ends."""
    _, ended, rest = answer.rpartition(_THOUGHT)
    return rest if ended else "" if "<think>" in answer else answer


def last_object(answer: str) -> Sequence[tuple[str, object]] | None:
    """Members of the last balanced JSON object after any ``<think>``, doubles kept; ``None`` if there is none.

    What stands inside a broken object, or after a brace that is never closed, is part of that and no object of its own.
    """
    text = after_thinking(answer)
    decoder = json.JSONDecoder(object_pairs_hook=tuple)
    last: Sequence[tuple[str, object]] | None = None
    start = text.find("{")
    while start >= 0:
        try:
            last, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = _closed(text, start)
        start = text.find("{", end)
    return last


def _closed(text: str, start: int) -> int:
    """Behind the brace that closes the one at ``start``; the end of the text where none does."""
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.end()
    return len(text)


def _score(name: str, found: Sequence[tuple[str, object]]) -> float:
    values = [value for key, value in found if key.strip().casefold() == name.casefold()]
    if len(values) != 1:
        raise ValueError(f"{name} is there twice" if values else f"{name} is missing")
    value = values[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_score(value):
        raise ValueError(f"{name} is not a number from 0 to 5")
    return float(value)
