"""``/v1/chat/completions`` and ``/v1/models``: what OpenAI's clients speak, with photographs as data URLs.

Source: OpenAI API reference, Chat Completions.  ``repetition_penalty`` and ``return_token_ids`` are vLLM's.  What cannot be
honoured (several answers, tools, log-probabilities) is refused, not ignored; a picture at an address is refused, for
nothing here opens a connection to the outside.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from skinedge.clinic.desk import Answer, Asked, Desk, failure
from skinedge.clinic.events import Failed, Question, Said, Started, Waiting
from skinedge.clinic.http import ApiError, ErrorReply, EventStream, event, while_connected
from skinedge.clinic.visitors import Visitors
from skinedge.runtime.prompt import ImagePart, Message, Role, TextPart

if TYPE_CHECKING:
    from skinedge.console import Json

MAX_PICTURES = 8
ALIAS = "skinedge"  # whatever bundle is served: an update changes the bundle's name
# Fields that clients send and that change no answer: who asks, what is kept, how tools would be called.
HARMLESS = frozenset({
    "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls",
})  # fmt: skip


class TextContent(BaseModel):
    """Words."""

    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    """A photograph as ``data:image/…;base64,…``."""

    url: str


class ImageContent(BaseModel):
    """A photograph."""

    type: Literal["image_url"]
    image_url: ImageUrl


Content = Annotated[TextContent | ImageContent, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Content], Field(max_length=1024)]


class StreamOptions(BaseModel):
    """``include_usage``: a last piece with the counts."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """What is asked.  Left out, the bundle's decoding defaults hold, under which it was certified."""

    model_config = ConfigDict(extra="allow")

    messages: list[ChatMessage] = Field(min_length=1, max_length=256)
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=1 << 20)
    max_completion_tokens: int | None = Field(None, ge=1, le=1 << 20)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    n: int | None = 1
    user: str | None = Field(None, max_length=256)
    logprobs: bool | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    tools: list[dict[str, object]] | None = None
    response_format: dict[str, object] | None = None
    return_token_ids: bool = False


def routes(desk: Desk, visitors: Visitors) -> APIRouter:
    """The two endpoints."""
    router = APIRouter(
        prefix="/v1",
        tags=["OpenAI"],
        route_class=visitors.keyed(),
        responses={code: {"model": ErrorReply} for code in (400, 401, 403, 404, 413, 415, 422, 429, 503)},
    )
    created = int(time.time())

    @router.get("/models", summary="The model that is served")
    async def models() -> dict[str, object]:
        model = {"id": desk.bundle.name, "object": "model", "created": created, "owned_by": "skinedge"}
        return {"object": "list", "data": [model]}

    @router.post("/chat/completions", summary="Go on with a conversation", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        _refuse_what_is_not_here(body, desk.bundle.name)
        asker = visitors.program(request, body.user)
        asked = desk.ask(asker, await _question(desk, body))
        chat_id = f"chatcmpl-{secrets.token_hex(12)}"
        if body.stream:
            events, first = asked.events(), None
            try:
                first = await while_connected(request.receive, lambda: _first(events))
            finally:
                if first is None:
                    asked.leave()
            if first is None:
                return Response(status_code=499)  # nobody reads it
            return EventStream(_stream(desk, asked, body, chat_id, events, first), asked.leave)
        answer = await while_connected(request.receive, asked.whole)
        if answer is None:
            return Response(status_code=499)  # nobody reads it
        if answer.failed:
            raise failure(answer.failed)
        return JSONResponse(_completion(desk, answer, body, chat_id))

    return router


async def _first(events: AsyncIterator[object]) -> list[object]:
    """Events up to the first that says whether there will be an answer: an error is then a status and not a stream."""
    seen: list[object] = []
    async for e in events:
        seen.append(e)
        if isinstance(e, Failed):
            raise failure(e)
        if not isinstance(e, Waiting):
            break
    return seen


async def _stream(
    desk: Desk, asked: Asked, body: ChatRequest, chat_id: str, events: AsyncIterator[object], seen: Iterable[object]
) -> AsyncIterator[str]:
    def piece(delta: Json, finish: str | None = None, token: int | None = None) -> str:
        choice: dict[str, Json] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        if token is not None and body.return_token_ids:
            choice["token_ids"] = [token]
        return event(None, {**_frame(desk, "chat.completion.chunk", chat_id), "choices": [choice]})

    async def rest() -> AsyncIterator[object]:
        for e in seen:
            yield e
        async for e in events:
            yield e

    try:
        async for e in rest():
            if isinstance(e, Started):
                yield piece({"role": "assistant", "content": ""})
            elif isinstance(e, Said) and (e.text or body.return_token_ids):
                yield piece({"content": e.text}, token=e.token_id)
            elif isinstance(e, Failed):
                yield event(None, failure(e).body())
                return
        yield piece({}, _finish(asked.answer))
        if body.stream_options and body.stream_options.include_usage:
            yield event(None, {**_frame(desk, "chat.completion.chunk", chat_id), "choices": [], "usage": _usage(asked.answer)})
        yield "data: [DONE]\n\n"
    finally:
        await events.aclose()  # type: ignore[attr-defined]


def _completion(desk: Desk, answer: Answer, body: ChatRequest, chat_id: str) -> Json:
    message: dict[str, Json] = {"role": "assistant", "content": answer.text, "refusal": None}
    choice: dict[str, Json] = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(answer)}
    if body.return_token_ids:
        choice["token_ids"] = list(answer.token_ids)
    return {**_frame(desk, "chat.completion", chat_id), "choices": [choice], "usage": _usage(answer)}


def _frame(desk: Desk, kind: str, chat_id: str) -> dict[str, Json]:
    fingerprint = desk.bundle.manifest.digest[:16]
    return {
        "id": chat_id, "object": kind, "created": int(time.time()), "model": desk.bundle.name, "system_fingerprint": fingerprint
    }  # fmt: skip


def _usage(answer: Answer) -> Json:
    made, read = len(answer.token_ids), answer.prompt_tokens
    kept = answer.ended.kept if answer.ended else 0
    return {
        "prompt_tokens": read, "completion_tokens": made, "total_tokens": made + read,
        "prompt_tokens_details": {"cached_tokens": kept},
    }  # fmt: skip


def _finish(answer: Answer) -> str:
    return "length" if answer.ended and answer.ended.finish_reason == "length" else "stop"


def _refuse_what_is_not_here(body: ChatRequest, name: str) -> None:
    """Raise for what the model cannot do.

    Raises:
        ApiError: with the field's name.
    """
    if body.model not in (None, "", ALIAS, name):
        raise ApiError(
            404, "model_not_found", f"no model '{body.model}' is served here.", f"Ask for '{name}' or '{ALIAS}'.", param="model"
        )
    plain = body.response_format is None or body.response_format.get("type") == "text"
    for field, fine, why in (
        ("n", body.n in (None, 1), "one answer is given to a question"),
        ("tools", not body.tools, "the model calls no tools"),
        ("logprobs", not body.logprobs, "log-probabilities are not given out"),
        ("frequency_penalty", not body.frequency_penalty, "the model was certified without it"),
        ("presence_penalty", not body.presence_penalty, "the model was certified without it"),
        ("response_format", plain, "the model answers in its own form"),
    ):
        if not fine:
            raise ApiError(400, "unsupported", f"'{field}' cannot be honoured: {why}.", "Leave it out.", param=field)
    for field, value in (body.model_extra or {}).items():
        if value and field not in HARMLESS:
            known = f"'{field[:100]}' cannot be honoured: it is not known here."
            raise ApiError(400, "unsupported", known, "Leave it out.", param=field[:100])


async def _question(desk: Desk, body: ChatRequest) -> Question:
    """The conversation with its photographs read.

    Raises:
        ApiError: a photograph is none, or is at an address.
    """
    urls = [
        part.image_url.url
        for m in body.messages
        if isinstance(m.content, list)
        for part in m.content
        if isinstance(part, ImageContent)
    ]
    if len(urls) > MAX_PICTURES:
        raise ApiError(
            400, "too_many_pictures", f"{len(urls)} photographs are too many: {MAX_PICTURES} are read.", param="messages"
        )
    pictures = [await desk.read(_data(url)) for url in urls]
    given = {
        "max_new_tokens": body.max_completion_tokens or body.max_tokens, "temperature": body.temperature, "top_p": body.top_p,
        "repetition_penalty": body.repetition_penalty,
    }  # fmt: skip
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Question(
        tuple(_message(m) for m in body.messages),
        tuple(p.photo for p in pictures),
        {name: value for name, value in given.items() if value is not None},
        tuple(filter(None, stop)),
        (body.seed or 0) % 2**63,
    )


def _message(message: ChatMessage) -> Message:
    role: Role = "system" if message.role in ("system", "developer") else message.role  # type: ignore[assignment]
    if isinstance(message.content, str):
        return Message(role, message.content)
    parts = [TextPart(p.text) if isinstance(p, TextContent) else ImagePart() for p in message.content]
    # One string where there are only words: templates treat the two alike, and some know only this.
    if all(isinstance(p, TextPart) for p in parts):
        return Message(role, "".join(p.text for p in parts if isinstance(p, TextPart)))
    return Message(role, tuple(parts))


def _data(url: str) -> bytes:
    """The bytes of a data URL (RFC 2397).

    Raises:
        ApiError: it is none.
    """
    head, comma, body = url.partition(",")
    if not head.startswith("data:"):
        raise ApiError(
            400, "no_outgoing_connection", "a photograph at an address is not fetched: nothing leaves this machine.",
            "Send it as data:image/jpeg;base64,…", param="messages",
        )  # fmt: skip
    if not comma or not head.endswith(";base64"):
        raise ApiError(
            400, "bad_data_url", "a data URL is not in base64.", "Send it as data:image/jpeg;base64,…", param="messages"
        )
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as e:
        raise ApiError(400, "bad_data_url", "the base64 of a data URL is damaged.", "Encode it again.", param="messages") from e
