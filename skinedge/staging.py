"""Output appears whole or not at all: written beside its place, then renamed.

Long work may give its folder an identity.  Then an interruption, or a killed process, leaves the hidden folder to the
next attempt of the same identity, which finds in the folder's journal how far it is (``skinedge.weights.journal``).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from skinedge.console import note, size
from skinedge.errors import OutputError
from skinedge.weights.journal import Journal


@contextmanager
def staged(out: Path, identity: str = "") -> Iterator[Path]:
    """A hidden folder that becomes ``out`` if the block succeeds and vanishes if it does not.

    With an ``identity`` of what is made in it, the folder stays if the block is interrupted after a first tensor, and the
    next of that identity is given it.

    Raises:
        OutputError: ``out`` is taken or cannot be written, or the disk ran full.
    """
    refuse_taken(out)
    folder = out.parent / f".{out.name}.partial-{os.getpid()}"
    made = [parent for parent in out.parents if not parent.exists()]
    journal, keep = Journal(folder), False
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out, folder, identity)
        folder.mkdir(exist_ok=True)
        if identity:
            journal.begin(identity)
        yield folder
        journal.end()
        if out.exists():
            out.rmdir()
        folder.rename(out)
    except KeyboardInterrupt:
        keep = bool(identity) and not journal.empty()
        if keep:
            note(f"{folder} keeps the {size(_nbytes(folder))} that are written: the same command again goes on there.")
        raise
    except OSError as e:
        raise _unwritable(out, e) from e
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # it is not empty: the block succeeded
                parent.rmdir()


@contextmanager
def staged_file(path: Path) -> Iterator[BinaryIO]:
    """A hidden file that becomes ``path`` if the block succeeds and vanishes if it does not.

    Raises:
        OutputError: ``path`` exists or cannot be written, or the disk ran full.
    """
    refuse_taken_file(path)
    beside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in _orphans(path):
            if left.is_file():
                left.unlink()
        with beside.open("wb") as f:
            yield f
        beside.rename(path)
    except OSError as e:
        raise _unwritable(path, e) from e
    finally:
        beside.unlink(missing_ok=True)


def refuse_taken(out: Path) -> None:
    """Check that a folder can be made at ``out``.

    Raises:
        OutputError: there is a file, or a folder that is not empty or cannot be replaced.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} exists and is a file.", hint="Choose another --out, or remove it first.")
    if out.exists() and any(out.iterdir()):
        raise OutputError(f"{out} exists and is not empty.", hint="Choose another --out, or remove it first.")
    if out.resolve() == Path.cwd() or os.path.ismount(out):  # Path.is_mount is not on Windows
        what = "the folder you are in" if out.resolve() == Path.cwd() else "where a disk is mounted"
        raise OutputError(
            f"{out} is {what}, and a new folder cannot take its place.", hint=f"Name one in it: --out {out / 'bundle'}."
        )


def refuse_taken_file(path: Path) -> None:
    """Check that nothing is at ``path``.

    Raises:
        OutputError: something is.
    """
    if path.exists():
        raise OutputError(f"{path} exists already.", hint="Choose another name, or remove it first.")


def _unwritable(out: Path, e: OSError) -> OutputError:
    full = e.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk ran full" if full else (e.strerror or str(e))
    hint = "Free some space or choose another disk with --out." if full else "Choose another --out."
    return OutputError(f"{out} could not be written: {what}.", hint=hint)


def left_behind(out: Path) -> int:
    """Bytes that the next attempt at ``out`` takes over or frees."""
    return sum(_nbytes(left) for left in _orphans(out))


def _sweep(out: Path, folder: Path, identity: str) -> None:
    """Take over as ``folder`` what was left of the same work, and remove all else that was left."""
    for left in _orphans(out):
        journal = Journal(left)
        if left.is_file():
            left.unlink()
        elif identity and journal.identity() == identity and not journal.empty() and (left == folder or not folder.exists()):
            left.rename(folder)
            Journal(folder).clear_others()
            note(f"going on with the {size(_nbytes(folder))} that an interrupted attempt has written.")
        else:
            shutil.rmtree(left, ignore_errors=True)


def _orphans(out: Path) -> Iterator[Path]:
    """What was written for ``out`` by processes that are gone, or earlier by this one."""
    import psutil

    for left in sorted(out.parent.glob(f".{out.name}.partial-*")):
        owner = left.name.rpartition("-")[2]
        if owner.isdigit() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner))):
            yield left


def _nbytes(place: Path) -> int:
    return sum(p.stat().st_size for p in (place, *place.rglob("*")) if p.is_file())
