"""``skinedge plan``: what fits on which device and how fast it would be, before anyone buys or exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skinedge.cli.options import Adapters, AsJson, among, existing
from skinedge.console import emit, say, size, table
from skinedge.errors import UsageError

# README, "A 7B with its LoRA".
BUILDING = "8.2 GiB were measured for a 7B in int4, with TensorRT-RTX on a PC"

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skinedge.devices import Device
    from skinedge.devices.shape import Shape
    from skinedge.measure.forecast import Forecast, ForecastRow, Workload


def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint folder, its config.json alone, or skingpt-r1-7b, qwen2.5-vl-7b, qwen2.5-vl-3b; "
            "left out: skingpt-r1-7b."
        ),
    ] = None,
    adapter: Adapters = None,
    device: Annotated[
        str | None,
        typer.Option(
            autocompletion=among("devices", ".toml"),
            help="Only this one: see skinedge devices; this-machine is measured. Left out: all but this-machine.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", autocompletion=among("targets"), help="Only this one: see skinedge targets.")
    ] = None,
    scheme: Annotated[
        str | None, typer.Option("--scheme", "-s", autocompletion=among("quantize"), help="Only this one: see skinedge targets.")
    ] = None,
    context: Annotated[int, typer.Option(min=64, help="Positions that the cache holds.")] = 4096,
    output: Annotated[int, typer.Option(min=1, help="Tokens of the answer, its chain of thought included.")] = 768,
    image_tokens: Annotated[
        int, typer.Option(min=0, max=16384, help="Tokens of the photograph; 1280 is the released settings' most, 0 is none.")
    ] = 1280,
    text_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the question.")] = 64,
    megapixels: Annotated[float, typer.Option(min=0, max=1000, help="Size of the photograph's file.")] = 12,
    everything: Annotated[bool, typer.Option("--all", help="Every target and scheme in the table.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The forecast as a file for skinedge report (.json).")] = None,
    picture: Annotated[Path | None, typer.Option(help="The table as a picture (.svg).")] = None,
    as_json: AsJson = False,
) -> None:
    """Forecast what fits on which device, how fast it answers and what it would wait for; nothing is measured.

    Every figure is an estimate, and says so; the fewest bits are the fastest, and what they cost is not in this table.

    Example: skinedge plan skingpt-r1-7b --device jetson-orin-nx-16gb
    """
    from skinedge.devices.picture import svg
    from skinedge.devices.planner import forecast, one_of_each, refuse_if_none_fits
    from skinedge.devices.shape import find_shape
    from skinedge.staging import refuse_taken_file, staged_file

    for place in filter(None, (out, picture)):
        refuse_taken_file(place)
    existing(*(adapter or ()))
    shape = find_shape(model, tuple(adapter or ()))
    load = _workload(shape, megapixels, image_tokens, text_tokens, output, context)
    devices = [d.measured() for d in _devices(device, target, scheme)]
    found = forecast(shape, devices, load, target=target, scheme=scheme)
    if device:
        others = [d for d in _devices(None, None, None) if d.name != device]
        refuse_if_none_fits(found, lambda: forecast(shape, [*devices, *others], load), devices[0])
    rows = found.rows if everything or device else one_of_each(found, {d.name: d for d in devices})
    for path, text in ((out, found.to_json()), (picture, svg(found, rows))):
        if path:
            with staged_file(path) as part:
                part.write(text.encode())
    if as_json:
        emit(json.loads(found.to_json()))
        return
    _show(found, rows)


def _workload(shape: Shape, megapixels: float, image: int, text: int, output: int, context: int) -> Workload:
    from skinedge.measure.forecast import Workload

    longest = shape.config.text.max_position_embeddings
    if context > longest:
        raise UsageError(f"a context of {context} positions: this model holds {longest}.", hint="Change --context.")
    load = Workload(megapixels=megapixels, image_tokens=image, text_tokens=text, output_tokens=output, context=context)
    if load.prompt_tokens + output > context:
        raise UsageError(
            f"{load.prompt_tokens} tokens of prompt and {output} of answer do not fit a context of {context}.",
            hint=f"Raise --context to {load.prompt_tokens + output}, or lower --output or --image-tokens.",
        )
    return load


def _devices(device: str | None, target: str | None, scheme: str | None) -> list[Device]:
    """Those asked for, of which at least one runs the target."""
    from skinedge.bundle import check_scheme, known_targets, load_target
    from skinedge.devices import HERE, known_devices, read_device
    from skinedge.registry import check

    running = tuple(name for name in known_targets() if load_target(name).RUNS)
    if target:
        check("target that runs by itself", target, running)
        check_scheme(target, scheme)
    elif scheme:
        check("scheme", scheme, tuple(dict.fromkeys(s for name in running for s in load_target(name).SCHEMES)))
    found = [read_device(name) for name in ([device] if device else known_devices()) if device or name != HERE]
    schemes = [load_target(name).SCHEMES for d in found for name in d.targets if target in (None, name)]
    if not schemes or (scheme and not any(scheme in known for known in schemes)):
        runs = ", ".join(found[0].targets)
        raise UsageError(f"{found[0].title} does not run {target or f'a target with {scheme}'}.", hint=f"It runs {runs}.")
    return found


def _show(found: Forecast, rows: Sequence[ForecastRow]) -> None:
    load, accuracy = found.workload, found.accuracy
    say(
        f"{found.model.name}, {load.image_tokens} image and {load.text_tokens} text tokens, context {load.context}. "
        "Every figure is estimated."
    )
    answer = f"{load.output_tokens} tokens"
    table(("device", "target", "scheme", "memory", "first token", "tokens/s", answer, "waits for"), [_cells(row) for row in rows])
    errors = f"median error {100 * accuracy.median_error:.0f} %, worst {100 * accuracy.worst_error:.0f} %"
    say(f"The model of time against {accuracy.rows} published figures of Jetsons and DGX Spark, each left out in turn: {errors}.")
    say("Nothing published was compared for graphics cards and CPUs.")
    if any(row.device.startswith("jetson-") and row.target == "trt" and row.time for row in rows):
        say(f"A Jetson builds its TensorRT engines itself, which takes more memory than running them: {BUILDING}.")
    fitting = next((row for row in rows if row.time), None)
    if fitting:
        say(f"Next: skinedge export --target {fitting.target} --scheme {fitting.scheme}")


def _cells(row: ForecastRow) -> tuple[str, ...]:
    memory = f"{size(row.memory.needed)} of {size(row.memory.available)}"
    if row.time is None:
        return (row.device, row.target, row.scheme, memory, "", "", "", f"{row.verdict}: {row.reason}")
    time = row.time
    parts = " + ".join(f"{ms / 1e3:.1f}" for ms in (time.preprocess_ms, time.image_encode_ms, time.prefill_ms))
    speed = (f"{time.ttft_ms / 1e3:.1f} s ({parts})", f"{time.decode_tok_s:.1f}", f"{time.e2e_ms / 1e3:.1f} s")
    return (row.device, row.target, row.scheme, memory, *speed, row.bound or "")
