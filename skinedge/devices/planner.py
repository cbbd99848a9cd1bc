"""Will it fit, how fast, and what would it wait for: every device, target and scheme for one model and one question.

Nothing is measured and no weight is read, except on ``this-machine``, whose memory and cores are looked at.  The model of
time is ``timing.py``, its constants ``constants.py``, the bytes ``footprint.py`` and the work ``work.py``.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from skinedge import __version__
from skinedge.bundle import known_targets, load_target
from skinedge.console import size
from skinedge.devices import Device
from skinedge.devices.constants import (
    ACCURACY,
    HOST_FLOPS,
    PATCHES_S_PER_TOKEN,
    PHOTOGRAPH_S_PER_MEGAPIXEL,
    SAMPLE_S_PER_LOGIT,
    SPEED,
    efficiency,
    named,
)
from skinedge.devices.footprint import footprint
from skinedge.devices.shape import Shape
from skinedge.devices.timing import NOTHING, Duration, Peak, Work, duration
from skinedge.devices.work import Case, memory, prefill, side_branch, step, tower
from skinedge.errors import TargetError
from skinedge.measure.forecast import Forecast, ForecastRow, MemoryParts, Resource, TimeParts, Workload
from skinedge.weights.cast import FLOATS

# What a scheme's weights need of a GPU beside its activations' type.
_NEEDS = {"fp8": "fp8", "nvfp4": "fp4"}


def forecast(
    shape: Shape, devices: Sequence[Device], workload: Workload, *, target: str | None = None, scheme: str | None = None
) -> Forecast:
    """All rows, the fastest answer first, then those that do not fit or run.

    Args:
        shape: the model.
        devices: where.
        workload: the question.
        target: only this one.
        scheme: only this one.
    """
    rows = [row for device in devices for row in _rows(shape, device.measured(), workload, target, scheme)]
    return Forecast(
        skinedge=__version__,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model=shape.planned,
        workload=workload,
        constants=named(),
        accuracy=ACCURACY,
        rows=tuple(sorted(rows, key=_rank)),
    )


def one_of_each(found: Forecast, choices: Mapping[str, Device]) -> tuple[ForecastRow, ...]:
    """One row a device: what ``skinedge export --device`` writes for it if that fits, else the first, in the rows' order."""
    chosen: dict[str, ForecastRow] = {}
    for row in found.rows:
        choice = choices[row.device]
        usual = (row.target, row.scheme) == (choice.target, choice.scheme) and row.verdict == "fits"
        if usual or row.device not in chosen:
            chosen[row.device] = row
    return tuple(sorted(chosen.values(), key=_rank))


def refuse_if_none_fits(asked: Forecast, everything: Callable[[], Forecast], device: Device) -> None:
    """Stop where nothing that was asked for would work on the one device that was named.

    Args:
        asked: what was asked for.
        everything: every device, target and scheme; called only if it is needed.
        device: the one that was named.

    Raises:
        TargetError: the reason of what came closest; the hint names what would fit there, or where it would.
    """
    if any(row.verdict == "fits" for row in asked.rows):
        return
    closest = min(asked.rows, key=lambda row: (row.verdict != "too large", row.memory.needed))
    fitting = [row for row in everything().rows if row.verdict == "fits"]
    there = [row for row in fitting if row.device == device.name]
    elsewhere = [row for row in fitting if row.device != device.name]
    elsewhere.sort(key=lambda row: row.memory.available)
    if there:
        hint = f"What would fit there: {', '.join(f'{r.target} {r.scheme} ({size(r.memory.needed)})' for r in there[:4])}."
    elif elsewhere:
        hint = f"The smallest device that would: {elsewhere[0].title}, with {elsewhere[0].target} {elsewhere[0].scheme}."
    else:
        hint = "Choose a smaller model or a shorter --context."
    raise TargetError(f"{asked.model.name} as {closest.target} {closest.scheme} on {device.title}: {closest.reason}", hint=hint)


def _rank(row: ForecastRow) -> tuple[int, float]:
    return (0, row.time.e2e_ms) if row.time else (("fits", "too large", "does not run").index(row.verdict), row.memory.needed)


def _rows(shape: Shape, device: Device, workload: Workload, target: str | None, scheme: str | None) -> Iterator[ForecastRow]:
    for name in known_targets():
        module = load_target(name)
        if not module.RUNS or name not in device.targets or target not in (None, name):
            continue
        for known in module.SCHEMES:
            if scheme in (None, known):
                yield _row(shape, device, workload, name, known)


def _row(shape: Shape, device: Device, workload: Workload, target: str, scheme: str) -> ForecastRow:
    weights = footprint(shape.config, shape.branch, target, scheme, device.kind)
    case = Case(shape, target, scheme, device.kind, workload, weights)
    parts = memory(case, device.available)
    verdict, reason = _verdict(case, device, parts)
    time = _time(case, device) if verdict == "fits" else None
    return ForecastRow(
        device=device.name,
        title=device.title,
        target=target,
        scheme=scheme,
        activations=_activations(case, device),
        verdict=verdict,
        reason=reason,
        bytes_per_token=weights.step,
        memory=parts,
        time=time,
        bound=_bound(time) if time else "memory size" if verdict == "too large" else None,
    )


def _activations(case: Case, device: Device) -> str:
    """As ``skinedge export --device`` would choose; either 16-bit type is as fast and as large as the other."""
    chosen = device.activations if case.target == device.target and case.scheme not in FLOATS else None
    return chosen or case.activations


def _bound(time: TimeParts) -> Resource:
    """What the stage waits for in which most of the answer's time is spent."""
    writing = time.e2e_ms - time.ttft_ms
    stages = [
        (writing, time.decode_bound),
        (time.prefill_ms, time.prefill_bound),
        (time.image_encode_ms, time.image_encode_bound),
    ]
    return max(stages, key=lambda stage: stage[0])[1]


def _verdict(case: Case, device: Device, parts: MemoryParts) -> tuple[Literal["fits", "too large", "does not run"], str | None]:
    if case.target == "onnx" and case.scheme == "bf16" and device.kind == "cpu":
        return "does not run", "ONNX Runtime does not compute bf16 on a CPU."
    missing = {_NEEDS.get(case.scheme, case.computed), case.computed} - set(device.compute_tflops)
    if missing:
        return "does not run", f"it does not compute in {' and '.join(sorted(missing))}."
    if parts.needed > parts.available:
        return "too large", f"it needs {size(parts.needed)} and the system leaves {size(parts.available)}."
    return "fits", None


def _time(case: Case, device: Device) -> TimeParts:
    load, known = case.workload, efficiency(device.kind)
    slower = 1.0 if device.kind == "cpu" else 1 / SPEED[case.target]

    def lasts(work: Work) -> Duration:
        return duration(work, device.peak, known) * slower

    # Tokens pass through Python one by one: the host looks at every logit.
    host = Duration({**NOTHING.parts, "overhead": SAMPLE_S_PER_LOGIT * case.shape.config.text.vocab_size})
    encode, read, write = lasts(tower(case)) + _branch(case, device), lasts(prefill(case)), lasts(step(case)) + host
    shown = PHOTOGRAPH_S_PER_MEGAPIXEL * load.megapixels + PATCHES_S_PER_TOKEN * load.image_tokens if load.image_tokens else 0.0
    first = shown + encode.seconds + read.seconds + host.seconds
    return TimeParts(
        preprocess_ms=1e3 * shown,
        image_encode_ms=1e3 * encode.seconds,
        prefill_ms=1e3 * read.seconds,
        sample_ms=1e3 * host.seconds,
        ttft_ms=1e3 * first,
        tpot_ms=1e3 * write.seconds,
        decode_tok_s=1 / write.seconds,
        ceiling_tok_s=device.peak.bandwidth / step(case).nbytes,
        e2e_ms=1e3 * (first + write.seconds * (load.output_tokens - 1)),
        image_encode_bound=encode.bound,
        prefill_bound=read.bound,
        decode_bound=write.bound,
    )


def _branch(case: Case, device: Device) -> Duration:
    """The side branch runs in f32 in every target, beside llama.cpp on the host."""
    patches = case.workload.image_tokens * case.shape.config.vision.spatial_merge_size**2
    if not patches or case.shape.branch is None:
        return NOTHING
    on_host = case.target == "gguf" and device.kind != "cpu"
    peak = Peak(device.peak.bandwidth, {"f32": HOST_FLOPS}) if on_host else device.peak
    return duration(
        Work(case.weights.adapter, {"f32": side_branch(case.shape.branch, patches)}, 0), peak, efficiency(device.kind)
    )
