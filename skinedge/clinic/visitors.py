"""Who may do what: the page's visitors by cookie and token, other programs by key.

Without people and without a key everybody on this machine may ask: it is then one person's workstation.  With people, the
page asks for a passphrase; with people or a key, programs need the key.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from anyio import to_thread
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from skinedge.clinic.desk import Asker
from skinedge.clinic.http import ApiError, client_of
from skinedge.clinic.people import People
from skinedge.clinic.sessions import Session, Sessions, Throttle, csrf_matches

COOKIE = "skinedge_session"
TOKEN = "X-Skinedge-CSRF"


class PeopleList:
    """The list of operators as it is now: who is taken off it is out at once.

    Args:
        path: of the file; ``None`` where nobody has to log in.
        on_change: is given the name of whoever was taken off, or has another role or passphrase than before.
    """

    def __init__(self, path: Path | None, on_change: Callable[[str], None] = lambda _: None) -> None:
        self._path, self._on_change = path, on_change
        self._read: tuple[int, int] | None = None
        self._people = People()

    def now(self) -> People:
        """Read again if the file has changed.

        Raises:
            PeopleError: it is damaged.
        """
        if self._path is None:
            return self._people
        stat = self._path.stat() if self._path.exists() else None
        read = (stat.st_mtime_ns, stat.st_size) if stat else (0, 0)
        if read != self._read:
            before, self._people, self._read = self._people, People.load(self._path), read
            for person in set(before.people) - set(self._people.people):
                self._on_change(person.name)
        return self._people


@dataclass(frozen=True)
class Visitors:
    """The rules of one server.

    Args:
        sessions: of browsers.
        throttle: of logins.
        people: who may log in.
        key: what programs must send as ``Authorization: Bearer KEY``; ``None`` where they need none.
    """

    sessions: Sessions
    throttle: Throttle = field(default_factory=Throttle)
    people: PeopleList = field(default_factory=lambda: PeopleList(None))
    key: str | None = None

    def login(self, session: Session) -> Literal["off", "needed", "done"]:
        """Whether somebody has to log in."""
        return "off" if not self.people.now().needed else "done" if session.operator else "needed"

    def session(self, request: Request) -> Session | None:
        """The session of a page, if it has one."""
        return self.sessions.find(request.cookies.get(COOKIE))

    def own(self, request: Request) -> Session:
        """The session of a request that our own page made.

        Raises:
            ApiError: it has none, or not its token.
        """
        session = self.session(request)
        if session is None:
            raise ApiError(401, "session_needed", "the visit has ended: it was idle for too long.", "Load the page again.")
        if request.method not in ("GET", "HEAD") and not csrf_matches(session, request.headers.get(TOKEN)):
            raise ApiError(403, "csrf", "the request was not made by this visit's page.", "Load the page again.")
        return session

    def page(self, request: Request, what: str = "ask") -> Asker:
        """Who asks through our page.

        Raises:
            ApiError: without a session or its token, or by somebody who may not.
        """
        session, people = self.own(request), self.people.now()
        if people.needed:
            person = people.find(session.operator) if session.operator else None
            if person is None:
                raise ApiError(401, "login_needed", "somebody has to log in first.", "Log in.")
            if not person.may(what):
                raise ApiError(403, "not_allowed", f"the role '{person.role}' does not allow this.", "Log in as somebody else.")
        return Asker(session.id, session.id, session.operator)

    def program(self, request: Request, name: str | None = None) -> Asker:
        """A request of a program.

        Raises:
            ApiError: its key is missing or wrong.
        """
        if self.key is not None or self.people.now().needed:
            kind, _, given = request.headers.get("authorization", "").partition(" ")
            if self.key is None or kind.casefold() != "bearer" or not _same(given.strip(), self.key):
                hint = "Send it as Authorization: Bearer KEY; skinedge serve --api-key-file names it."
                raise ApiError(401, "invalid_api_key", "the key is missing or wrong.", hint)
        return Asker("", client_of(request, name))

    def keyed(self) -> type[APIRoute]:
        """Routes of programs: the key is looked at before anything of the body is read."""
        check = self.program

        class Keyed(APIRoute):
            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                handle = super().get_route_handler()

                async def keyed(request: Request) -> Response:
                    check(request)
                    return await handle(request)

                return keyed

        return Keyed

    async def log_in(self, request: Request, name: str, passphrase: str) -> Session:
        """A session of somebody.

        Raises:
            ApiError: the passphrase is wrong, or was too often.
        """
        session, people = self.own(request), self.people.now()
        if not people.needed:
            raise ApiError(400, "bad_request", "nobody has to log in here.")
        address = request.client.host if request.client else ""
        wait = self.throttle.attempt(name, address)
        if wait > 0:
            raise ApiError(429, "too_many_attempts", "too many wrong passphrases.", "Wait a little.", retry_after=int(wait) + 1)
        person = await to_thread.run_sync(people.check, name, passphrase)
        if person is None:
            raise ApiError(401, "wrong_passphrase", "the name or the passphrase is wrong.", "Try again.")
        self.throttle.succeeded(name, address)
        return self.sessions.log_in(session, person.name, person.role)


def _same(given: str, key: str) -> bool:
    """In a time that tells nothing of the key."""
    a, b = (hashlib.sha256(k.encode("utf-8", "surrogatepass")).digest() for k in (given, key))
    return secrets.compare_digest(a, b)
