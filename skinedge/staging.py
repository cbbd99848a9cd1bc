"""Output appears whole or not at all: written beside its place, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from skinedge.errors import OutputError


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A hidden folder that becomes ``out`` if the block succeeds and vanishes if it does not.

    Raises:
        OutputError: ``out`` is taken or cannot be written, or the disk ran full.
    """
    refuse_taken(out)
    folder = out.parent / f".{out.name}.partial-{os.getpid()}"
    made = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        folder.mkdir()
        yield folder
        if out.exists():
            out.rmdir()
        folder.rename(out)
    except OSError as e:
        raise _unwritable(out, e) from e
    finally:
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


def _sweep(out: Path) -> None:
    """Remove what an export that was killed left behind: its process is gone."""
    import psutil

    for left in out.parent.glob(f".{out.name}.partial-*"):
        owner = left.name.rpartition("-")[2]
        if owner.isdigit() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner))):
            shutil.rmtree(left, ignore_errors=True)
