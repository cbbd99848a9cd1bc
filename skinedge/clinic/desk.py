"""What all routes work with: one bundle, its engine, the photographs that came in, the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

from skinedge import __version__
from skinedge.clinic.engine import BusyError, Engine
from skinedge.clinic.events import Ended, Event, Failed, Question, Said, Started
from skinedge.clinic.http import ApiError
from skinedge.clinic.metrics import Metrics
from skinedge.clinic.pictures import LIMITS, Picture, Pictures, receive
from skinedge.errors import AuditError, ImageError, NotAPhotographError
from skinedge.runtime.image import ProcessorConfig

if TYPE_CHECKING:
    from skinedge.clinic.audit import AuditLog
    from skinedge.console import Json
    from skinedge.manifest import Manifest
    from skinedge.parity.certificate import Certificate


# More than any context holds.  At 12 bytes each, as JSON at its longest, they fit a record of the log and a frame to the engine.
MOST_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Bundle:
    """What is served: verified, byte by byte, when the server started."""

    folder: Path
    manifest: Manifest
    processor: ProcessorConfig
    certificate: Certificate | None

    @property
    def name(self) -> str:
        """What a client calls the model."""
        return self.folder.name


@dataclass(frozen=True)
class Asker:
    """Who asks: ``owner`` of photographs, ``client`` in the queue, ``operator`` in the log, if known."""

    owner: str
    client: str
    operator: str | None = None


@dataclass
class Answer:
    """An answer as it grows; ``ended`` or ``failed`` says how it ended."""

    asker: Asker
    question: Question
    begin: float = field(default_factory=time.perf_counter)
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    pieces: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    queued_s: float = 0.0
    prompt_tokens: int = 0
    first_s: float | None = None
    whole_s: float = 0.0
    ended: Ended | None = None
    failed: Failed | None = None

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self.pieces)

    def take(self, event: Event) -> None:
        """One event more."""
        now = time.perf_counter() - self.begin
        if isinstance(event, Started):
            self.queued_s, self.prompt_tokens = now, event.prompt_tokens
        elif isinstance(event, Said):
            self.first_s = now if self.first_s is None else self.first_s
            self.pieces.append(event.text)
            self.token_ids.append(event.token_id)
        elif isinstance(event, Ended | Failed):
            self.whole_s = now
            self.ended, self.failed = (event, None) if isinstance(event, Ended) else (None, event)

    def seconds(self) -> dict[str, float]:
        """By part."""
        parts = self.ended.seconds if self.ended else {}
        return {
            "queue": self.queued_s,
            **{n: parts.get(n, 0.0) for n in ("pictures", "prefill", "decode")},
            "total": self.whole_s,
        }


class Desk:
    """Takes photographs and questions, and writes down that it did.

    Args:
        bundle: what is served.
        engine: its process.
        audit: the log, if one is kept; it decides whether it keeps words.
    """

    def __init__(self, bundle: Bundle, engine: Engine, audit: AuditLog | None = None) -> None:
        self.bundle, self.engine, self.audit = bundle, engine, audit
        self.pictures = Pictures()
        self.metrics = Metrics(engine)
        self.limits = LIMITS
        self._reading = asyncio.Semaphore(2)
        self._later: set[asyncio.Task[None]] = set()
        self._fault, self._lost = "", 0

    async def read(self, data: bytes) -> Picture:
        """A photograph from the bytes of a file; it is not kept.

        Raises:
            ApiError: it is none, is damaged, or too large.
        """
        try:
            async with self._reading:
                return await to_thread.run_sync(receive, data, self.bundle.processor, self.limits)
        except ImageError as e:
            self.metrics.refused.inc()
            if len(data) > self.limits.max_bytes:
                raise ApiError.of(413, "too_large", e) from e
            if isinstance(e, NotAPhotographError):
                raise ApiError.of(415, "not_a_photograph", e) from e
            raise ApiError.of(422, "unreadable_photograph", e) from e

    def forget(self, owner: str, name: str | None = None) -> None:
        """One photograph of a visit, or all, and what the engine keeps of them."""
        self.engine.forget(self.pictures.forget(owner, name))

    def ask(self, asker: Asker, question: Question) -> Asked:
        """Take a question.

        Raises:
            ApiError: it has too many words, too many are waiting, or the log cannot be written: what is not written down is
                not answered.
        """
        if self._fault:
            hint = "Make room on its disk; it is tried again four times a minute."
            raise ApiError(503, "log_failed", f"the audit log cannot be written: {self._fault}", hint)
        if _length(question) > MOST_CHARACTERS:
            told = f"the conversation has more than {MOST_CHARACTERS:,} characters."
            raise ApiError(400, "too_long", told, "Begin a new one, or ask for less.")
        try:
            return Asked(self, Answer(asker, question))
        except BusyError as e:
            raise ApiError(429, "busy", e.message, e.hint, retry_after=e.retry_after) from e

    async def record(self, event: str, texts: Mapping[str, str] | None = None, **fields: Json) -> None:
        """A line of the log, with the fields that are not ``None``."""
        if self.audit:
            kept = {name: value for name, value in fields.items() if value is not None}
            try:
                await to_thread.run_sync(lambda: self.audit and self.audit.append(event, texts, **kept))
            except AuditError as e:
                self._fault, self._lost = e.message, self._lost + 1
                raise

    async def resume(self) -> None:
        """If the log could not be written, try again; it then says how many records it lacks."""
        if self._fault and self.audit:
            append, lost = self.audit.append, self._lost
            with suppress(AuditError):
                await to_thread.run_sync(lambda: append("resumed", lost=lost))
                self._lost -= lost
                self._fault = self._fault if self._lost else ""

    def finish(self, answer: Answer) -> None:
        """Count an answer and write it down, whether or not anybody waits for that."""
        task = asyncio.get_running_loop().create_task(self._finish(answer))
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def close(self) -> None:
        """Wait until everything is written down."""
        await asyncio.gather(*self._later, return_exceptions=True)

    async def _finish(self, answer: Answer) -> None:
        end = answer.ended.finish_reason if answer.ended else answer.failed.code if answer.failed else "left"
        self.metrics.answers.labels(end).inc()
        self.metrics.whole.observe(answer.whole_s)
        if answer.first_s is not None:
            self.metrics.first.observe(answer.first_s)
        if answer.ended:
            self.metrics.tokens.inc(answer.ended.tokens)
            self.metrics.read.labels("yes").inc(answer.ended.kept)
            self.metrics.read.labels("no").inc(answer.ended.prompt_tokens - answer.ended.kept)
        question = _words(answer.question)
        await self.record(
            "answer",
            {"question": question, "answer": answer.text},
            operator=answer.asker.operator,
            model=self.bundle.manifest.digest,
            skinedge=__version__,
            pictures=[p.id for p in answer.question.photos],
            end=end,
            tokens=len(answer.token_ids),
            seconds=round(answer.whole_s, 3),
        )


class Asked:
    """A question that was taken: iterate ``events`` to its end, or ``leave``, which stops it; either way it is written down."""

    def __init__(self, desk: Desk, answer: Answer) -> None:
        self._desk, self.answer = desk, answer
        self._ticket = desk.engine.ask(answer.asker.client, answer.question)
        self._left = False

    async def events(self) -> AsyncIterator[Event]:
        """What the engine says, as ``answer`` grows."""
        try:
            async for event in self._ticket:
                self.answer.take(event)
                yield event
        finally:
            self.leave()

    def leave(self) -> None:
        """Nobody listens any more.  Leaving twice is harmless."""
        if not self._left:
            self._left = True
            if self.answer.ended is None and self.answer.failed is None:
                self.answer.whole_s = time.perf_counter() - self.answer.begin
            self._desk.engine.cancel(self._ticket)
            self._desk.finish(self.answer)

    async def whole(self) -> Answer:
        """To its end, without telling anybody on the way."""
        async for _ in self.events():
            pass
        return self.answer


def _words(question: Question) -> str:
    """The last turn's words."""
    content = question.messages[-1].content if question.messages else ""
    return content if isinstance(content, str) else "".join(map(_text, content))


def _length(question: Question) -> int:
    """Characters of all turns and of what ends an answer."""
    words = (w for m in question.messages for w in ([m.content] if isinstance(m.content, str) else map(_text, m.content)))
    return sum(map(len, words)) + sum(map(len, question.stop))


def _text(part: object) -> str:
    return getattr(part, "text", "")


def failure(failed: Failed) -> ApiError:
    """An engine's failure as an answer over HTTP."""
    status = {
        "too_long": 400, "bad_prompt": 400, "bad_request": 400, "timeout": 504, "out_of_memory": 507, "closing": 503,
        "engine_restarted": 503, "engine_failed": 503,
    }[failed.code]  # fmt: skip
    return ApiError(status, failed.code, failed.message, failed.hint, retry_after=2 if status == 503 else None)
