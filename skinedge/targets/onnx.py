"""ONNX: portable graphs of standard operators and an embedding table, run by ONNX Runtime on CPU or CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skinedge.errors import UsageError
from skinedge.graph.builder import OPSET, require_onnx
from skinedge.graph.model import Care, ModelGraphs, build_graphs
from skinedge.graph.precision import Precision, places
from skinedge.registry import check
from skinedge.targets._contract import ExportOptions, ExportPlan, OpenOptions, Written
from skinedge.weights.cast import FLOATS

if TYPE_CHECKING:
    from skinedge.manifest import Manifest
    from skinedge.runtime.session import Session
    from skinedge.weights.checkpoint import Checkpoint
    from skinedge.weights.stream import Progress

SCHEMES = ("f32", "f16", "bf16", "int8", "int4", "int4_b64", "int4_b128", "int4a", "int4a_b64", "int4a_b128")
DEFAULT_SCHEME = "int4"
EXTRA = "onnx"
RUNS = True

# Measured: graph, protobuf and the blocks in flight of a 7B-shaped export (benchmarks/results/export_7b_shape.json).
_MEMORY = 900 << 20


def plan(checkpoint: Checkpoint, options: ExportOptions) -> ExportPlan:
    """Names and sizes of the files, and the memory it takes."""
    return ExportPlan(graphs(checkpoint, options).sizes, _MEMORY)


def write(checkpoint: Checkpoint, options: ExportOptions, folder: Path, progress: Progress) -> Written:
    """Write the graphs and their weights."""
    model = graphs(checkpoint, options)
    digests = model.write(folder, progress, options.workers)
    details = {"opset": OPSET, "graphs": [g.name for g in model.graphs], **model.precision.details()}
    return Written(model.applied, digests, details)


def open_session(folder: Path, manifest: Manifest, options: OpenOptions) -> Session:
    """Open the graphs in ONNX Runtime."""
    from skinedge.runtime.ort import OrtSession

    config = manifest.architecture.config()
    return OrtSession(folder, config, threads=options.threads, context=options.context, device=options.device)


def eight_bits(scheme: str) -> str:
    """What stands in for a scheme where four bits are too few; the scheme itself if it has more."""
    return "int8" if scheme.startswith("int4") else "fp8" if scheme == "nvfp4" else scheme


def graphs(
    checkpoint: Checkpoint,
    options: ExportOptions,
    *,
    head_scheme: str | None = None,
    cache_length: int | None = None,
    schemes: tuple[str, ...] = SCHEMES,
    heads_kind: str = "f32",
) -> ModelGraphs:
    """The graphs that ``options`` ask for; the head in the same scheme as the rest if not told otherwise.

    ``heads_kind`` is the float type of attention whose values overflow the activations'.

    Raises:
        UsageError: schemes and activations that do not go together, or options that the calibration does not allow.
        CalibrationError: the calibration is of another model.
    """
    require_onnx()
    activations = options.activations or (options.scheme if options.scheme in FLOATS else "f32")
    # Four bits cost a vision tower more than they save: it is a tenth of the weights and sees every pixel.
    vision = options.vision or eight_bits(options.scheme)
    check("vision scheme for onnx", vision, schemes)
    mix = options.mix or {}
    for scheme in mix.values():
        check("scheme", scheme, schemes)
    for scheme in (options.scheme, vision, *mix.values()):
        if scheme in FLOATS and scheme != activations:
            raise UsageError(
                f"{scheme} weights would be stored as {activations}, the type of the activations.",
                hint=f"Choose {activations}, int8 or int4 for them, or other --activations.",
            )
    reaches = options.overflow.offending(activations) if options.overflow else ()
    return build_graphs(
        checkpoint,
        scheme=options.scheme,
        head_scheme=head_scheme or options.scheme,
        vision_scheme=vision,
        precision=Precision(activations, places(reaches), heads_kind=heads_kind),
        cache_length=cache_length,
        care=Care(options.calibration, options.rounding, mix),
    )
