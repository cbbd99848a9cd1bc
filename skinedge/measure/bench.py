"""``skinedge bench``: a bundle measured on the machine at hand, as a document."""

from __future__ import annotations

import datetime
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinedge import __version__
from skinedge.bundle import check_files
from skinedge.errors import SkinedgeError, UsageError
from skinedge.measure import ceiling
from skinedge.measure.bandwidth import probe, probe_gpu
from skinedge.measure.energy import idle_watts
from skinedge.measure.harness import PROTOCOL, Question, Rules
from skinedge.measure.machine import describe, open_sources, power_source_of
from skinedge.measure.pictures import draw, photographs
from skinedge.measure.result import BundleRecord, CaseResult, MachineRecord, Result
from skinedge.measure.runs import WORKER, Power, Show, Told, case_result, run_worker
from skinedge.measure.suites import Suite
from skinedge.measure.telemetry import Reading, Sampler
from skinedge.measure.telemetry_host import HostSource
from skinedge.measure.worker import Job

if TYPE_CHECKING:
    from skinedge.manifest import Manifest

PROCESSORS = ("auto", "cpu", "cuda")
IDLE_SECONDS = 5.0
UNWATCHED = "of the GPU could not be watched: nvidia-ml-py is missing, or the driver does not tell"
_ABOVE = 1.05  # of the ceiling: the probe itself is not exact


@dataclass(frozen=True)
class Opening:
    """How a bundle is opened: as which side, on what processor, with how many threads and positions."""

    side: str | None = None
    threads: int | None = None
    context: int | None = None
    processor: str = "auto"

    def __post_init__(self) -> None:
        if self.processor not in PROCESSORS:
            raise UsageError(f"unknown processor '{self.processor}'.", hint=f"Known: {', '.join(PROCESSORS)}.")

    def job(self, bundle: Path, **more: Any) -> Job:
        """A worker's job on ``bundle``."""
        return Job(str(bundle), self.side, self.threads, self.context, self.processor, **more)


@dataclass(frozen=True)
class Subject:
    """What is measured: a bundle, how it is opened, and the worker that does it (an experiment may have one of its own)."""

    bundle: Path
    opening: Opening = field(default_factory=Opening)
    worker: tuple[str, ...] = WORKER


def bench(
    subject: Subject, suite: Suite, asked: Sequence[Question], rules: Rules = PROTOCOL, *,
    device: str | None = None, show: Show = lambda _: None,
) -> Result:  # fmt: skip
    """Measure a bundle: two fresh processes for a cold and a warm start, the second of which runs the suite.

    Args:
        subject: what.
        suite: for its name.
        asked: its cases with photographs (``questions``).
        rules: how often; with less than the protocol asks for, the result is ``invalid``.
        device: what ``skinedge devices`` calls this machine.
        show: is told where it is.

    Raises:
        BundleError: not a bundle.
        SkinedgeError: it cannot be opened here, or an answer cannot be computed.
    """
    manifest = check_files(subject.bundle)
    with watching(show) as watched:
        machine = describe(watched.sources, device)
        show("opening, files not in memory")
        cold = run_worker(subject.opening.job(subject.bundle, evict=True), command=subject.worker)
        with Sampler(watched.sources) as sampler:
            job = subject.opening.job(subject.bundle, questions=as_json(asked), rules=asdict(rules))
            show("opening")
            told = run_worker(job, sampler, watched.watch, show, subject.worker)
        bandwidth = _bandwidth(subject.opening, told.on_gpu, show)
        power = watched.power(told.on_gpu)
    result = assemble(subject, manifest, machine, suite, told, sampler.readings, power)
    result = result.model_copy(
        update={"load_cold_s": cold.load_s if cold.evicted else None, "bandwidth_gb_s": bandwidth and round(bandwidth / 1e9, 3)}
    )
    return settled(result, manifest)


@dataclass
class Watched:
    """Telemetry that is open: what each source draws at rest, and whose process is watched."""

    host: HostSource
    sources: Sequence[Any]
    idle: Sequence[Reading] = ()

    def watch(self, pid: int) -> None:
        """Watch this process's memory from now on."""
        self.host.pid = pid

    def power(self, on_gpu: bool) -> Power | None:
        """Whose watts stand for a run, if anybody's can be read."""
        source = power_source_of(self.idle[-1], on_gpu) if self.idle else None
        idle = idle_watts(self.idle, source) if source else None
        return Power(source, idle) if source and idle is not None else None


@contextmanager
def watching(show: Show) -> Iterator[Watched]:
    """Telemetry for the length of a block; where power can be read, the machine's rest is measured first."""
    host, sources = open_sources()
    try:
        watched = Watched(host, sources)
        if any(s.read().watts for s in sources) or any(s.read().watts for s in sources):  # RAPL says nothing at first
            show(f"resting for {IDLE_SECONDS:.0f} s: what the machine draws when it does nothing")
            with Sampler(sources) as rest:
                time.sleep(IDLE_SECONDS)
            watched.idle = rest.readings
        yield watched
    finally:
        for source in sources:
            source.close()


def questions(suite: Suite, folder: Path, images: Path | None = None) -> tuple[Question, ...]:
    """A suite's cases with photographs: drawn into ``folder``, or one's own in their order, at their own sizes.

    Raises:
        UsageError: ``images`` is no folder of photographs.
    """
    sizes = [size for case in suite.cases for size in case.images]
    pictures = iter(draw(folder, sizes)) if images is None else photographs(images)
    return tuple(
        Question(c.name, tuple(itertools.islice(pictures, len(c.images))), c.text_tokens, c.new_tokens, c.mode)
        for c in suite.cases
    )


def as_json(asked: Sequence[Question]) -> tuple[dict[str, Any], ...]:
    """Questions as a job carries them."""
    return tuple({**asdict(q), "photographs": [str(p.resolve()) for p in q.photographs]} for q in asked)


def assemble(
    subject: Subject, manifest: Manifest, machine: MachineRecord, suite: Suite, told: Told, readings: Sequence[Reading],
    power: Power | None,
) -> Result:  # fmt: skip
    """What was told, as a document; cases that were never reached are left out, the one that was disturbed is ``invalid``."""
    last = max(told.cases, default=-1)
    cases = (case_result(c, told.problem if n == last else None, readings, power) for n, c in sorted(told.cases.items()))
    opening = subject.opening
    flags = {"side": opening.side or manifest.target, "processor": opening.processor, "ran_on": "gpu" if told.on_gpu else "cpu"}
    if told.on_gpu and not any(r.sees_gpu for r in readings):
        flags["throttling"] = UNWATCHED
    return Result(
        skinedge=__version__,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        status="invalid" if told.problem else "measured",
        reason=told.problem,
        machine=machine,
        bundle=bundle_record(manifest),
        suite=suite.name,
        threads=opening.threads,
        flags=flags,
        load_warm_s=told.load_s,
        peak_resident_bytes=told.peak_resident,
        peak_private_bytes=told.peak_private,
        peak_device_bytes=told.device_peak - (told.device_at_start or 0) if told.on_gpu and told.device_peak else None,
        weight_bytes_per_token=ceiling.weight_bytes(manifest),
        cache_bytes_per_position=ceiling.cache_bytes(manifest),
        throttling=tuple(dict.fromkeys(t for r in readings for t in r.throttle)),
        cases=tuple(cases),
    )


def settled(result: Result, manifest: Manifest) -> Result:
    """With the ceiling checked, and the status that follows from the cases'."""
    cases = tuple(_checked(c, result, manifest) for c in result.cases)
    reason = result.reason or next((c.reason for c in cases if c.status == "invalid"), None)
    status = "invalid" if reason else "measured"
    if not reason and not any(c.status == "measured" for c in cases):
        status, reason = "skipped", next((c.reason for c in cases), "the suite was not begun")
    return result.model_copy(update={"cases": cases, "status": status, "reason": reason})


def _checked(found: CaseResult, result: Result, manifest: Manifest) -> CaseResult:
    """Decoding faster than memory can be read is a fault of the measurement."""
    share = ceiling_share(found, result, manifest)
    if found.status != "measured" or share is None or share <= _ABOVE:
        return found
    reason = f"it decodes {share:.2f} times as fast as this machine can read the weights: a fault of the measurement"
    return found.model_copy(update={"status": "invalid", "reason": reason})


def ceiling_share(found: CaseResult, result: Result, manifest: Manifest) -> float | None:
    """Median tokens/s over the ceiling at the mean context; ``None`` where nothing is known or a cache holds the weights."""
    speeds = sorted(s.decode_tok_s for s in found.samples if s.decode_tok_s)
    weights, memory = result.weight_bytes_per_token, ceiling.memory_gb_s(result)
    if not speeds or not weights or not memory or weights < ceiling.SAYS_NOTHING_BELOW:
        return None
    context = found.case.prompt_tokens + sum(s.output_tokens for s in found.samples) / len(found.samples) / 2
    most = ceiling.ceiling(memory[0] * 1e9, weights, ceiling.cache_bytes(manifest), context)
    return speeds[len(speeds) // 2] / most


def bundle_record(manifest: Manifest) -> BundleRecord:
    """A bundle's page in a result."""
    scheme, calibration = manifest.scheme, manifest.details.get("importances")
    return BundleRecord(
        digest=manifest.digest,
        nbytes=sum(f.nbytes for f in manifest.files),
        target=manifest.target,
        scheme=scheme.asked,
        activations=scheme.activations,
        vision=scheme.vision,
        bits_per_weight=scheme.bits_per_weight,
        calibration=str(calibration) if calibration else None,
        lineage=manifest.lineage,
    )


def _bandwidth(opening: Opening, on_gpu: bool, show: Show) -> float | None:
    """Of the memory that the weights lie in."""
    import psutil

    show("reading memory, for the ceiling")
    if on_gpu:
        try:
            return probe_gpu()
        except SkinedgeError:
            return None
    return probe(opening.threads or psutil.cpu_count(logical=False) or 1)


def case_figures(found: CaseResult) -> Mapping[str, list[float]]:
    """Every metric's samples by name, in milliseconds or tokens/s."""
    samples = found.samples
    figures = {
        name: [float(getattr(s, name)) for s in samples]
        for name in ("preprocess_ms", "image_encode_ms", "prefill_ms", "sample_ms", "ttft_ms", "e2e_ms", "output_tokens")
    }
    figures["tpot_ms"] = [s.tpot_ms for s in samples if s.tpot_ms is not None]
    figures["decode_tok_s"] = [s.decode_tok_s for s in samples if s.decode_tok_s is not None]
    return figures
