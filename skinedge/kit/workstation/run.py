"""What the unit, the launcher and the start scripts run: the server of the release that is to run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NoReturn

from skinedge.clinic.locks import FileLock, is_held
from skinedge.kit.install import InstallError
from skinedge.kit.workstation.places import Places
from skinedge.kit.workstation.pointer import Release, release_to_run

RESTARTS, RESTART_S, QUIET_S = 5, 3.0, 600.0
_POLL_S, _END_S, _LOG_BYTES = 0.2, 15.0, 4 << 20


def python_of(venv: Path) -> Path:
    """The interpreter of an environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def serve_command(places: Places, release: Release) -> list[str]:
    """``skinedge serve`` as this release is called."""
    command = [str(python_of(places.venvs / release.venv)), "-m", "skinedge", "serve", str(places.bundles / release.bundle)]
    keep = [] if "--no-audit" in release.options else ["--audit", str(places.audit)]
    return [*command, "--port", str(release.port), *keep, *release.options]


def environment(places: Places) -> dict[str, str]:
    """The caller's, with the state folder that was decided at installation: systemd and a shell may know different ones."""
    named = {} if places.windows else {"XDG_STATE_HOME": str(places.state.parent)}
    return {**os.environ, **named, "PYTHONUTF8": "1"}


def serve(places: Places) -> int:
    """Become the server, under systemd.

    Raises:
        InstallError: nothing is installed.
    """
    command = serve_command(places, release_to_run(places))
    if sys.platform == "win32":  # has no exec that keeps the process
        return subprocess.run(command, env=environment(places), check=False).returncode
    else:  # noqa: RET505 (on Windows mypy takes what follows a return for unreachable)
        return os.execve(command[0], command, environment(places))


def keep(places: Places) -> int:
    """Run the server until ``stop`` is asked for, and start it again if it fails, as the unit does under systemd.

    One that is on trial is not started again: whoever tries it decides.

    Raises:
        InstallError: nothing is installed, or another keeper runs.
    """
    lock = FileLock(places.serving)
    if not lock.take():
        raise InstallError("the workstation runs already. Open it: workstation.sh open")
    try:
        places.stop.unlink(missing_ok=True)
        signal.signal(signal.SIGTERM, _end)
        return _keep(places)
    finally:
        lock.release()
        places.stop.unlink(missing_ok=True)


def _keep(places: Places) -> int:
    failures: list[float] = []
    while True:
        command, begin = serve_command(places, release_to_run(places)), time.monotonic()
        with _log(places) as log:
            code = _watch(places, _started(command, environment(places), log))
        if code is None or code in (0, 2) or is_held(places.lock):
            return code or 0
        failures = [t for t in failures if begin - t < QUIET_S] + [begin]
        if len(failures) > RESTARTS:
            return code
        time.sleep(RESTART_S)


def _started(command: list[str], env: dict[str, str], log: BinaryIO) -> subprocess.Popen[bytes]:
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, creationflags=flags)


def _watch(places: Places, server: subprocess.Popen[bytes]) -> int | None:
    """Its exit code, or none if it was asked to end."""
    try:
        while server.poll() is None:
            if places.stop.exists():
                return None
            with suppress(subprocess.TimeoutExpired):
                server.wait(_POLL_S)
        return server.returncode
    finally:
        server.terminate()
        try:
            server.wait(_END_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _log(places: Places) -> BinaryIO:
    if places.log.exists() and places.log.stat().st_size > _LOG_BYTES:
        places.log.replace(places.log.with_suffix(".log.1"))
    return places.log.open("ab")


def _end(number: int, frame: object) -> NoReturn:
    del frame
    sys.exit(128 + number)
