"""Training records, read and checked: the layout of ``skinedge.records``, and what training asks beyond it.

Each has a photograph.  ``skin_labels`` (0 light, 1 medium, 2 dark; a number or a list of one) and ``id`` may be
missing; any other key is left alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from skinedge.console import counted
from skinedge.records import Conversation, RecordReader
from skinedge.weights.checkpoint import digest_of
from train.errors import DataError

NO_LABEL = -100
_LAYOUT = 'A record is {"messages": [...], "images": [...], "skin_labels": 0}; see skinedge/records.py.'
_READER = RecordReader(DataError, _LAYOUT, "there is no supervised token")


@dataclass(frozen=True)
class Record(Conversation):
    """One conversation about one or more photographs."""

    id: str
    skin: int  # 0, 1, 2, or NO_LABEL


def read_records(files: Sequence[Path]) -> tuple[Record, ...]:
    """Every record of ``files``, checked as far as it can be without opening a photograph.

    Raises:
        DataError: a file or photograph is missing, or a record is not what it must be; file and line are named.
    """
    records: list[Record] = []
    seen: dict[str, str] = {}
    for file in files:
        for line, text in _lines(file):
            record = _record(file, line, text)
            if record.id in seen:
                raise DataError(f"{record.where}: the id '{record.id}' is also that of {seen[record.id]}.")
            seen[record.id] = record.where
            records.append(record)
    if not records:
        raise DataError(f"{', '.join(map(str, files)) or 'the recipe'}: there are no records.", hint="Give a file with --data.")
    return tuple(records)


def data_digest(records: Sequence[Record], *, quiet: bool = True) -> str:
    """sha256 over what the records say and the bytes of their photographs (reads every photograph once)."""
    total = hashlib.sha256()
    for record in counted("reading photographs", records, quiet):
        total.update(digest_of([record.id, *record.content(), record.skin]).encode())
    return total.hexdigest()


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        with file.open(encoding="utf-8") as f:
            for number, text in enumerate(f, 1):
                if text.strip():
                    yield number, text
    except OSError as e:
        raise DataError(f"{file} cannot be read: {e.strerror}.", hint="Give the file of records with --data.") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{file}: not UTF-8 text ({e.reason} at byte {e.start}).") from e


def _record(file: Path, line: int, text: str) -> Record:
    where = f"{file}, line {line}"
    raw, conversation = _READER.read(file, where, text)
    if not conversation.images:
        raise DataError(f"{where}: it has no image.", hint=_LAYOUT)
    identity = raw.get("id", f"{file.stem}-{line}")
    if not isinstance(identity, str) or not identity:
        raise DataError(f"{where}: 'id' is {identity!r} and must be a text.", hint=_LAYOUT)
    return Record(where, conversation.messages, conversation.images, identity, _skin(raw.get("skin_labels"), where))


def _skin(raw: object, where: str) -> int:
    if isinstance(raw, list) and len(raw) == 1:
        raw = raw[0]
    if raw is None:
        return NO_LABEL
    if isinstance(raw, bool) or not isinstance(raw, int) or raw not in (0, 1, 2):
        raise DataError(f"{where}: skin_labels is {raw!r} and must be 0, 1 or 2 (light, medium, dark).")
    return raw
