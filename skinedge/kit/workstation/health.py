"""Ask the server whether it answers, with the bundle that it should."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

from skinedge.kit.install import InstallError
from skinedge.kit.workstation.pointer import Release
from skinedge.kit.workstation.service import Service, State

WAIT_S = 900.0
_POLL_S = 0.3


class RefusedError(InstallError):
    """The operating system would not set up the unit's sandbox."""


def health(port: int, path: str = "/health") -> dict[str, Any] | None:
    """What the server says of itself, or nothing if none answers there; no proxy is asked."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        said = json.loads(connection.getresponse().read(1 << 20))
        return said if isinstance(said, dict) else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def answers(service: Service, release: Release) -> bool:
    """Whether this release runs and takes questions."""
    said = health(release.port)
    return bool(said and said.get("bundle") == release.digest and said["model_loaded"] and service.state().running)


def await_health(service: Service, release: Release, seconds: float) -> None:
    """Wait until the model of ``release`` is loaded and has said its first words.

    Raises:
        RefusedError: the system would not start it in its sandbox.
        InstallError: it ended, its engine failed, or it took longer.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state, said = service.state(), health(release.port)
        if said and said.get("bundle") == release.digest and state.running:
            if said["status"] == "healthy" and said["model_loaded"]:
                return
            if said["engine"] == "failed":
                why = (health(release.port, "/api/status") or {}).get("detail") or "no reason is known"
                raise InstallError(f"the model does not start: {str(why).rstrip('.')}")
        if state.ended:
            raise _ended(service, state)
        time.sleep(_POLL_S)
    raise InstallError(f"the model did not answer within {seconds:.0f} s")


def _ended(service: Service, state: State) -> InstallError:
    if state.refused:
        return RefusedError(f"this system does not let its users have a {state.refused} of their own")
    return InstallError(f"the server ended: {service.log_tail() or f'see {service.log_hint}'}")
