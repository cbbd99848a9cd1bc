"""The audit log: what was asked of which model, when and by whom, in a file that only grows.

It holds digests, times, versions and names; pictures never, and the words of questions and answers only where the workstation
was told to keep them.  A record is on the disk when ``append`` returns.  How it lies there, and what its hashes can and
cannot show, is said in ``skinedge.clinic.chain``.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from types import TracebackType

from skinedge import __version__
from skinedge.clinic.chain import (
    BEFORE_ALL,
    GENESIS,
    HEAD_FILE,
    LOCK_FILE,
    LOG_FILE,
    MAX_LINE,
    Head,
    Record,
    Verified,
    read_head,
    records,
    refuse_surplus,
    refuse_without_head,
    seal,
    verify_log,
    walk,
)
from skinedge.clinic.locks import FileLock
from skinedge.console import Json, size
from skinedge.errors import AuditError

__all__ = ["AuditLog", "Record", "Verified", "records", "verify_log"]

VERSION = 1
_REPLACE_TRIES, _PAUSE_S = 20, 0.02  # Windows will not replace a file while somebody reads it


def utc_now() -> str:
    """The time as the log writes it.

    >>> len(utc_now())
    24
    """
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class AuditLog:
    """A log that is open for appending, by one process at a time; it may be used from several threads.

    Opening verifies all of it and repairs what a sudden stop leaves: a last record that the head does not know yet is
    taken into it; a torn last line is cut off, and a ``tail-recovered`` record keeps its length and digest.

    Args:
        folder: made if need be, for its owner alone where the system knows that.
        keep_text: keep the words of questions and answers too, not only their digests.
        now: the time in UTC, as ``utc_now`` writes it.

    Raises:
        AuditError: the log is damaged, is written by another process, or cannot be written.
    """

    def __init__(self, folder: Path, *, keep_text: bool = False, now: Callable[[], str] = utc_now) -> None:
        self.folder, self.keep_text, self._now = folder, keep_text, now
        self._guard = Lock()
        self._fault = "it is closed"
        self._lock = FileLock(folder / LOCK_FILE)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            taken = self._lock.take()
        except OSError as e:
            raise _unwritable(folder, e) from e
        if not taken:
            raise AuditError(f"{folder}: another skinedge serve writes this audit log.", hint="Stop it, or name another folder.")
        try:
            self._open()
        except OSError as e:
            self._lock.release()
            raise _unwritable(folder, e) from e
        except BaseException:
            self._lock.release()
            raise

    def append(self, event: str, /, texts: Mapping[str, str] | None = None, **fields: Json) -> Record:
        """Add one record; it is on the disk when this returns.

        Args:
            event: what happened, in one word of the caller's.
            texts: words by name: ``{"question": …}`` becomes the field ``question_sha256``, and ``question`` too if
                texts are kept.
            fields: what is known of it: numbers, names, digests.

        Raises:
            AuditError: it could not be written; the log is then as it was before.
        """
        for name, text in (texts or {}).items():
            fields[f"{name}_sha256"] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
            if self.keep_text:
                fields[name] = text
        with self._guard:
            if self._fault:
                raise AuditError(f"{self.folder / LOG_FILE} takes no more records: {self._fault}.", hint="Start again.")
            return self._append(event, fields)

    def head(self) -> Head:
        """How many records there are and the hash of the last: worth noting elsewhere."""
        with self._guard:
            return self._head

    def close(self) -> None:
        """Record that it is closed, and let others write it; again does nothing."""
        with self._guard:
            if not self._file.closed:
                if not self._fault:
                    with suppress(AuditError):  # the records that matter are on the disk
                        self._append("closed", {})
                self._fault = "it is closed"
                self._file.close()
                self._lock.release()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _open(self) -> None:
        path, sealed = self.folder / LOG_FILE, read_head(self.folder)
        if not path.exists() and sealed is None:
            self._begin()
        found, end = walk(self.folder, sealed)
        if found.count > 1:
            refuse_without_head(self.folder, sealed)
        refuse_surplus(self.folder, found.count - (sealed.count if sealed else 1))
        self._file = path.open("r+b", buffering=0)
        try:
            torn = _cut_off(path, end)
            self._file.seek(end)
            self._head = Head(found.count, found.hash, found.log)
            if self._head != sealed:
                self._write_head(self._head)
            self._fault = ""
            if torn:
                self._append("tail-recovered", {"nbytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()})
            self._append("opened", {"skinedge": __version__, "keep_text": self.keep_text})
        except BaseException:
            self._file.close()
            raise

    def _begin(self) -> None:
        fields: dict[str, Json] = {"log": secrets.token_hex(16), "version": VERSION, "skinedge": __version__}
        line, _ = seal({"seq": 0, "time": self._now(), "event": GENESIS, "fields": fields, "prev": BEFORE_ALL})
        _write_whole(self.folder / LOG_FILE, line)

    def _append(self, event: str, fields: Mapping[str, Json]) -> Record:
        before, time_ = self._head, self._now()
        line, digest = seal({"seq": before.count, "time": time_, "event": event, "fields": dict(fields), "prev": before.last})
        if len(line) >= MAX_LINE:
            raise AuditError(f"a record of {size(len(line))} is more than an audit log takes.", hint="Keep digests instead.")
        start, after = self._file.tell(), Head(before.count + 1, digest, before.log)
        self._fault = "it was interrupted while it wrote"  # by what is no error: how far it came is seen at the next start
        try:
            if self._file.write(line) != len(line):  # a disk that is nearly full, or a quota, takes a part without an error
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
            self._write_head(after)
        except OSError as e:
            self._take_back(start)
            raise _unwritable(self.folder / LOG_FILE, e) from e
        self._head, self._fault = after, ""
        return Record(before.count, time_, event, fields, before.last, digest, start + len(line))

    def _take_back(self, start: int) -> None:
        try:
            self._file.truncate(start)
            self._file.seek(start)
            os.fsync(self._file.fileno())
            self._fault = ""
        except OSError as e:
            self._fault = f"what failed could not be taken back ({e.strerror})"

    def _write_head(self, head: Head) -> None:
        _write_whole(self.folder / HEAD_FILE, seal(asdict(head))[0])


def _cut_off(path: Path, end: int) -> bytes:
    """Remove what lies behind the last whole record, and return it; ``walk`` has seen that it is no longer than a line."""
    with path.open("r+b") as file:
        file.seek(end)
        torn = file.read()
        if torn:
            file.truncate(end)
            os.fsync(file.fileno())
    return torn


def _write_whole(path: Path, content: bytes) -> None:
    """Put a small file in the place of another: after a power cut it is the old one or the new one."""
    beside = path.with_name(f".{path.name}.new")
    beside.touch(mode=0o600)
    with beside.open("r+b") as file:
        file.truncate()
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    for left in reversed(range(_REPLACE_TRIES)):
        try:
            beside.replace(path)
            break
        except PermissionError:
            if not left:
                raise
            time.sleep(_PAUSE_S)
    _keep_names(path.parent)


def _keep_names(folder: Path) -> None:
    """Write the folder itself to the disk, where a folder can be opened (not on Windows)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _unwritable(path: Path, e: OSError) -> AuditError:
    why = e.strerror or str(e)
    return AuditError(f"{path} could not be written: {why}.", hint="Free some space, or name another folder for the log.")
