"""Finding and reading the files by which layouts are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from skinedge.errors import CasesError, UsageError
from skinedge.evaluation.tables import Row, Table, read_table
from skinedge.json_lines import read_values


def named(place: Path, *names: str) -> Path | None:
    """The file of one of ``names`` in a folder (or one folder below it), or ``place`` itself if it is called so."""
    if place.is_file():
        return place if place.name in names else None
    found = (path for name in names for path in (place / name, *sorted(place.glob(f"*/{name}"))))
    return next((path for path in found if path.is_file()), None)


def with_columns(place: Path, *columns: str) -> Path | None:
    """The only CSV file of a folder that has all these columns, or ``place`` itself."""
    files = [place] if place.is_file() else sorted(place.glob("*.csv"))
    found = [path for path in files if path.suffix == ".csv" and set(columns) <= set(_header(path))]
    return found[0] if len(found) == 1 else None


def with_keys(place: Path, *keys: str) -> Path | None:
    """The only JSON Lines file of a folder whose first record has all these keys, or ``place`` itself."""
    files = [place] if place.is_file() else sorted(place.glob("*.jsonl"))
    found = [path for path in files if path.suffix == ".jsonl" and set(keys) <= set(_first(path))]
    return found[0] if len(found) == 1 else None


def table_of(file: Path, *needed: str) -> Table:
    """A CSV file with the columns of a layout.

    Raises:
        CasesError: it is no CSV.
        UsageError: a column is missing.
    """
    table = read_table(file)
    for column in needed:
        if column.casefold() not in table.columns:
            raise UsageError(f"{file} has no column '{column}'.", hint=f"It has: {', '.join(filter(None, table.columns))}.")
    if not table.rows:
        raise CasesError(f"{file} has no rows.")
    return table


def flag(table: Table, row: Row, column: str) -> bool:
    """A cell that says yes or no: True, False, 1, 0, 1.0.

    Raises:
        CasesError: it says something else.
    """
    text = row.cells[column].casefold().removesuffix(".0")
    if text not in ("true", "false", "1", "0"):
        raise table.fault(row, column, f"'{row.cells[column]}' is neither True nor False")
    return text in ("true", "1")


def json_lines(file: Path) -> Sequence[tuple[int, dict[str, object]]]:
    """The objects of a JSON Lines file with their line numbers.

    Raises:
        CasesError: a line is no JSON object, or there is none.
    """
    rows = []
    for number, value in read_values(file):
        if not isinstance(value, dict):
            raise CasesError(f"{file}, line {number}: it is not a JSON object.")
        rows.append((number, value))
    if not rows:
        raise CasesError(f"{file} has no records.")
    return rows


def text_of(file: Path, number: int, record: dict[str, object], key: str) -> str:
    """A text in a record.

    Raises:
        CasesError: it is missing, empty or no text.
    """
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise CasesError(f"{file}, line {number}: '{key}' is missing or no text.")
    return value.strip()


def _header(path: Path) -> tuple[str, ...]:
    try:
        return read_table(path).columns
    except CasesError:
        return ()


def _first(path: Path) -> tuple[str, ...]:
    with path.open(encoding="utf-8-sig", errors="replace") as f:
        line = next((text for text in f if text.strip()), "")
    try:
        value = json.loads(line)
    except ValueError:
        return ()
    return tuple(value) if isinstance(value, dict) else ()
