"""Documents that go between machines as JSON: written in one form, and checked as data from outside when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from skinedge.errors import BundleError, UsageError

MAX_DOCUMENT = 64 << 20

M = TypeVar("M", bound=BaseModel)
D = TypeVar("D", bound="Document")


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


def sealed(document: Document, **more: str) -> str:
    """The text of a file that states its own digest, and ``more`` that is no part of the document."""
    seals = {"digest": document.digest, **more}
    return json.dumps({**document.model_dump(mode="json"), **seals}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def unsealed(model: type[D], path: Path, what: str, again: str, *, more: tuple[str, ...] = ()) -> tuple[D, dict[str, str]]:
    """What ``sealed`` wrote, every byte checked, and the seals named ``more``.

    Args:
        model: what it should be; its fields ``kind`` and ``schema_version`` say which one is read.
        path: the file.
        what: in words, for errors: "a certificate".
        again: how to make it anew.
        more: names of further seals.

    Raises:
        UsageError: it is missing, too large, not JSON, or breaks a rule of the schema.
        BundleError: it is of another kind or version, or was changed since it was written.
    """
    _, raw = read_json(path, what, again)
    found = dict(raw) if isinstance(raw, Mapping) else {}
    kind, version = (model.model_fields[name].default for name in ("kind", "schema_version"))
    if found.get("kind") != kind or found.get("schema_version") != version:
        is_ = f"its kind is {found.get('kind')!r} and its schema version {found.get('schema_version')!r}"
        raise BundleError(f"{path}: {is_}, and this skinedge reads '{kind}' {version}.", hint=again)
    found.pop("digest", None)
    seals = {name: str(found.pop(name, "")) for name in more}
    document = validated(model, path, json.dumps(found), what.removeprefix("a "), again)
    if path.read_bytes() != sealed(document, **seals).encode():
        raise BundleError(f"{path} was changed since it was written: its digest is another.", hint=again)
    return document, seals


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
