"""Workers and what they tell: a bundle measured in a process of its own, watched from outside."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO, cast

from skinedge import errors
from skinedge.errors import SkinedgeError, TargetError
from skinedge.measure.energy import Window, phase_energy
from skinedge.measure.harness import PROTOCOL, Rules
from skinedge.measure.result import CaseRecord, CaseResult, RunSample, Status
from skinedge.measure.telemetry import Reading, Sampler
from skinedge.measure.worker import Job

WORKER = (sys.executable, "-m", "skinedge.measure.worker")
Show = Callable[[str], None]


@dataclass(frozen=True)
class Power:
    """The source whose watts stand for a run, and what it draws at rest."""

    source: str
    idle_w: float


@dataclass
class Collected:
    """What has been told of one case so far; ``windows`` are the phases of the counted runs."""

    case: CaseRecord
    misfit: str | None = None  # why it cannot be run
    warmups: int = 0
    samples: list[RunSample] = field(default_factory=list)
    prefill: list[Window] = field(default_factory=list)
    decode: list[Window] = field(default_factory=list)

    def shortfall(self) -> str | None:
        """What the protocol asks for and these samples are not."""
        seconds = sum(s.e2e_ms for s in self.samples) / 1e3
        if Rules(0, PROTOCOL.runs, PROTOCOL.seconds).done(self.samples) and self.warmups >= PROTOCOL.warmups:
            return None
        return (
            f"{self.warmups} warm-ups and {len(self.samples)} runs in {seconds:.1f} s: the protocol asks for at least "
            f"{PROTOCOL.warmups}, {PROTOCOL.runs} and {PROTOCOL.seconds:.0f} s"
        )


@dataclass
class Told:
    """What a worker has told: how long opening took, where it computes, how much memory it had, and of each case."""

    load_s: float | None = None
    evicted: bool = False
    on_gpu: bool = False
    peak_resident: int | None = None
    peak_private: int | None = None
    device_at_start: int | None = None
    device_peak: int | None = None
    problem: str | None = None
    cases: dict[int, Collected] = field(default_factory=dict)


def run_worker(
    job: Job, sampler: Sampler | None = None, watch: Callable[[int], None] = lambda _: None, show: Show = lambda _: None,
    command: Sequence[str] = WORKER,
) -> Told:  # fmt: skip
    """Do a job in a fresh process.

    Args:
        job: what to do.
        sampler: running telemetry; what disturbs the run ends it.
        watch: is told the process's number.
        show: is told where it is.
        command: the worker.

    Raises:
        SkinedgeError: what the worker raised, or that it died.
    """
    told = Told()
    with _worker(job, command) as (process, words):
        watch(process.pid)
        for event in _events(process, words):
            told_of(told, event, job, show)
            if sampler is not None:
                _follow(event, told, Rules(**job.rules), sampler)
                told.problem = sampler.problem()
                if told.problem:
                    break
    if sampler is not None:
        _memory(told, sampler.readings)
    return told


def told_of(told: Told, event: dict[str, Any], job: Job, show: Show) -> None:
    """Enter one event."""
    kind = event["event"]
    if kind == "loaded":
        told.load_s, told.evicted, told.on_gpu = float(event["seconds"]), bool(event["evicted"]), bool(event["on_gpu"])
    elif kind == "done":
        told.peak_resident = event["peak_resident"]
    elif kind == "case":
        told.cases[event["number"]] = Collected(CaseRecord.model_validate_json(json.dumps(event["case"])), event["misfit"])
    elif kind == "run":
        _run(told.cases[event["number"]], event)
        show(progress(told.cases[event["number"]], Rules(**job.rules)))


def progress(found: Collected, rules: Rules) -> str:
    """Where a case is, for people."""
    if not found.samples:
        return f"{found.case.name}: warm-up {found.warmups} of {rules.warmups}"
    speed = found.samples[-1].decode_tok_s
    seconds = sum(s.e2e_ms for s in found.samples) / 1e3
    last = f"{found.samples[-1].ttft_ms:.0f} ms to the first token" + (f", {speed:.1f} tokens/s" if speed else "")
    return f"{found.case.name}: run {len(found.samples)} of {rules.runs} at least, {seconds:.0f} of {rules.seconds:.0f} s; {last}"


def _run(found: Collected, event: dict[str, Any]) -> None:
    if not event["counts"]:
        found.warmups += 1
        return
    found.samples.append(RunSample.model_validate_json(json.dumps(event["sample"])))
    found.prefill.append((event["encoding"], event["first"]))
    if event["end"] > event["first"]:
        found.decode.append((event["first"], event["end"]))


def case_result(found: Collected, problem: str | None, readings: Sequence[Reading], power: Power | None) -> CaseResult:
    """A case as a record.

    Args:
        found: what was told of it.
        problem: what disturbed it.
        readings: of the whole session.
        power: whose watts stand for it.
    """
    reason = found.misfit or problem or found.shortfall()
    status: Status = "skipped" if found.misfit else "invalid" if reason else "measured"
    prefill = decode = None
    if power is not None:
        read, written = found.case.prompt_tokens * len(found.samples), sum(s.output_tokens - 1 for s in found.samples)
        prefill = phase_energy(readings, power.source, found.prefill, read, power.idle_w)
        decode = phase_energy(readings, power.source, found.decode, written, power.idle_w)
    return CaseResult(
        case=found.case, status=status, reason=reason, warmups=found.warmups, samples=tuple(found.samples),
        prefill_energy=prefill, decode_energy=decode,
    )  # fmt: skip


def _follow(event: dict[str, Any], told: Told, rules: Rules, sampler: Sampler) -> None:
    """Clocks are judged from the last warm-up on: between cases and at the end the machine may rest."""
    if event["event"] != "run":
        sampler.unsettle()
    elif told.cases[event["number"]].warmups >= rules.warmups:
        sampler.settle()


def _memory(told: Told, readings: Sequence[Reading]) -> None:
    private = [r.private for r in readings if r.private is not None]
    resident = [r.resident for r in readings if r.resident is not None]
    device = [r.device_bytes for r in readings if r.device_bytes is not None]
    told.peak_private = max(private, default=None)
    told.peak_resident = max([*resident, told.peak_resident or 0]) or None
    if device:
        told.device_at_start, told.device_peak = device[0], max(device)


@contextmanager
def _worker(job: Job, command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], TextIO]]:
    """The process, given its job, and what it says beside its events; it does not outlive the block."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as words:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, text=True, encoding="utf-8"
        )
        try:
            assert process.stdin is not None
            process.stdin.write(job.to_json())
            process.stdin.close()
            yield process, cast(TextIO, words)
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def _events(process: subprocess.Popen[str], words: TextIO) -> Iterator[dict[str, Any]]:
    """What the worker tells, to its end.

    Raises:
        SkinedgeError: what the worker raised, or that it died.
    """
    assert process.stdout is not None
    event: dict[str, Any] = {"event": "nothing"}
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "error":
            kind = getattr(errors, event["kind"], SkinedgeError)
            raise kind(event["message"], hint=event["hint"])
        yield event
    if event["event"] != "done":
        process.wait()
        words.seek(0)
        last = (words.read().strip().splitlines() or ["it said nothing"])[-1]
        raise TargetError(
            f"the process that ran the model ended with code {process.returncode}: {last}",
            hint="Killed (-9) usually means that memory ran out: try a smaller --context or another scheme.",
        )
