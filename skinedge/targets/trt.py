"""TensorRT: plans of the portable graphs, and beside them in ``onnx/`` the graphs they were built from.

``decoder.plan`` has two profiles, one for a single token and one for a prompt or a piece of it; ``head.plan`` makes
logits of its hidden states; ``vision.plan`` and ``adapter.plan`` take any photograph up to the processor's pixel
cap.  A plan needs a GPU to be opened.  Its ONNX side runs anywhere and is what the plan is rebuilt from on
another device; the manifest holds the digests of the very files each plan came from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinedge.errors import MissingDependencyError, TargetError, UsageError
from skinedge.graph.builder import OPSET, Graph
from skinedge.graph.model import ModelGraphs
from skinedge.model.config import ModelConfig, VisionConfig
from skinedge.registry import check
from skinedge.runtime._tensorrt import find_library, gpu_problem
from skinedge.runtime.image import MAX_ASPECT, ProcessorConfig, read_processor_config
from skinedge.runtime.trt import ONNX
from skinedge.targets import onnx
from skinedge.targets._contract import ExportOptions, ExportPlan, OpenOptions, Written
from skinedge.targets._trt_builder import Profile, Range, build_plan
from skinedge.weights.cast import FLOATS

if TYPE_CHECKING:
    from skinedge.manifest import Manifest
    from skinedge.runtime.session import Session
    from skinedge.weights.checkpoint import Checkpoint
    from skinedge.weights.stream import Progress

SCHEMES = ("f16", "bf16", "int8", "int4", "int4_b64", "int4_b128", "fp8", "nvfp4")
QUANTIZED = tuple(scheme for scheme in SCHEMES if scheme not in FLOATS)
DEFAULT_SCHEME = "int4"
EXTRA = "trt"
RUNS = True

# Logits of that many positions at once: all of a prompt's would be 1.2 GB at the 7B's vocabulary.
MOST_LOGITS = 64
MOST_PROMPT = 2048
_USUAL_PROMPT, _USUAL_PATCHES = 512, 1024
# Measured at the 7B's shapes (TensorRT-RTX 1.7.1): what the builder holds, as a multiple of a weight's stored
# bytes, and a plan's bytes beyond its weights, per layer.
_HELD = {"INT4": 2.4, "INT8": 1.2, "FLOAT8E4M3FN": 1.2, "FLOAT4E2M1": 2.4}
_OVERHEAD = 3 << 20
_BASE_MEMORY = 900 << 20


def plan(checkpoint: Checkpoint, options: ExportOptions) -> ExportPlan:
    """Names and sizes of the files, exact for the graphs' weights and an estimate for the plans."""
    model = _graphs(checkpoint, options)
    sizes = {f"{ONNX}/{name}": size for name, size in model.sizes.items()}
    plans = {f"{g.name}.plan": _weight_bytes(g) + _OVERHEAD * (1 + _layers(g, checkpoint.config)) for g in model.graphs}
    return ExportPlan(sizes | plans, _BASE_MEMORY + max(_held(graph) for graph in model.graphs))


def write(checkpoint: Checkpoint, options: ExportOptions, folder: Path, progress: Progress) -> Written:
    """Write the graphs, then build a plan of each.

    Raises:
        UsageError: 32-bit activations, or a context the model has not.
        MissingDependencyError: no TensorRT is installed.
        TargetError: TensorRT refuses a graph.
    """
    model, library = _graphs(checkpoint, options), find_library()
    (folder / ONNX).mkdir(exist_ok=True)  # it is there when an export goes on
    digests = {f"{ONNX}/{name}": d for name, d in model.write(folder / ONNX, progress, options.workers).items()}
    quantized = options.scheme in QUANTIZED
    profiles = plan_profiles(read_processor_config(checkpoint.folder), checkpoint.config, options.context, quantized=quantized)
    plans: dict[str, Any] = {}
    for graph in model.graphs:
        source, name = folder / ONNX / f"{graph.name}.onnx", f"{graph.name}.plan"
        built = build_plan(library, source, folder / name, profiles[graph.name], _weight_bytes(graph), progress)
        digests[name] = built.sha256
        plans[name] = {"sources": {p: digests[p] for p in _sources(graph)}, **built.details}
    details = {
        "library": library.name,
        "version": library.version,
        "opset": OPSET,
        "context": options.context,
        "plans": plans,
        # Two builds order the outputs in a plan's table differently: by addresses in memory.
        "deterministic": False,
        **model.precision.details(),
    }
    return Written(model.applied, digests, details)


def open_session(folder: Path, manifest: Manifest, options: OpenOptions) -> Session:
    """Open the plans on the GPU.

    Raises:
        TargetError: there is no GPU, no driver, or not the library the plans were built with.
    """
    problem = "a plan runs on a GPU only" if options.device == "cpu" else gpu_problem()
    if problem:
        raise _cannot_open(folder, problem)
    from skinedge.runtime._trt_device import CudaDevice
    from skinedge.runtime.trt import TrtSession

    try:
        library = find_library(manifest.details["library"])
        device = CudaDevice(library, {record.path: record.sha256 for record in manifest.files})
    except MissingDependencyError as e:
        raise _cannot_open(folder, f"{e.message.rstrip('.')}: {e.hint.rstrip('.')}") from e
    return TrtSession(folder, manifest.architecture.config(), device, context=options.context)


def rebuild(folder: Path, manifest: Manifest, progress: Progress, library: str | None = None) -> Written:
    """Build the plans of a bundle's ONNX side anew in ``folder``, with this device's own TensorRT.

    Args:
        folder: holds what the bundle holds, without plans.
        manifest: the bundle's.
        progress: told of the bytes.
        library: ``tensorrt`` or ``tensorrt_rtx``; by default what fits this machine.

    Raises:
        MissingDependencyError: no TensorRT is installed.
        TargetError: TensorRT refuses a graph.
    """
    found, before = find_library(library), manifest.details
    processor, config = read_processor_config(folder), manifest.architecture.config()
    quantized = manifest.scheme.asked in QUANTIZED
    profiles = plan_profiles(processor, config, before["context"], quantized=quantized)
    digests: dict[str, str] = {}
    plans: dict[str, Any] = {}
    for name, plan in before["plans"].items():
        graph = name.removesuffix(".plan")
        weight_bytes = sum((folder / source).stat().st_size for source in plan["sources"])
        built = build_plan(found, folder / ONNX / f"{graph}.onnx", folder / name, profiles[graph], weight_bytes, progress)
        digests[name] = built.sha256
        plans[name] = {"sources": plan["sources"], **built.details}
    return Written({}, digests, {**before, "library": found.name, "version": found.version, "plans": plans})


def onnx_folder(folder: Path) -> Path:
    """The ONNX side of a bundle: what ``OrtSession`` opens and what plans are rebuilt from."""
    return folder / ONNX


def _cannot_open(folder: Path, why: str) -> TargetError:
    return TargetError(
        f"the TensorRT plans of {folder} cannot be opened: {why}.",
        hint=f"Run the ONNX side of the same bundle: skinedge run {folder} --target onnx.",
    )


def _graphs(checkpoint: Checkpoint, options: ExportOptions) -> ModelGraphs:
    """The portable graphs with a cache of fixed length and 16-bit activations."""
    check("scheme for trt", options.scheme, SCHEMES)
    if options.activations == "f32":
        raise UsageError("TensorRT has no attention kernel for f32 activations.", hint="Use --activations f16 or bf16.")
    longest = checkpoint.config.text.max_position_embeddings
    if not 1 <= options.context <= longest:
        raise UsageError(f"a context of {options.context} positions: this model holds 1 to {longest}.", hint="Change --context.")
    activations = options.activations or ("bf16" if options.scheme == "bf16" else "f16")
    # The builder unpacks four bits: for a 7B's head alone it then holds 1.4 GB, for an int8 one 0.7 GB.
    return onnx.graphs(
        checkpoint,
        replace(options, activations=activations),
        head_scheme=onnx.eight_bits(options.scheme),
        cache_length=options.context,
        schemes=SCHEMES,
        heads_kind="bf16",  # the range of f32 in a type that TensorRT has an attention kernel for
    )


def plan_profiles(
    processor: ProcessorConfig, config: ModelConfig, context: int, *, quantized: bool
) -> Mapping[str, tuple[Profile, ...]]:
    """The profiles of each plan, by the name of its graph."""
    patches, vision = most_patches(processor), config.vision
    photograph = {"P": _range(4, _USUAL_PATCHES, patches)}
    windows = _range(1, math.ceil(_USUAL_PATCHES / vision.window_patches), most_windows(patches, vision))
    return {
        "decoder": decoder_profiles(context, quantized=quantized),
        "head": ({"N": (1, 1, min(context, MOST_LOGITS))},),
        "vision": ({**photograph, "W": windows},),
        "adapter": (photograph,),
    }


def decoder_profiles(context: int, *, quantized: bool) -> tuple[Profile, Profile]:
    """One token at a time, and a prompt in pieces that fit the cache.

    Quantized weights lie alike for both.  Of float weights TensorRT keeps a second, transposed copy for a
    profile of exactly one token (a 7B-shaped f16 plan grew from 3.1 to 5.1 GB), so there the first profile
    spans the same shapes as the second and is only tuned for one.
    """
    most = min(context, MOST_PROMPT)
    logits = min(most, MOST_LOGITS)
    prompt = {"S": _range(1, _USUAL_PROMPT, most), "N": (1, 1, logits)}
    if quantized:
        return {"S": (1, 1, 1), "N": (1, 1, 1)}, prompt
    return {"S": (1, 1, most), "N": (1, 1, logits)}, prompt


def most_patches(processor: ProcessorConfig) -> int:
    """Patches of the largest photograph the processor makes."""
    # A strip at the limit of its proportions is never thinner than one merged patch, whatever the pixel cap.
    pixels = max(processor.max_pixels, MAX_ASPECT * processor.factor**2)
    return pixels // processor.patch_size**2


def most_windows(patches: int, config: VisionConfig) -> int:
    """Attention windows that the worst shape of that many patches needs: partly filled ones count whole."""
    merge = config.spatial_merge_size
    groups, side = patches // merge**2, config.window_size // config.patch_size // merge
    return max(math.ceil(rows / side) * math.ceil(groups // rows / side) for rows in range(1, groups + 1))


def _range(least: int, usual: int, most: int) -> Range:
    return least, max(least, min(usual, most)), most


def _weight_bytes(graph: Graph) -> int:
    return sum(w.payload.nbytes for w in graph.weights.values())


def _held(graph: Graph) -> int:
    """Most bytes the builder holds at a time."""
    weights = graph.weights.values()
    return sum(int(_HELD.get(w.onnx_type, 1) * w.payload.nbytes) for w in weights) + max(w.payload.nbytes for w in weights)


def _layers(graph: Graph, config: ModelConfig) -> int:
    return {"decoder": config.text.num_layers, "vision": config.vision.depth}.get(graph.name, 0)


def _sources(graph: Graph) -> tuple[str, str]:
    """The ONNX file and its weights."""
    return f"{ONNX}/{graph.name}.onnx", f"{ONNX}/{graph.name}.onnx.data"
