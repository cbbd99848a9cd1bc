"""The pictures whose features are computed, and the names their features get (``train.teachers.precomputed``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skinedge.errors import UsageError
from train.data import read_records
from train.errors import DataError

# What people call photographs; whether they are is decided by their first bytes.
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class Wanted:
    """A picture of the record ``id``, and the name ``key`` of its features."""

    key: str
    id: str
    path: Path


def of_records(files: Sequence[Path]) -> list[Wanted]:
    """The pictures of every record of ``files``.

    Raises:
        DataError: a record cannot be used, or two of its pictures have the same name.
    """
    wanted = [
        Wanted(record.id if len(record.images) == 1 else f"{record.id}/{path.stem}", record.id, path)
        for record in read_records(files)
        for path in record.images
    ]
    return _distinct(wanted, "Rename one of them.")


def of_folder(folder: Path) -> list[Wanted]:
    """The photographs in ``folder`` and the folders in it, by their stems.

    Raises:
        UsageError: there is no such folder, or no photograph in it.
        DataError: two have the same stem.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))
    if not found:
        raise UsageError(f"{folder}: there are no photographs in it.", hint=f"Looked for: {', '.join(_SUFFIXES)}.")
    return _distinct([Wanted(p.stem, p.stem, p) for p in found], "Give the pictures as records, with --data.")


def _distinct(wanted: list[Wanted], hint: str) -> list[Wanted]:
    seen: dict[str, Path] = {}
    for picture in wanted:
        if (other := seen.setdefault(picture.key, picture.path)) is not picture.path:
            raise DataError(f"the features of {other} and {picture.path} would have the same name '{picture.key}'.", hint=hint)
    return wanted
