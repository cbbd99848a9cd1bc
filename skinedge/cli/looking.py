"""``skinedge show``, ``targets``, ``devices`` and ``doctor``: what there is; and ``demo``, the whole path at once."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from skinedge.cli.options import Adapters, AsJson, existing
from skinedge.console import emit, say, table


def show(folder: Annotated[Path, typer.Argument(help="A bundle or a checkpoint folder.")], as_json: AsJson = False) -> None:
    """Say what a folder holds and where it came from, back to the adapter checkpoint.

    Example: skinedge show bundle/
    """
    from skinedge.describe import describe_certificate, describe_manifest
    from skinedge.manifest import MANIFEST_FILE, read_manifest
    from skinedge.model.config import read_config
    from skinedge.parity.certificate import verify_certificate

    existing(folder)
    if not (folder / MANIFEST_FILE).exists() and (folder / "config.json").exists():
        config = read_config(folder)
        if as_json:
            emit({"kind": "checkpoint", "config": asdict(config)})
        else:
            say(f"{folder}: a Qwen2.5-VL checkpoint, {config.text.num_layers} layers of {config.text.hidden_size},")
            say(f"vision tower of {config.vision.depth} blocks of {config.vision.hidden_size}.")
            say(f"Next: skinedge export --model {folder}")
        return
    manifest = read_manifest(folder)
    certificate = verify_certificate(folder, manifest)
    if as_json:
        parity = {"verdict": certificate.verdict, "digest": certificate.digest} if certificate else None
        manifest_json = manifest.model_dump(mode="json")
        emit({"kind": "bundle", "digest": manifest.digest, "manifest": manifest_json, "parity": parity})
    else:
        describe_manifest(folder, manifest)
        describe_certificate(certificate)


def targets(as_json: AsJson = False) -> None:
    """List what can be written, and in which weight schemes.

    Each name goes after --target, each scheme after --scheme: skinedge export --target gguf --scheme q8_0
    """
    from skinedge.bundle import known_targets, load_target

    found = {name: load_target(name) for name in known_targets()}
    if as_json:
        emit({n: {"schemes": t.SCHEMES, "default": t.DEFAULT_SCHEME, "extra": t.EXTRA, "runs": t.RUNS} for n, t in found.items()})
        return
    rows = [(n, ", ".join(t.SCHEMES), t.DEFAULT_SCHEME, f"skinedge[{t.EXTRA}]" if t.EXTRA else "-") for n, t in found.items()]
    table(("target", "schemes", "default", "needs"), rows)


def devices(as_json: AsJson = False) -> None:
    """List the devices skinedge knows, and what it exports for each.

    Each name goes after --device: skinedge export --device rtx-4090
    """
    from skinedge.devices import known_devices, read_device

    found = [read_device(name) for name in known_devices()]
    if as_json:
        emit({d.name: asdict(d) for d in found})
        return

    def figure(value: float | None, unit: str) -> str:
        return "measured" if value is None else f"{value:g} {unit}"

    rows = [
        (
            d.name,
            figure(d.memory_gb, "GB"),
            figure(d.bandwidth_gb_s, "GB/s"),
            d.target,
            d.scheme,
            " ".join(d.compute_tflops),
            d.title,
        )
        for d in found
    ]
    table(("device", "memory", "bandwidth", "target", "scheme", "computes in", ""), rows)


def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can export to and run, and what is missing for the rest.

    Example: skinedge doctor
    """
    from skinedge.doctor import examine

    findings = examine()
    if as_json:
        emit({f.name: {"ok": f.ok, "found": f.found, "hint": f.hint} for f in findings})
        return
    table(("", "what", "found", "to get it"), [("ok" if f.ok else "--", f.name, f.found, f.hint) for f in findings])


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the bundles and the report.")] = Path("build/demo"),
    adapter: Adapters = None,
    as_json: AsJson = False,
) -> None:
    """The whole path on the embedded model: three bundles, verified, run and compared with PyTorch.

    Example: skinedge demo --out build/demo
    """
    from skinedge.demo import run_demo

    existing(*(adapter or ()))
    passed = run_demo(out, adapter, quiet=as_json)
    if as_json:
        emit({"passed": passed, "report": str(out / "report.md")})
    if not passed:
        raise typer.Exit(1)
