"""Where the workstation keeps what outlives it: a folder of the person who runs it, never inside a bundle."""

from __future__ import annotations

import os
import sys
from pathlib import Path

AUDIT = "audit"
PEOPLE = "people.json"


def state_folder() -> Path:
    """``skinedge`` in the place that the operating system has for a person's lasting state; it need not exist yet."""
    if sys.platform == "win32":
        base, usual = os.environ.get("LOCALAPPDATA", ""), Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base, usual = "", Path.home() / "Library" / "Application Support"
    else:
        base, usual = os.environ.get("XDG_STATE_HOME", ""), Path.home() / ".local" / "state"
    # The XDG specification: a path that is not absolute is to be ignored.
    return (Path(base) if Path(base).is_absolute() else usual) / "skinedge"


def audit_folder() -> Path:
    """Where the audit log lies unless another folder is named."""
    return state_folder() / AUDIT


def people_file() -> Path:
    """Where the operators are listed unless another file is named."""
    return state_folder() / PEOPLE
