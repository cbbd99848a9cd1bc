"""The endpoints of SkinGPT-R1's own server, so that its clients go on working.

Source: github.com/yuhos16/SkinGPT-R1, ``inference/full_precision/app.py``: ``/v1/upload``, ``/v1/predict`` and ``/v1/reset``
with a state id, ``/diagnose/stream``, ``/health``.  Requests and answers have its fields; unlike there, every adapter is
applied, decoding is the bundle's, nothing is written to the disk, and a failure has the shape that all of ours have.
"""

from __future__ import annotations

import re
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, Path, Request, UploadFile
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.formparsers import MultiPartParser
from starlette.responses import Response

from skinedge.clinic.desk import Asked, Asker, Desk, failure
from skinedge.clinic.events import Failed, Photo, Question, Said
from skinedge.clinic.http import ApiError, ErrorReply, EventStream, event, while_connected
from skinedge.clinic.pictures import KEPT_BYTES
from skinedge.clinic.sessions import IDLE_S
from skinedge.clinic.visitors import Visitors
from skinedge.runtime.prompt import ImagePart, Message, TextPart

STATES = 256  # conversations; the one that was used least recently is forgotten for a new one
TURNS = 128
PERSONA = {"en": "You are a professional AI dermatology assistant.", "zh": "你是一个专业的AI皮肤科助手。"}
COMPLETED = {"en": "Diagnosis completed", "zh": "诊断完成"}

StateId = Annotated[str, Path(min_length=1, max_length=200)]


@dataclass
class State:
    """One conversation: its turns with their photographs, and one that waits for the next turn."""

    seen: float
    messages: list[Message] = field(default_factory=list)
    photos: list[Photo] = field(default_factory=list)
    pending: Photo | None = None
    busy: bool = False

    @property
    def held(self) -> list[Photo]:
        """Its photographs."""
        return [*self.photos, *([self.pending] if self.pending else [])]

    @property
    def nbytes(self) -> int:
        """Bytes in memory, nearly."""
        parts = (p for m in self.messages for p in ([TextPart(m.content)] if isinstance(m.content, str) else m.content))
        return sum(len(p.rgb) for p in self.held) + sum(sys.getsizeof(p.text) for p in parts if isinstance(p, TextPart))


class States:
    """Conversations by id, bounded; those of programs end like visits, by being idle.

    Args:
        idle: seconds without a request after which one is forgotten.
        most: how many there may be; whichever was used least recently makes room.
        most_bytes: of photographs and words in all.
        on_end: is given the ids of the photographs that are forgotten.
    """

    def __init__(
        self,
        *,
        idle: float = IDLE_S,
        most: int = STATES,
        most_bytes: int = KEPT_BYTES,
        clock: Callable[[], float] = time.monotonic,
        on_end: Callable[[list[str]], None] = lambda _: None,
    ) -> None:
        self._idle, self._most, self._most_bytes, self._clock, self._on_end = idle, most, most_bytes, clock, on_end
        self._kept: OrderedDict[str, State] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, name: str) -> State:
        """The conversation, or a new one."""
        state = self._kept.setdefault(name, State(self._clock()))
        state.seen = self._clock()
        self._kept.move_to_end(name)
        self.sweep()
        return state

    def forget(self, name: str) -> None:
        """Its turns and photographs."""
        if (gone := self._kept.pop(name, None)) is not None:
            self._on_end([photo.id for photo in gone.held])

    def sweep(self) -> None:
        """Forget what was idle for too long, and then what there is no room for; the newest stays."""
        now = self._clock()
        for name in [n for n, s in self._kept.items() if now - s.seen >= self._idle and not s.busy]:
            self.forget(name)
        sizes = {name: state.nbytes for name, state in self._kept.items()}
        held = sum(sizes.values())
        for name in list(sizes)[:-1]:
            if len(self._kept) <= self._most and held <= self._most_bytes:
                return
            held -= sizes[name]
            self.forget(name)


class Spoken(BaseModel):
    """What the user says."""

    message: str = Field(min_length=1, max_length=100_000)


class Reply(BaseModel):
    """What the model says, or that something was done."""

    message: str


class Uploaded(Reply):
    """``path`` is the photograph's sha256: nothing is on the disk."""

    path: str


class Health(BaseModel):
    """``status`` is ``healthy`` while questions are taken; ``engine`` says more, ``bundle`` is the digest of what answers."""

    status: Literal["healthy", "starting", "unhealthy"]
    model_loaded: bool
    engine: str
    waiting: int
    bundle: str


def routes(desk: Desk, visitors: Visitors, states: States | None = None) -> APIRouter:
    """All of them; whoever gives ``states`` can sweep them."""
    MultiPartParser.spool_max_size = 0  # never: a form stays in memory, and the guard limits how much that may be
    router = APIRouter(
        tags=["SkinGPT-R1"],
        route_class=visitors.keyed(),
        responses={code: {"model": ErrorReply} for code in (400, 401, 403, 409, 413, 415, 422, 429, 503)},
    )
    states = States() if states is None else states

    @router.post("/v1/upload/{state_id}", summary="A photograph for the next message")
    async def upload(
        state_id: StateId, file: Annotated[UploadFile, File()], survey: Annotated[str | None, Form()] = None
    ) -> Uploaded:
        del survey
        picture = await desk.read(await file.read())
        states.of(state_id).pending = picture.photo
        return Uploaded(message="Image uploaded successfully", path=picture.id)

    @router.post("/v1/predict/{state_id}", summary="A message; the answer")
    async def predict(state_id: StateId, said: Spoken, request: Request) -> Reply:
        who, state = Asker("", f"state {state_id}"), states.of(state_id)
        if state.busy:
            raise ApiError(409, "conflict", "this conversation is being answered already.", "Wait for the answer.")
        if len(state.messages) >= TURNS:
            raise ApiError(400, "too_long", f"the conversation has {TURNS} turns.", "Reset it.")
        turn, photo, photos = _turn(said.message, state), state.pending, state.held
        state.pending, state.busy = None, True  # a photograph that comes meanwhile is for the next message
        answer = None
        try:
            asked = desk.ask(who, Question((*state.messages, turn), tuple(photos)))
            answer = await while_connected(request.receive, asked.whole)
        finally:
            state.busy = False
            if answer is None or answer.failed:
                state.pending = state.pending or photo
        if answer is None:
            return Reply(message="")  # nobody reads it
        if answer.failed:
            raise failure(answer.failed)
        state.messages += [turn, Message("assistant", answer.text)]
        state.photos = photos
        return Reply(message=answer.text)

    @router.post("/v1/reset/{state_id}", summary="Forget a conversation")
    async def reset(state_id: StateId) -> Reply:
        states.forget(state_id)
        return Reply(message="Chat history reset")

    @router.post("/diagnose/stream", summary="A photograph and words; the answer as it comes", response_model=None)
    async def diagnose(
        request: Request,
        text: Annotated[str, Form(min_length=1, max_length=100_000)],
        image: Annotated[UploadFile | None, File()] = None,
        language: Annotated[str, Form()] = "zh",
    ) -> Response:
        port = request.client.port if request.client else 0
        who, tongue = Asker("", f"stream {port}"), language if language in PERSONA else "zh"
        photo = (await desk.read(await image.read())).photo if image else None
        words = TextPart(f"{PERSONA[tongue]}\n\n{text}")
        message = Message("user", (ImagePart(), words) if photo else (words,))
        asked = desk.ask(who, Question((message,), (photo,) if photo else ()))
        return EventStream(_events(asked, tongue), asked.leave)

    async def health() -> Health:
        engine = desk.engine
        taken = engine.state in ("ready", "busy", "restarting")
        return Health(
            status="healthy" if taken else "starting" if engine.state == "loading" else "unhealthy",
            model_loaded=engine.state in ("ready", "busy"),
            engine=engine.state,
            waiting=engine.waiting,
            bundle=desk.bundle.manifest.digest,
        )

    router.add_api_route("/health", health, summary="Whether questions are taken", route_class_override=APIRoute)  # without a key
    return router


def _turn(words: str, state: State) -> Message:
    """The next turn: the first with a photograph says who is asked."""
    if state.pending is None:
        return Message("user", (TextPart(words),))
    return Message("user", (ImagePart(), TextPart(words if state.messages else f"{PERSONA['en']}\n\n{words}")))


async def _events(asked: Asked, language: str) -> AsyncIterator[str]:
    async for e in asked.events():
        if isinstance(e, Said) and e.text:
            yield event(None, {"type": "delta", "text": e.text})
        elif isinstance(e, Failed):
            yield event(None, {"type": "error", "message": f"{e.message} {e.hint}".strip()})
            return
    raw = asked.answer.text
    thinking, answer = thought_and_answer(raw)
    yield event(None, {"type": "final", "result": {
        "description": None, "thinking": thinking, "answer": answer, "raw": raw, "refined_by_deepseek": False, "success": True,
        "message": COMPLETED[language],
    }})  # fmt: skip


_THINK, _ANSWER = (re.compile(rf"<{tag}>(.*?)(?:</{tag}>|(?=<(?:think|answer)>)|$)", re.DOTALL) for tag in ("think", "answer"))
_ANY_TAG = re.compile(r"</?(?:think|answer)>")


def thought_and_answer(raw: str) -> tuple[str | None, str]:
    """The two halves as that server takes them apart: what is not closed counts, and without an answer all that is no thought."""
    think, answer = _THINK.search(raw), _ANSWER.search(raw)
    said = answer[1].strip() if answer else ""
    said = said or _ANY_TAG.sub("", _THINK.sub("", raw)).strip() or raw
    _, final, after = said.rpartition("Final Answer:")
    thought = think[1].strip() if think else ""
    return thought or None, after.strip() if final else said
