"""Install, update, roll back: what is new is placed beside what runs, tried, and takes its place only when it has answered."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from skinedge.clinic.locks import FileLock
from skinedge.kit.install import InstallError, check_files, check_interpreter
from skinedge.kit.workstation import texts
from skinedge.kit.workstation.health import WAIT_S, RefusedError, answers, await_health
from skinedge.kit.workstation.place import check_serves, place_bundle, place_venv, prune
from skinedge.kit.workstation.places import PROGRAM, Places, write_whole
from skinedge.kit.workstation.pointer import Pointer, Release, read_pointer, write_pointer
from skinedge.kit.workstation.service import Service, service_of

KIT, BUNDLE = "kit.json", "bundle"
DEFAULT_PORT = 7890
# These the workstation decides itself, or they would let other machines in.
NOT_OPTIONS = (
    "--port", "--audit", "--people", "--host", "--expose", "--name", "--open", "--dry-run", "--json", "--help"
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What was typed: ``None`` keeps what there is; ``options`` go to ``skinedge serve``."""

    port: int | None = None
    people: Path | None = None
    options: tuple[str, ...] | None = None
    wait: float = WAIT_S


def install_kit(places: Places, kit: Path, asked: Asked, told: Callable[[str], None]) -> Release:
    """Install a kit, or bring what is installed to its state; again does nothing that is done already.

    Raises:
        InstallError: the kit is damaged or for another machine, or its model does not run; what ran before runs again.
    """
    settings = read_kit(kit, Path(sys.argv[0]).resolve())
    if asked.people and not asked.people.is_file():
        raise InstallError(f"{asked.people}: no such file. Make it: skinedge people add NAME --file {asked.people}")
    told(f"{check_files(kit)} files are as they were written")
    with changing(places):
        service = service_of(places)
        _settle(places, service, kit)
        _copy_people(places, asked.people)
        venv = place_venv(places, kit, settings, told)
        placed = place_bundle(places, kit / BUNDLE, venv, rebuild=settings["rebuild"], told=told)
        before = read_pointer(places).current
        port = asked.port or (before.port if before else DEFAULT_PORT)
        options = asked.options if asked.options is not None else before.options if before else ()
        release = Release(
            placed.folder, venv, placed.digest, placed.target, placed.scheme, placed.rebuilt, settings["skinedge"], port, options
        )
        _switch(places, service, release, asked.wait, told)
        _finish(places, kit)
    return release


def update(places: Places, source: Path, asked: Asked, told: Callable[[str], None]) -> Release:
    """Replace the bundle, by that of a kit with its wheels or by a bundle alone.

    Raises:
        InstallError: nothing is installed, the new one is damaged or does not run; what ran before runs again.
    """
    _need_installed(places)  # before anything is written
    if (source / KIT).is_file():
        return install_kit(places, source, asked, told)
    with changing(places):
        before, service = _need_installed(places), service_of(places)
        placed = place_bundle(places, source, before.venv, rebuild=before.rebuilt, told=told)
        release = replace(
            before, bundle=placed.folder, digest=placed.digest, target=placed.target, scheme=placed.scheme, rebuilt=placed.rebuilt
        )
        _switch(places, service, release, asked.wait, told)
    return release


def rollback(places: Places, asked: Asked, told: Callable[[str], None]) -> Release:
    """Go back to the release before; typed again, it goes forth.

    Raises:
        InstallError: there is none, or it does not run any more.
    """
    _need_installed(places)
    with changing(places):
        previous = read_pointer(places).previous
        if previous is None:
            raise InstallError("there is no earlier release to go back to. Name a bundle instead: workstation.sh update BUNDLE")
        _switch(places, service_of(places), previous, asked.wait, told)
    return previous


def read_kit(kit: Path, script: Path) -> dict[str, Any]:
    """What a kit says of itself; goes on under the Python that it is for.

    Raises:
        InstallError: it is none, is for another machine, or brings no workstation.
    """
    try:
        settings: dict[str, Any] = json.loads((kit / KIT).read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise InstallError(f"{kit} is no kit. Run the workstation.sh of a kit, or name its folder: update KIT") from e
    if not settings.get("workstation"):
        raise InstallError("this kit brings no workstation. Make it again: skinedge kit BUNDLE --device NAME --workstation")
    check_interpreter(settings, script)
    return settings


@contextmanager
def changing(places: Places) -> Iterator[None]:
    """Nobody else changes the workstation meanwhile.

    Raises:
        InstallError: somebody else does.
    """
    made = _make(places.state, places.app)
    lock = FileLock(places.lock)
    if not lock.take():
        raise InstallError("another command is changing the workstation. Wait until it has ended, and type the same again.")
    try:
        if made:
            pointer = read_pointer(places)
            write_pointer(places, replace(pointer, made=(*pointer.made, *made)))
        yield
    finally:
        lock.release()


def _settle(places: Places, service: Service, kit: Path) -> None:
    """What the service needs before it can start; a program that is there stays until the new release has answered."""
    pointer = read_pointer(places)
    made = _make(places.launcher.parent, *(f.parent for f in service.files()))
    write_pointer(places, replace(pointer, made=(*pointer.made, *made)))
    places.save()
    if not places.program.exists():
        write_whole(places.program, (kit / PROGRAM).read_bytes())
    if places.windows:
        write_whole(places.app / "workstation.cmd", texts.cmd_script(places, "%*", window=True).encode("utf-8"))
    else:
        script = places.app / "workstation.sh"
        write_whole(script, texts.shell_script(places).encode("utf-8"))
        script.chmod(0o755)


def _finish(places: Places, kit: Path) -> None:
    """The kit's program, and the entry of the menu."""
    write_whole(places.program, (kit / PROGRAM).read_bytes())
    if places.windows:
        write_whole(places.launcher, texts.cmd_script(places, "open", window=False).encode("utf-8"))
    else:
        write_whole(places.app / "icon.svg", (files("skinedge") / "clinic" / "page" / "icon.svg").read_bytes())
        write_whole(places.launcher, texts.desktop_entry(places).encode("utf-8"))


def _switch(places: Places, service: Service, release: Release, wait: float, told: Callable[[str], None]) -> None:
    """Try a release; afterwards either it runs or what ran before."""
    check_serves(places, release)
    pointer = read_pointer(places)
    if release == pointer.current and answers(service, release):
        service.place(pointer.sandbox)
        return
    try:
        told("starting the model")
        tried = _try(places, service, pointer.trying(release), wait, told)
    except InstallError as e:
        write_pointer(places, pointer)
        raise _put_back(places, service, pointer, wait, e) from e
    except BaseException:
        write_pointer(places, pointer)
        _put_back(places, service, pointer, 0.0, InstallError("it was interrupted"))
        raise
    write_pointer(places, tried.proven(release))
    prune(places, read_pointer(places))


def _try(places: Places, service: Service, pointer: Pointer, wait: float, told: Callable[[str], None]) -> Pointer:
    """Start the candidate, in a lesser sandbox where the system refuses the full one, and wait for its answer."""
    assert pointer.candidate
    write_pointer(places, pointer)
    service.place(pointer.sandbox)
    service.restart()
    try:
        await_health(service, pointer.candidate, wait)
    except RefusedError as e:
        if pointer.sandbox == "basic":
            raise
        told(f"{e}: going on with a sandbox that needs none")
        return _try(places, service, replace(pointer, sandbox="basic"), wait, told)
    return pointer


def _put_back(places: Places, service: Service, pointer: Pointer, wait: float, why: InstallError) -> InstallError:
    """Run again what ran before; returns what to say."""
    reason = str(why).rstrip(".")
    if pointer.current is None:
        service.remove()
        return InstallError(f"{reason}. Nothing runs now; when that is put right, type the same again.")
    service.place(pointer.sandbox)
    service.restart()
    prune(places, pointer)
    if wait:
        try:
            await_health(service, pointer.current, wait)
        except InstallError as e:
            return InstallError(f"{reason}, and then the release before it did not run either: {e}. See {service.log_hint}")
    return InstallError(f"{reason}. Rolled back: {pointer.current.words}, runs as before.")


def _need_installed(places: Places) -> Release:
    current = read_pointer(places).current
    if current is None:
        raise InstallError("no workstation is installed here. Install it from a kit: ./workstation.sh install")
    return current


def _copy_people(places: Places, people: Path | None) -> None:
    """Take over a list of operators; one that is there is not replaced by another."""
    if people is None:
        return
    if not places.people.exists():
        shutil.copyfile(people, places.people)
        with suppress(OSError):
            places.people.chmod(0o600)
    elif places.people.read_bytes() != people.read_bytes():
        raise InstallError(f"{places.people} is another list of operators. Remove it first, or leave --people out.")


def _make(*folders: Path) -> tuple[str, ...]:
    """Make folders; returns those that were not there, the innermost last."""
    made = [p for folder in folders for p in (*reversed(folder.parents), folder) if not p.exists()]
    for path in made:
        path.mkdir(mode=0o700, exist_ok=True)
    return tuple(dict.fromkeys(str(p) for p in made))
