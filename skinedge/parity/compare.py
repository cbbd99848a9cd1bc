"""Does the bundle say what PyTorch says?  Stage by stage, so that a difference names its stage.

The stages are those of ``skinedge.parity.stages``.

The reference sees the photograph through ``transformers``' own processor and tokenizer, runs the base
model with PEFT and our side branch in float32, and shares no code with the bundle's runtime.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skinedge.artifacts import AdapterCheckpoint, ParityReport
from skinedge.console import say
from skinedge.errors import UsageError
from skinedge.manifest import read_manifest
from skinedge.model.config import read_config
from skinedge.parity.bands import roundings
from skinedge.parity.bisect import Block, first_bad, why_blind
from skinedge.parity.choosing import photographs_in
from skinedge.parity.pictures import write_pictures
from skinedge.parity.reference_inputs import ReferenceInputs
from skinedge.parity.stages import Comparer, Stage
from skinedge.runtime.pipeline import Pipeline, open_pipeline
from skinedge.staging import staged_file
from skinedge.weights.checkpoint import file_digest, open_checkpoint

if TYPE_CHECKING:
    from skinedge.console import Json
    from skinedge.model.reference import Reference


@dataclass(frozen=True)
class Comparison:
    """A bundle against its reference; stops at the first stage out of tolerance.

    ``same_source`` says whether the reference is, byte for byte, what the bundle was made from.  ``blocks`` are those of the
    bad stage, where they were asked for and the target shows them, and ``bad_block`` the first that is out of tolerance;
    ``blind`` says why there are none.
    """

    bundle: str
    reference: str
    same_source: bool
    target: str
    scheme: str
    images: tuple[str, ...]  # sha256 of each photograph, never its name
    stages: tuple[Stage, ...]
    bad_block: str | None = None
    blocks: tuple[Block, ...] = ()
    blind: str = ""

    @property
    def passed(self) -> bool:
        """Every stage was reached and is within tolerance."""
        return all(s.passed for s in self.stages)

    @property
    def first_bad(self) -> str | None:
        """The first stage out of tolerance."""
        return next((s.name for s in self.stages if not s.passed), None)

    def to_json(self) -> dict[str, Json]:
        """The whole comparison."""
        stages = [s.to_json() for s in self.stages]
        inside = [{**asdict(b), "error": b.error if math.isfinite(b.error) else None, "bad": b.bad} for b in self.blocks]
        verdict = {"passed": self.passed, "first_bad_stage": self.first_bad}
        return {**asdict(self), "stages": stages, "blocks": inside, **verdict}


def compare(
    bundle: Path,
    source: AdapterCheckpoint,
    images: Path | Sequence[Path] | None,
    *,
    steps: int = 64,
    side: str | None = None,
    threads: int | None = None,
    bisect: bool = False,
    quiet: bool = False,
) -> Comparison:
    """Compare ``bundle`` with the PyTorch model of ``source``.

    Args:
        bundle: what ``skinedge export`` wrote.
        source: the checkpoint and adapters it was made from.
        images: a folder of photographs, photographs, or ``None`` for three generated pictures.
        steps: teacher-forced steps, and length of the greedy text.
        side: open this side of the bundle instead of its own.
        threads: CPU threads for both.
        bisect: where a stage is bad, look for the first bad block inside it.
        quiet: do not say which stage is running.

    Raises:
        UsageError: the reference is a model of other sizes.
        SkinedgeError: the bundle or the reference cannot be opened, or a photograph cannot be read.
    """
    check_sizes(bundle, source)
    from skinedge.model.reference import Reference

    with (
        tempfile.TemporaryDirectory(prefix="skinedge-") as scratch,
        open_pipeline(bundle, side=side, threads=threads) as pipeline,
    ):
        photographs = _chosen(images, Path(scratch))
        reference = Reference.from_checkpoint(source.path, source.adapters, threads=threads)
        try:
            return compare_opened(
                pipeline, source, reference, photographs,
                folder=bundle, side=side, steps=steps, drawn=images is None, bisect=bisect, quiet=quiet,
            )  # fmt: skip
        finally:
            reference.close()


def compare_opened(
    pipeline: Pipeline,
    source: AdapterCheckpoint,
    reference: Reference,
    photographs: Sequence[Path],
    *,
    folder: Path,
    side: str | None = None,
    steps: int = 64,
    drawn: bool = False,
    bisect: bool = False,
    quiet: bool = True,
) -> Comparison:
    """``compare`` where both models are open already.

    Args:
        pipeline: the bundle.
        source: what ``reference`` was loaded from.
        reference: the PyTorch model.
        photographs: what both are shown.
        folder: of the bundle.
        side: what the bundle was opened as.
        steps: as for ``compare``.
        drawn: the pictures were drawn here: they go by name instead of by digest.
        bisect: as for ``compare``.
        quiet: as for ``compare``.
    """
    manifest = pipeline.manifest
    comparer = Comparer(pipeline, reference, ReferenceInputs(source.path, reference), photographs, steps, quiet)
    stages = tuple(comparer.stages(lambda: roundings(folder, manifest, open_checkpoint(source.path, source.adapters))))
    worst = next((s for s in stages if not s.passed), None)
    inside = comparer.blocks(_graphs(folder, manifest.target, side), worst.name) if bisect and worst else ()
    bad = first_bad(inside)
    return Comparison(
        bundle=manifest.digest,
        reference=source.digest,
        same_source=manifest.lineage[0].digest == source.digest,
        target=manifest.target,
        scheme=manifest.scheme.asked,
        images=tuple(p.stem if drawn else file_digest(p) for p in photographs),
        stages=stages,
        bad_block=bad.name if bad else worst.where if bisect and worst else None,
        blocks=inside,
        blind=why_blind(side or manifest.target, manifest.scheme.asked, worst.name) if bisect and worst and not inside else "",
    )


def write_report(result: Comparison, path: Path) -> ParityReport:
    """Write the comparison as JSON.

    Raises:
        OutputError: it cannot be written.
    """
    text = json.dumps(result.to_json(), indent=1, sort_keys=True) + "\n"
    with staged_file(path) as f:
        f.write(text.encode())
    return ParityReport(path, hashlib.sha256(text.encode()).hexdigest(), result.bundle, result.passed)


def print_stages(result: Comparison) -> None:
    """One line per stage, then the verdict."""
    for stage in result.stages:
        say(stage.line())
    if not result.same_source:
        say("The bundle was made from another checkpoint, or other adapters, than this reference.")
    if result.passed:
        pictures = "1 picture" if len(result.images) == 1 else f"{len(result.images)} pictures"
        say(f"{pictures}: every gated stage is within tolerance.")
    else:
        say(f"stage '{result.first_bad}' is out of tolerance; the stages after it were not compared.")
    if result.bad_block:
        say(f"inside it, '{result.bad_block}' is the first that is out of tolerance.")
    elif result.blocks:
        say("no block inside it is: the fault is in what comes after the last block, or around the graphs.")
    if result.blind:
        say(result.blind)
    for block in result.blocks:
        say(f"  {block.name:28} {'BAD' if block.bad else 'ok':4} relative error {block.error:.3g}  (<= {block.tolerance:g})")


def _graphs(folder: Path, target: str, side: str | None) -> Path:
    """Where the ONNX graphs of what was opened are, if it has any."""
    return folder / "onnx" if target == "trt" and side == "onnx" else folder


def _chosen(images: Path | Sequence[Path] | None, scratch: Path) -> list[Path]:
    if images is None:
        return write_pictures(scratch)
    return photographs_in(images) if isinstance(images, Path) else list(images)


def check_sizes(bundle: Path, source: AdapterCheckpoint) -> None:
    """Refuse a reference of other sizes.

    Raises:
        UsageError: it is.
    """
    ours, theirs = read_manifest(bundle).architecture.config(), read_config(source.path)
    if (ours.text, ours.vision) != (theirs.text, theirs.vision):
        raise UsageError(
            f"{bundle} and {source.path} are models of different sizes.", hint="Give --reference the checkpoint it was made from."
        )
