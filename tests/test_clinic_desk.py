"""What the workstation keeps, forgets, and refuses to do."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest
from clinic import events, until, visit, workstation
from PIL import Image

from skinedge.clinic import app, desk, guard, wire
from skinedge.clinic.audit import AuditLog, records
from skinedge.clinic.engine import Engine
from skinedge.clinic.guard import Guard
from skinedge.clinic.people import People, person
from skinedge.clinic.pictures import Pictures, receive
from skinedge.clinic.visitors import PeopleList
from skinedge.errors import AuditError, ImageError
from skinedge.parity.pictures import make_picture
from skinedge.runtime.image import read_processor_config, to_pixels
from skinedge.runtime.photograph import ImageLimits


def picture(seed: int = 1, size: tuple[int, int] = (300, 200)) -> bytes:
    data = io.BytesIO()
    make_picture(*size, seed).save(data, "PNG")
    return data.getvalue()


def test_a_photograph_is_brought_to_the_size_that_the_model_would_give_it(tiny_model: Path) -> None:
    """What the engine makes of it is to the bit what a session makes of the file."""
    processor = read_processor_config(tiny_model)
    for size in ((300, 200), (33, 500), (1, 1), (1800, 1350)):
        taken = receive(picture(size=size), processor)
        ours = to_pixels(Image.frombytes("RGB", (taken.photo.width, taken.photo.height), taken.photo.rgb), processor)
        theirs = to_pixels(make_picture(*size, 1), processor)
        assert (taken.width, taken.height) == size
        assert (ours.patches == theirs.patches).all()
        assert max(Image.open(io.BytesIO(taken.preview)).size) <= 1200
    with pytest.raises(ImageError, match=r"more than 0\.01 million are refused unread"):
        receive(picture(), processor, ImageLimits(max_pixels=10_000))


def test_pictures_are_bounded_and_each_has_its_owner(tiny_model: Path) -> None:
    processor = read_processor_config(tiny_model)
    some = [receive(picture(seed), processor) for seed in range(4)]
    kept = Pictures(most=3 * some[0].nbytes)
    for taken in some:
        kept.put("a", taken)
    assert kept.get("a", some[0].id) is None, "the oldest made room"
    assert kept.get("a", some[3].id) is some[3]
    assert kept.get("b", some[3].id) is None
    kept.put("b", some[3])
    assert kept.forget("a", some[3].id) == [some[3].id]
    assert kept.get("b", some[3].id) is some[3]
    kept.forget("a")
    kept.forget("b")
    assert len(kept) == 0
    assert kept._held == 0


def test_what_cannot_be_written_down_is_not_answered_until_it_can(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "SWEEP_S", 0.05)
    with workstation(bundles["f32"], audit=tmp_path / "audit") as (client, _):
        mine = visit(client)
        ask = {"messages": [{"role": "user", "content": "hello"}], "max_new_tokens": 2}
        assert events(client.post("/api/ask", json=ask, headers=mine))[-1][0] == "done"
        until(lambda: [r.event for r in records(tmp_path / "audit")][-1] == "answer", 10)

        def full(*_: object, **__: object) -> None:
            raise AuditError("the disk is full.")

        with monkeypatch.context() as patch:
            patch.setattr(AuditLog, "append", full)
            client.post("/api/ask", json=ask, headers=mine)
            until(lambda: client.post("/api/ask", json=ask, headers=mine).status_code == 503, 10)
            refused = client.post("/api/ask", json=ask, headers=mine).json()["error"]
        assert refused["code"] == "log_failed"
        assert refused["message"] == "the audit log cannot be written: the disk is full."
        until(lambda: client.post("/api/ask", json=ask, headers=mine).status_code == 200, 10)
    assert [r.fields["lost"] for r in records(tmp_path / "audit") if r.event == "resumed"] == [1]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/ask"])
def test_too_many_words_stop_neither_the_log_nor_the_engine(bundles: dict[str, Path], tmp_path: Path, path: str) -> None:
    longest = "\U0001f600" * 1_000_000
    with AuditLog(tmp_path / "log", keep_text=True) as log:
        log.append("answer", {"question": longest, "answer": "a" * 1_000_000})
    assert len(wire.pack({"words": "\0" * 1_000_000})) < wire.MAX_JSON
    long = [longest + "a"] if path.startswith("/v1") else ["a" * 200_000] * 6
    with workstation(bundles["f32"], audit=tmp_path / "audit", keep_text=True) as (client, _):
        mine = visit(client)

        def ask(words: list[str], **more: object) -> httpx.Response:
            messages = [{"role": "user", "content": text} for text in words]
            return client.post(path, json={"messages": messages, **more}, headers=mine)

        refused = ask(long).json()["error"]
        assert (refused["code"], refused["message"]) == ("too_long", "the conversation has more than 1,000,000 characters.")
        if path.startswith("/v1"):
            assert ask(["hello"], stop=[longest]).json()["error"]["code"] == "too_long"
            parts = [{"type": "text", "text": ""}] * 1025
            many = client.post(path, json={"messages": [{"role": "user", "content": parts}]})
            assert (many.status_code, many.json()["error"]["code"]) == (422, "bad_request")
        assert ask(["hello"], **{"max_tokens" if path.startswith("/v1") else "max_new_tokens": 2}).status_code == 200


def test_an_idle_visit_ends_and_its_photographs_with_it(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "SWEEP_S", 0.05)
    with workstation(bundles["f32"], idle_s=0.4) as (client, _):
        mine = visit(client)
        name = client.post("/api/pictures", content=picture(), headers=mine).json()["id"]
        ask = {"messages": [{"role": "user", "content": [{"type": "picture", "id": name}]}], "max_new_tokens": 2}
        assert client.post("/api/ask", json=ask, headers=mine).status_code == 200
        until(lambda: client.get("/health").status_code == 200, 1)
        time.sleep(0.8)
        assert client.post("/api/ask", json=ask, headers=mine).json()["error"]["code"] == "session_needed"
        assert client.post("/api/ask", json=ask, headers=visit(client)).json()["error"]["code"] == "picture_gone"


def test_an_idle_conversation_of_a_program_is_forgotten_on_time(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []
    monkeypatch.setattr(app, "SWEEP_S", 0.05)
    monkeypatch.setattr(Engine, "forget", lambda _, names: gone.extend(names))
    with workstation(bundles["f32"], idle_s=0.4) as (client, _):
        shown = client.post("/v1/upload/s", files={"file": ("a.png", picture())}).json()["path"]
        until(lambda: gone == [shown], 10)


@pytest.mark.parametrize("how", ["logout", "idle"])
def test_a_photograph_that_is_read_when_its_visit_ends_is_not_kept(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow(*given: object) -> object:
        begun.set()
        assert ended.wait(10)
        return receive(*given)  # type: ignore[arg-type]

    kept: list[str] = []
    monkeypatch.setattr(desk, "receive", slow)
    monkeypatch.setattr(Pictures, "put", lambda _, owner, __: kept.append(owner))
    with workstation(bundles["f32"], idle_s=600.0 if how == "logout" else 0.4) as (client, _), ThreadPoolExecutor() as pool:
        mine = visit(client)
        sending = pool.submit(client.post, "/api/pictures", content=picture(), headers=mine)
        assert begun.wait(10)
        if how == "logout":
            assert client.post("/api/logout", headers=mine).status_code == 200
        else:
            time.sleep(0.5)
        ended.set()
        assert sending.result().json()["error"]["code"] == "session_needed"
    assert kept == []


def test_who_is_changed_on_the_list_is_told_of(tmp_path: Path) -> None:
    path, told = tmp_path / "people.json", []
    asha, otto = person("asha", "clinician", "a long passphrase"), person("otto", "auditor", "another passphrase")
    People().having(asha).having(otto).save(path)
    kept = PeopleList(path, told.append)
    assert kept.now().needed
    assert told == []
    People().having(person("asha", "clinician", "a new passphrase")).save(path)
    assert kept.now().find("otto") is None
    assert sorted(told) == ["asha", "otto"]
    assert not PeopleList(None).now().needed


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.05)

    async def silent() -> dict[str, object]:
        await asyncio.sleep(60)
        return {}

    async def reading(scope: object, receive: object, send: object) -> None:
        await receive()  # type: ignore[operator]

    async def send(_: object) -> None: ...

    scope = {"type": "http", "method": "POST", "scheme": "http", "headers": [(b"host", b"localhost")]}
    with pytest.raises(Exception, match="nothing of the request came for 0 s"):
        asyncio.run(Guard(reading)(scope, silent, send))  # type: ignore[arg-type]


def test_websockets_are_closed() -> None:
    told = []

    async def send(message: dict[str, object]) -> None:
        told.append(message)

    async def nothing(*_: object) -> None:
        raise AssertionError("it was let in")

    asyncio.run(Guard(nothing)({"type": "websocket", "headers": []}, nothing, send))  # type: ignore[arg-type]
    assert told == [{"type": "websocket.close", "code": 1008}]
