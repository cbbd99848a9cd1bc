"""Bundles: made whole or not at all, verified byte by byte, self-describing.

A bundle is written in a hidden folder beside its final place; the manifest is its last file, and one
rename makes it appear.  Whatever stops an export (an error, a full disk, a power cut) leaves no folder
that ``verify`` accepts.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from skinedge import __version__
from skinedge.artifacts import AdapterCheckpoint, Bundle, MergedWeights, QuantizedWeights
from skinedge.console import size
from skinedge.errors import BundleError, OutputError, UsageError
from skinedge.manifest import (
    MANIFEST_FILE,
    SCHEMA_VERSION,
    AppliedRecord,
    DecodingRecord,
    FileRecord,
    LineageRecord,
    Manifest,
    PromptRecord,
    SchemeRecord,
    architecture_record,
    read_manifest,
)
from skinedge.registry import check, load, names
from skinedge.runtime.image import ProcessorConfig, read_processor_config
from skinedge.runtime.prompt import DEFAULT_QUESTION, PromptBuilder, ask
from skinedge.runtime.session import Grid
from skinedge.staging import left_behind, staged
from skinedge.targets._contract import ExportOptions, ExportPlan, Target, Written
from skinedge.weights.checkpoint import Checkpoint, digest_of, file_digest, open_checkpoint
from skinedge.weights.journal import JOURNAL_FILE
from skinedge.weights.proof import prove_side_branch, prove_unread
from skinedge.weights.stream import Progress, Quiet

if TYPE_CHECKING:
    from skinedge.manifest import ArchitectureRecord

# Small files of the checkpoint that every bundle carries: the prompt and the processor live in them.
CARRIED = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
GOLDEN = "golden/"  # made of a finished bundle like its certificate: each seals itself and names the bundle's digest
LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENCE", "LICENSE.md")
# Libraries whose versions the bytes of a bundle may depend on.
_COMPUTING = ("numpy", "ml_dtypes", "gguf", "xllamacpp", "llama_cpp_python", "onnx", "onnx-ir")
# Room left on the disk beyond the plan, for the manifest and the file system's own tables.
DISK_MARGIN = 16 << 20


@dataclass(frozen=True)
class Preflight:
    """What an export would write and need, what the machine has, and what the checkpoint's small files say."""

    plan: ExportPlan
    processor: ProcessorConfig
    prompt: PromptRecord
    disk_free: int
    memory_free: int

    def refuse_if_too_big(self, out: Path) -> None:
        """Stop before the first byte.

        Raises:
            OutputError: the disk cannot hold the bundle, or the memory the work.
        """
        if self.plan.nbytes + DISK_MARGIN > self.disk_free:
            raise OutputError(
                f"{out} needs {size(self.plan.nbytes)} and its disk has {size(self.disk_free)} free.",
                hint="Free some space, choose a smaller scheme, or another disk with --out.",
            )
        if self.plan.memory > self.memory_free:
            raise OutputError(
                f"writing {out} takes up to {size(self.plan.memory)} of memory and {size(self.memory_free)} are free.",
                hint="Close other programs, or write fewer blocks at a time with --workers 1.",
            )


def load_target(name: str) -> Target:
    """The target module ``name``.

    Raises:
        UsageError: there is none; the known ones are listed.
    """
    return cast(Target, load("targets", "target", name))


def check_scheme(target: str, scheme: str | None) -> str:
    """``scheme``, or the target's default.

    Raises:
        UsageError: the target does not take it; the targets that do are named.
    """
    module = load_target(target)
    if scheme is None:
        return module.DEFAULT_SCHEME
    others = [n for n in known_targets() if n != target and scheme in load_target(n).SCHEMES]
    if scheme not in module.SCHEMES and others:
        hint = f"Add --target {' or --target '.join(others)}, or choose one of {', '.join(module.SCHEMES)}."
        raise UsageError(f"{target} cannot store weights as '{scheme}'.", hint=hint)
    return check(f"scheme for {target}", scheme, module.SCHEMES)


def preflight(checkpoint: Checkpoint, target: str, options: ExportOptions, out: Path) -> Preflight:
    """Plan an export without writing anything.

    Raises:
        SkinedgeError: by kind: a small file of the checkpoint, an option or the target is at fault.
    """
    import psutil

    place = out.absolute()
    while not place.exists():
        place = place.parent
    plan = load_target(target).plan(checkpoint, options)
    small = (*CARRIED, *LICENCE_FILES)
    carried = {n: (checkpoint.folder / n).stat().st_size for n in small if (checkpoint.folder / n).is_file()}
    return Preflight(
        plan=ExportPlan({**carried, **plan.files}, plan.memory),
        processor=read_processor_config(checkpoint.folder),
        prompt=_prompt(checkpoint),
        disk_free=shutil.disk_usage(place).free + left_behind(out),
        memory_free=psutil.virtual_memory().available,
    )


def export(
    source: AdapterCheckpoint,
    target: str,
    options: ExportOptions,
    out: Path,
    *,
    licence: str | None = None,
    allow_inert: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Write the bundle of ``source`` for ``target`` at ``out``; the same call after an interruption goes on where it was.

    Args:
        source: the checkpoint and its adapters.
        target: name of a file in ``skinedge/targets``.
        options: scheme and its details.
        out: a folder that does not exist yet, or is empty.
        licence: what the manifest says of the weights' licence; by default what the checkpoint says.
        allow_inert: accept adapter tensors that change nothing.
        progress: told of the bytes as they are written.

    Raises:
        SkinedgeError: by kind: the checkpoint, an adapter, the target or the place is at fault.
    """
    module = load_target(target)
    checkpoint = open_checkpoint(source.path, source.adapters)
    flight = preflight(checkpoint, target, options, out)
    flight.refuse_if_too_big(out)
    if checkpoint.side_branch:
        prove_side_branch(checkpoint.side_branch, checkpoint.ledger)
    with staged(out, _identity(source, target, options)) as folder:
        written = module.write(checkpoint, options, folder, progress or Quiet())
        _carry(checkpoint.folder, folder)
        prove_unread(checkpoint)
        if not allow_inert:
            checkpoint.ledger.settle()
        manifest = _manifest(source, checkpoint, target, options, flight, written, folder, licence)
        (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8", newline="\n")
    return Bundle(out, manifest.digest, manifest.lineage[-1].digest, target)


def verify(folder: Path) -> Manifest:
    """Check every byte of a bundle against its manifest, and its certificate, if it has one, against both.

    Raises:
        BundleError: a file is missing, changed, or does not belong; it is named.
    """
    from skinedge.parity.certificate import FILES, verify_certificate
    from skinedge.parity.recheck import verify_golden

    manifest = read_manifest(folder)
    listed = {*(record.path for record in manifest.files), *FILES}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise BundleError(f"{folder}: '{name}' is a link, and a bundle holds plain files.", hint="Export it again.")
        if path.is_file() and name not in listed and name != MANIFEST_FILE and not name.startswith(GOLDEN):
            raise BundleError(f"{folder}: '{name}' does not belong to the bundle.", hint="Move it elsewhere.")
    for record in manifest.files:
        _verify_file(folder, record)
    verify_golden(folder, manifest)
    verify_certificate(folder, manifest)
    return manifest


def check_files(folder: Path) -> Manifest:
    """The manifest, with every file's presence and size checked (fast; ``verify`` reads all bytes).

    Raises:
        BundleError: a file is missing or has another size.
    """
    manifest = read_manifest(folder)
    for record in manifest.files:
        _check_size(folder, record)
    return manifest


def _check_size(folder: Path, record: FileRecord) -> Path:
    path = folder / record.path
    if not path.is_file():
        raise BundleError(f"{folder}: '{record.path}' is missing.", hint="Copy the bundle again.")
    if path.stat().st_size != record.nbytes:
        raise BundleError(
            f"{folder}: '{record.path}' has {path.stat().st_size} bytes and the manifest says {record.nbytes}.",
            hint="Copy the bundle again.",
        )
    return path


def _verify_file(folder: Path, record: FileRecord) -> None:
    found = file_digest(_check_size(folder, record))
    if found != record.sha256:
        raise BundleError(
            f"{folder}: '{record.path}' was changed: its sha256 is {found[:12]} and the manifest says {record.sha256[:12]}.",
            hint="Copy the bundle again.",
        )


def _carry(checkpoint: Path, folder: Path) -> None:
    for name in (*CARRIED, *LICENCE_FILES):
        if (checkpoint / name).is_file() and not (folder / name).exists():
            shutil.copyfile(checkpoint / name, folder / name)


def _manifest(
    source: AdapterCheckpoint,
    checkpoint: Checkpoint,
    target: str,
    options: ExportOptions,
    flight: Preflight,
    written: Written,
    folder: Path,
    licence: str | None,
) -> Manifest:
    merged = MergedWeights.of(source)
    quantized = QuantizedWeights.of(merged, _recipe(target, options))
    return Manifest(
        schema_version=SCHEMA_VERSION,
        skinedge=__version__,
        target=target,
        scheme=SchemeRecord(
            asked=options.scheme,
            activations=options.activations,
            vision=options.vision,
            bits_per_weight=_bits_per_weight(written),
        ),
        lineage=(
            *_earlier(checkpoint.folder),
            LineageRecord(kind="adapter-checkpoint", digest=source.digest, note=_adapters_note(checkpoint)),
            LineageRecord(kind="merged-weights", digest=merged.digest),
            LineageRecord(kind="quantized-weights", digest=quantized.digest, note=f"{target} {options.scheme}"),
        ),
        architecture=_architecture(checkpoint),
        applied={n: AppliedRecord(scheme=a.scheme, bits=round(a.bits, 4), weights=a.weights) for n, a in written.applied.items()},
        processor=asdict(flight.processor),
        prompt=flight.prompt,
        decoding=DecodingRecord(bias="every-step" if checkpoint.side_branch else "off"),
        requirements=_requirements(load_target(target)),
        licence=licence or _licence(checkpoint.folder),
        details=dict(written.details),
        files=tuple(file_records(folder, written.digests)),
    )


def _recipe(target: str, options: ExportOptions) -> dict[str, str | None]:
    """What the weights' bytes depend on beside the weights; calibration, rounding and mix only where they are given."""
    recipe = {"target": target, "scheme": options.scheme, "activations": options.activations, "vision": options.vision}
    if options.calibration:
        recipe["calibration"] = digest_of(asdict(options.calibration.record))
    if options.rounding:
        recipe["rounding"] = options.rounding
    if options.mix:
        recipe["mix"] = digest_of(dict(options.mix))
    if options.overflow:
        recipe["overflow"] = options.overflow.digest
    return recipe


def _identity(source: AdapterCheckpoint, target: str, options: ExportOptions) -> str:
    """A digest of all that a file's bytes depend on: inputs, options, and the libraries that compute them."""
    versions = {d.name: d.version for d in importlib.metadata.distributions() if d.name in _COMPUTING}
    inputs = {**_recipe(target, options), "source": source.digest, "context": options.context}
    return digest_of({"skinedge": __version__, "versions": versions, **inputs})


def _prompt(checkpoint: Checkpoint) -> PromptRecord:
    """Rendering it once also shows that the tokenizer and the template are there and fit the model."""
    one_token = Grid(1, checkpoint.config.vision.spatial_merge_size, checkpoint.config.vision.spatial_merge_size)
    rendered = PromptBuilder.from_folder(checkpoint.folder, checkpoint.config).build(ask(), [one_token]).text
    return PromptRecord(question=DEFAULT_QUESTION, rendered=rendered)


def _earlier(folder: Path) -> tuple[LineageRecord, ...]:
    """The lineage of a checkpoint that skinedge itself merged: the chain goes on back to the adapter."""
    return read_manifest(folder).lineage if (folder / MANIFEST_FILE).is_file() else ()


def _architecture(checkpoint: Checkpoint) -> ArchitectureRecord:
    branch = checkpoint.side_branch
    return architecture_record(checkpoint.config, branch.shape if branch else None)


def _adapters_note(checkpoint: Checkpoint) -> str:
    parts = [f"LoRA of rank {lora.rank} on {len(lora.updates)} layers" for lora in checkpoint.loras]
    if checkpoint.side_branch:
        experts = checkpoint.side_branch.shape.experts
        parts.append(f"side branch with {experts} experts" if experts else "side branch without experts")
    return " and ".join(parts) or "no adapters"


def _bits_per_weight(written: Written) -> float:
    """Mean over all weights, scales and padding included."""
    total = sum(a.weights for a in written.applied.values())
    return round(sum(a.bits * a.weights for a in written.applied.values()) / total, 4)


def _requirements(target: Target) -> dict[str, str]:
    """What a device must install to open the bundle."""
    package = f"skinedge[{target.EXTRA}]" if target.EXTRA else "skinedge"
    return {"install": f"{package}=={__version__}"}


def _licence(folder: Path) -> str:
    card = folder / "README.md"
    if card.is_file():
        for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:40]:
            if line.startswith("license:"):
                return line.partition(":")[2].strip()
    found = next((n for n in LICENCE_FILES if (folder / n).is_file()), None)
    return f"see {found}" if found else "not stated by the checkpoint"


def file_records(folder: Path, known: Mapping[str, str]) -> Iterator[FileRecord]:
    """A record of every file in ``folder``; those whose sha256 is ``known`` are not read."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != JOURNAL_FILE):
        name = path.relative_to(folder).as_posix()
        yield FileRecord(path=name, nbytes=path.stat().st_size, sha256=known.get(name) or file_digest(path))


def known_targets() -> tuple[str, ...]:
    """Names of the targets."""
    return names("targets")
