"""Many questions at once: to the journal first, then to the endpoint, and an orderly end when somebody says stop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from skinedge.console import note
from skinedge.errors import EndpointError, RefusedError
from skinedge.evaluation.endpoint import Answer, Endpoint, StoppedError
from skinedge.evaluation.journal import Journal
from skinedge.evaluation.pictures import data_uri

# So many refusals in a row are the endpoint's fault and not the cases': at the very beginning, and later on.
PATIENCE_AT_FIRST, PATIENCE = 5, 25


class Request(Protocol):
    """What is asked: ``key`` is the digest of everything that is sent; ``step`` and ``case`` are for the journal."""

    @property
    def step(self) -> str: ...
    @property
    def case(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def image(self) -> Path | None: ...
    @property
    def key(self) -> str: ...

    def body(self, image: str = "") -> dict[str, object]:
        """The request of the chat completions API; ``image`` is a ``data:`` URI."""
        ...


class Asker:
    """Answers questions: from the journal, or by asking once and writing the answer down.

    ``blind`` is what to do if the model cannot see pictures, for the error when all is refused.
    """

    def __init__(self, journal: Journal, endpoint: Endpoint, blind: str) -> None:
        self._journal = journal
        self._endpoint = endpoint
        self._blind = blind
        self._under_way: dict[str, asyncio.Task[Answer]] = {}
        self._refusals = 0
        self.asked: Counter[str] = Counter()
        self.replayed: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()

    async def __call__(self, question: Request) -> Answer:
        """The answer to ``question``; two cases with the same one wait for the same answer.

        Raises:
            RefusedError: the endpoint refuses it.
            EndpointError: the endpoint is gone, or refuses everything.
            StoppedError: the run is ending.
        """
        key = question.key
        if known := self._journal.get(key):
            self.replayed[question.step] += 1
            return known
        if key not in self._under_way:
            self._under_way[key] = asyncio.create_task(self._fetch(question, key))
        try:
            return await asyncio.shield(self._under_way[key])
        finally:
            self._under_way.pop(key, None)

    async def _fetch(self, question: Request, key: str) -> Answer:
        image = await asyncio.to_thread(data_uri, question.image) if question.image else ""
        try:
            answer = await self._endpoint.complete(question.body(image))
        except RefusedError as e:
            self._refusals += 1
            patience = PATIENCE if len(self._journal) else PATIENCE_AT_FIRST
            if self._refusals >= patience:
                raise EndpointError(f"{patience} requests in a row were refused: {e.message}", hint=self._blind) from e
            raise
        self._refusals = 0
        self._journal.add(key, answer, step=question.step, case=question.case, model=question.model)
        self.asked[question.step] += 1
        self.tokens.update(prompt=answer.prompt_tokens, completion=answer.completion_tokens)
        return answer


_Item = TypeVar("_Item")


async def work_through(
    items: Iterable[_Item], work: Callable[[_Item], Awaitable[None]], endpoint: Endpoint, concurrency: int
) -> None:
    """Do ``work`` for every item, ``concurrency`` at a time.

    Cancelled (Ctrl-C), it asks nothing more, waits for the answers under way, and lets go.

    Raises:
        SkinedgeError: the first error of any work; all other work is stopped.
    """
    waiting = iter(items)

    async def worker() -> None:
        try:
            for item in waiting:
                await work(item)
        except BaseException:
            endpoint.stop()
            raise

    workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
    try:
        await asyncio.wait(workers)
    except asyncio.CancelledError:
        endpoint.stop()
        note("stopping: waiting for the answers under way; Ctrl-C again leaves them.")
        await asyncio.wait(workers)
        raise
    finally:
        await _retrieve(workers)


async def _retrieve(workers: Sequence[asyncio.Task[None]]) -> None:
    """Let the workers' errors be known: the first that is not just the echo of another's."""
    errors = [e for e in await asyncio.gather(*workers, return_exceptions=True) if isinstance(e, BaseException)]
    for error in errors:
        if not isinstance(error, StoppedError | asyncio.CancelledError):
            raise error
