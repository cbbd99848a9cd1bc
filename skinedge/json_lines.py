"""JSON Lines: files that people write, every line of which must be right, and files of ours that survive a stop.

What we append is on the disk when the call returns; a line that a stop tore is passed over when it is read again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from skinedge.errors import CasesError, OutputError


def read_values(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of a file that somebody wrote, with their line numbers; empty lines do not count.

    Raises:
        CasesError: a line is not JSON.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as e:
                raise CasesError(f"{path}, line {number}: it is not JSON.") from e


def append_line(path: Path, value: Mapping[str, object]) -> None:
    """Append one object; several processes may append to one file.

    Raises:
        OutputError: the file cannot be written.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "surrogatepass") + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                # A run that was stopped in the middle of a line left it without its end.
                text = text if file.read(1) == b"\n" else b"\n" + text
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as e:
        raise OutputError(f"{path} could not be written: {e.strerror}.", hint="Free some space or name another folder.") from e


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of ``path``; none if there is no such file.  A line that a stopped run tore is passed over.

    Raises:
        CasesError: a line is whole JSON but no object.
    """
    if not path.is_file():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if not isinstance(value, dict):
            raise CasesError(f"{path}, line {number}: it is not an object.", hint="Remove that line.")
        yield value
