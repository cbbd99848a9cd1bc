"""Training records, read and checked: JSON Lines in the layout of the SkinGPT-R1 authors.

One record a line (REFERENCE section 2)::

    {"messages": [{"role": "user", "content": "<image>question"}, {"role": "assistant", "content": "..."}],
     "images": ["images/1.png"], "skin_labels": 0, "id": "case-1"}

Paths are relative to the file.  ``skin_labels`` (0 light, 1 medium, 2 dark; a number or a list of one) and
``id`` may be missing; any other key is left alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from skinedge.console import counted
from skinedge.runtime.prompt import ImagePart, Message, Role, TextPart
from skinedge.weights.checkpoint import digest_of
from train.errors import DataError

IMAGE_PLACE = "<image>"
NO_LABEL = -100
_ROLES = ("system", "user", "assistant")
_LAYOUT = 'A record is {"messages": [...], "images": [...], "skin_labels": 0}; see train/data.py.'


@dataclass(frozen=True)
class Record:
    """One conversation about one or more photographs; ``where`` is for messages (file and line)."""

    id: str
    where: str
    messages: tuple[Message, ...]
    images: tuple[Path, ...]
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
        pictures = [hashlib.sha256(p.read_bytes()).hexdigest() for p in record.images]
        said = [[m.role, m.content if isinstance(m.content, str) else list(map(_said, m.content))] for m in record.messages]
        total.update(digest_of([record.id, said, pictures, record.skin]).encode())
    return total.hexdigest()


def _said(part: TextPart | ImagePart) -> str | None:
    return part.text if isinstance(part, TextPart) else None


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
    try:
        raw = json.loads(text)
    except ValueError as e:
        raise DataError(f"{where}: not JSON ({e}).", hint=_LAYOUT) from e
    if not isinstance(raw, dict):
        raise DataError(f"{where}: not a JSON object.", hint=_LAYOUT)
    identity = raw.get("id", f"{file.stem}-{line}")
    if not isinstance(identity, str) or not identity:
        raise DataError(f"{where}: 'id' is {identity!r} and must be a text.", hint=_LAYOUT)
    messages = _messages(raw.get("messages"), where)
    images = _images(raw.get("images"), file.parent, where)
    places = sum(isinstance(part, ImagePart) for m in messages for part in m.content)
    if places != len(images):
        raise DataError(f"{where}: it has {places} places {IMAGE_PLACE} and {len(images)} images.", hint=_LAYOUT)
    return Record(identity, where, messages, images, _skin(raw.get("skin_labels"), where))


def _messages(raw: object, where: str) -> tuple[Message, ...]:
    if not isinstance(raw, list) or not raw:
        raise DataError(f"{where}: 'messages' is missing or no list.", hint=_LAYOUT)
    messages = tuple(_message(m, where) for m in raw)
    if not any(m.role == "assistant" and m.content for m in messages):
        raise DataError(f"{where}: there is no supervised token: no assistant's turn says anything.", hint=_LAYOUT)
    return messages


def _message(raw: object, where: str) -> Message:
    if not isinstance(raw, dict) or not isinstance(raw.get("content"), str):
        raise DataError(f"{where}: a message must have a 'role' and a 'content' of text.", hint=_LAYOUT)
    role, content = raw.get("role"), raw["content"]
    if role not in _ROLES:
        raise DataError(f"{where}: '{role}' is no role in a conversation.", hint=f"Known: {', '.join(_ROLES)}.")
    if IMAGE_PLACE in content and role != "user":
        raise DataError(f"{where}: {IMAGE_PLACE} stands in the {role}'s turn, and only the user shows photographs.")
    return Message(cast(Role, role), tuple(_parts(content)) if IMAGE_PLACE in content else content)


def _parts(content: str) -> Iterator[TextPart | ImagePart]:
    for number, text in enumerate(content.split(IMAGE_PLACE)):
        if number:
            yield ImagePart()
        if text:
            yield TextPart(text)


def _images(raw: object, folder: Path, where: str) -> tuple[Path, ...]:
    if isinstance(raw, str):
        raw = [raw]
    if not isinstance(raw, list) or not raw or not all(isinstance(name, str) for name in raw):
        raise DataError(f"{where}: it has no image.", hint=_LAYOUT)
    paths = tuple(folder / name for name in raw)
    for path in paths:
        if not path.is_file():
            raise DataError(f"{where}: its image {path.name} is missing.", hint=f"It was looked for in {path.parent}.")
    return paths


def _skin(raw: object, where: str) -> int:
    if isinstance(raw, list) and len(raw) == 1:
        raw = raw[0]
    if raw is None:
        return NO_LABEL
    if isinstance(raw, bool) or not isinstance(raw, int) or raw not in (0, 1, 2):
        raise DataError(f"{where}: skin_labels is {raw!r} and must be 0, 1 or 2 (light, medium, dark).")
    return raw
