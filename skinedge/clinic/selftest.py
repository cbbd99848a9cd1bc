"""The workstation tests itself: is all of it as it was, does the model say what it said, does nothing leave the machine."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
from anyio import to_thread

from skinedge.bundle import verify
from skinedge.clinic.audit import verify_log
from skinedge.clinic.events import Failed, Photo, Question
from skinedge.errors import SkinedgeError
from skinedge.runtime.prompt import ask

if TYPE_CHECKING:
    from skinedge.clinic.desk import Desk

Found = tuple[bool | None, str]


@dataclass(frozen=True)
class Check:
    """One check: ``passed`` is ``None`` where there was nothing to check."""

    name: str
    passed: bool | None
    detail: str
    seconds: float


async def checks(desk: Desk) -> AsyncIterator[Check]:
    """All of them, each as it is done."""
    for name, check in (
        ("bundle", _bundle), ("golden", _golden), ("audit", _audit), ("engine", _engine), ("network", _network),
    ):  # fmt: skip
        yield await _timed(name, check, desk)


async def _timed(name: str, check: Callable[[Desk], Awaitable[Found]], desk: Desk) -> Check:
    begin = time.perf_counter()
    try:
        passed, detail = await check(desk)
    except SkinedgeError as e:
        passed, detail = False, str(e)
    return Check(name, passed, detail, time.perf_counter() - begin)


async def _bundle(desk: Desk) -> Found:
    manifest = await to_thread.run_sync(verify, desk.bundle.folder)
    same = manifest.digest == desk.bundle.manifest.digest
    return same, f"{len(manifest.files)} files are as they were written" if same else "the folder holds another bundle now"


async def _golden(desk: Desk) -> Found:
    message = await desk.engine.golden()
    outcomes = message["outcomes"]
    assert isinstance(outcomes, list)
    if message["error"]:
        return False, str(message["error"])
    if not outcomes:
        return None, "the bundle has no golden cases"
    good = [o for o in outcomes if isinstance(o, dict) and o["passed"]]
    return len(good) == len(outcomes), f"{len(good)} of {len(outcomes)} golden cases are as they were"


async def _audit(desk: Desk) -> Found:
    if desk.audit is None:
        return None, "no log is kept"
    verified = await to_thread.run_sync(verify_log, desk.audit.folder)
    return True, f"{verified.count} records are as they were written"


async def _engine(desk: Desk) -> Found:
    """A drawn picture, through the queue like everybody's."""
    size = 112
    photo = Photo("self-test", size, size, bytes((200, 150, 130)) * size * size)
    ticket = desk.engine.ask("self-test", Question(ask(), (photo,), {"max_new_tokens": 4}))
    async for event in ticket:
        if isinstance(event, Failed):
            return False, f"{event.message} {event.hint}".strip()
    return True, "the model answers"


async def _network(desk: Desk) -> Found:
    """What the server and its engine listen on and are connected to, as the system sees it now."""
    pids = [os.getpid(), *([desk.engine.pid] if desk.engine.pid else [])]
    try:
        found = [c for pid in pids for c in psutil.Process(pid).net_connections("inet")]
    except psutil.Error as e:
        return None, f"the system does not say which connections there are ({type(e).__name__})"
    elsewhere = sorted({a.ip for c in found for a in (c.laddr, c.raddr) if a and not ipaddress.ip_address(a.ip).is_loopback})
    if elsewhere:
        return False, f"connected to, or open for, {', '.join(elsewhere)}"
    return True, f"{len(found)} connections, all within this machine"
