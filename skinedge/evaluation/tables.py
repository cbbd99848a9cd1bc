"""CSV as spreadsheets write and read it.

Excel saves UTF-8 with a byte-order mark, or UTF-16 as "Unicode text", and separates by semicolon or tab
where the comma is the decimal sign; all of these are read.  A cell that begins like a formula is written
with an apostrophe before it, so that nobody's spreadsheet runs what a model wrote (OWASP, "CSV injection");
reading takes the apostrophe away again.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skinedge.errors import CasesError
from skinedge.staging import staged_file

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are full-width
_SEPARATORS = ",;\t"


@dataclass(frozen=True)
class Row:
    """One record; ``number`` is what a spreadsheet shows beside it (the header is row 1)."""

    number: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A header and what stands under it; column names in lower case, cells without outer blanks."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def fault(self, row: Row, column: str, why: str) -> CasesError:
        """An error that names the cell."""
        return CasesError(f"{self.path.name}, row {row.number}, column '{column}': {why}.")


def read_table(path: Path) -> Table:
    """Read a CSV file, whatever spreadsheet saved it.

    Raises:
        CasesError: it is not readable as CSV, has no header, or a row does not fit the header.
    """
    text = _decoded(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    try:
        lines = [[cell.strip() for cell in line] for line in reader]
    except csv.Error as e:
        raise CasesError(f"{path}, line {reader.line_num}: this is not CSV ({e}).") from e
    if not lines or not any(lines[0]):
        raise CasesError(f"{path} has no header.", hint="Its first row must name the columns.")
    columns = tuple(name.casefold() for name in lines[0])
    for name in columns:
        if columns.count(name) > 1:
            raise CasesError(f"{path} has the column '{name}' twice.", hint="Rename or remove one of them.")
    return Table(path, columns, tuple(_rows(path, columns, lines[1:])))


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file that a spreadsheet opens with its letters intact and none of its cells run."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([columns, *([guarded(cell) for cell in row] for row in rows)])
    with staged_file(path) as f:
        f.write(text.getvalue().encode("utf-8-sig"))


def guarded(cell: str) -> str:
    """``cell``, with an apostrophe before it where a spreadsheet would take it for a formula (or for so guarded)."""
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA) else cell


def unguarded(cell: str) -> str:
    """What ``guarded`` was given."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell


def _rows(path: Path, columns: tuple[str, ...], lines: list[list[str]]) -> Iterable[Row]:
    for number, line in enumerate(lines, 2):
        if any(line[len(columns) :]):
            raise CasesError(f"{path.name}, row {number}: it has {len(line)} cells and the header {len(columns)}.")
        if any(line):
            padded = line + [""] * (len(columns) - len(line))
            yield Row(number, dict(zip(columns, map(unguarded, padded), strict=False)))


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise CasesError(f"{path}, line {line}: it is not UTF-8.", hint="Save it as 'CSV UTF-8' in the spreadsheet.") from e


def _separator(text: str) -> str:
    """The separator that the header uses most."""
    header = text.partition("\n")[0]
    return max(_SEPARATORS, key=header.count)
