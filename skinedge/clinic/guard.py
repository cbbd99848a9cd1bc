"""What every request passes before a route sees it.

A server on loopback is reachable from every web site that is open in the same computer's browser, and a name of the
attacker's may point to 127.0.0.1 (DNS rebinding).  So a request must name this server in its ``Host``, and one that comes
from a page must come from ours.  Bodies are limited in size and in time.  Every answer carries the headers that keep our
page from loading, being framed by, or telling anything to, anybody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from skinedge.clinic.http import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
# The certificate's page is ours, whole in one file, with its own style and no script.
DOCUMENT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
BODY_S = 60.0  # between two pieces of a body
_SAFE = ("GET", "HEAD", "OPTIONS")
_OWN_PAGE = "Use its own page."
_FORWARD = (
    "Behind a proxy with TLS: start with --expose, let it send X-Forwarded-Proto, and if it runs on another machine, name its "
    "address in FORWARDED_ALLOW_IPS."
)


class Guard:
    """ASGI middleware.

    Args:
        app: what is behind it.
        hosts: names under which the server is reached, without ports.
        max_body: bytes.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = LOOPBACK, max_body: int = 80 << 20) -> None:
        self._app, self._hosts, self._max_body = app, frozenset(host.lower() for host in hosts), max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        guarded = _headed(send)
        given = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(scope, given)
        if refused:
            await refused.response()(scope, receive, guarded)
            return
        await self._app(scope, _Body(receive, self._max_body), guarded)

    def _refusal(self, scope: Scope, given: Mapping[str, str]) -> ApiError | None:
        host = given.get("host", "")
        if _name(host) not in self._hosts:
            return ApiError(
                421, "wrong_host", "this workstation does not answer under that name.", "Open it under its own address."
            )
        origin = given.get("origin")
        if origin is not None and origin != f"{scope['scheme']}://{host}":
            return _wrong_origin(_FORWARD if origin == f"https://{host}" else _OWN_PAGE)
        if given.get("sec-fetch-site") in ("cross-site", "same-site") and not (
            scope["method"] in _SAFE and given.get("sec-fetch-mode") == "navigate"
        ):
            return _wrong_origin(_OWN_PAGE)
        length = given.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length) > self._max_body:
            return too_large(self._max_body)
        return None


def _wrong_origin(hint: str) -> ApiError:
    return ApiError(403, "wrong_origin", "a page of another site may not ask this workstation.", hint)


def too_large(most: int) -> ApiError:
    """The refusal of a body."""
    return ApiError(413, "too_large", f"the request has more than {most / 2**20:.0f} MiB.", "Send a smaller photograph.")


def _name(host: str) -> str:
    """The host without its port; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class _Body:
    """The request's body, as far as it keeps to the limits."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most = receive, most
        self._read, self._whole = 0, False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), BODY_S)
        except TimeoutError:
            raise ApiError(408, "too_slow", f"nothing of the request came for {BODY_S:.0f} s.", "Send it again.") from None
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._read > self._most:
                raise too_large(self._most)
        return message


def _headed(send: Send) -> Send:
    """``send``, which adds the headers that are not there."""

    async def headed(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            more = [(n.lower().encode(), v.encode()) for n, v in HEADERS.items() if n.lower().encode() not in there]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return headed
