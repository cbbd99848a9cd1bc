"""The process that runs the model while another one watches it: ``python -m skinedge.measure.worker``.

A job comes on standard input as one JSON object, and events go out as JSON lines, so that what native libraries print
cannot be mistaken for one.  Times are those of ``time.perf_counter``, which all processes of a machine share.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from skinedge.errors import SkinedgeError

if TYPE_CHECKING:
    from skinedge.console import Json
    from skinedge.runtime.session import Session

Wrap = Callable[["Session"], "Session"]


@dataclass(frozen=True)
class Job:
    """What to open, and what to ask of it; without ``questions`` the bundle is only opened.

    ``evict`` has the system forget the bundle's files first.  ``questions`` and ``rules`` are those of the harness.
    """

    bundle: str
    side: str | None = None
    threads: int | None = None
    context: int | None = None
    processor: str = "auto"
    evict: bool = False
    questions: tuple[dict[str, Any], ...] = ()
    rules: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """What ``to_json`` wrote."""
        raw = json.loads(text)
        return cls(**{**raw, "questions": tuple(raw["questions"])})


def work(job: Job, wrap: Wrap | None = None) -> Iterator[dict[str, Json]]:
    """Do the job; the events in order.

    Args:
        job: what to do.
        wrap: put round the session before anything is asked of it (an experiment's own).

    Raises:
        SkinedgeError: the bundle cannot be opened, or an answer cannot be computed.
    """
    folder = Path(job.bundle)
    evicted = job.evict and _evict(folder)
    begin = time.perf_counter()
    from skinedge.runtime.pipeline import open_pipeline

    with open_pipeline(folder, side=job.side, threads=job.threads, context=job.context, device=job.processor) as pipeline:
        seconds = time.perf_counter() - begin
        yield {"event": "loaded", "seconds": seconds, "evicted": evicted, "on_gpu": pipeline.session.on_gpu}
        if wrap is not None:
            pipeline.session = wrap(pipeline.session)
        yield from _measure(pipeline, job)
        yield {"event": "done", "peak_resident": peak_resident()}


def _measure(pipeline: Any, job: Job) -> Iterator[dict[str, Json]]:
    from skinedge.measure.harness import Question, Rules, measure, prepare

    for number, raw in enumerate(job.questions):
        question = Question(**{**raw, "photographs": tuple(map(Path, raw["photographs"]))})
        ready = prepare(pipeline, question)
        yield {"event": "case", "number": number, "case": ready.record.model_dump(mode="json"), "misfit": ready.misfit}
        if ready.misfit:
            continue
        for counts, timed in measure(pipeline, ready, Rules(**job.rules)):
            marks = {"encoding": timed.encoding, "first": timed.first, "end": timed.end}
            yield {"event": "run", "number": number, "counts": counts, "sample": timed.sample.model_dump(mode="json"), **marks}


def _evict(folder: Path) -> bool:
    from skinedge.measure.pagecache import evict

    return evict(folder)


def peak_resident() -> int | None:
    """Most bytes that this process has had in memory, pages of mapped files included; ``None`` where the system does not say."""
    from skinedge.measure.telemetry_host import PROC, process_bytes

    # Linux, whose ru_maxrss begins with that of the process that started this one
    if (most := process_bytes(PROC / "self").get("VmHWM")) is not None:
        return most
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def own_stdout() -> TextIO:
    """Standard output for events alone: whatever else is printed from now on goes to standard error."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def serve(wrap: Wrap | None = None) -> int:
    """Read a job, do it, tell of it; the exit code."""
    events = own_stdout()

    def tell(event: dict[str, Json]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    try:
        for event in work(Job.from_json(sys.stdin.read()), wrap):
            tell(event)
    except SkinedgeError as e:
        tell({"event": "error", "kind": type(e).__name__, "message": e.message, "hint": e.hint})
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(serve())
