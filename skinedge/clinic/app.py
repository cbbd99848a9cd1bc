"""The web application: routes, one shape of error, the guard in front of all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skinedge import __version__
from skinedge.clinic import openai_api, page_api, skingpt_api
from skinedge.clinic.desk import Desk
from skinedge.clinic.guard import LOOPBACK, Guard
from skinedge.clinic.http import ApiError
from skinedge.clinic.metrics import CONTENT_TYPE_LATEST, Metrics
from skinedge.clinic.sessions import Sessions
from skinedge.clinic.visitors import Visitors

SWEEP_S = 15.0
_CODES = {404: "not_found", 405: "method_not_allowed", 400: "bad_request", 413: "too_large"}


def make_app(desk: Desk, visitors: Visitors, hosts: Collection[str] = LOOPBACK) -> ASGIApp:
    """The application.

    Args:
        desk: what it serves.
        visitors: who may do what.
        hosts: names it answers under.
    """

    states = skingpt_api.States(idle=visitors.sessions.idle, on_end=desk.engine.forget)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        desk.engine.start()
        await desk.record("start", model=desk.bundle.manifest.digest, skinedge=__version__)
        sweeping = asyncio.create_task(_sweep(desk, visitors.sessions, states))
        yield
        sweeping.cancel()
        await desk.engine.close()
        await desk.close()
        await desk.record("stop", model=desk.bundle.manifest.digest)

    app = FastAPI(
        title="skinedge workstation",
        version=__version__,
        description="An offline workstation: a photograph in, reasoning out. It supports a clinician and does not replace one.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        # The environment could add exporters that send what is asked to another machine.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False},
    )
    for routes in (
        page_api.routes(desk, visitors),
        openai_api.routes(desk, visitors),
        skingpt_api.routes(desk, visitors, states),
    ):
        app.include_router(routes)

    @app.get("/metrics", tags=["Operation"], summary="For Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(desk.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    _add_errors(app)
    return Guard(_Counted(app, desk.metrics), hosts)


async def _sweep(desk: Desk, sessions: Sessions, states: skingpt_api.States) -> None:
    """End idle visits and conversations on time, and with them their photographs, also when nobody comes; try a failed log."""
    while True:
        await asyncio.sleep(SWEEP_S)
        sessions.sweep()
        states.sweep()
        await desk.resume()


class _Counted:
    """ASGI middleware: requests by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")  # its pattern: what a visitor typed stays out
                self._metrics.requests.labels(route, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def ours(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return ApiError(422, "bad_request", f"'{where}': {first['msg']}.", "See /openapi.json.", param=where).response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        response = ApiError(error.status_code, _CODES.get(error.status_code, "bad_request"), str(error.detail)).response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:  # noqa: ARG001  (it is raised again for the log)
        return ApiError(500, "internal", "the workstation made a mistake; its log says more.", "Ask again.").response()
