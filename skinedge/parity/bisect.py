"""Inside a bad stage: which block is the first whose output leaves tolerance?

The residual stream after every block is read on both sides.  For ONNX it is asked for as further outputs of the graph, in
memory: no file of the bundle changes.  For the reference it is caught by hooks on its layers.  Both sides are given the same
inputs, those of the reference, so that what an earlier stage did wrong is not seen again.  llama.cpp and TensorRT do not
give out what their layers make: there the stage is all that can be named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skinedge.runtime.session import Float32, ImageEncoding, Pixels, Prompt
from skinedge.runtime.windows import plan_windows, vision_feeds
from skinedge.weights.source import Array

if TYPE_CHECKING:
    from skinedge.manifest import Manifest
    from skinedge.model.config import VisionConfig
    from skinedge.model.reference import Reference

# Of the norm of a block's output.  Sound blocks of the embedded model are off by 1e-6 in f32 and 2e-3 in f16.
TOLERANCES: Mapping[str, float] = {"f32": 2e-5, "f16": 2e-2}
# What comes before the first block and after the last has the name of the matrix that makes it.
_GRAPHS = {"features": "vision", "bias": "adapter", "prefill": "decoder", "steps": "decoder"}


@dataclass(frozen=True)
class Block:
    """One block of a stage: how far its output is off, relative to the reference's, and how far it may be."""

    name: str
    error: float
    tolerance: float

    @property
    def bad(self) -> bool:
        """Out of tolerance, or no number at all."""
        return not self.error <= self.tolerance


@dataclass(frozen=True)
class Given:
    """One picture as both sides are given it: pixels, prompt and encoding of the reference."""

    pixels: Pixels
    prompt: Prompt
    image: ImageEncoding


def blocks(folder: Path, manifest: Manifest, stage: str, reference: Reference, cases: Sequence[Given]) -> tuple[Block, ...]:
    """The blocks of ``stage`` in order, with the worst error over ``cases``; none where a target does not show its layers.

    Args:
        folder: of the ONNX graphs.
        manifest: the bundle's.
        stage: ``features``, ``bias``, ``prefill`` or ``steps``.
        reference: the PyTorch model.
        cases: pictures.
    """
    tolerance, graph = TOLERANCES.get(manifest.scheme.asked), _GRAPHS.get(stage)
    path = folder / f"{graph}.onnx"
    if tolerance is None or graph is None or not path.is_file():
        return ()
    opened = _Opened(path, manifest, reference)
    worst: dict[str, float] = {}
    for case in cases:
        for name, exact, other in opened.streams(case):
            worst[name] = float(np.maximum(worst.get(name, 0.0), _relative(exact, other)))  # which keeps a NaN
    return tuple(Block(name, error, tolerance) for name, error in worst.items())


def why_blind(target: str, scheme: str, stage: str) -> str:
    """Why ``blocks`` has none to give, in a sentence; empty if the reason is that the stage names its own place."""
    if stage == "weights":
        return ""
    if stage not in _GRAPHS:
        return f"stage '{stage}' has no blocks inside."
    if target == "gguf":
        return "llama.cpp does not give out what its layers make: the stage is all that can be named."
    if target == "trt":
        return "a TensorRT plan does not give out what its layers make: compare its ONNX side with --target onnx."
    return f"what rounding to {scheme} moves inside a stage has no tolerance: compare an f32 bundle of the same checkpoint."


def first_bad(found: Sequence[Block]) -> Block | None:
    """The first block that is out of tolerance."""
    return next((block for block in found if block.bad), None)


class _Opened:
    """A graph that gives out its residual stream."""

    def __init__(self, path: Path, manifest: Manifest, reference: Reference) -> None:
        import onnxruntime as ort

        self._graph, self._reference, self._config = path.stem, reference, manifest.architecture.config()
        model, self._names = _with_stream(path)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def streams(self, case: Given) -> Iterator[tuple[str, Float32, Float32]]:
        """Name, the reference's rows and the graph's rows of the stream, block by block."""
        feeds, exact = {"vision": self._vision, "adapter": self._adapter, "decoder": self._decoder}[self._graph](case)
        types = {i.name: i.type for i in self._session.get_inputs()}
        half = {name: value.astype(np.float16) if types[name] == "tensor(float16)" else value for name, value in feeds.items()}
        asked = [name for name in self._names if name not in half]
        made = [half[name] for name in self._names if name in half] + list(self._session.run(asked, half))
        per = (len(made) - 1) // (len(exact) - 1)  # a layer adds to the stream twice, a block of the side branch once
        for number, (name, rows) in enumerate(exact):
            if self._names[number * per] in half:
                continue  # both sides were given it
            other = np.asarray(made[number * per], np.float32)
            yield name, rows.reshape(-1, rows.shape[-1]), other.reshape(-1, other.shape[-1])

    def _vision(self, case: Given) -> tuple[dict[str, Array], list[tuple[str, Float32]]]:
        visual = self._reference.model.model.visual
        named = [("visual.patch_embed.proj", visual.patch_embed)]
        named += [(f"visual.blocks.{i}", block) for i, block in enumerate(visual.blocks)]
        with _Heard([module for _, module in named]) as heard:
            self._reference.encode_image(case.pixels)
        back = _back_from_windows(case.pixels, self._config.vision)
        # Blocks work window by window; the patch embedding comes before that.
        rows = [heard.rows[0], *(_grouped(r, back, self._config.vision.spatial_merge_size**2) for r in heard.rows[1:])]
        feeds = vision_feeds(case.pixels, self._config.vision)
        return feeds, [(name, r) for (name, _), r in zip(named, rows, strict=True)]

    def _adapter(self, case: Given) -> tuple[dict[str, Array], list[tuple[str, Float32]]]:
        branch = self._reference.branch
        assert branch is not None
        head = branch.distill_head
        named: list[tuple[str, Any]] = [("distill_head.in_proj", head.in_proj)]
        named += [(f"distill_head.adapters.{i}", layer) for i, layer in enumerate(head.adapters)]
        with _Heard([module for _, module in named]) as heard:
            self._reference.encode_image(case.pixels)
        streams = np.cumsum(np.stack(heard.rows), 0, dtype=np.float32)  # each layer's output is added to what came before
        return {"pixel_values": case.pixels.patches}, [(name, r) for (name, _), r in zip(named, streams, strict=True)]

    def _decoder(self, case: Given) -> tuple[dict[str, Array], list[tuple[str, Float32]]]:
        text, c = self._reference.model.model.language_model, self._config.text
        with _Heard(list(text.layers), first_input=True) as heard:
            self._reference.prefill(case.prompt, [case.image])
        length = len(case.prompt.token_ids)
        feeds: dict[str, Array] = {
            "inputs_embeds": heard.rows[0][None],
            "position_ids": case.prompt.positions,
            "start": np.zeros(1, np.int64),
            "hidden_index": np.array([length - 1]),
        }
        for i in self._session.get_inputs():
            if i.name.startswith("past."):
                longest = i.shape[2] if isinstance(i.shape[2], int) else length
                feeds[i.name] = np.zeros((1, c.num_kv_heads, longest, c.head_dim), np.float32)
        names = ["model.embed_tokens", *(f"model.layers.{i}" for i in range(c.num_layers))]
        return feeds, list(zip(names, heard.rows, strict=True))


class _Heard(ExitStack):
    """Hooks on modules, and what each gave out, as rows ``[n, width]``."""

    def __init__(self, modules: Sequence[Any], *, first_input: bool = False) -> None:
        super().__init__()
        self.rows: list[Float32] = []
        if first_input:
            self._on(modules[0].register_forward_pre_hook(lambda _, given: self._keep(given[0])))
        for module in modules:
            self._on(module.register_forward_hook(lambda _, __, out: self._keep(out)))

    def _on(self, handle: Any) -> None:
        self.callback(handle.remove)

    def _keep(self, value: Any) -> None:
        tensor = value[0] if isinstance(value, tuple) else value
        rows: Float32 = tensor.detach().float().cpu().numpy()
        self.rows.append(rows.reshape(-1, rows.shape[-1]).copy())


def _with_stream(path: Path) -> tuple[bytes, list[str]]:
    """The graph with its residual stream as outputs, and the stream's names from its beginning on."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    inputs = [i.name for i in model.graph.input]
    casts = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Cast"}
    adds: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "Add":
            adds.setdefault(node.input[0], node.output[0])
    names = ["inputs_embeds" if "inputs_embeds" in inputs else _first_product(model.graph)]
    while added := adds.get(names[-1]) or adds.get(casts.get(names[-1], "")):
        names.append(added)
    known = {*inputs, *(o.name for o in model.graph.output)}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return model.SerializeToString(), names


def _first_product(graph: Any) -> str:
    return str(next(node.output[0] for node in graph.node if node.op_type == "MatMul"))


def _back_from_windows(pixels: Pixels, config: VisionConfig) -> Array:
    """Where each merge group of the picture is in the order in which ``transformers`` lays groups out over windows."""
    plan = plan_windows(pixels.grid, config)
    order = np.argsort(plan.window_scatter, kind="stable")  # patches window by window
    return np.argsort(order[:: config.spatial_merge_size**2] // config.spatial_merge_size**2, kind="stable")


def _grouped(rows: Float32, order: Array, size: int) -> Float32:
    """Rows of patches with their merge groups in another order."""
    grouped: Float32 = rows.reshape(len(order), size, -1)[order].reshape(rows.shape)
    return grouped


def _relative(exact: Float32, other: Float32) -> float:
    if exact.shape != other.shape:
        return float("inf")
    return float(np.linalg.norm(exact.astype(np.float64) - other)) / (float(np.linalg.norm(exact)) or 1.0)
