"""The page and what it asks; everything under ``/api`` belongs to it and changes with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.responses import FileResponse, HTMLResponse, Response

from skinedge import __version__
from skinedge.clinic.desk import Answer, Asked, Asker, Desk, failure
from skinedge.clinic.events import Ended, Event, Failed, Question, Said, Started, Waiting
from skinedge.clinic.guard import DOCUMENT_POLICY
from skinedge.clinic.http import ApiError, ErrorReply, EventStream, event
from skinedge.clinic.narrative import Parts
from skinedge.clinic.pictures import Picture
from skinedge.clinic.report import Exchange, Report, render
from skinedge.clinic.selftest import checks
from skinedge.clinic.sessions import Session
from skinedge.clinic.visitors import COOKIE, Visitors
from skinedge.clinic.words import Language, in_all, limit, reliability
from skinedge.evaluation.answer import read_answer
from skinedge.evaluation.structure import check_structure
from skinedge.parity.certificate import FOLDER, PAGE, Certificate
from skinedge.runtime.photograph import FORMATS
from skinedge.runtime.prompt import ImagePart, Message, TextPart

if TYPE_CHECKING:
    from skinedge.console import Json

ASSETS = Path(__file__).with_name("page")
# Windows' registry may call a script plain text, and a browser that is told not to guess would not run it then.
_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".html": "text/html",
}
_BINARY = {"type": "string", "format": "binary"}
Digest = Annotated[str, PathParameter(pattern="^[0-9a-f]{64}$")]


class PicturePart(BaseModel):
    """A photograph that was sent before."""

    type: Literal["picture"]
    id: str = Field(pattern="^[0-9a-f]{64}$")


class WordsPart(BaseModel):
    """Words."""

    type: Literal["text"]
    text: str = Field(max_length=100_000)


Part = Annotated[PicturePart | WordsPart, Field(discriminator="type")]


class Turn(BaseModel):
    """One turn of the conversation; the assistant's is its raw text."""

    role: Literal["user", "assistant"]
    content: Annotated[str, Field(max_length=200_000)] | Annotated[list[Part], Field(min_length=1, max_length=32)]


class AskBody(BaseModel):
    """The conversation so far, ending with what is asked."""

    messages: list[Turn] = Field(min_length=1, max_length=128)
    max_new_tokens: int | None = Field(None, ge=1, le=1 << 20)
    seed: int = Field(0, ge=0, lt=2**63)


class LoginBody(BaseModel):
    """A name and a passphrase."""

    name: str = Field(min_length=1, max_length=256)
    passphrase: str = Field(min_length=1, max_length=1024)


class ExchangeBody(BaseModel):
    """A question with its photographs and the answer's raw text."""

    question: str = Field(max_length=100_000)
    pictures: list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(max_length=8)
    raw: str = Field(max_length=200_000)
    time: str = Field(max_length=64)
    seconds: float = Field(ge=0, allow_inf_nan=False)


class ReportBody(BaseModel):
    """What goes into the report; ``reference`` are the clinician's own words, such as a case number."""

    language: Language = "en"
    reference: str = Field("", max_length=500)
    exchanges: list[ExchangeBody] = Field(min_length=1, max_length=32)


class Visit(BaseModel):
    """What the page must know of its own session."""

    csrf: str
    login: Literal["off", "needed", "done"]
    operator: str | None
    role: str | None


class FindingBody(BaseModel):
    """What was noticed of a photograph before the model saw it."""

    code: str
    value: float
    limit: float


class PictureBody(BaseModel):
    """A photograph that was taken in."""

    id: str
    width: int
    height: int
    findings: list[FindingBody]


class StatusBody(BaseModel):
    """How the engine is."""

    state: Literal["loading", "ready", "busy", "restarting", "failed", "closed"]
    waiting: int
    detail: str


def routes(desk: Desk, visitors: Visitors) -> APIRouter:
    """All of them."""
    router = APIRouter(
        tags=["Page"], responses={code: {"model": ErrorReply} for code in (400, 401, 403, 404, 413, 415, 422, 429, 503)}
    )
    assets = {path.name: path for path in sorted(ASSETS.iterdir()) if path.is_file()}

    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(assets["index.html"])

    @router.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in assets:
            raise ApiError(404, "not_found", f"there is no '{name[:100]}'.")
        return FileResponse(assets[name], media_type=_TYPES[assets[name].suffix])

    def visit(request: Request, session: Session) -> Response:
        body = Visit(csrf=session.csrf, login=visitors.login(session), operator=session.operator, role=session.role)
        response = JSONResponse(body.model_dump())
        response.set_cookie(COOKIE, session.id, httponly=True, samesite="strict", secure=request.url.scheme == "https", path="/")
        return response

    @router.get("/api/session", response_model=Visit, summary="Begin or go on with a visit")
    async def session(request: Request) -> Response:
        return visit(request, visitors.session(request) or visitors.sessions.begin())

    @router.post("/api/login", response_model=Visit, summary="Log in")
    async def login(body: LoginBody, request: Request) -> Response:
        try:
            begun = await visitors.log_in(request, body.name, body.passphrase)
        except ApiError as e:
            if e.code == "wrong_passphrase":  # what is typed for a name may be a passphrase: only a known one is written down
                known = visitors.people.now().find(body.name)
                await desk.record("login-refused", operator=known.name if known else None)
            raise
        await desk.record("login", operator=begun.operator)
        return visit(request, begun)

    @router.post("/api/logout", response_model=Visit, summary="Log out; the visit's photographs are forgotten")
    async def logout(request: Request) -> Response:
        own = visitors.own(request)
        visitors.sessions.end(own.id)
        if own.operator:
            await desk.record("logout", operator=own.operator)
        return visit(request, visitors.sessions.begin())

    @router.get("/api/model", summary="What is served: its lineage and its certificate")
    async def model(request: Request) -> dict[str, object]:
        visitors.page(request, "lineage")
        return _model(desk)

    @router.get("/api/certificate", response_class=HTMLResponse, summary="The certificate's page")
    async def certificate(request: Request) -> Response:
        visitors.page(request, "lineage")
        if desk.bundle.certificate is None:
            raise ApiError(404, "not_found", "the bundle has no certificate: it was not compared with the original.")
        return FileResponse(desk.bundle.folder / FOLDER / PAGE, headers={"Content-Security-Policy": DOCUMENT_POLICY})

    @router.get("/api/status", summary="How the engine is")
    async def status() -> StatusBody:
        return StatusBody(state=desk.engine.state, waiting=desk.engine.waiting, detail=desk.engine.detail)

    @router.post(
        "/api/pictures", status_code=201, summary="Take a photograph in",
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": _BINARY}}}},
    )  # fmt: skip
    async def take(request: Request) -> PictureBody:
        visitors.page(request)
        picture = await desk.read(await request.body())
        desk.pictures.put(visitors.page(request).owner, picture)  # asked again: the visit may have ended meanwhile
        findings = [FindingBody(code=f.code, value=f.value, limit=f.limit) for f in picture.findings]
        return PictureBody(id=picture.id, width=picture.width, height=picture.height, findings=findings)

    @router.delete("/api/pictures/{name}", status_code=204, response_class=Response, summary="Forget a photograph")
    async def forget(name: Digest, request: Request) -> Response:
        desk.forget(visitors.page(request).owner, name)
        return Response(status_code=204)

    @router.post("/api/ask", response_model=None, summary="Ask; the answer comes as it is written")
    async def ask(body: AskBody, request: Request) -> Response:
        asker = visitors.page(request)
        asked = desk.ask(asker, _question(desk, asker, body))
        return EventStream(_stream(desk, asked), asked.leave)

    @router.post("/api/report", response_class=HTMLResponse, summary="A report to keep")
    async def report(body: ReportBody, request: Request) -> Response:
        asker = visitors.page(request)
        text = render(_report(desk, asker, body))
        await desk.record("report", operator=asker.operator, model=desk.bundle.manifest.digest)
        stamp = datetime.now().astimezone().strftime("%Y-%m-%d-%H%M")
        return HTMLResponse(text, headers={
            "Content-Disposition": f'attachment; filename="skin-report-{stamp}.html"', "Content-Security-Policy": DOCUMENT_POLICY,
        })  # fmt: skip

    @router.post("/api/selftest", response_model=None, summary="Check the bundle, its golden cases, the log, the engine")
    async def selftest(request: Request) -> Response:
        asker = visitors.page(request, "self-test")
        return EventStream(_checked(desk, asker))

    return router


def _model(desk: Desk) -> dict[str, object]:
    manifest, certificate = desk.bundle.manifest, desk.bundle.certificate
    return {
        "name": desk.bundle.name, "target": manifest.target, "scheme": manifest.scheme.asked,
        "bits": manifest.scheme.bits_per_weight, "digest": manifest.digest, "skinedge": __version__, "licence": manifest.licence,
        "question": manifest.prompt.question, "max_new_tokens": manifest.decoding.max_new_tokens,
        "lineage": [record.model_dump() for record in manifest.lineage],
        "certificate": _certificate(certificate) if certificate else None,
        "limits": {"max_bytes": desk.limits.max_bytes, "max_pixels": desk.limits.max_pixels, "formats": FORMATS},
    }  # fmt: skip


def _certificate(certificate: Certificate) -> dict[str, object]:
    """What the page tells of it, in each of its languages."""
    return {
        "verdict": certificate.verdict,
        "reliability": in_all(reliability, certificate.reliability),
        "limits": [in_all(limit, sentence) for sentence in certificate.limits],
        "data": certificate.data.name,
        "synthetic": certificate.data.synthetic,
        "n": certificate.data.n,
        "by_skin": certificate.data.by_skin,
    }


def _picture(desk: Desk, asker: Asker, name: str) -> Picture:
    picture = desk.pictures.get(asker.owner, name)
    if picture is None:
        raise ApiError(404, "picture_gone", "a photograph of this visit is no longer kept.", "Send it again.")
    return picture


def _question(desk: Desk, asker: Asker, body: AskBody) -> Question:
    """The conversation with its photographs.

    Raises:
        ApiError: one of them is gone.
    """
    photos = [
        _picture(desk, asker, part.id).photo
        for turn in body.messages
        if isinstance(turn.content, list)
        for part in turn.content
        if isinstance(part, PicturePart)
    ]
    messages = [_message(turn, desk.bundle.manifest.prompt.question) for turn in body.messages]
    overrides = {} if body.max_new_tokens is None else {"max_new_tokens": body.max_new_tokens}
    return Question(tuple(messages), tuple(photos), overrides, seed=body.seed)


def _message(turn: Turn, question: str) -> Message:
    """A turn; one that only shows something asks the bundle's own question."""
    if isinstance(turn.content, str):
        return Message(turn.role, turn.content)
    parts = tuple(ImagePart() if isinstance(p, PicturePart) else TextPart(p.text) for p in turn.content)
    if not any(isinstance(p, TextPart) and p.text.strip() for p in parts):
        parts = (*(p for p in parts if isinstance(p, ImagePart)), TextPart(question))
    return Message(turn.role, parts)


async def _stream(desk: Desk, asked: Asked) -> AsyncIterator[str]:
    parts = Parts()
    async for e in asked.events():
        for text in _told(desk, asked.answer, parts, e):
            yield text


def _told(desk: Desk, answer: Answer, parts: Parts, e: Event) -> Sequence[str]:
    """An event of the engine as events of the page."""
    if isinstance(e, Waiting):
        return [event("queued", {"position": e.position})]
    if isinstance(e, Started):
        return [event("started", {})]
    if isinstance(e, Said):
        return [event("text", {"part": part, "text": text}) for part, text in parts.push(e.text)]
    if isinstance(e, Failed):
        return [event("error", failure(e).body())]
    rest = [event("text", {"part": part, "text": text}) for part, text in parts.finish()]
    return [*rest, event("done", _done(desk, answer, e))]


def _done(desk: Desk, answer: Answer, ended: Ended) -> Json:
    whole = ended.finish_reason in ("eos", "stop")
    faults = check_structure(answer.text, finish="stop" if whole else ended.finish_reason).faults
    return {
        "text": answer.text, "answer": read_answer(answer.text), "finish_reason": "stop" if whole else ended.finish_reason,
        "tokens": ended.tokens, "seconds": {name: round(s, 3) for name, s in answer.seconds().items()}, "time": answer.time,
        "model": desk.bundle.manifest.digest, "faults": [str(fault) for fault in faults],
    }  # fmt: skip


def _report(desk: Desk, asker: Asker, body: ReportBody) -> Report:
    """What goes on the page; each picture is taken once, as the preview that was made at the door."""
    manifest, certificate = desk.bundle.manifest, desk.bundle.certificate
    exchanges = [
        Exchange(e.question, [_picture(desk, asker, name).preview for name in e.pictures], e.raw, e.time, e.seconds)
        for e in body.exchanges
    ]
    return Report(
        body.language, body.reference, exchanges,
        desk.bundle.name, manifest.target, manifest.scheme.asked, manifest.digest,
        certificate.reliability if certificate else None, datetime.now(UTC), asker.operator,
        synthetic=certificate is not None and certificate.data.synthetic,
        failed=certificate is not None and certificate.verdict == "fail",
    )  # fmt: skip


async def _checked(desk: Desk, asker: Asker) -> AsyncIterator[str]:
    passed = True
    async for check in checks(desk):
        passed &= check.passed is not False
        yield event(
            "check", {"name": check.name, "passed": check.passed, "detail": check.detail, "seconds": round(check.seconds, 2)}
        )
    await desk.record("self-test", operator=asker.operator, passed=passed)
    yield event("done", {"passed": passed})
