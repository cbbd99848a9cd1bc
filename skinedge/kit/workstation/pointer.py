"""``current.json``: which release runs, which one ran before, and which one is on trial."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from skinedge.clinic.locks import is_held
from skinedge.kit.install import InstallError
from skinedge.kit.workstation.places import Places, write_json

SCHEMA = 1


@dataclass(frozen=True)
class Release:
    """One thing that can run: folders of ``bundles`` and ``venvs``, and how ``skinedge serve`` is called.

    ``digest``, ``target`` and ``scheme`` are the bundle's; ``rebuilt`` says that its engines were built on this machine;
    ``skinedge`` is the version in the environment.
    """

    bundle: str
    venv: str
    digest: str
    target: str
    scheme: str
    rebuilt: bool
    skinedge: str
    port: int
    options: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.target} {self.scheme}, digest {self.digest[:16]}, skinedge {self.skinedge}"


@dataclass(frozen=True)
class Pointer:
    """The whole file.

    ``candidate`` runs only while whoever tries it holds the lock, so a power cut on the way leaves ``current`` running.
    ``sandbox`` is ``full`` or, where the system refuses that, ``basic``; ``made`` are folders that the installation made.
    """

    current: Release | None = None
    previous: Release | None = None
    candidate: Release | None = None
    sandbox: str = "full"
    made: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[Release, ...]:
        """What must stay on the disk."""
        return tuple(r for r in (self.current, self.previous, self.candidate) if r)

    def trying(self, release: Release) -> Pointer:
        """With ``release`` on trial."""
        return replace(self, candidate=release)

    def proven(self, release: Release) -> Pointer:
        """With ``release`` as the current one; what ran before can be gone back to."""
        before = self.current if self.current != release else self.previous
        return replace(self, current=release, previous=before, candidate=None)


def read_pointer(places: Places) -> Pointer:
    """The file, or an empty one.

    Raises:
        InstallError: it is damaged or of another version.
    """
    try:
        raw = json.loads(places.pointer.read_text(encoding="utf-8"))
        if raw.pop("schema") != SCHEMA:
            raise ValueError
        releases = {name: _release(raw.pop(name)) for name in ("current", "previous", "candidate")}
        return Pointer(**releases, sandbox=raw.pop("sandbox"), made=tuple(raw.pop("made")))
    except FileNotFoundError:
        return Pointer()
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise InstallError(f"{places.pointer} is damaged. Delete it and install again from the kit.") from e


def write_pointer(places: Places, pointer: Pointer) -> None:
    """Replace the file in one step."""
    write_json(places.pointer, {"schema": SCHEMA, **asdict(pointer)})


def release_to_run(places: Places) -> Release:
    """The current release, or the one on trial.

    Raises:
        InstallError: there is none.
    """
    pointer = read_pointer(places)
    if pointer.candidate and is_held(places.lock):
        return pointer.candidate
    if pointer.current is None:
        raise InstallError("no bundle is installed here. Install the kit: ./workstation.sh install")
    return pointer.current


def _release(raw: dict[str, Any] | None) -> Release | None:
    return Release(**{**raw, "options": tuple(raw["options"])}) if raw else None
