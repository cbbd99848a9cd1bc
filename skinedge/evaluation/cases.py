"""What a corpus is made from: photographs with a diagnosis each, from a CSV or JSONL file.

PAD-UFES-20's ``metadata.csv`` is known by its columns (Pacheco et al. 2020, doi 10.17632/zr7vgbcyr2.1).  Any
other file has the columns ``image`` and ``label`` and those of ``FIELDS`` that there is something to say in.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from skinedge.errors import CasesError, UsageError
from skinedge.evaluation.tables import Row, Table, read_table
from skinedge.json_lines import read_values
from skinedge.weights.checkpoint import file_digest

# Each field with the names its column may have.  ``description``: what is seen, where somebody wrote it down already.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "image": ("image",), "label": ("label",), "id": ("id",), "patient": ("patient",), "site": ("site",),
    "fitzpatrick": ("fitzpatrick", "skin"), "category": ("category",), "split": ("split",), "description": ("description",),
}  # fmt: skip
_PAD = {
    "image": "img_id", "label": "diagnostic", "patient": "patient_id", "site": "region", "fitzpatrick": "fitspatrick",
    "split": "split",
}  # fmt: skip
PAD_DIAGNOSES = {
    "BCC": "basal cell carcinoma", "NEV": "melanocytic nevus", "SEK": "seborrheic keratosis", "ACK": "actinic keratosis",
    "MEL": "melanoma", "SCC": "squamous cell carcinoma",
}  # fmt: skip
SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", **{name: name for name in SPLITS}}
_ROMAN = {"I": 1, "II": 2, "III": 3, "IV": 4, "V": 5, "VI": 6}


@dataclass(frozen=True)
class Case:
    """One photograph and what is known of it; empty where nothing is.

    ``diagnosis`` is the label in words, ``image`` need not exist, ``fitzpatrick`` is 1 to 6.
    """

    id: str
    image: Path
    diagnosis: str
    category: str
    site: str = ""
    patient: str = ""
    fitzpatrick: int | None = None
    split: str = ""
    description: str = ""


@dataclass(frozen=True)
class CaseFile:
    """The cases of a file, its sha256, and its columns that nothing was taken from."""

    name: str
    digest: str
    cases: tuple[Case, ...]
    unused: tuple[str, ...]


def read_cases(path: Path, images: Path | None = None) -> CaseFile:
    """Read the cases of a CSV or JSONL file.

    Args:
        path: the file.
        images: the folder its image names are relative to, by default the file's own; a name that is not
            there is looked for in the folders below.

    Raises:
        CasesError: a row cannot be understood, an id is there twice, or a patient is in two splits.
        UsageError: there is no such file or folder, or a column is missing or misspelt.
    """
    folder = images or path.parent
    for place, there in ((path, path.is_file()), (folder, folder.is_dir())):
        if not there:
            raise UsageError(f"{place}: no such {'file' if place is path else 'folder'}.", hint="Check the spelling.")
    table = _read_jsonl(path) if path.suffix.casefold() in (".jsonl", ".ndjson") else read_table(path)
    layout = _layout(table)
    find = ImageFinder(folder)
    cases = tuple(_case(table, row, layout, find) for row in table.rows)
    if not cases:
        raise CasesError(f"{path} has no cases.")
    _check_ids(table, cases)
    _check_patients(table, cases)
    unused = tuple(name for name in table.columns if name not in layout.values())
    return CaseFile(path.name, file_digest(path), cases, unused)


def _layout(table: Table) -> dict[str, str]:
    """Which column each field is in."""
    if {"img_id", "patient_id", "diagnostic"} <= set(table.columns):
        return {field: column for field, column in _PAD.items() if column in table.columns}
    layout = {field: name for field, known in FIELDS.items() for name in reversed(known) if name in table.columns}
    known = [name for names in FIELDS.values() for name in names]
    for column in table.columns:
        near = difflib.get_close_matches(column, known, n=1, cutoff=0.8)
        if column not in known and near:  # a misspelt 'patient' would let one person into two splits
            raise UsageError(f"{table.path} has a column '{column}', which is not known.", hint=f"Did you mean '{near[0]}'?")
    for field in ("image", "label"):
        if field not in layout:
            has = ", ".join(table.columns)
            raise UsageError(f"{table.path} has no column '{field}'.", hint=f"It has: {has}. Known: {', '.join(known)}.")
    return layout


def _case(table: Table, row: Row, layout: Mapping[str, str], find: ImageFinder) -> Case:
    value = {field: row.cells[column] for field, column in layout.items()}
    pad = layout["image"] == _PAD["image"]
    for field in ("image", "label"):
        if not value[field]:
            raise table.fault(row, layout[field], "it is empty")
    diagnosis = PAD_DIAGNOSES.get(value["label"], "") if pad else " ".join(value["label"].replace("_", " ").split())
    if not diagnosis or set(diagnosis) & set("<>|"):
        raise table.fault(row, layout["label"], f"'{value['label']}' is not a diagnosis")
    return Case(
        id=value.get("id") or _id_of(value["image"]),
        image=find(value["image"]),
        diagnosis=diagnosis,
        category=value.get("category") or diagnosis,
        site=value.get("site", "").casefold(),
        patient=value.get("patient", ""),
        fitzpatrick=_fitzpatrick(table, row, layout.get("fitzpatrick")),
        split=_split(table, row, layout.get("split")),
        description=value.get("description", ""),
    )


def _id_of(image: str) -> str:
    return PurePosixPath(image.replace("\\", "/")).with_suffix("").as_posix().strip("/").replace("/", "-")


def _fitzpatrick(table: Table, row: Row, column: str | None) -> int | None:
    """Skin type 1 to 6 from ``3``, ``3.0`` or ``III``."""
    if column is None or not (text := row.cells[column]):
        return None
    number = str(_ROMAN.get(text.upper(), text)).removesuffix(".0")
    if number not in tuple("123456"):
        raise table.fault(row, column, f"'{text}' is not a Fitzpatrick type, 1 to 6 or I to VI")
    return int(number)


def _split(table: Table, row: Row, column: str | None) -> str:
    if column is None or not (text := row.cells[column]):
        return ""
    if text.casefold() not in _SPLIT_NAMES:
        raise table.fault(row, column, f"'{text}' is not a split; known are {', '.join(SPLITS)}")
    return _SPLIT_NAMES[text.casefold()]


def _check_ids(table: Table, cases: Sequence[Case]) -> None:
    seen: dict[str, int] = {}
    for case, row in zip(cases, table.rows, strict=True):
        if case.id in seen:
            where = f"{table.path.name}, rows {seen[case.id]} and {row.number}"
            raise CasesError(f"{where}: both have the id '{case.id}'.", hint="Give each case an id of its own in a column 'id'.")
        seen[case.id] = row.number


def _check_patients(table: Table, cases: Sequence[Case]) -> None:
    seen: dict[str, tuple[str, int]] = {}
    for case, row in zip(cases, table.rows, strict=True):
        if not (case.patient and case.split):
            continue
        split, number = seen.setdefault(case.patient, (case.split, row.number))
        if split != case.split:
            raise CasesError(
                f"{table.path.name}, rows {number} and {row.number}: patient '{case.patient}' is in {split} and in {case.split}.",
                hint="Put all pictures of a patient into one split, or leave the column empty.",
            )


class ImageFinder:
    """Where an image is: under the folder by its path, else anywhere below it by its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._below: dict[str, list[Path]] | None = None

    def __call__(self, name: str) -> Path:
        path = self._folder / name.replace("\\", "/")
        if path.is_file():
            return path
        if self._below is None:
            self._below = {}
            for found in sorted(self._folder.rglob("*.*")):
                self._below.setdefault(found.name, []).append(found)
        found_here = self._below.get(path.name, [])
        return found_here[0] if len(found_here) == 1 else path


def _read_jsonl(path: Path) -> Table:
    rows = []
    for number, value in read_values(path):
        if not isinstance(value, dict) or any(isinstance(v, dict | list) for v in value.values()):
            raise CasesError(f"{path}, line {number}: it is not an object of plain values.")
        rows.append(Row(number, {_sound(k).casefold(): "" if v is None else _sound(v) for k, v in value.items()}))
    columns = tuple(dict.fromkeys(name for row in rows for name in row.cells))
    return Table(path, columns, tuple(Row(r.number, {c: r.cells.get(c, "") for c in columns}) for r in rows))


def _sound(value: object) -> str:
    """A value as text that can be written again: JSON may hold half a surrogate pair."""
    return str(value).strip().encode("utf-8", "replace").decode()
