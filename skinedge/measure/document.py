"""Documents that go between machines as JSON: written in one form, and checked as data from outside when they are read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from skinedge.errors import UsageError

MAX_DOCUMENT = 64 << 20

M = TypeVar("M", bound=BaseModel)


class Record(BaseModel):
    """A part of a document: nothing unknown, nothing converted, nothing infinite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Document(Record):
    """A whole one; the same content gives the same text and digest."""

    @property
    def digest(self) -> str:
        """sha256 of the document."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_json(path: Path, what: str, hint: str, *, absent: str | None = None) -> tuple[str, object]:
    """The text of a file and the JSON that it holds; nothing of its content is checked.

    Args:
        path: the file.
        what: what it should be, for the error: "a forecast".
        hint: what to type to get one.
        absent: what to do where the file cannot be read; by default ``hint``.

    Raises:
        UsageError: it is missing, too large, or not JSON.
    """
    try:
        if path.stat().st_size > MAX_DOCUMENT:
            raise UsageError(f"{path}: {path.stat().st_size} bytes is too large for {what}.", hint=hint)
        text = path.read_text(encoding="utf-8")
        raw: object = json.loads(text)
    except OSError as e:
        raise UsageError(f"{path} cannot be read: {e.strerror}.", hint=absent or hint) from e
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{path} is not JSON: {e}.", hint=hint) from e
    return text, raw


def validated(model: type[M], path: Path, text: str, whole: str, again: str) -> M:
    """``text``, which came from ``path``, as ``model``; an error names the first field that is wrong, or ``whole``.

    Raises:
        UsageError: it breaks a rule of the model; ``again`` says how to make it anew.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or whole
        raise UsageError(f"{path}: {where}: {first['msg']}.", hint=f"The file was changed or damaged: {again}") from e
