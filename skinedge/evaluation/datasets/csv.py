"""A plain table: ``image,label[,skin]`` and whatever else ``skinedge.evaluation.cases`` knows (patient, split, id)."""

from __future__ import annotations

from pathlib import Path

from skinedge.evaluation.cases import read_cases
from skinedge.evaluation.datasets._contract import OPEN_QUESTION, Contents, Item, closed_question
from skinedge.evaluation.datasets._files import with_columns
from skinedge.evaluation.labels import ClosedSet, OpenName, plain
from skinedge.parity.record import skin_group

TITLE = "labelled photographs"
LICENCE = "not stated"
CITATION = "not stated"
LOOKS_FOR = "one CSV file with the columns image, label and perhaps skin (Fitzpatrick 1 to 6)"
TASKS = ("closed", "open")
YIELDS_TO: tuple[str, ...] = ("pad-ufes-20", "ddi", "ham10000", "fitzpatrick17k", "skincon")


def find(place: Path) -> Path | None:
    """The only such table."""
    return with_columns(place, "image", "label")


def read(file: Path, images: Path, task: str) -> Contents:
    """``closed``: one of the labels of the file; ``open``: any disease.  Labels that differ in letter case are one."""
    cases = read_cases(file, images).cases
    spelt: dict[str, str] = {}
    for case in cases:
        spelt.setdefault(plain(case.diagnosis), case.diagnosis)
    labels = tuple(sorted(spelt.values(), key=str.casefold))
    question = closed_question(labels) if task == "closed" else OPEN_QUESTION
    items = tuple(
        Item(
            c.id, c.image, question, spelt[plain(c.diagnosis)], skin_group(c.fitzpatrick), unit=c.patient, split=c.split,
            diagnosis=c.diagnosis,
        )
        for c in cases
    )  # fmt: skip
    return Contents(items, ClosedSet(dict.fromkeys(labels, ())) if task == "closed" else OpenName())
