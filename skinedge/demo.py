"""The whole path on the embedded model: adapter, three bundles, each verified, run and compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export, verify
from skinedge.console import note, printable, progress_bar, size
from skinedge.embedded import embedded_checkpoint
from skinedge.parity.compare import Comparison, compare
from skinedge.parity.pictures import write_pictures
from skinedge.runtime.pipeline import Answer, Ask, open_pipeline
from skinedge.staging import refuse_taken
from skinedge.synthderm.findings import draw_cases
from skinedge.synthderm.picture import render
from skinedge.targets._contract import ExportOptions

# target, scheme, the side that runs on a machine without a GPU
BUNDLES = (("onnx", "f32", None), ("gguf", "f16", None), ("trt", "f16", "onnx"))
# Only as long as a plan must be to show that it builds; a real one holds 4096 positions.
PLAN_CONTEXT = 2048


@dataclass(frozen=True)
class Shown:
    """What became of one bundle."""

    target: str
    scheme: str
    nbytes: int
    answer: Answer
    comparison: Comparison


def run_demo(out: Path, adapters: Sequence[Path] | None = None, *, quiet: bool = False) -> bool:
    """Make everything under ``out`` and write ``report.md`` and ``report.json`` there.

    Args:
        out: a new folder.
        adapters: for the embedded base; left out: the side branch that comes with it.
        quiet: say nothing.

    Raises:
        OutputError: ``out`` is taken.
        SkinedgeError: a step failed.
    """
    refuse_taken(out)
    source = embedded_checkpoint(adapters)
    pictures = [*write_pictures(out / "pictures"), *_skin(out / "pictures")]
    _say(quiet, f"checkpoint: {source.path} with {len(source.adapters)} adapters, digest {source.digest[:16]}")
    shown = [_show(source, out, pictures, target, scheme, side, quiet) for target, scheme, side in BUNDLES]
    (out / "report.json").write_text(json.dumps([s.comparison.to_json() for s in shown], indent=1) + "\n", encoding="utf-8")
    (out / "report.md").write_text(_report(shown), encoding="utf-8")
    passed = all(s.comparison.passed for s in shown)
    _say(quiet, f"{'all three agree with PyTorch' if passed else 'a stage is OUT OF TOLERANCE'}: read {out / 'report.md'}")
    return passed


def _skin(folder: Path) -> list[Path]:
    """Three SynthDerm pictures that no model has seen, named by what they show."""
    paths = []
    for case in draw_cases(3, seed=303):
        paths.append(folder / f"{case.diagnosis.replace(' ', '-')}.png")
        Image.fromarray(render(case)).save(paths[-1])
    return paths


def _show(
    source: AdapterCheckpoint, out: Path, pictures: list[Path], target: str, scheme: str, side: str | None, quiet: bool
) -> Shown:
    folder = out / f"{target}-{scheme}"
    _say(quiet, f"\n{target} {scheme}: export")
    with progress_bar(quiet) as progress:
        export(source, target, ExportOptions(scheme, context=PLAN_CONTEXT), folder, progress=progress)
    manifest = verify(folder)
    total = sum(f.nbytes for f in manifest.files)
    _say(quiet, f"{target} {scheme}: verified {len(manifest.files)} files, {size(total)}")
    with open_pipeline(folder, side=side) as pipeline:
        answer = pipeline.run(Ask((pictures[-1],), overrides={"max_new_tokens": 160}))
    _say(quiet, f"{pictures[-1].stem}: {printable(answer.transcript.text)}")
    _say(quiet, f"{target} {scheme}: ran{f' its {side} side' if side else ''} {answer.summary()}")
    comparison = compare(folder, source, out / "pictures", side=side, quiet=True)
    for stage in comparison.stages:
        _say(quiet, f"  {stage.line()}")
    return Shown(target, scheme, total, answer, comparison)


def _report(shown: list[Shown]) -> str:
    lines = [
        "# skinedge demo",
        "",
        "The embedded model and its adapter went through the whole path. Each bundle was compared with PyTorch on three",
        "pictures of awkward sizes and three SynthDerm pictures.",
        "",
        "| bundle | size | stage | verdict | measured |",
        "|---|---|---|---|---|",
    ]
    for s in shown:
        for stage in s.comparison.stages:
            figures = ", ".join(f"{k} {v:.3g}" for k, v in stage.measured.items())
            lines.append(f"| {s.target} {s.scheme} | {size(s.nbytes)} | {stage.name} | {stage.verdict} | {figures} |")
    lines += [
        "",
        "A TensorRT plan cannot be opened without a GPU: what ran is the ONNX side of that bundle, the very files its",
        "plans were built from. `python benchmarks/gpu_check.py` opens the plans where there is one.",
        "",
    ]
    return "\n".join(lines)


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        note(text)
