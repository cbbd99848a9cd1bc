"""Programs that ask, beside an engine that answers when the test says so: it is never started, and its queue is ours."""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from skinedge.clinic import openai_api, skingpt_api
from skinedge.clinic.desk import Asker, Desk
from skinedge.clinic.engine import Engine, EngineSettings
from skinedge.clinic.events import Ended, Failed, Photo, Question, Said
from skinedge.clinic.http import ApiError
from skinedge.clinic.sessions import Sessions
from skinedge.clinic.skingpt_api import States
from skinedge.clinic.visitors import Visitors
from skinedge.runtime.image import ProcessorConfig
from skinedge.runtime.prompt import Message, TextPart

WHOLE = Ended("stop", 1, 1, 0, {})


@pytest.fixture
def desk() -> Desk:
    bundle = SimpleNamespace(name="m", manifest=SimpleNamespace(digest="d" * 64), processor=ProcessorConfig())
    return Desk(cast(Any, bundle), Engine(EngineSettings(Path("unused"))), None)


@pytest.fixture
def app(desk: Desk) -> FastAPI:
    return served(desk)


def served(desk: Desk, key: str | None = None) -> FastAPI:
    app, visitors = FastAPI(), Visitors(Sessions(), key=key)
    for api in (openai_api, skingpt_api):
        app.include_router(api.routes(desk, visitors))
    app.add_exception_handler(ApiError, lambda _, e: cast(ApiError, e).response())
    return app


def photograph(colour: str) -> dict[str, Any]:
    data = io.BytesIO()
    Image.new("RGB", (200, 200), colour).save(data, "PNG")
    return {"file": ("a.png", data.getvalue())}


async def next_asked(desk: Desk) -> Any:
    """The ticket that an engine would take next."""
    for _ in range(500):
        if ticket := desk.engine._queue.get():
            return ticket
        await asyncio.sleep(0.01)
    pytest.fail("nothing was asked")


def colours(question: Question) -> list[tuple[int, ...]]:
    return [tuple(photo.rgb[:3]) for photo in question.photos]


def test_a_photograph_that_comes_while_an_answer_is_written_is_for_the_next_message(desk: Desk, app: FastAPI) -> None:
    async def visit() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:

            def predict(words: str) -> asyncio.Task[httpx.Response]:
                return asyncio.ensure_future(client.post("/v1/predict/s", json={"message": words}))

            await client.post("/v1/upload/s", files=photograph("red"))
            first = predict("one")
            ticket = await next_asked(desk)
            await client.post("/v1/upload/s", files=photograph("blue"))
            ticket.tell(Failed("timeout", "It took too long.", ""))
            assert (await first).status_code == 504

            again = predict("one")  # the newer photograph stands for the one that was not answered
            ticket = await next_asked(desk)
            assert colours(ticket.question) == [(0, 0, 255)]
            await client.post("/v1/upload/s", files=photograph("lime"))
            ticket.tell(Said("a", 1))
            ticket.tell(WHOLE)
            assert (await again).json() == {"message": "a"}

            second = predict("two")
            ticket = await next_asked(desk)
            assert colours(ticket.question) == [(0, 0, 255), (0, 255, 0)]
            ticket.tell(WHOLE)
            await second

    asyncio.run(visit())


def test_conversations_end_by_being_idle_and_make_room() -> None:
    now, gone = [0.0], []
    states = States(idle=10, most=3, most_bytes=10_000, clock=lambda: now[0], on_end=gone.extend)

    def shown(name: str, nbytes: int) -> None:
        states.of(name).pending = Photo(f"photo of {name}", 1, 1, bytes(nbytes))

    shown("a", 3000)
    shown("b", 3000)
    states.of("b").busy = True
    now[0] = 10.0
    states.sweep()
    assert gone == ["photo of a"], "an answer is being written in the other"
    states.of("b").busy = False

    shown("c", 3000)
    states.of("b")
    shown("d", 5000)
    states.sweep()
    assert gone == ["photo of a", "photo of c"], "11,000 bytes are too many"
    states.forget("d")
    for name in "efg":
        states.of(name).messages.append(Message("user", "hello"))
    assert (len(states), gone[2:]) == (3, ["photo of d", "photo of b"])
    states.of("e").messages.append(Message("user", (TextPart("a" * 20_000),)))
    states.of("h")
    assert len(states) == 1, "words take room, too"


def test_a_form_stays_in_memory(desk: Desk, app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    def roll(_: object) -> None:
        pytest.fail("a photograph was written to the disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", roll)
    large = {"file": ("a.png", photograph("red")["file"][1] + bytes(3 << 20))}

    async def send() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            assert (await client.post("/v1/upload/s", files=large)).status_code == 200
            streamed = asyncio.ensure_future(client.post("/diagnose/stream", data={"text": "a"}, files={"image": large["file"]}))
            (await next_asked(desk)).tell(WHOLE)
            assert (await streamed).status_code == 200

    asyncio.run(send())


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/upload/s", "multipart/form-data; boundary=b"),
        ("/diagnose/stream", "multipart/form-data; boundary=b"),
        ("/v1/predict/s", "application/json"),
        ("/v1/reset/s", "application/json"),
        ("/v1/chat/completions", "application/json"),
    ],
)
def test_without_the_key_nothing_of_the_body_is_read(desk: Desk, path: str, kind: str) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        pytest.fail("the body was read")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": path, "query_string": b"",
        "headers": [(b"content-type", kind.encode())], "client": ("127.0.0.1", 4),
    }  # fmt: skip
    asyncio.run(served(desk, key="k" * 16)(scope, receive, send))
    assert sent[0]["status"] == 401
    assert b"invalid_api_key" in sent[1]["body"]


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_the_queue_is_not_answered(desk: Desk, app: FastAPI, stream: bool) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}], "stream": stream}).encode()
    waiting: list[int] = []

    async def messages() -> AsyncIterator[dict[str, Any]]:
        yield {"type": "http.request", "body": body, "more_body": False}
        while not desk.engine.waiting:
            await asyncio.sleep(0.01)
        waiting.append(desk.engine.waiting)
        yield {"type": "http.disconnect"}

    async def ask() -> None:
        come = messages()

        async def receive() -> dict[str, Any]:
            return await anext(come)

        async def send(_: Any) -> None:
            """Nobody reads it."""

        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/chat/completions", "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "client": ("127.0.0.1", 4), "app": app,
        }  # fmt: skip
        await asyncio.wait_for(app(scope, receive, send), 20)

    asyncio.run(ask())
    assert waiting == [1]
    assert desk.engine.waiting == 0


def test_who_left_is_logged_with_the_time_that_passed(desk: Desk) -> None:
    async def ask() -> float:
        asked = desk.ask(Asker("", "a"), Question(()))
        await asyncio.sleep(0.05)
        asked.leave()
        return asked.answer.whole_s

    assert asyncio.run(ask()) >= 0.05


def test_a_program_may_ask_for_whatever_is_served(desk: Desk, app: FastAPI) -> None:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            body = {"messages": [{"role": "user", "content": "hello"}], "model": "skinedge"}
            answer = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
            (await next_asked(desk)).tell(WHOLE)
            return await answer

    assert asyncio.run(ask()).json()["model"] == "m"


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"logit_bias": {"5": 100}}, "logit_bias"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"top_k": 1}, "top_k"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"store": True, "metadata": {"a": "b"}, "logit_bias": None, "functions": []}, None),
    ],
)
def test_a_field_that_is_not_known_is_refused_and_not_ignored(
    desk: Desk, app: FastAPI, fields: dict[str, object], refused: str | None
) -> None:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            body = {"messages": [{"role": "user", "content": "hello"}], **fields}
            answer = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
            if refused is None:
                (await next_asked(desk)).tell(WHOLE)
            return await answer

    response = asyncio.run(ask())
    if refused is None:
        assert response.status_code == 200
    else:
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, "unsupported", refused)
        assert error["message"] == f"'{refused}' cannot be honoured: it is not known here."
