"""The engine as the server sees it: one process, one question at a time, a fair queue before it.

It is started, warmed up, watched and started again.  Every question that was taken ends with ``Ended`` or ``Failed``: one
whose engine crashed before a word was said is asked again, once; later, its reader is told.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from skinedge.clinic import wire
from skinedge.clinic.engine_child import message_of
from skinedge.clinic.events import Ended, Event, Failed, Question, Said, Started, Waiting
from skinedge.clinic.fair import FairQueue, Full
from skinedge.errors import SkinedgeError

if TYPE_CHECKING:
    from skinedge.console import Json

State = Literal["loading", "ready", "busy", "restarting", "failed", "closed"]

_GOLDEN_ANSWERS = 4  # the golden cases may take as long as so many answers
_RESTARTED = Failed("engine_restarted", "the model's process ended while it answered; it is being started again.", "Ask again.")


class BusyError(SkinedgeError):
    """The queue is full; ``retry_after`` seconds are a guess from the last answers."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("the workstation is busy: too many questions are waiting.", hint=f"Try again in {retry_after} seconds.")
        self.retry_after = retry_after


@dataclass(frozen=True)
class EngineSettings:
    """How a bundle is opened and how patient the server is.

    ``answer_s`` is how long an answer may take from its start, ``grace_s`` how long a question that is stopped may still
    compute (reading a prompt cannot be interrupted), ``start_s`` how long opening the bundle may take.
    """

    bundle: Path
    side: str | None = None
    threads: int | None = None
    context: int | None = None
    device: str = "auto"
    waiting: int = 64
    waiting_per_client: int = 16
    answer_s: float = 900.0
    grace_s: float = 60.0
    start_s: float = 900.0
    refusals: int = 3  # starts in a row that the bundle or the machine refuses, with a reason
    deaths: int = 20  # starts in a row that end without a word

    def command(self) -> list[str]:
        """What the process is started as."""
        options = (("--side", self.side), ("--threads", self.threads), ("--context", self.context), ("--device", self.device))
        given = [word for name, value in options if value is not None for word in (name, str(value))]
        return [sys.executable, "-m", "skinedge.clinic.engine_child", str(self.bundle), *given]


@dataclass(eq=False)
class Ticket:
    """A question that was taken: iterate for its events, the last of which is ``Ended`` or ``Failed``."""

    number: int
    client: str
    question: Question
    cancelled: bool = False
    started: float | None = None  # perf_counter
    taken: float = field(default_factory=time.perf_counter)
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    _last: Event | None = None
    _attempts: int = 0
    _said: bool = False

    @property
    def over(self) -> bool:
        """Whether the last event was told."""
        return isinstance(self._last, Ended | Failed)

    @property
    def may_be_asked_again(self) -> bool:
        """Nothing was said, nobody stopped it, and it was tried once only."""
        return not self._said and not self.cancelled and self._attempts < 2

    def tell(self, event: Event) -> None:
        """An event, unless the last one was told already, or a position is the same again."""
        if self.over or (isinstance(event, Waiting) and event == self._last):
            return
        self._last = event
        self._said |= isinstance(event, Said)
        self._events.put_nowait(event)

    def begin(self) -> None:
        """It is the engine's turn."""
        self._attempts += 1
        self.started = time.perf_counter()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, Ended | Failed):
                return


class Engine:
    """Starts the process, keeps it, and hands it one question after another.

    Use ``start`` and ``close`` in the loop that uses it.  ``restarted`` counts how often the process was started again.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.state: State = "loading"
        self.detail = ""
        self.restarted = 0
        self.context: int | None = None
        self._queue: FairQueue[Ticket] = FairQueue(settings.waiting, settings.waiting_per_client)
        self._numbers = itertools.count(1)
        self._wake = asyncio.Event()
        self._running: Ticket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._served: deque[float] = deque(maxlen=20)
        self._asides: dict[int, asyncio.Future[wire.Message]] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start the process; returns at once, and ``state`` says how far it is."""
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """End the process; whoever waits is told so."""
        self.state = "closed"
        if self._keeper:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        await self._kill()
        self._fail_all(Failed("closing", "the workstation is being closed."))

    @property
    def waiting(self) -> int:
        """Questions in the queue, without the one that is being answered."""
        return len(self._queue)

    @property
    def pid(self) -> int | None:
        """The process, if there is one."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def ask(self, client: str, question: Question) -> Ticket:
        """Take a question.

        Raises:
            BusyError: too many are waiting.
        """
        ticket = Ticket(next(self._numbers), client, question)
        if self.state in ("failed", "closed"):
            ticket.tell(Failed("engine_failed", self.detail or "the model's process cannot be started."))
            return ticket
        try:
            self._queue.put(client, ticket)
        except Full:
            raise BusyError(self._retry_after()) from None
        self._tell_positions()
        self._wake.set()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Stop: a waiting question leaves the queue, a running one is told to end."""
        if ticket.over or ticket.cancelled:
            return
        ticket.cancelled = True
        if self._queue.remove(ticket.client, ticket):
            ticket.tell(Ended("cancelled", 0, 0, 0, {}))
            self._tell_positions()
        elif ticket is self._running:
            self._soon({"type": "cancel", "id": ticket.number})

    def forget(self, photos: Sequence[str]) -> None:
        """Let the engine forget photographs, and the conversation it has in mind."""
        if photos and self._process and self.state in ("ready", "busy"):
            self._soon({"type": "forget", "photos": list(photos)})

    async def golden(self) -> wire.Message:
        """The bundle's golden cases, asked again by the engine between two questions.

        Raises:
            SkinedgeError: the engine cannot be started, is closed, or ended while it was asked.
        """
        if self.state in ("failed", "closed"):
            raise SkinedgeError(self.detail or "the model's process cannot be started.")
        number = next(self._numbers)
        future: asyncio.Future[wire.Message] = asyncio.get_running_loop().create_future()
        self._asides[number] = future
        self._wake.set()
        try:
            return await future
        finally:
            self._asides.pop(number, None)

    def _retry_after(self) -> int:
        mean = sum(self._served) / len(self._served) if self._served else 5.0
        return max(1, min(600, round(mean * (len(self._queue) + 1) / 2)))

    def _tell_positions(self) -> None:
        for position, ticket in enumerate(self._queue):
            ticket.tell(Waiting(position))

    async def _keep(self) -> None:
        """Start the process, use it, start it again when it has ended."""
        refusals = deaths = 0
        while True:
            process = await self._open()
            if process is None:
                refusals, deaths = (refusals + 1, deaths) if self.detail else (refusals, deaths + 1)
                if refusals >= self.settings.refusals or deaths >= self.settings.deaths:
                    self.state, self.detail = "failed", self.detail or "the model's process ends before it is ready."
                    self._fail_all(Failed("engine_failed", self.detail))
                    return
                await asyncio.sleep(min(10.0, 0.1 * 2 ** (refusals + deaths)))
            else:
                refusals = deaths = 0
                with suppress(wire.WireError):
                    await self._use(process)
                self.state, self.detail = "restarting", "the model's process ended and is being started again."
                await self._kill()
                self._give_back()
            self.restarted += 1

    async def _open(self) -> asyncio.subprocess.Process | None:
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *self.settings.command(), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24
            )
            assert process.stdout
            message, _ = await asyncio.wait_for(wire.read_async(process.stdout), self.settings.start_s)
        except (wire.WireError, OSError):  # a TimeoutError too; memory or processes that are short now may be free later
            self.detail = ""
            await self._kill()
            return None
        if message["type"] != "ready":
            self.detail = f"{message['message']} {message['hint']}".strip()
            await self._kill()
            return None
        self.state, self.detail, self.context = "ready", "", cast(int, message["context"])
        return process

    async def _use(self, process: asyncio.subprocess.Process) -> None:
        """Hand out questions until the process ends.

        Raises:
            WireError: it has.
        """
        gone = asyncio.create_task(process.wait())
        try:
            while True:
                for number in list(self._asides):
                    self.state = "busy"
                    await self._aside(process, number)
                ticket = self._queue.get()
                if ticket is None:
                    self.state = "ready"
                    self._wake.clear()
                    woken = asyncio.create_task(self._wake.wait())
                    await asyncio.wait({woken, gone}, return_when=asyncio.FIRST_COMPLETED)
                    woken.cancel()
                    if gone.done():
                        raise wire.WireError("the process ended")
                    continue
                self.state = "busy"
                self._tell_positions()
                await self._answer(process, ticket)
        finally:
            gone.cancel()

    async def _aside(self, process: asyncio.subprocess.Process, number: int) -> None:
        await self._send({"type": "golden", "id": number, "bundle": str(self.settings.bundle)})
        try:
            message = await asyncio.wait_for(self._read(process), _GOLDEN_ANSWERS * self.settings.answer_s)
        except TimeoutError as e:
            raise wire.WireError("the golden cases take too long") from e
        future = self._asides.pop(number, None)
        if future and not future.done():
            future.set_result(message)

    async def _answer(self, process: asyncio.subprocess.Process, ticket: Ticket) -> None:
        self._running = ticket
        ticket.begin()
        message, blob = message_of(ticket.question)
        await self._send({"type": "ask", "id": ticket.number, **message}, blob)
        watch = asyncio.create_task(self._watch(process, ticket))
        try:
            event: Event | None = None
            while not isinstance(event, Ended | Failed):  # also where its reader was told of a timeout: the engine must be free
                event = _event(await self._read(process))
                ticket.tell(event)
        finally:
            watch.cancel()
        self._running = None
        assert ticket.started is not None
        self._served.append(time.perf_counter() - ticket.started)

    async def _watch(self, process: asyncio.subprocess.Process, ticket: Ticket) -> None:
        """Stop an answer that takes too long; end a process that does not stop."""
        end = time.perf_counter() + self.settings.answer_s
        while time.perf_counter() < end and not ticket.cancelled:
            await asyncio.sleep(0.25)
        late = not ticket.cancelled
        self.cancel(ticket)
        await asyncio.sleep(0 if late else self.settings.grace_s)
        if late:
            ticket.tell(Failed("timeout", f"the answer took more than {self.settings.answer_s:g} s.", "Ask for a shorter one."))
            await asyncio.sleep(self.settings.grace_s)
        with suppress(ProcessLookupError):
            process.kill()

    def _give_back(self) -> None:
        """What the crash left: asked again before all others, or told."""
        ticket, self._running = self._running, None
        if ticket and not ticket.over:
            if ticket.may_be_asked_again:
                self._queue.put(ticket.client, ticket, first=True)
            elif ticket.cancelled:
                ticket.tell(Ended("cancelled", 0, 0, 0, {}))
            else:
                ticket.tell(_RESTARTED)
        for future in self._asides.values():
            if not future.done():
                future.set_exception(SkinedgeError(_RESTARTED.message, hint=_RESTARTED.hint))

    def _fail_all(self, failed: Failed) -> None:
        if self._running:
            self._running.tell(failed)
            self._running = None
        while (ticket := self._queue.get()) is not None:
            ticket.tell(failed)
        for future in self._asides.values():
            if not future.done():
                future.set_exception(SkinedgeError(failed.message))

    async def _send(self, message: Mapping[str, Json], blob: bytes = b"") -> None:
        stream = self._process.stdin if self._process else None
        if stream is None:
            return
        stream.write(wire.pack(message, blob))
        try:
            await stream.drain()
        except (ConnectionError, RuntimeError) as e:
            raise wire.WireError("the pipe ended") from e

    def _soon(self, message: Mapping[str, Json]) -> None:
        """Send without waiting; that the process is gone is noticed elsewhere."""

        async def send() -> None:
            with suppress(wire.WireError):
                await self._send(message)

        task = asyncio.get_running_loop().create_task(send())
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _read(self, process: asyncio.subprocess.Process) -> wire.Message:
        assert process.stdout
        return (await wire.read_async(process.stdout))[0]

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()


def _event(message: wire.Message) -> Event:
    m: dict[str, Any] = dict(message)
    if m["type"] == "started":
        return Started(m["prompt_tokens"])
    if m["type"] == "said":
        return Said(m["text"], m["token"])
    if m["type"] == "ended":
        return Ended(m["finish_reason"], m["tokens"], m["prompt_tokens"], m["kept"], m["seconds"])
    return Failed(m["code"], m["message"], m["hint"])
