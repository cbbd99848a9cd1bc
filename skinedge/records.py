"""Conversations about photographs as they lie on disk: JSON Lines in the layout of the SkinGPT-R1 authors.

One record a line (REFERENCE section 2), image paths relative to the file::

    {"messages": [{"role": "user", "content": "<image>question"}, {"role": "assistant", "content": "..."}],
     "images": ["images/1.png"]}

Training and calibration read it alike and refuse it in words of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from skinedge.errors import SkinedgeError
from skinedge.runtime.prompt import ImagePart, Message, Role, TextPart

IMAGE_PLACE = "<image>"
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Conversation:
    """Turns and the photographs they show; ``where`` (file and line) is for messages."""

    where: str
    messages: tuple[Message, ...]
    images: tuple[Path, ...]

    def content(self) -> list[object]:
        """What is said, and the sha256 of each photograph's bytes: the part of a digest (reads the photographs)."""
        said = [[m.role, m.content if isinstance(m.content, str) else list(map(_said, m.content))] for m in self.messages]
        return [said, [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.images]]


@dataclass(frozen=True)
class RecordReader:
    """Reads single lines; what cannot be used raises ``error`` with ``layout`` as its hint.

    ``silence`` says what is missing where no assistant's turn says anything.
    """

    error: type[SkinedgeError]
    layout: str
    silence: str

    def read(self, file: Path, where: str, line: str) -> tuple[dict[str, Any], Conversation]:
        """The record as it stands, for keys of the caller's own, and the conversation in it.

        Raises:
            SkinedgeError: of the reader's kind: not the layout, or a photograph is missing; ``where`` is named.
        """
        raw = self._object(where, line)
        messages, images = self._messages(raw.get("messages"), where), self._images(raw.get("images", []), file.parent, where)
        places = sum(isinstance(part, ImagePart) for m in messages for part in m.content)
        if places != len(images):
            raise self.error(f"{where}: it has {places} places {IMAGE_PLACE} and {len(images)} images.", hint=self.layout)
        return raw, Conversation(where, messages, images)

    def _object(self, where: str, line: str) -> dict[str, Any]:
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise self.error(f"{where}: not JSON ({e}).", hint=self.layout) from e
        if not isinstance(raw, dict):
            raise self.error(f"{where}: not a JSON object.", hint=self.layout)
        return raw

    def _messages(self, raw: object, where: str) -> tuple[Message, ...]:
        if not isinstance(raw, list):
            raise self.error(f"{where}: 'messages' is missing or no list.", hint=self.layout)
        messages = tuple(self._message(m, where) for m in raw)
        if not any(m.role == "assistant" and m.content for m in messages):
            raise self.error(f"{where}: {self.silence}: no assistant's turn says anything.", hint=self.layout)
        return messages

    def _message(self, raw: object, where: str) -> Message:
        if not isinstance(raw, dict) or not isinstance(raw.get("content"), str):
            raise self.error(f"{where}: a message must have a 'role' and a 'content' of text.", hint=self.layout)
        role, content = raw.get("role"), raw["content"]
        if role not in _ROLES:
            raise self.error(f"{where}: '{role}' is no role in a conversation.", hint=f"Known: {', '.join(_ROLES)}.")
        if IMAGE_PLACE in content and role != "user":
            raise self.error(f"{where}: {IMAGE_PLACE} stands in the {role}'s turn, and only the user shows photographs.")
        return Message(cast(Role, role), tuple(_parts(content)) if IMAGE_PLACE in content else content)

    def _images(self, raw: object, folder: Path, where: str) -> tuple[Path, ...]:
        names = [raw] if isinstance(raw, str) else raw
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.error(f"{where}: 'images' is no list of paths.", hint=self.layout)
        paths = tuple(folder / name for name in names)
        for path in paths:
            if not path.is_file():
                raise self.error(f"{where}: its image {path.name} is missing.", hint=f"It was looked for in {path.parent}.")
        return paths


def _parts(content: str) -> Iterator[TextPart | ImagePart]:
    for number, text in enumerate(content.split(IMAGE_PLACE)):
        if number:
            yield ImagePart()
        if text:
            yield TextPart(text)


def _said(part: TextPart | ImagePart) -> str | None:
    return part.text if isinstance(part, TextPart) else None
