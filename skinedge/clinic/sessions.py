"""Browser sessions and the throttle of logins, in memory only: closing the workstation ends them all.

Nothing here knows the web framework.  Both take their clock from outside (seconds, monotonic) and may be used from several
threads.
"""

from __future__ import annotations

import secrets
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock

IDLE_S, ABSOLUTE_S = 30 * 60.0, 12 * 3600.0
MOST_SESSIONS = 256
_ID_BYTES = 32


@dataclass(frozen=True)
class Session:
    """One browser: ``id`` is its cookie, ``csrf`` what its page sends back in a header; both 256 random bits in hex.

    ``operator`` and ``role`` are set once somebody has logged in.
    """

    id: str
    csrf: str
    begun: float
    seen: float
    operator: str | None = None
    role: str | None = None

    def __repr__(self) -> str:
        return f"Session(operator={self.operator!r}, role={self.role!r})"  # its keys are for nobody's log


class Sessions:
    """All sessions; the number is bounded, and who has been idle longest goes first, strangers before operators.

    Args:
        idle: seconds without a request after which one ends.
        absolute: seconds after which it ends however busy it is.
        most: how many there may be.
        on_end: is given each session that ended, also by a new id at login; what is kept for it can be dropped.
    """

    def __init__(
        self,
        *,
        idle: float = IDLE_S,
        absolute: float = ABSOLUTE_S,
        most: int = MOST_SESSIONS,
        clock: Callable[[], float] = time.monotonic,
        on_end: Callable[[Session], None] = lambda _: None,
    ) -> None:
        self.idle, self._absolute, self._most, self._clock, self._on_end = idle, absolute, most, clock, on_end
        self._guard = Lock()
        self._sessions: dict[str, Session] = {}  # in the order in which they were last seen

    def begin(self) -> Session:
        """A new session of nobody yet."""
        return self._add(None, None)

    def find(self, id: str | None) -> Session | None:
        """The session of this id, which is thereby not idle; nothing if there is none or it has ended."""
        self.sweep()
        with self._guard:
            found = self._sessions.pop(id, None) if id else None
            if found is not None:
                found = self._sessions[found.id] = replace(found, seen=self._clock())
            return found

    def log_in(self, session: Session, operator: str, role: str) -> Session:
        """The session of ``operator`` in place of ``session``; id and token are new, so who knew the old ones has nothing."""
        self.end(session.id)
        return self._add(operator, role)

    def end(self, id: str) -> None:
        """Forget a session; one that is gone may be ended."""
        with self._guard:
            gone = self._sessions.pop(id, None)
        if gone is not None:
            self._on_end(gone)

    def end_all_of(self, operator: str) -> None:
        """Forget every session of somebody who was taken off the list, or has a new passphrase."""
        with self._guard:
            ids = [s.id for s in self._sessions.values() if s.operator == operator]
        for id in ids:
            self.end(id)

    def sweep(self) -> None:
        """Forget what has ended; ``find`` does it, and whoever wants pictures gone on the minute calls it as well."""
        with self._guard:
            now = self._clock()
            ids = [s.id for s in self._sessions.values() if now - s.seen >= self.idle or now - s.begun >= self._absolute]
        for id in ids:
            self.end(id)

    def __len__(self) -> int:
        return len(self._sessions)

    def _add(self, operator: str | None, role: str | None) -> Session:
        self.sweep()
        now = self._clock()
        made = Session(secrets.token_hex(_ID_BYTES), secrets.token_hex(_ID_BYTES), now, now, operator, role)
        with self._guard:
            gone = self._to_evict() if len(self._sessions) >= self._most else None
            self._sessions[made.id] = made
        if gone is not None:
            self.end(gone.id)
        return made

    def _to_evict(self) -> Session:
        strangers = (s for s in self._sessions.values() if s.operator is None)
        return next(strangers, None) or next(iter(self._sessions.values()))


def csrf_matches(session: Session, token: str | None) -> bool:
    """Whether a request was made by the session's own page; the time it takes tells nothing of the token."""
    return token is not None and secrets.compare_digest(session.csrf.encode(), token.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class _Failures:
    count: int
    until: float  # no further attempt before
    last: float


class Throttle:
    """Slows the guessing of passphrases down: by name and by address, each failure after the first five doubles the wait.

    Args:
        free: failures without a wait.
        first: seconds of the first wait.
        longest: seconds of the longest; nobody is locked out for longer than that.
        forget: seconds after the end of a wait in which a name or address that does nothing is forgotten.
        most: how many names and addresses are remembered; those with the fewest failures are forgotten first.
    """

    def __init__(
        self,
        *,
        free: int = 5,
        first: float = 2.0,
        longest: float = 15 * 60.0,
        forget: float = 3600.0,
        most: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._free, self._first, self._longest, self._forget, self._most = free, first, longest, forget, most
        self._clock = clock
        self._guard = Lock()
        self._failures: dict[tuple[str, str], _Failures] = {}

    def attempt(self, name: str, address: str) -> float:
        """Seconds until the next attempt may be made; 0.0 means now, and then it counts as failed until ``succeeded`` is told.

        Counting before the passphrase is checked leaves no gap for many attempts at once.
        """
        with self._guard:
            now = self._clock()
            known = {key: self._known(key, now) for key in _keys(name, address)}
            wait = max(f.until - now for f in known.values())
            if wait > 0:
                return wait
            for key, failures in known.items():
                self._fail(key, failures.count + 1, now)
            return 0.0

    def succeeded(self, name: str, address: str) -> None:
        """The passphrase was right: the failures of name and address are forgotten."""
        with self._guard:
            for key in _keys(name, address):
                self._failures.pop(key, None)

    def __len__(self) -> int:
        return len(self._failures)

    def _known(self, key: tuple[str, str], now: float) -> _Failures:
        found = self._failures.get(key)
        return found if found and now - found.until < self._forget else _Failures(0, now, now)

    def _fail(self, key: tuple[str, str], count: int, now: float) -> None:
        # 2 ** 1024 is no float any more; the longest wait is reached long before.
        wait = min(self._longest, self._first * 2.0 ** min(count - self._free, 64)) if count >= self._free else 0.0
        if key not in self._failures and len(self._failures) >= self._most:
            del self._failures[min(self._failures, key=lambda k: (self._failures[k].count, self._failures[k].last))]
        self._failures[key] = _Failures(count, now + wait, now)


def _keys(name: str, address: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """A name counts as one however it is composed, as ``People.find`` takes it."""
    return ("name", unicodedata.normalize("NFC", name).strip()[:256]), ("address", address[:256])
