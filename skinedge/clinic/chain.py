"""The audit log as it lies on disk: records that each hold the hash of the one before, and a head that says how many.

A line is one JSON object in its only permitted spelling (keys sorted, no spaces, ASCII) whose last key ``hash`` is the sha256
of the line without it; ``prev`` holds the hash of the line before.  The head beside the log is one such line as well::

    audit.jsonl      {"event":…,"fields":{…},"prev":"…","seq":0,"time":"…","hash":"…"}
    audit.head.json  {"count":…,"last":"…","log":"…","hash":"…"}

So no byte of either can change unnoticed, and no line can be left out, put in, moved or cut off.  Whoever may write both
files can still write a whole new pair: that is found only by a hash that was noted elsewhere (``verify_log(head=…)``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from skinedge.clinic.locks import is_held
from skinedge.console import Json
from skinedge.errors import AuditError, UsageError

LOG_FILE, HEAD_FILE, LOCK_FILE = "audit.jsonl", "audit.head.json", "audit.lock"
GENESIS = "genesis"
BEFORE_ALL = "0" * 64  # what the first record has for the hash of the one before
MAX_LINE = 16 << 20  # longer than any answer: a damaged log must not fill the memory
KEEP = "Move the whole folder away and keep it as evidence; the next start begins a new log."
_NOTED = re.compile(r"[0-9a-f]{16,64}")
_TAIL = re.compile(rb',"hash":"([0-9a-f]{64})"\}\n')
_TAIL_BYTES = len(b',"hash":""}\n') + 64


@dataclass(frozen=True)
class Record:
    """One line of the log; ``time`` is UTC with milliseconds, ``end`` the offset in bytes behind the line."""

    seq: int
    time: str
    event: str
    fields: Mapping[str, Json]
    prev: str
    hash: str
    end: int

    def to_json(self) -> dict[str, Json]:
        """The line as an object."""
        return {k: v for k, v in asdict(self).items() if k != "end"}


@dataclass(frozen=True)
class Head:
    """How many records there are, the hash of the last one, and which log it is."""

    count: int
    last: str
    log: str


@dataclass(frozen=True)
class Verified:
    """A log in which every byte is as it was written: which it is, how many records, first and last time, last hash.

    ``unsealed`` is true if the last record is not yet in the head: it was being written, or the machine stopped in between.
    """

    log: str
    count: int
    first: str
    last: str
    hash: str
    unsealed: bool = False


def seal(value: Mapping[str, Json]) -> tuple[bytes, str]:
    """The line of an object, and the hash in it."""
    body = _spelled(value)
    digest = hashlib.sha256(body).hexdigest()
    return b'%b,"hash":"%b"}\n' % (body[:-1], digest.encode()), digest


def unseal(line: bytes, where: str) -> tuple[dict[str, Json], str]:
    """The object of a line, and the hash in it.

    Raises:
        AuditError: a byte of it is not as it was written; ``where`` is named.
    """
    body, tail = line[:-_TAIL_BYTES] + b"}", _TAIL.fullmatch(line[-_TAIL_BYTES:])
    if not tail or hashlib.sha256(body).hexdigest().encode() != tail[1]:
        raise AuditError(f"{where} is not as it was written: its hash is that of other bytes.", hint=KEEP)
    try:
        value = json.loads(body)
        right = isinstance(value, dict) and _spelled(value) == body
    except (ValueError, RecursionError):
        right = False
    if not right:
        raise AuditError(f"{where} was written by something else: it is not spelled as skinedge spells it.", hint=KEEP)
    return value, tail[1].decode()


def records(folder: Path) -> Iterator[Record]:
    """The records in their order, one in memory at a time; a last line without an end is left out.

    Raises:
        AuditError: the log is absent, or a record is damaged or does not follow from the one before.
    """
    path, prev, end, seq = folder / LOG_FILE, BEFORE_ALL, 0, 0
    try:
        file = path.open("rb")
    except FileNotFoundError as e:
        raise AuditError(f"{path}: there is no audit log here.", hint="skinedge serve writes one; name its folder.") from e
    with file:
        while line := file.readline(MAX_LINE):
            where = f"{path}, record {seq},"
            if len(line) == MAX_LINE:
                raise AuditError(f"{where} is longer than any record can be.", hint=KEEP)
            if not line.endswith(b"\n"):
                return
            end += len(line)
            record = _record(*unseal(line, where), end, where)
            if (record.seq, record.prev) != (seq, prev) or (record.event == GENESIS) != (seq == 0):
                raise AuditError(f"{where} does not follow from the one before: records were moved, added or removed.", hint=KEEP)
            yield record
            prev, seq = record.hash, seq + 1


def read_head(folder: Path) -> Head | None:
    """The head; nothing if there is none.

    Raises:
        AuditError: it is damaged.
    """
    path = folder / HEAD_FILE
    try:
        with path.open("rb") as file:
            line = file.read(1024)
    except FileNotFoundError:
        return None
    match unseal(line, f"{path}")[0]:
        case {"count": int(count), "last": str(last), "log": str(log), **rest} if not rest and count > 0:
            return Head(count, last, log)
    raise AuditError(f"{path} was written by something else: it is not the head of a log.", hint=KEEP)


def walk(folder: Path, head: Head | None, noted: str = "") -> tuple[Verified, int]:
    """Follow the chain to its end and compare it with the head; also the offset in bytes behind the last whole record.

    What is more than the head says is left to the caller: it is usual only where a record was being written.

    Raises:
        AuditError: the log is damaged, is another than the head's, or does not hold the hash that was ``noted``.
    """
    path, log, first, last, seen = folder / LOG_FILE, "", "", None, not noted
    for last in records(folder):
        if last.seq == 0:
            log, first = str(last.fields.get("log")), last.time
        seen = seen or last.hash.startswith(noted)
        if head and last.seq == head.count - 1 and (last.hash, log) != (head.last, head.log):
            raise AuditError(f"{path} is not the log whose head lies beside it: record {last.seq} is another.", hint=KEEP)
    if last is None:
        raise AuditError(f"{path} holds no whole record.", hint=KEEP)
    if head and last.seq + 1 < head.count:
        lost = head.count - last.seq - 1
        raise AuditError(f"{path} was cut off: {lost} of its {head.count} records are missing at the end.", hint=KEEP)
    if not seen:
        raise AuditError(f"{path} does not hold the hash {noted}: it is another log, or was written anew.", hint=KEEP)
    return Verified(log, last.seq + 1, first, last.time, last.hash, head is None or last.seq >= head.count), last.end


def verify_log(folder: Path, head: str | None = None) -> Verified:
    """Check every byte of a log and of its head; a server may be writing it meanwhile.

    Args:
        folder: where both lie.
        head: the hash of any record, or its first 16 digits or more, that was noted elsewhere before.

    Raises:
        AuditError: something is not as it was written; the first record at fault is named.
        UsageError: ``head`` is no hash.
    """
    noted = (head or "").strip().lower()
    if head is not None and not _NOTED.fullmatch(noted):
        raise UsageError(f"'{head}' is no hash of a record.", hint="Give its 64 hexadecimal digits, or the first 16 at least.")
    written = is_held(folder / LOCK_FILE)
    sealed = read_head(folder)  # before the log: what is written from now on is more than it says
    found, end = walk(folder, sealed, noted)
    refuse_without_head(folder, sealed)
    if not written and (folder / LOG_FILE).stat().st_size != end:
        hint = "If the machine stopped while it wrote, the next start cuts the line off and records that it did."
        raise AuditError(f"{folder / LOG_FILE} ends in the middle of a record.", hint=hint)
    if sealed and not written:
        refuse_surplus(folder, found.count - sealed.count)
    return found


def refuse_without_head(folder: Path, head: Head | None) -> None:
    """Check that there is a head.

    Raises:
        AuditError: there is none, so that it cannot be known whether records are missing at the end.
    """
    if head is None:
        raise AuditError(f"{folder / HEAD_FILE} is missing: whether the log is whole cannot be known.", hint=KEEP)


def refuse_surplus(folder: Path, count: int) -> None:
    """Check that at most one record is not in the head yet.

    Raises:
        AuditError: there are more.
    """
    if count > 1:
        raise AuditError(f"{folder / LOG_FILE} holds {count} records more than its head says.", hint=KEEP)


def _spelled(value: Mapping[str, Json]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _record(value: dict[str, Json], digest: str, end: int, where: str) -> Record:
    match value:
        case {"seq": int(seq), "time": str(time), "event": str(event), "fields": dict(fields), "prev": str(prev), **rest}:
            if not rest:
                return Record(seq, time, event, fields, prev, digest, end)
    raise AuditError(f"{where} was written by something else: it is no record of an audit log.", hint=KEEP)
