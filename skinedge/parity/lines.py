"""JSON Lines that survive a stop: each line is on the disk when its call returns, and a torn last line is not read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from skinedge.errors import CasesError, OutputError


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
