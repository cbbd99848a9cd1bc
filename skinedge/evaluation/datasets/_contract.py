"""What a benchmark's layout promises: one file a layout, found by its name (hyphens where the file has underscores)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from skinedge.evaluation.labels import Rule
from skinedge.parity.record import UNKNOWN_SKIN


@dataclass(frozen=True)
class Item:
    """One photograph, what is asked about it, and what is true of it.

    ``truth`` is the label, disease or category that is right, ``None`` where nobody knows.  ``diagnosis`` is the disease in
    words, ``reference`` a narrative known to be good and ``findings`` what can be seen, for scorers that need them.
    ``unit`` is what photographs share that show the same lesion or patient (the id, where nothing is known of that): they
    are no independent cases.  ``image`` need not exist.
    """

    id: str
    image: Path
    question: str
    truth: str | None
    skin: str = UNKNOWN_SKIN
    unit: str = ""
    split: str = ""
    diagnosis: str | None = None
    reference: str | None = None
    findings: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "unit", self.unit or self.id)


@dataclass(frozen=True)
class Contents:
    """What a layout's file holds; ``notes`` say what was left out of it and why, in sentences."""

    items: tuple[Item, ...]
    rule: Rule
    notes: tuple[str, ...] = ()


class Layout(Protocol):
    """A module of this folder."""

    TITLE: str
    LICENCE: str
    CITATION: str
    LOOKS_FOR: str  # the file and its columns, for people
    TASKS: tuple[str, ...]  # the first is the default
    YIELDS_TO: tuple[str, ...]  # layouts that, where both fit, are meant

    def find(self, place: Path) -> Path | None:
        """The file that the layout is known by, in a folder or given itself; ``None`` if it is not there."""
        ...

    def read(self, file: Path, images: Path, task: str) -> Contents:
        """Read it.

        Raises:
            CasesError: a row cannot be understood.
            UsageError: a column is missing.
        """
        ...


OPEN_QUESTION = (
    "Look at the skin in this photograph as a dermatologist would. Describe what you see, reason step by step from the "
    "findings, weigh the diagnoses that could explain them, and decide for one, as exactly as the picture allows. "
    "Finish with one line: The answer is <disease>"
)


def closed_question(labels: tuple[str, ...], what: str = "diagnosis") -> str:
    """The official prompts' meaning: look, reason, and decide for one of a list."""
    return (
        f"Look at the skin in this photograph as a dermatologist would. Describe what you see, reason step by step from the "
        f"findings, and decide which {what} of this list fits best: {'; '.join(labels)}. "
        f"Finish with one line that repeats it as it is written there: The answer is <{what}>"
    )
