"""Where the parts of an installed workstation lie; nothing outside of these places is touched."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from skinedge.clinic.places import AUDIT, PEOPLE, state_folder
from skinedge.kit.install import InstallError

NAME = "skinedge-workstation"
PROGRAM = "workstation.pyz"
SCRIPTS = ("workstation.sh", "workstation.cmd")
PLACES_FILE = "places.json"
UNIT = f"{NAME}.service"


@dataclass(frozen=True)
class Places:
    """Folders and files of one person's workstation.

    ``app`` holds program, environments and bundles, ``state`` the audit log, the list of operators and locks.  ``launcher`` is
    the entry of the desktop's menu, ``unit`` systemd's, ``startup`` what Windows runs at logon.  ``python`` runs the program: it
    must outlive every environment.
    """

    app: Path
    state: Path
    unit: Path
    launcher: Path
    startup: Path | None
    python: Path

    @property
    def program(self) -> Path:
        """This program, installed."""
        return self.app / PROGRAM

    @property
    def pointer(self) -> Path:
        """Which release runs."""
        return self.app / "current.json"

    @property
    def bundles(self) -> Path:
        """One folder for each bundle."""
        return self.app / "bundles"

    @property
    def venvs(self) -> Path:
        """One virtual environment for each set of wheels."""
        return self.app / "venvs"

    @property
    def lock(self) -> Path:
        """Held while something is changed; a release on trial runs only meanwhile."""
        return self.state / "workstation.lock"

    @property
    def serving(self) -> Path:
        """Held by the keeper, which runs the server where systemd does not."""
        return self.state / "workstation.running"

    @property
    def stop(self) -> Path:
        """Asks the keeper to end."""
        return self.state / "workstation.stop"

    @property
    def log(self) -> Path:
        """What the server says, where there is no journal."""
        return self.state / "workstation.log"

    @property
    def audit(self) -> Path:
        """The audit log's folder."""
        return self.state / AUDIT

    @property
    def people(self) -> Path:
        """The list of operators."""
        return self.state / PEOPLE

    @property
    def own_state(self) -> tuple[Path, ...]:
        """Every file of ``state`` but the audit log."""
        old = self.log.with_suffix(".log.1")
        return (self.people, self.people.with_name(f".{PEOPLE}.lock"), self.log, old, self.stop, self.serving, self.lock)

    @property
    def windows(self) -> bool:
        """Whether they are Windows'."""
        return self.startup is not None

    def save(self) -> None:
        """Write them down: whoever removes the workstation may have another environment."""
        write_json(self.app / PLACES_FILE, {k: v and str(v) for k, v in asdict(self).items() if k != "app"})


def installed_places(app: Path) -> Places | None:
    """The places that were written down in ``app``; nothing if nothing is installed there.

    Raises:
        InstallError: the file is damaged.
    """
    try:
        raw = json.loads((app / PLACES_FILE).read_text(encoding="utf-8"))
        state, unit, launcher, python = (Path(raw[name]) for name in ("state", "unit", "launcher", "python"))
        return Places(app, state, unit, launcher, Path(raw["startup"]) if raw["startup"] else None, python)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as e:
        raise InstallError(f"{app / PLACES_FILE} is damaged. Delete it and install again from the kit.") from e


def user_places() -> Places:
    """Where this person's workstation lies, or would lie."""
    home = Path.home()
    python = Path(getattr(sys, "_base_executable", None) or sys.executable)
    if sys.platform == "win32":
        local, roaming = _folder("LOCALAPPDATA", home / "AppData" / "Local"), _folder("APPDATA", home / "AppData" / "Roaming")
        menu = roaming / "Microsoft" / "Windows" / "Start Menu" / "Programs"
        app = local / NAME
        places = Places(app, state_folder(), app / UNIT, menu / f"{NAME}.cmd", menu / "Startup" / f"{NAME}.cmd", python)
    else:
        data, config = _folder("XDG_DATA_HOME", home / ".local" / "share"), _folder("XDG_CONFIG_HOME", home / ".config")
        launcher = data / "applications" / f"{NAME}.desktop"
        places = Places(data / NAME, state_folder(), config / "systemd" / "user" / UNIT, launcher, None, python)
    return installed_places(places.app) or places


def write_json(path: Path, content: object) -> None:
    """Put a small file in the place of another: after a power cut it is the old one or the new one."""
    write_whole(path, json.dumps(content, indent=1).encode("utf-8") + b"\n")


def write_whole(path: Path, content: bytes) -> None:
    """The same for any content."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _folder(variable: str, usual: Path) -> Path:
    named = Path(os.environ.get(variable, ""))
    return named if named.is_absolute() else usual  # the XDG specification: what is not absolute is to be ignored
