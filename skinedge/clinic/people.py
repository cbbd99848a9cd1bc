"""Operators: who may use the workstation, and what their role lets them do.

They stand in one JSON file of which only scrypt hashes of the passphrases are kept.  Without the file nobody is asked to log
in; with it, also an empty one, everybody is.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skinedge.clinic.locks import FileLock
from skinedge.errors import PeopleError
from skinedge.registry import check
from skinedge.staging import staged_file

ROLES: Mapping[str, frozenset[str]] = {
    "clinician": frozenset({"ask", "lineage", "self-test"}),
    "auditor": frozenset({"lineage", "self-test"}),
    "admin": frozenset({"ask", "lineage", "self-test"}),
}
MIN_PASSPHRASE, MAX_PASSPHRASE = 10, 1024  # characters
MAX_NAME = 64
MAX_FILE = 1 << 20
_N, _R, _P, _BYTES = 2**15, 8, 1, 32  # 32 MiB and about a tenth of a second a try
_ONE_AT_A_TIME = Lock()  # many logins at once must not take 32 MiB each


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    role: Annotated[str, Field(pattern=f"^({'|'.join(ROLES)})$")]
    salt: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{22}==$")]
    scrypt: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]


class _Sheet(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    version: Annotated[int, Field(ge=1, le=1)]
    people: list[_Row]


@dataclass(frozen=True)
class Person:
    """Somebody on the list; ``salt`` and ``scrypt`` are never shown."""

    name: str
    role: str
    salt: bytes
    scrypt: bytes

    def __repr__(self) -> str:
        return f"Person({self.name!r}, {self.role!r})"

    def may(self, what: str) -> bool:
        """Whether the role lets them: ``ask`` a model, see its ``lineage`` and certificate, run the ``self-test``."""
        return what in ROLES[self.role]


@dataclass(frozen=True)
class People:
    """Everybody on the list; ``needed`` says whether one has to log in, which is whether there is a list."""

    people: tuple[Person, ...] = ()
    needed: bool = False

    @classmethod
    def load(cls, path: Path) -> People:
        """The list at ``path``; nobody if there is no such file.

        Raises:
            PeopleError: it is damaged or names somebody twice.
        """
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            return cls()
        try:
            if len(raw) > MAX_FILE:
                raise ValueError
            sheet = _Sheet.model_validate_json(raw)
            found = tuple(Person(r.name, r.role, _bytes(r.salt), _bytes(r.scrypt)) for r in sheet.people)
            if len({p.name for p in found}) != len(found) or any(p.name != _plain(p.name) for p in found):
                raise ValueError
        except (ValidationError, ValueError, PeopleError) as e:
            hint = "Put back a copy, or remove the file and add everybody again: skinedge people add NAME"
            raise PeopleError(f"{path} is not a list of operators as skinedge writes it.", hint=hint) from e
        return cls(found, True)

    def save(self, path: Path) -> None:
        """Write the list, for its owner alone where the system knows that; the old one stays until the new one is whole.

        Raises:
            OutputError: it cannot be written.
        """
        rows = [{"name": p.name, "role": p.role, "salt": _text(p.salt), "scrypt": _text(p.scrypt)} for p in self.people]
        beside = path.with_name(f".{path.name}.new")
        beside.unlink(missing_ok=True)
        with staged_file(beside) as file:
            if sys.platform != "win32":
                os.fchmod(file.fileno(), 0o600)
            file.write(json.dumps({"version": 1, "people": rows}, indent=1).encode("ascii") + b"\n")
        beside.replace(path)

    def find(self, name: str) -> Person | None:
        """Who is called so."""
        return next((p for p in self.people if p.name == _written(name)), None)

    def check(self, name: str, passphrase: str) -> Person | None:
        """Who has this name and this passphrase; it takes as long for a name that is unknown.

        About a tenth of a second and 32 MiB, one at a time: call it from a thread, after the throttle was asked.
        """
        known = self.find(name)
        salt, expected = (known.salt, known.scrypt) if known else _nobody()
        with _ONE_AT_A_TIME:
            right = hmac.compare_digest(_scrypt(passphrase[:MAX_PASSPHRASE], salt), expected)
        return known if right and len(passphrase) <= MAX_PASSPHRASE else None

    def having(self, person: Person) -> People:
        """The list with ``person`` in it, instead of who had that name before."""
        others = [p for p in self.people if p.name != person.name]
        return People(tuple(sorted([*others, person], key=lambda p: p.name)), True)

    def without(self, name: str) -> People:
        """The list without who is called so.

        Raises:
            PeopleError: nobody is.
        """
        if self.find(name) is None:
            listed = ", ".join(p.name for p in self.people) or "nobody"
            raise PeopleError(f"'{name}' is not on the list of operators.", hint=f"On it: {listed}.")
        return People(tuple(p for p in self.people if p.name != _written(name)), True)


def person(name: str, role: str, passphrase: str) -> Person:
    """Somebody new.

    Raises:
        PeopleError: the name or the passphrase cannot be used.
        UsageError: there is no such role.
    """
    check("role", role, tuple(ROLES))
    if not MIN_PASSPHRASE <= len(passphrase) <= MAX_PASSPHRASE:
        long = len(passphrase) > MAX_PASSPHRASE
        what = f"more than {MAX_PASSPHRASE} characters" if long else f"fewer than {MIN_PASSPHRASE} characters"
        raise PeopleError(f"the passphrase has {what}.", hint="Four or five words that do not belong together are good.")
    salt = secrets.token_bytes(16)
    return Person(_plain(name), role, salt, _scrypt(passphrase, salt))


@contextmanager
def changing(path: Path) -> Iterator[People]:
    """The list at ``path`` while nobody else changes it.

    Raises:
        PeopleError: somebody else does, or it is damaged.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    if not lock.take():
        raise PeopleError(f"{path} is being changed by another command.", hint="Wait until it has ended, and try again.")
    try:
        yield People.load(path)
    finally:
        lock.release()


def _plain(name: str) -> str:
    """A name as it is kept: it goes into the log and onto screens."""
    name = _written(name)
    if not name or len(name) > MAX_NAME or any(unicodedata.category(c)[0] == "C" for c in name):
        raise PeopleError(f"{name!r} is no name.", hint=f"1 to {MAX_NAME} characters without control characters.")
    return name


def _written(text: str) -> str:
    """The same letters however a keyboard composes them."""
    return unicodedata.normalize("NFC", text).strip()


@cache
def _nobody() -> tuple[bytes, bytes]:
    """The salt and the hash that an unknown name is compared with: no passphrase has them."""
    return secrets.token_bytes(16), secrets.token_bytes(_BYTES)


def _scrypt(passphrase: str, salt: bytes) -> bytes:
    spelled = unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(spelled, salt=salt, n=_N, r=_R, p=_P, maxmem=2 * 128 * _N * _R, dklen=_BYTES)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
