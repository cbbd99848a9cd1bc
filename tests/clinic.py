"""A workstation on a free port of this machine, for the length of a block."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2 as httpx

from skinedge.clinic.engine import EngineSettings
from skinedge.clinic.serve import ServeSettings, Serving, open_server


@contextmanager
def workstation(bundle: Path, engine: EngineSettings | None = None, **settings: object) -> Iterator[tuple[httpx.Client, Serving]]:
    """A client of it, and the server itself; it is ready to answer."""
    asked = ServeSettings(replace(engine or EngineSettings(bundle, threads=1, context=1024), bundle=bundle), port=0, **settings)  # type: ignore[arg-type]
    serving = open_server(asked)
    thread = threading.Thread(target=serving.run)
    thread.start()
    try:
        with httpx.Client(base_url=serving.url, timeout=60) as client:
            until(lambda: client.get("/health").json()["engine"] in ("ready", "failed"), 60)
            yield client, serving
    finally:
        serving.server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server does not end"


def until(true: object, seconds: float) -> None:
    """Wait for something to be true."""
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.02)


def visit(client: httpx.Client) -> dict[str, str]:
    """A page's session: the header that its requests carry; the cookie is kept by the client."""
    return {"X-Skinedge-CSRF": client.get("/api/session").json()["csrf"]}


def events(response: httpx.Response) -> list[tuple[str, dict[str, object]]]:
    """The events of a stream that was read to its end."""
    import json

    found = []
    for block in response.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in lines and lines["data"] != "[DONE]":
            found.append((lines.get("event", "message"), json.loads(lines["data"])))
    return found
