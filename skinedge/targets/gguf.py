"""GGUF for llama.cpp: ``model.gguf`` (text), ``mmproj.gguf`` (vision) and ``adapter.onnx`` (the side branch).

Written directly from the stream of merged weights and quantized on the way: no intermediate 16-bit
file, no second pass, no compiler.  The adapter's bias on the vocabulary needs no copy of the head: the
graph ends at ``shift`` and the session multiplies it with the GGUF's own ``output.weight``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skinedge import registry
from skinedge.errors import UsageError
from skinedge.graph.adapter import build_adapter
from skinedge.graph.builder import Graph, require_onnx
from skinedge.graph.files import lay_out, write_graphs
from skinedge.model.adapter import BranchOutput
from skinedge.quantize._ggml import TYPES
from skinedge.quantize._llama_mix import Mix
from skinedge.targets._contract import Applied, ExportOptions, ExportPlan, OpenOptions, Written
from skinedge.targets._gguf_header import ALIGNMENT, text_header, vision_header
from skinedge.targets._gguf_tensors import Stored, text_tensors, vision_tensors
from skinedge.weights.source import BLOCK_BYTES
from skinedge.weights.stream import Progress, align, hashing_file, write_payloads

if TYPE_CHECKING:
    from skinedge.calibration.statistics import Calibration
    from skinedge.manifest import Manifest
    from skinedge.model.config import ModelConfig
    from skinedge.runtime.llama import Branch
    from skinedge.runtime.session import Float32, Session
    from skinedge.weights.checkpoint import Checkpoint

SCHEMES = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs")
DEFAULT_SCHEME = "q4_k_m"
EXTRA = "gguf"
RUNS = True

TEXT_FILE, VISION_FILE, ADAPTER_FILE = "model.gguf", "mmproj.gguf", "adapter.onnx"
VISION_SCHEMES = ("f32", "f16", "bf16", "q8_0")
_CASTS = {"f32": Mix("f32", file_type=0), "f16": Mix("f16", file_type=1), "bf16": Mix("bf16", file_type=32)}


@dataclass(frozen=True)
class _File:
    """One GGUF file: what comes before the data, and the data."""

    name: str
    header: bytes
    tensors: tuple[Stored, ...]

    def offsets(self) -> tuple[int, ...]:
        """Where each tensor starts."""
        offsets, end = [], len(self.header)
        for tensor in self.tensors:
            offsets.append(end)
            end = align(end + tensor.nbytes, ALIGNMENT)
        return tuple(offsets)

    @property
    def nbytes(self) -> int:
        return align(self.offsets()[-1] + self.tensors[-1].nbytes, ALIGNMENT)


def plan(checkpoint: Checkpoint, options: ExportOptions) -> ExportPlan:
    """Exact sizes, from the headers as they will be written."""
    files = {file.name: file.nbytes for file in _files(checkpoint, options)}
    # A part in flight: the block read, merged (in float64 where a LoRA is), rounded and quantized.
    in_flight = 1 + (options.workers or os.cpu_count() or 1)
    return ExportPlan(files | lay_out(_adapter(checkpoint)).sizes, memory=(128 << 20) + 4 * BLOCK_BYTES * in_flight)


def write(checkpoint: Checkpoint, options: ExportOptions, folder: Path, progress: Progress) -> Written:
    """Write both GGUF files and the adapter graph.

    Raises:
        UsageError: a scheme the vision tower cannot have, or an option GGUF has not.
        TargetError: llama.cpp does not compute such a model.
        QuantizeError: a weight is too large for 16-bit floats.
    """
    files = _files(checkpoint, options)
    digests = {file.name: _write(file, checkpoint, options, folder, progress) for file in files}
    digests |= write_graphs(folder, _adapter(checkpoint), progress, options.workers)
    applied = {t.name: Applied(t.kind.name, t.kind.bits, t.size) for file in files for t in file.tensors}
    if checkpoint.side_branch:
        branch = checkpoint.side_branch.source
        applied |= {name: Applied("f32", 32.0, branch.spec(name).size) for name in branch.names()}
    calibration = _calibration(options)
    details = {"importances": calibration.record.data} if calibration else {}
    return Written(applied, digests, {"vision": _vision_scheme(options), **details})


def open_session(folder: Path, manifest: Manifest, options: OpenOptions) -> Session:
    """Open the bundle with llama.cpp, in this process."""
    from skinedge.runtime.llama import CAREFUL, EXACT, FAST, LlamaSession

    return LlamaSession(
        folder / TEXT_FILE,
        folder / VISION_FILE,
        manifest.architecture.config(),
        branch=_branch(folder, manifest, options),
        arithmetic={"f32": EXACT, "f16": CAREFUL, "bf16": CAREFUL}.get(manifest.scheme.asked, FAST),
        threads=options.threads,
        context=options.context,
        device=options.device,
    )


def _files(checkpoint: Checkpoint, options: ExportOptions) -> tuple[_File, _File]:
    if options.activations is not None:
        raise UsageError("llama.cpp chooses the activations of a GGUF by itself.", hint="Leave --activations out.")
    config, mix = checkpoint.config, _mix(options.scheme)
    vision_scheme, importances = _vision_scheme(options), _calibration(options) is not None
    text = text_tensors(config, mix, importances=importances, asked=_asked(config, options))
    vision = vision_tensors(config, vision_scheme)
    return (
        _File(TEXT_FILE, text_header(checkpoint.folder, config, mix.file_type, text), text),
        _File(VISION_FILE, vision_header(checkpoint.folder, config, _mix(vision_scheme).file_type, vision), vision),
    )


def _mix(scheme: str) -> Mix:
    registry.check("scheme of gguf", scheme, SCHEMES)
    if scheme in _CASTS:
        return _CASTS[scheme]
    mix: Mix = registry.load("quantize", "scheme", scheme).MIX
    return mix


def _calibration(options: ExportOptions) -> Calibration | None:
    """Whose importances weigh ggml's rounding."""
    if options.rounding not in (None, "nearest", "scale"):
        raise UsageError(
            f"ggml rounds weights itself, and not by '{options.rounding}'.", hint="Choose nearest or scale, or neither."
        )
    if options.rounding == "scale" and options.calibration is None:
        raise UsageError(
            "rounding by scale weighs errors by what the layers were given, and there is no calibration.",
            hint="Add --calibration DIR (skinedge calibrate makes it).",
        )
    return None if options.rounding == "nearest" else options.calibration


def _asked(config: ModelConfig, options: ExportOptions) -> Mapping[str, str]:
    """The types of single matrices, checked."""
    asked = options.mix or {}
    matrices = tuple(t.source for t in text_tensors(config, _CASTS["f16"]) if t.kind.name == "f16")
    for name, kind in asked.items():
        registry.check("matrix of the language model", name, matrices)
        registry.check("ggml type", kind, tuple(TYPES))
    return asked


def _vision_scheme(options: ExportOptions) -> str:
    """What was asked for, or the nearest float type to the text's."""
    if options.vision is None:
        return options.scheme if options.scheme in ("f32", "bf16") else "f16"
    if options.vision in SCHEMES and options.vision not in VISION_SCHEMES:
        raise UsageError(
            f"the vision tower cannot be stored as {options.vision}: its MLP is too narrow for blocks of 256, and below 8 bits "
            "it no longer sees what PyTorch sees.",
            hint=f"Choose one of {', '.join(VISION_SCHEMES)}.",
        )
    return registry.check("vision scheme of gguf", options.vision, VISION_SCHEMES)


def _write(file: _File, checkpoint: Checkpoint, options: ExportOptions, folder: Path, progress: Progress) -> str:
    """The file's sha256."""
    calibration = _calibration(options)
    placed = zip(file.offsets(), (t.payload(checkpoint.weights, calibration) for t in file.tensors), strict=True)
    progress.begin(file.name, file.nbytes)
    with hashing_file(folder / file.name) as out:
        out.begin(file.header)
        write_payloads(out, placed, progress, options.workers)
        out.pad_to(file.nbytes)
    return out.hexdigest()


def _adapter(checkpoint: Checkpoint) -> list[Graph]:
    """The side branch as a graph that ends at ``shift``, if there is one."""
    if checkpoint.side_branch is None:
        return []
    require_onnx()
    return [build_adapter(checkpoint.side_branch)]


def _branch(folder: Path, manifest: Manifest, options: OpenOptions) -> Branch | None:
    """The side branch as a function of an image's patch rows."""
    if manifest.architecture.side_branch is None:
        return None
    from skinedge.runtime.ort import open_graph

    graph = open_graph(folder / ADAPTER_FILE, options.threads, options.device)

    def run(patches: Float32) -> BranchOutput:
        shift, skin, embedding = graph.run(["shift", "skin", "embedding"], {"pixel_values": patches})
        return BranchOutput(shift[0], skin[0], embedding[0])

    return run
