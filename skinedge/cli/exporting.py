"""``skinedge export`` and ``skinedge merge``: from a checkpoint and its adapters to something that runs elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skinedge.cli.options import (
    Adapters,
    AllowInert,
    AsJson,
    DryRun,
    Model,
    Workers,
    among,
    calibration_of,
    export_options,
    model_name,
    source_of,
)
from skinedge.console import emit, progress_bar, say
from skinedge.errors import NotFiniteError, SkinedgeError, UsageError

if TYPE_CHECKING:
    from skinedge.artifacts import AdapterCheckpoint
    from skinedge.calibration.budget import BudgetPlan
    from skinedge.calibration.overflow_report import OverflowReport
    from skinedge.manifest import Manifest
    from skinedge.parity.certificate import Certificate
    from skinedge.targets._contract import ExportOptions


def export(
    model: Model = None,
    adapter: Adapters = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", autocompletion=among("targets"), help="What to write: see skinedge targets.")
    ] = None,
    scheme: Annotated[
        str | None, typer.Option("--scheme", "-s", autocompletion=among("quantize"), help="Weight scheme: see skinedge targets.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New folder; by default MODEL-TARGET-SCHEME here.")] = None,
    device: Annotated[
        str | None,
        typer.Option(
            autocompletion=among("devices", ".toml"), help="Choose target and scheme for this device: see skinedge devices."
        ),
    ] = None,
    activations: Annotated[str | None, typer.Option(help="Float type between the weights: f32, f16 or bf16.")] = None,
    vision_scheme: Annotated[str | None, typer.Option(help="Scheme of the vision tower, if it is to differ.")] = None,
    context: Annotated[int, typer.Option(min=64, help="Positions a compiled TensorRT plan holds.")] = 4096,
    calibration: Annotated[
        Path | None, typer.Option(help="What the layers were given on photographs: a folder of skinedge calibrate.")
    ] = None,
    rounding: Annotated[
        str | None, typer.Option(help="nearest, scale or gptq; left out: the best that the calibration allows.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="A scheme for every matrix: a file of skinedge quantize, which says the target too.")
    ] = None,
    overflow: Annotated[
        Path | None, typer.Option(help="What leaves the range of f16 is computed in a wider type: a report of skinedge overflow.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for the manifest.")] = None,
    allow_inert: AllowInert = False,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Leave out the quick comparison with PyTorch that follows.")
    ] = False,
    workers: Workers = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write a bundle for a target: weights merged, quantized and laid out in one pass.

    Example: skinedge export --model SkinGPT-R1/ --target onnx --out bundle/
    """
    planned = _plan(plan, calibration)
    if planned:
        target, scheme = target or planned.target, scheme or planned.scheme
    target, scheme, activations = _choose(target, scheme, activations, device)
    options = export_options(scheme, activations, vision_scheme, context, workers)
    options = replace(options, calibration=calibration_of(calibration), rounding=_rounding(rounding))
    place = out or Path(f"{model_name(model)}-{target}-{scheme}")
    source = source_of(model, adapter, place)
    if options.calibration:
        from skinedge.calibration.run import check_calibration

        check_calibration(options.calibration, source)
        if planned:
            planned.check(source.digest, options.calibration.record.data, target)
            options = replace(options, mix=planned.mix)
    if overflow:
        options = replace(options, overflow=_overflow(overflow, source))
    why = "--unverified left the comparison with PyTorch out" if unverified else None
    _export(source, target, options, place, licence, allow_inert, dry_run, as_json, why)


def merge(
    model: Model = None,
    adapter: Adapters = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New folder; by default MODEL-merged here.")] = None,
    dtype: Annotated[str, typer.Option(help="as-stored, f32, f16 or bf16.")] = "as-stored",
    allow_inert: AllowInert = False,
    workers: Workers = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write a standard Hugging Face checkpoint with the LoRA merged, shard by shard.

    Example: skinedge merge --model Qwen2.5-VL-7B/ --adapter lora/
    """
    from skinedge.bundle import check_scheme

    options = export_options(check_scheme("safetensors", dtype), None, None, 4096, workers)
    place = out or Path(f"{model_name(model)}-merged")
    source = source_of(model, adapter, place)
    _export(source, "safetensors", options, place, None, allow_inert, dry_run, as_json, None)


def _plan(file: Path | None, calibration: Path | None) -> BudgetPlan | None:
    from skinedge.calibration.budget import BudgetPlan

    if file is None:
        return None
    if calibration is None:
        raise UsageError(
            f"{file} was measured with a calibration, and none is given.",
            hint="Add --calibration with the folder it was made with.",
        )
    return BudgetPlan.read(file)


def _overflow(file: Path, source: AdapterCheckpoint) -> OverflowReport:
    from skinedge.calibration.overflow_report import OverflowReport

    report = OverflowReport.read(file)
    report.check(source.digest)
    return report


def _rounding(name: str | None) -> str | None:
    from skinedge.registry import check

    if name is not None:
        check("rounding", name, ("nearest", "scale", "gptq"))
    return name


def _choose(target: str | None, scheme: str | None, activations: str | None, device: str | None) -> tuple[str, str, str | None]:
    """Target, scheme and activations from the options, with the device's choice where they are silent."""
    from skinedge.bundle import check_scheme
    from skinedge.devices import read_device
    from skinedge.registry import check

    if device:
        known = read_device(device)
        same = target in (None, known.target)
        target, scheme = target or known.target, scheme or (known.scheme if same else None)
        activations = activations or (known.activations if same else None)
    target = "onnx" if target is None else target
    scheme = check_scheme(target, scheme)
    if activations:
        check("activation type", activations, ("f32", "f16", "bf16"))
    return target, scheme, activations


def _export(
    source: AdapterCheckpoint,
    target: str,
    options: ExportOptions,
    out: Path,
    licence: str | None,
    allow_inert: bool,
    dry_run: bool,
    as_json: bool,
    unverified: str | None,
) -> None:
    from skinedge.bundle import export as export_bundle
    from skinedge.bundle import load_target, preflight
    from skinedge.describe import describe_manifest, describe_preflight
    from skinedge.manifest import read_manifest
    from skinedge.weights.checkpoint import open_checkpoint

    if dry_run:
        flight = preflight(open_checkpoint(source.path, source.adapters), target, options, out)
        if as_json:
            emit({"out": str(out), "files": dict(flight.plan.files), "nbytes": flight.plan.nbytes, "memory": flight.plan.memory})
            return
        describe_preflight(out, flight)
        return
    with progress_bar(quiet=as_json) as progress:
        bundle = export_bundle(source, target, options, out, licence=licence, allow_inert=allow_inert, progress=progress)
    manifest = read_manifest(out)
    if not as_json:
        describe_manifest(out, manifest)
        if options.overflow and "wide" not in manifest.details:
            say("  wide     nothing: the report has no value that these activations cannot hold")
    compared = unverified or _compared(out, manifest, source, quiet=as_json)
    reason = compared if isinstance(compared, str) else None
    if as_json:
        parity = {"parity": "unverified", "reason": reason} if reason else {"parity": _verdict(compared)}
        emit({"bundle": str(out), "digest": bundle.digest, "target": target, "scheme": options.scheme, **parity})
    elif load_target(target).RUNS:
        say(f"  parity   {f'unverified: {reason}' if reason else _verdict(compared)}")
        say(f"Next: skinedge run {out} PHOTOGRAPH, or skinedge parity {out} --reference MODEL --drawn 648 --certify")
    if _verdict(compared) == "fail":
        raise SkinedgeError(
            f"{out} does not say what the PyTorch model says.",
            hint=f"Find where it begins: skinedge parity {out} --reference MODEL --bisect",
        )


def _compared(out: Path, manifest: Manifest, source: AdapterCheckpoint, *, quiet: bool) -> Certificate | str:
    from skinedge.parity.quick import quick_form

    try:
        return quick_form(out, manifest, source, quiet=quiet)
    except NotFiniteError as e:
        raise NotFiniteError(
            f"{out} does not compute: {e.message}", hint=f"Find where it begins: skinedge parity {out} --reference MODEL --bisect"
        ) from e
    except SkinedgeError as e:  # the bundle is written and whole; that it could not be compared here is no fault of it
        return e.message.rstrip(".")


def _verdict(compared: Certificate | str) -> str:
    return "unverified" if isinstance(compared, str) else compared.verdict
