"""Which pictures a comparison is about: a folder of photographs, a table of cases, or the records of a training set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from skinedge.errors import CasesError, UsageError
from skinedge.evaluation.cases import Case, read_cases
from skinedge.json_lines import read_values
from skinedge.synthderm.findings import DIAGNOSES, VOCABULARY

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def photographs_in(folder: Path, limit: int | None = None) -> list[Path]:
    """The first ``limit`` photographs of a folder by name.

    Raises:
        UsageError: there is no such folder, or it holds none.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder.", hint="Give --images a folder of photographs, or leave it out.")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))[:limit]
    if not found:
        raise UsageError(f"{folder} holds no photograph.", hint=f"Looked for {', '.join(sorted(SUFFIXES))}.")
    return found


def cases_in(folder: Path, limit: int | None = None) -> tuple[Case, ...]:
    """The photographs of a folder, of which nothing is known.

    Raises:
        UsageError: there is no such folder, or it holds none.
    """
    return tuple(Case(path.name, path, "", "") for path in photographs_in(folder, limit))


def cases_of(file: Path, images: Path | None = None, *, split: str | None = None, limit: int | None = None) -> tuple[Case, ...]:
    """The first ``limit`` cases of a CSV or JSONL file, or of the records that training reads (SynthDerm's among them).

    Args:
        file: as for ``read_cases``, or JSON Lines with ``messages``, ``images`` and what is known of each picture.
        images: the folder that image names are relative to, by default the file's own.
        split: use only the cases of this split.
        limit: use only the first so many.

    Raises:
        CasesError: a row cannot be understood, or its photograph is not there.
        UsageError: there is no such file, or a column is missing.
    """
    records = list(_records(file)) if file.is_file() else []
    if records:
        cases = tuple(_of_record(file, images or file.parent, number, record) for number, record in records)
    else:
        cases = read_cases(file, images).cases
    if split:
        known = sorted({case.split for case in cases if case.split})
        cases = tuple(case for case in cases if case.split == split)
        if not cases:
            raise UsageError(f"{file} has no case of the split '{split}'.", hint=f"Its splits: {', '.join(known) or 'none'}.")
    cases = cases[:limit]
    absent = next((case for case in cases if not case.image.is_file()), None)
    if absent:
        raise CasesError(
            f"{file.name}: {absent.image}, the photograph of case '{absent.id}', is not there.",
            hint="Say with --images which folder the photographs are in.",
        )
    return cases


def findings_of(file: Path, cases: Sequence[Case]) -> dict[str, dict[str, str]] | None:
    """What SynthDerm's own records say is true of each case by its id; ``None`` unless they say it of every one.

    Args:
        file: as for ``cases_of``.
        cases: those that were chosen of it.
    """
    told = {str(r.get("id", number)): r.get("findings") for number, r in _records(file)} if file.is_file() else {}
    found = {case.id: told.get(case.id) for case in cases}
    true = {name: {str(k): str(v) for k, v in f.items()} for name, f in found.items() if isinstance(f, dict) and _is_true(f)}
    named = all(case.diagnosis.casefold() in DIAGNOSES for case in cases)
    return true if cases and named and len(true) == len(cases) else None


def _is_true(findings: Mapping[str, object]) -> bool:
    """Whether each of SynthDerm's findings is there with one of its values."""
    return set(findings) == set(VOCABULARY) and all(findings[name] in values for name, values in VOCABULARY.items())


def _records(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The lines of a file of training records; nothing if it is another kind of file."""
    if file.suffix.casefold() not in (".jsonl", ".ndjson"):
        return
    for number, record in read_values(file):
        if not isinstance(record, dict) or "messages" not in record:
            return
        yield number, record


def _of_record(file: Path, folder: Path, number: int, record: Mapping[str, Any]) -> Case:
    pictures = record.get("images")
    if not isinstance(pictures, list) or len(pictures) != 1 or not isinstance(pictures[0], str):
        raise CasesError(f"{file}, line {number}: a comparison needs exactly one picture in 'images'.")
    diagnosis, fitzpatrick = record.get("diagnosis") or "", record.get("fitzpatrick")
    if not isinstance(diagnosis, str) or fitzpatrick not in (None, 1, 2, 3, 4, 5, 6):
        raise CasesError(f"{file}, line {number}: 'diagnosis' is a text and 'fitzpatrick' a number from 1 to 6.")
    return Case(str(record.get("id", number)), folder / pictures[0], diagnosis, diagnosis, fitzpatrick=fitzpatrick)
