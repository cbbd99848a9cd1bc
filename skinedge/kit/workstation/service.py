"""How the server is kept running: by systemd for this user, or by a process of our own where there is no systemd."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from skinedge.clinic.locks import is_held
from skinedge.kit.install import InstallError
from skinedge.kit.workstation import texts
from skinedge.kit.workstation.places import UNIT, Places, write_whole

STOP_S = 40.0
# Of systemd.exec(5): what it could not set up for the process before it began.
_REFUSED = {
    "217": "user namespace",
    "218": "capabilities",
    "226": "mount namespace",
    "227": "no new privileges",
    "228": "seccomp",
}
_REFUSED |= {"232": "address families"}


@dataclass(frozen=True)
class State:
    """``ended`` says that it will not come up by itself, ``refused`` what the system would not set up for it."""

    running: bool
    ended: bool
    refused: str = ""


class Service(Protocol):
    """What keeps the server running."""

    kind: str
    log_hint: str

    def place(self, sandbox: str) -> None:
        """Write its files; again does nothing."""

    def files(self) -> tuple[Path, ...]:
        """What ``place`` writes and ``remove`` takes away."""

    def restart(self) -> None:
        """Start, after ending what runs."""

    def stop(self) -> None:
        """End it; what does not run may be ended."""

    def state(self) -> State:
        """How it is."""

    def log_tail(self) -> str:
        """The last thing it said."""

    def remove(self) -> None:
        """End it and take its files away."""


class Systemd:
    """A unit of the user's own systemd."""

    kind = "systemd"
    log_hint = f"journalctl --user -u {UNIT}"

    def __init__(self, places: Places) -> None:
        self._places = places

    def place(self, sandbox: str) -> None:
        self._places.unit.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._places.unit, texts.unit(self._places, sandbox).encode("utf-8"))
        _systemctl("daemon-reload")
        _systemctl("enable", UNIT)

    def files(self) -> tuple[Path, ...]:
        return (self._places.unit,)

    def restart(self) -> None:
        _systemctl("reset-failed", UNIT, check=False)
        _systemctl("restart", UNIT, check=False)  # how it went, ``state`` says

    def stop(self) -> None:
        if self._places.unit.exists():
            _systemctl("stop", UNIT)

    def state(self) -> State:
        names = ("ActiveState", "ExecMainStatus", "NRestarts")
        said = _systemctl("show", UNIT, *(f"--property={name}" for name in names), check=False)
        found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        active = found.get("ActiveState") == "active"
        ended = found.get("ActiveState") in ("failed", "inactive") or found.get("NRestarts", "0") != "0"
        return State(active, ended, _REFUSED.get(found.get("ExecMainStatus", ""), "") if ended else "")

    def log_tail(self) -> str:
        if not shutil.which("journalctl"):
            return ""
        command = ["journalctl", "--user", "-u", UNIT, "-n", "20", "-o", "cat", "--no-pager"]
        return last_words(subprocess.run(command, capture_output=True, text=True, check=False).stdout)

    def remove(self) -> None:
        if self._places.unit.exists():
            _systemctl("disable", "--now", UNIT)
            self._places.unit.unlink()
            _systemctl("daemon-reload", check=False)
            _systemctl("reset-failed", UNIT, check=False)


class Keeper:
    """``workstation.pyz keep`` in the background; Windows starts it at logon, elsewhere the launcher does."""

    kind = "keeper"

    def __init__(self, places: Places) -> None:
        self._places = places
        self.log_hint = f"the file {places.log}"

    def place(self, sandbox: str) -> None:
        del sandbox  # there is none
        if self._places.startup:
            self._places.startup.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._places.startup, texts.cmd_script(self._places, "keep", window=False).encode("utf-8"))
        else:
            script = self._places.app / "start.sh"
            write_whole(script, texts.start_script(self._places).encode("utf-8"))
            script.chmod(0o755)

    def files(self) -> tuple[Path, ...]:
        return (self._places.startup or self._places.app / "start.sh",)

    def restart(self) -> None:
        self.stop()
        self._places.stop.unlink(missing_ok=True)
        command = [str(self._places.python), str(self._places.program), "keep"]
        # What was said before is no reason for what happens now.
        with suppress(FileNotFoundError):
            self._places.log.replace(self._places.log.with_suffix(".log.1"))
        options: Mapping[str, int | bool]
        if sys.platform == "win32":
            options = {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
        else:
            options = {"start_new_session": True}
        none = subprocess.DEVNULL
        subprocess.Popen(command, stdin=none, stdout=none, stderr=none, cwd=self._places.state, **options)  # type: ignore[call-overload]
        _wait(lambda: self.state().running, 10.0)

    def stop(self) -> None:
        if not self.state().running:
            return
        self._places.stop.touch()
        if not _wait(lambda: not self.state().running, STOP_S):
            raise InstallError("the server does not end. Log off and on again, then type the same.")
        self._places.stop.unlink(missing_ok=True)

    def state(self) -> State:
        running = is_held(self._places.serving)
        return State(running, not running)

    def log_tail(self) -> str:
        with suppress(OSError):
            return last_words(self._places.log.read_text(encoding="utf-8", errors="replace")[-8000:])
        return ""

    def remove(self) -> None:
        self.stop()
        for file in self.files():
            file.unlink(missing_ok=True)


def service_of(places: Places) -> Service:
    """What it was installed with, which its files tell; at first systemd, where the user has one that answers.

    Raises:
        InstallError: it was installed with systemd, and that cannot be reached from here.
    """
    installed, keeper = places.unit.exists(), Keeper(places)
    if places.windows or (not installed and any(file.exists() for file in keeper.files())):
        return keeper
    why = _unreachable()
    if why is None:
        return Systemd(places)
    if not installed:
        return keeper
    raise InstallError(
        f"the workstation runs under this user's systemd, which cannot be reached from here: {why}. Log in at the PC itself, or "
        "type: export XDG_RUNTIME_DIR=/run/user/$(id -u); then the same again. "
        f"If this machine has no systemd any more, delete {places.unit}"
    )


def _unreachable() -> str | None:
    """Why the user's systemd does not answer; ``None`` if it does."""
    if not shutil.which("systemctl"):
        return "there is no systemctl"
    asked = subprocess.run(["systemctl", "--user", "show-environment"], capture_output=True, text=True, check=False)
    return (last_words(asked.stderr) or f"it ended with {asked.returncode}") if asked.returncode else None


def last_words(text: str) -> str:
    """The last error in a log, or its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error:", "Error:"))]
    return (errors or lines or [""])[-1].removeprefix("error: ").removeprefix("Error: ").rstrip(".")


def _systemctl(*words: str, check: bool = True) -> str:
    done = subprocess.run(["systemctl", "--user", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        why = last_words(done.stderr) or f"it ended with {done.returncode}"
        raise InstallError(f"systemctl --user {' '.join(words)} failed: {why}. Type it yourself to see more.")
    return done.stdout


def _wait(true: object, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
