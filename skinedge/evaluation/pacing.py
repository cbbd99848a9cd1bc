"""Not to ask too fast: turns in time, pauses that grow, and what a server says about when to come back."""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime

LONGEST_PAUSE_S = 60.0
LONGEST_RETRY_AFTER_S = 900.0


class Pacer:
    """Turns, evenly spaced; all wait when one is told to."""

    def __init__(self, per_minute: float) -> None:
        """``per_minute`` turns; 0 is no limit."""
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    def wait(self) -> float:
        """Take a turn: the seconds until it."""
        now = time.monotonic()
        turn = max(now, self._next)
        self._next = turn + self._gap
        return turn - now

    def hold(self, seconds: float) -> None:
        """No turn for so long."""
        self._next = max(self._next, time.monotonic() + seconds)


def growing_pause(attempt: int) -> float:
    """1, 2, 4 … seconds, each between half and all of it so that workers do not march in step."""
    return min(LONGEST_PAUSE_S, 2.0**attempt) * random.uniform(0.5, 1.0)


def retry_after(value: str | None) -> float:
    """Seconds from a ``Retry-After`` header, which may be a number or a date; 0 if it says nothing."""
    if not value:
        return 0.0
    try:
        seconds = float(value) if not value.endswith("GMT") else parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return 0.0
    return min(seconds, LONGEST_RETRY_AFTER_S) if seconds > 0 else 0.0
