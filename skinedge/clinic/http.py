"""What all routes share: one shape of error, one shape of stream, and noticing that the reader has left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from skinedge.errors import SkinedgeError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from skinedge.console import Json

T = TypeVar("T")
ALIVE_S = 10.0  # a stream that has nothing to say says so this often


class ErrorBody(BaseModel):
    """What went wrong: ``code`` is stable, ``message`` is for people, ``hint`` says what to do."""

    message: str
    type: str
    param: str | None = None
    code: str
    hint: str = ""


class ErrorReply(BaseModel):
    """Every answer that is none."""

    error: ErrorBody


class ApiError(Exception):
    """An answer that is none, with its HTTP status."""

    def __init__(
        self, status: int, code: str, message: str, hint: str = "", *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint, self.param = status, code, message, hint, param
        self.headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}

    @classmethod
    def of(cls, status: int, code: str, error: SkinedgeError) -> ApiError:
        """From one of ours."""
        return cls(status, code, error.message, error.hint)

    def body(self) -> dict[str, Json]:
        """The JSON of it."""
        kind = "server_error" if self.status >= 500 else "rate_limit_error" if self.status == 429 else "invalid_request_error"
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code, "hint": self.hint}
        }  # fmt: skip

    def response(self) -> Response:
        """As it is sent."""
        return JSONResponse(self.body(), self.status, self.headers)


def event(name: str | None, data: Json) -> str:
    """One server-sent event (WHATWG HTML, section 9.2)."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n"


class EventStream(Response):
    """Server-sent events; when they are over or the reader leaves, ``events`` is closed and ``after`` called."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], after: Callable[[], None] = lambda: None) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._after = events, after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  (ASGI's signature)
        """Send them."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def stream() -> None:
            async for text in _kept_alive(self._events):
                await send({"type": "http.response.body", "body": text.encode("utf-8", "replace"), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await while_connected(receive, stream)
        finally:
            self._after()  # a reader may leave before the first event, and a generator that never ran cleans up nothing


async def while_connected(receive: Receive, work: Callable[[], Awaitable[T]]) -> T | None:
    """Do the work unless the reader leaves first: it is cancelled then, and ``None`` comes back."""
    working, gone = asyncio.ensure_future(work()), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (gone, working):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _kept_alive(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """With a comment where there is nothing for a while, so that neither side takes the line for dead."""
    following: asyncio.Future[str | None] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(_next(events))
            done, _ = await asyncio.wait({following}, timeout=ALIVE_S)
            if not done:
                yield ": still here\n\n"
                continue
            text, following = following.result(), None
            if text is None:
                return
            yield text
    finally:
        if following:
            following.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await following
        if (close := getattr(events, "aclose", None)) is not None:
            await close()


async def _next(events: AsyncIterator[str]) -> str | None:
    return await anext(events, None)


def client_of(request: Request, name: str | None = None) -> str:
    """Whom the queue takes a request for, where there is no session: a name that was given, or the connection."""
    return f"user {name}" if name else f"{request.client.host}:{request.client.port}" if request.client else "unknown"
