"""One writer at a time, by a lock of the operating system: it goes when its holder does, however it ends."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import BinaryIO

_TRIES, _PAUSE_S = 10, 0.05  # whoever only asks whether it is held holds it for a moment


class FileLock:
    """The exclusive lock of a file, which is made if need be and stays; ``take`` it, then ``release`` it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def take(self) -> bool:
        """Whether the lock is ours now; somebody else's is waited for half a second."""
        for _ in range(_TRIES):
            if self._try():
                return True
            time.sleep(_PAUSE_S)
        return False

    def release(self) -> None:
        """Let go; what is not held may be released."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _try(self) -> bool:
        self._path.touch(mode=0o600)
        file = self._path.open("r+b")
        if not _locked(file):
            file.close()
            return False
        self._file = file
        return True


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock of ``path``; a file that is absent or cannot be opened is not held."""
    try:
        with path.open("r+b") as file:
            return not _locked(file)
    except OSError:
        return False


def _locked(file: BinaryIO) -> bool:
    """Take the lock without waiting; closing the file gives it back."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
