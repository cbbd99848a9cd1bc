"""A file's name is its registry key: targets, schemes and devices are found, never listed by hand.

``names`` looks at file names only and imports nothing, so help and error messages stay fast and a
broken plug-in cannot hide its neighbours; ``load`` imports the one that was asked for and lets its
own traceback through.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from types import ModuleType

from skinedge.errors import UsageError

_ROOT = Path(__file__).parent


def names(folder: str, suffix: str = ".py") -> tuple[str, ...]:
    """Sorted names of what ``skinedge/<folder>`` holds (files starting with ``_`` are private)."""
    found = (p.stem for p in (_ROOT / folder).glob(f"*{suffix}"))
    return tuple(sorted(n for n in found if not n.startswith("_")))


def check(kind: str, name: str, known: tuple[str, ...]) -> str:
    """Return ``name`` if it is known.

    Raises:
        UsageError: it is not; the message lists what is known and suggests the nearest.
    """
    if name in known:
        return name
    near = _nearest(name.lower(), known)
    guess = f"Did you mean '{near}'? " if near else ""
    raise UsageError(f"unknown {kind} '{name}'.", hint=f"{guess}Known: {', '.join(known)}.")


def _nearest(name: str, known: tuple[str, ...]) -> str | None:
    """The known name most like ``name``, one that it abbreviates (``4090``) or is short for it (``tensorrt``: trt) first."""
    short = [k for k in known if len(name) > 2 and (_abbreviates(k, name) or _abbreviates(name, k))]
    close = difflib.get_close_matches(name, short or known, n=1, cutoff=0 if short else 0.6)
    return close[0] if close else None


def _abbreviates(short: str, name: str) -> bool:
    letters = iter(name)
    return all(letter in letters for letter in short)


def load(folder: str, kind: str, name: str) -> ModuleType:
    """Import ``skinedge/<folder>/<name>.py``.

    Raises:
        UsageError: no such file.
    """
    check(kind, name, names(folder))
    return importlib.import_module(f"skinedge.{folder.replace('/', '.')}.{name}")
