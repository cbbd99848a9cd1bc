"""SkinCon: the 3,230 pictures of Fitzpatrick17k that dermatologists described by 48 concepts.

``annotations_fitzpatrick17k.csv`` says which, ``fitzpatrick17k.csv`` beside it what they show.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from skinedge.errors import UsageError
from skinedge.evaluation.datasets import _fitzpatrick
from skinedge.evaluation.datasets._contract import Contents
from skinedge.evaluation.datasets._files import flag, named, table_of

TITLE = "SkinCon"
LICENCE = "not stated for the concepts; CC BY-NC-SA 3.0 for the labels of Fitzpatrick17k"
CITATION = "Daneshjou et al. 2022, SkinCon, arXiv 2302.00785"
LOOKS_FOR = f"annotations_fitzpatrick17k.csv with the column ImageID, and {_fitzpatrick.FILE} beside it"
TASKS = _fitzpatrick.TASKS
YIELDS_TO: tuple[str, ...] = ()
_IGNORED = "do not consider this image"


def find(place: Path) -> Path | None:
    """``annotations_fitzpatrick17k.csv``."""
    return named(place, "annotations_fitzpatrick17k.csv")


def read(file: Path, images: Path, task: str) -> Contents:
    """The annotated pictures that the annotators did not ask to leave out, with the labels of Fitzpatrick17k."""
    labels = named(file.parent, _fitzpatrick.FILE)
    if labels is None:
        raise UsageError(
            f"{file.parent} has no {_fitzpatrick.FILE}, and {file.name} says no diagnoses.",
            hint="Put Fitzpatrick17k's table beside it.",
        )
    table = table_of(file, "ImageID")
    ignored = _IGNORED in table.columns
    kept = [row for row in table.rows if not (ignored and flag(table, row, _IGNORED))]
    contents = _fitzpatrick.read_table_of(labels, images, task, {PurePosixPath(row.cells["imageid"]).stem for row in kept})
    left = len(table.rows) - len(kept)
    notes = (*contents.notes, *([f"{left} pictures are left out, as their annotators asked."] if left else []))
    return Contents(contents.items, contents.rule, notes)
