"""The engine's process: asked, stopped, killed, broken; every question ends with an answer or an error."""

from __future__ import annotations

import asyncio
import errno
import io
import itertools
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from skinedge.clinic import wire
from skinedge.clinic.engine import BusyError, Engine, EngineSettings, Ticket
from skinedge.clinic.engine_child import message_of, out_of_memory, question_of
from skinedge.clinic.events import Ended, Event, Failed, Photo, Question, Said, Started, Waiting
from skinedge.errors import SkinedgeError
from skinedge.runtime.prompt import ImagePart, Message, TextPart, ask


def photo(name: str = "a", size: tuple[int, int] = (112, 84)) -> Photo:
    return Photo(name, *size, Image.linear_gradient("L").resize(size).convert("RGB").tobytes())


def question(words: str = "What is it?", new: int = 6, **more: object) -> Question:
    return Question(ask(words), (photo(),), {"max_new_tokens": new}, **more)  # type: ignore[arg-type]


async def all_of(ticket: Ticket) -> list[Event]:
    return [event async for event in ticket]


def with_engine(bundle: Path, test: Callable[[Engine], Awaitable[None]], **settings: object) -> None:
    async def main() -> None:
        engine = Engine(replace(EngineSettings(bundle, threads=1, context=512), **settings))  # type: ignore[arg-type]
        engine.start()
        try:
            await asyncio.wait_for(test(engine), 120)
        finally:
            await engine.close()

    asyncio.run(main())


def test_a_question_comes_through_the_pipe_as_it_went_in() -> None:
    messages = (Message("system", "be kind"), Message("user", (ImagePart(), TextPart("wo? 在哪里"), ImagePart())))
    asked = Question(messages, (photo("a"), photo("b", (28, 56))), {"max_new_tokens": 3, "bias": "off"}, ("</a>",), 7)
    message, blob = message_of(asked)
    frame = io.BytesIO(wire.pack({"type": "ask", **message}, blob) + wire.pack({"type": "next"}))
    read = wire.read(frame)
    assert read is not None
    assert question_of(*read) == asked
    assert wire.read(frame) == ({"type": "next"}, b"")
    assert wire.read(frame) is None
    with pytest.raises(wire.WireError, match="ended inside a frame"):
        wire.read(io.BytesIO(b"\0\0"))
    with pytest.raises(wire.WireError, match="no frame"):
        wire.read(io.BytesIO(b"\xff" * 12))
    with pytest.raises(wire.WireError, match="no JSON"):
        wire.read(io.BytesIO(wire._LENGTHS.pack(1, 0) + b"{"))


def test_answers_in_turn_and_positions_are_told(bundles: dict[str, Path]) -> None:
    async def test(engine: Engine) -> None:
        tickets = [engine.ask(client, question()) for client in ("a", "a", "b")]
        first, second, third = await asyncio.gather(*map(all_of, tickets))
        assert [type(e) for e in first[:2]] == [Waiting, Started]
        assert second[:2] == [Waiting(1), Waiting(2)], "another client's first question goes before the second of one"
        assert third[0] == Waiting(1)
        assert all(isinstance(events[-1], Ended) for events in (first, second, third))
        said = [[e.token_id for e in events if isinstance(e, Said)] for events in (first, second, third)]
        assert said[0] == said[1] == said[2]
        assert len(said[0]) == 6

    with_engine(bundles["f32"], test)


def test_a_follow_up_does_not_read_again(bundles: dict[str, Path]) -> None:
    async def test(engine: Engine) -> None:
        events = await all_of(engine.ask("a", question(new=4)))
        text = "".join(e.text for e in events if isinstance(e, Said))
        end = events[-1]
        assert isinstance(end, Ended)
        assert end.kept == 0, "a first question is answered as a fresh session answers it"
        again = (*ask("What is it?"), Message("assistant", text), Message("user", "Why?"))
        follow = (await all_of(engine.ask("a", Question(again, (photo(),), {"max_new_tokens": 4}))))[-1]
        assert isinstance(follow, Ended)
        assert end.prompt_tokens - 2 <= follow.kept < follow.prompt_tokens
        other = (await all_of(engine.ask("a", Question(again, (photo("another"),), {"max_new_tokens": 4}))))[-1]
        assert isinstance(other, Ended)
        assert other.kept < follow.kept, "another photograph is another conversation"

    with_engine(bundles["f32"], test)


def test_stopping(bundles: dict[str, Path]) -> None:
    async def test(engine: Engine) -> None:
        running, waiting = engine.ask("a", question(new=400)), engine.ask("b", question())
        seen: list[Event] = []
        async for event in running:
            seen.append(event)
            if isinstance(event, Said) and len(seen) == 6:
                engine.cancel(waiting)
                engine.cancel(running)
                engine.cancel(running)
        assert isinstance(seen[-1], Ended)
        assert seen[-1].finish_reason == "cancelled"
        assert seen[-1].tokens < 400
        assert (await all_of(waiting))[-1] == Ended("cancelled", 0, 0, 0, {})
        assert isinstance((await all_of(engine.ask("a", question())))[-1], Ended), "it goes on answering"

    with_engine(bundles["f32"], test)


def test_a_killed_process_is_started_again_and_nothing_is_lost(bundles: dict[str, Path]) -> None:
    async def test(engine: Engine) -> None:
        await all_of(engine.ask("a", question()))
        tickets = [engine.ask("a", question(new=200)) for _ in range(4)]
        async for event in tickets[0]:
            if isinstance(event, Said):
                assert engine.pid
                os.kill(engine.pid, signal.SIGKILL)
                break
        first = [e async for e in tickets[0]][-1]
        assert isinstance(first, Failed)
        assert first.code == "engine_restarted"
        assert "Ask again" in first.hint
        for ticket in tickets[1:]:
            assert isinstance((await all_of(ticket))[-1], Ended)
        assert engine.restarted == 1

    with_engine(bundles["f32"], test)


def test_a_start_that_is_killed_is_tried_again(bundles: dict[str, Path]) -> None:
    async def test(engine: Engine) -> None:
        ticket = engine.ask("a", question())
        for _ in range(4):
            while engine.pid is None:
                await asyncio.sleep(0.01)
            os.kill(engine.pid, signal.SIGKILL)
            await asyncio.sleep(0.05)
        assert isinstance((await all_of(ticket))[-1], Ended)
        assert engine.restarted == 4

    with_engine(bundles["f32"], test)


@pytest.mark.parametrize(("refused", "code"), [(2, None), (3, "engine_failed")])
def test_a_process_that_the_system_does_not_start_is_a_failed_start(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch, refused: int, code: str | None
) -> None:
    start, tried = asyncio.create_subprocess_exec, itertools.count(1)

    async def refusing(*words: Any, **options: Any) -> asyncio.subprocess.Process:
        if next(tried) <= refused:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return await start(*words, **options)

    async def test(engine: Engine) -> None:
        last = (await all_of(engine.ask("a", question())))[-1]
        assert (last.code if isinstance(last, Failed) else None) == code
        assert engine.restarted == 2

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refusing)
    with_engine(bundles["f32"], test, deaths=3)


def test_one_that_dies_before_the_first_word_is_asked_again_once(bundles: dict[str, Path]) -> None:
    async def test(engine: Engine) -> None:
        while engine.state != "ready":
            await asyncio.sleep(0.01)
        ticket = engine.ask("a", question())
        assert engine.pid
        os.kill(engine.pid, signal.SIGKILL)
        assert isinstance((await all_of(ticket))[-1], Ended)

    with_engine(bundles["f32"], test)


def test_too_many_are_refused_with_a_time_to_come_back(bundles: dict[str, Path]) -> None:
    async def test(engine: Engine) -> None:
        tickets = [engine.ask(client, question()) for client in "abc"]
        with pytest.raises(BusyError, match="too many questions are waiting") as caught:
            engine.ask("d", question())
        assert 1 <= caught.value.retry_after <= 600
        assert f"{caught.value.retry_after} seconds" in caught.value.hint
        for ticket in tickets:
            assert isinstance((await all_of(ticket))[-1], Ended)

    with_engine(bundles["f32"], test, waiting=3, waiting_per_client=1)


def test_what_does_not_fit_is_told(bundles: dict[str, Path]) -> None:
    async def test(engine: Engine) -> None:
        [failed] = [e for e in await all_of(engine.ask("a", question("word " * 3000))) if isinstance(e, Failed)]
        assert failed.code == "too_long"
        assert "the model's context holds 512" in failed.message
        [special] = [e for e in await all_of(engine.ask("a", question("<|im_end|>"))) if isinstance(e, Failed)]
        assert special.code == "bad_prompt"
        [negative] = [
            e
            for e in await all_of(engine.ask("a", Question(ask("x", images=0), (), {"temperature": -1})))
            if isinstance(e, Failed)
        ]
        assert negative.code == "bad_request"
        assert isinstance((await all_of(engine.ask("a", question())))[-1], Ended)

    with_engine(bundles["f32"], test)


def test_an_answer_that_takes_too_long_ends(bundles: dict[str, Path]) -> None:
    async def test(engine: Engine) -> None:
        await all_of(engine.ask("a", question()))
        end = (await all_of(engine.ask("a", question(new=400))))[-1]
        assert isinstance(end, Failed)
        assert end.code == "timeout"
        assert isinstance((await all_of(engine.ask("a", question(new=1))))[-1], Ended | Failed)

    with_engine(bundles["f32"], test, answer_s=0.05, grace_s=5)


def test_a_bundle_that_cannot_be_opened_is_said_once_and_for_all(tmp_path: Path) -> None:
    async def test(engine: Engine) -> None:
        waiting = engine.ask("a", question())
        failed = (await all_of(waiting))[-1]
        assert isinstance(failed, Failed)
        assert failed.code == "engine_failed"
        assert "is not a bundle" in failed.message
        assert engine.state == "failed"
        assert (await all_of(engine.ask("a", question())))[-1] == failed
        with pytest.raises(SkinedgeError, match="is not a bundle"):
            await engine.golden()

    with_engine(tmp_path, test, refusals=1)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="a process cannot be halted here")
def test_golden_cases_that_take_too_long_end(bundles: dict[str, Path]) -> None:
    async def test(engine: Engine) -> None:
        while engine.state != "ready":
            await asyncio.sleep(0.02)
        assert engine.pid
        os.kill(engine.pid, signal.SIGSTOP)
        with pytest.raises(SkinedgeError, match="is being started again"):
            await engine.golden()
        while engine.state != "ready":
            await asyncio.sleep(0.02)

    with_engine(bundles["f32"], test, answer_s=0.1)


def test_closing_tells_whoever_waits(bundles: dict[str, Path]) -> None:
    async def test(engine: Engine) -> None:
        ticket = engine.ask("a", question())
        await engine.close()
        failed = (await all_of(ticket))[-1]
        assert isinstance(failed, Failed)
        assert failed.code == "closing"

    with_engine(bundles["f32"], test)


def test_memory_that_ran_out_is_known_by_its_words() -> None:
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert out_of_memory(RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 1"))
    assert not out_of_memory(ValueError("shapes"))
