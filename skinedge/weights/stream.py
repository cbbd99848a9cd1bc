"""Writing a stream: the one loop behind every file of weights skinedge makes.

A format (safetensors, ONNX external data, GGUF) decides where each tensor lies; what is written
there is a ``Payload``, a list of *parts* that are each computed when their turn comes.  A few parts
are computed ahead by a pool of threads (numpy and ggml release the interpreter lock), so all cores
work and memory stays at a handful of blocks.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from skinedge.weights.journal import Journal
from skinedge.weights.source import Array

if TYPE_CHECKING:
    from hashlib import _Hash

Part = Callable[[], Array]


class Progress(Protocol):
    """What a long job tells of itself; ``total`` may be given again when more work appears."""

    def begin(self, what: str, total: int) -> None:
        """A step named ``what`` of ``total`` bytes starts."""
        ...

    def advance(self, count: int) -> None:
        """``count`` more bytes are done."""
        ...


class Quiet:
    """Progress that nobody watches."""

    def begin(self, what: str, total: int) -> None: ...

    def advance(self, count: int) -> None: ...


@dataclass(frozen=True)
class Payload:
    """The bytes of one stored tensor: ``nbytes`` of them, as ``parts`` in file order."""

    name: str
    nbytes: int
    parts: Sequence[Part]


class HashingFile:
    """A binary file that is digested as it is written, so that no bundle is read twice.

    It may go on at ``position``, with the digest ``sha`` of what is before.
    """

    def __init__(
        self, stream: BinaryIO, position: int = 0, sha: _Hash | None = None, mark: Callable[[int, str], None] | None = None
    ) -> None:
        self._stream, self._mark = stream, mark
        self._sha = sha or hashlib.sha256()
        self.position = position

    def begin(self, data: bytes) -> None:
        """Write what comes before the tensors, unless the file goes on."""
        if not self.position:
            self.write(data)

    def mark(self) -> None:
        """A tensor is complete: after an interruption, go on behind it."""
        if self._mark:
            self._stream.flush()
            self._mark(self.position, self._sha.hexdigest())

    def write(self, data: bytes | memoryview) -> None:
        self._stream.write(data)
        self._sha.update(data)
        self.position += len(data)

    def pad_to(self, offset: int) -> None:
        """Write zeros up to ``offset``."""
        self.write(b"\0" * (offset - self.position))

    def hexdigest(self) -> str:
        return self._sha.hexdigest()


@contextmanager
def hashing_file(path: Path) -> Iterator[HashingFile]:
    """``path``, opened for writing; where its folder has a journal, behind what that confirms."""
    journal = Journal.of(path)
    if journal is None:
        with path.open("wb") as f:
            yield HashingFile(f)
        return
    position, sha = journal.confirmed(path)
    with path.open("r+b" if position else "wb") as f:
        f.truncate(position)
        f.seek(position)
        yield HashingFile(f, position, sha, functools.partial(journal.mark, path))


def align(offset: int, to: int) -> int:
    """The first multiple of ``to`` at or after ``offset``."""
    return -(-offset // to) * to


def write_payloads(
    out: HashingFile,
    placed: Iterable[tuple[int, Payload]],
    progress: Progress,
    workers: int | None = None,
) -> None:
    """Write each payload at its offset (ascending), zeros in between; those that ``out`` has already are passed over.

    Raises:
        RuntimeError: a payload did not have the size it announced; a fault of skinedge's own.
    """
    workers, before = workers or os.cpu_count() or 1, out.position
    progress.advance(before)
    left = ((offset, payload) for offset, payload in placed if offset + payload.nbytes > before)
    # The workers are all the threads there are: a BLAS with its own would spin against them, and sums in another order.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        todo = ((offset, payload, part) for offset, payload in left for part in payload.parts)
        last: tuple[int, Payload] | None = None
        for (offset, payload), block in _ahead(pool, todo, workers + 1):
            if (offset, payload) != last:
                _finished(out, last)
                progress.advance(offset - out.position)
                out.pad_to(offset)
                last = (offset, payload)
            data = np.ascontiguousarray(block)
            out.write(data.reshape(-1).view(np.uint8).data)
            progress.advance(data.nbytes)
        _finished(out, last)


def _finished(out: HashingFile, last: tuple[int, Payload] | None) -> None:
    if last and out.position != last[0] + last[1].nbytes:
        wrote = out.position - last[0]
        raise RuntimeError(f"tensor '{last[1].name}' announced {last[1].nbytes} bytes and wrote {wrote}")
    if last:
        out.mark()


def _ahead(
    pool: ThreadPoolExecutor, todo: Iterator[tuple[int, Payload, Part]], depth: int
) -> Iterator[tuple[tuple[int, Payload], Array]]:
    """Results in order, with at most ``depth`` parts computed or being computed."""
    waiting: deque[tuple[tuple[int, Payload], Future[Array]]] = deque()
    for offset, payload, part in todo:
        waiting.append(((offset, payload), pool.submit(part)))
        if len(waiting) >= depth:
            key, future = waiting.popleft()
            yield key, future.result()
    while waiting:
        key, future = waiting.popleft()
        yield key, future.result()
