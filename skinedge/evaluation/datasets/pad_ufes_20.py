"""PAD-UFES-20: smartphone photographs, six diagnoses; ``metadata.csv`` and its pictures in any folders below."""

from __future__ import annotations

from pathlib import Path

from skinedge.evaluation.cases import PAD_DIAGNOSES, read_cases
from skinedge.evaluation.datasets._contract import Contents, Item, closed_question
from skinedge.evaluation.datasets._files import with_columns
from skinedge.evaluation.labels import ClosedSet
from skinedge.parity.record import skin_group

TITLE = "PAD-UFES-20"
LICENCE = "CC BY 4.0"
CITATION = "Pacheco et al. 2020, doi 10.17632/zr7vgbcyr2.1"
LOOKS_FOR = "a CSV file (metadata.csv) with the columns img_id, patient_id, diagnostic"
TASKS = ("diagnosis",)
YIELDS_TO: tuple[str, ...] = ()


def find(place: Path) -> Path | None:
    """A table with the data set's own columns."""
    return with_columns(place, "img_id", "patient_id", "diagnostic")


def read(file: Path, images: Path, task: str) -> Contents:  # noqa: ARG001  (there is one task)
    """Every row; the patient is the unit."""
    labels = tuple(PAD_DIAGNOSES.values())
    rule = ClosedSet({name: (code,) for code, name in PAD_DIAGNOSES.items()})
    question = closed_question(labels)
    items = tuple(
        Item(
            c.id, c.image, question, c.diagnosis, skin_group(c.fitzpatrick), unit=c.patient, split=c.split, diagnosis=c.diagnosis
        )
        for c in read_cases(file, images).cases
    )
    return Contents(items, rule)
