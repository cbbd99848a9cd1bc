"""Uninstall: everything that the installation made goes; the audit log is moved, for it may have to be kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from skinedge.kit.install import InstallError
from skinedge.kit.workstation.change import changing
from skinedge.kit.workstation.places import Places
from skinedge.kit.workstation.pointer import read_pointer
from skinedge.kit.workstation.service import service_of


def uninstall(places: Places, keep_log: Path | None, *, purge_log: bool, told: Callable[[str], None]) -> Path | None:
    """Remove service, launcher, environments, bundles and state; returns where the audit log is now.

    Args:
        places: where everything lies.
        keep_log: new folder for the log; by default one beside the person's own, named by the date.
        purge_log: delete it instead.
        told: is called with what stays.

    Raises:
        InstallError: nothing is installed, the server does not end, or the log cannot be moved; the same command goes on.
    """
    if not places.app.is_dir():
        raise InstallError("no workstation is installed here, so there is nothing to remove.")
    with changing(places):
        made = _made(places)
        service_of(places).remove()
        for file in (places.launcher, *([places.startup] if places.startup else [places.unit])):
            file.unlink(missing_ok=True)
        kept = _log(places, keep_log, purge=purge_log)
        _empty(places)
    for file in places.own_state:
        file.unlink(missing_ok=True)
    shutil.rmtree(places.app)
    if left := sorted(p.name for p in places.state.iterdir()):
        told(f"{places.state} holds what the workstation did not write, and stays: {', '.join(left)}")
    for folder in (places.state, *reversed(made)):
        with suppress(OSError):  # somebody else uses it
            folder.rmdir()
    return kept


def _made(places: Places) -> tuple[Path, ...]:
    try:
        return tuple(map(Path, read_pointer(places).made))
    except InstallError:  # a damaged file must not keep the rest from being removed
        return ()


def _log(places: Places, keep: Path | None, *, purge: bool) -> Path | None:
    if not places.audit.exists():
        return None
    if purge:
        shutil.rmtree(places.audit)
        return None
    to = (keep or Path.home() / f"skinedge-audit-{datetime.now():%Y%m%d-%H%M%S}").absolute()
    if to.exists():
        raise InstallError(f"{to} exists. Name a new folder for the audit log: uninstall --keep-log FOLDER")
    if places.app in to.parents or places.state in to.parents:
        raise InstallError(f"{to} is in a folder that is removed. Name another one: uninstall --keep-log FOLDER")
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(places.audit, to)
    return to


def _empty(places: Places) -> None:
    """All but the program and what it needs to be started again, if this is interrupted."""
    for path in places.app.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
