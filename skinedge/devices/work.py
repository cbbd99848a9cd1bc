"""What one answer costs: bytes read, operations by type and memory held, stage by stage, from a model's sizes."""

from __future__ import annotations

from dataclasses import dataclass

from skinedge.devices.constants import GIB, RUNTIME, Kind, place
from skinedge.devices.footprint import Footprint, activations_of
from skinedge.devices.shape import Shape
from skinedge.devices.timing import Work
from skinedge.measure.forecast import MemoryParts, Workload
from skinedge.model.adapter import AdapterShape
from skinedge.model.config import TextConfig, VisionConfig

ITEM = {"f32": 4, "f16": 2, "bf16": 2}
MOST_IMAGE_TOKENS = 1280  # the released settings' pixel cap, to which plans are built
# Positions read at a time: llama.cpp's batch, a plan's profile, the whole prompt.
PIECE = {"gguf": 512, "trt": 2048, "onnx": 1 << 30}
CACHE_STEP = 256  # by which ONNX Runtime's cache grows


@dataclass(frozen=True)
class Case:
    """A model in a target and scheme on a kind of device, asked one question."""

    shape: Shape
    target: str
    scheme: str
    kind: Kind
    workload: Workload
    weights: Footprint

    @property
    def activations(self) -> str:
        """The float type between the weights, as the manifest would call it."""
        return activations_of(self.target, self.scheme, self.kind)

    @property
    def computed(self) -> str:
        """The type of the products: a CPU has none of 16 bits."""
        return "f32" if self.kind == "cpu" else self.activations

    @property
    def flash(self) -> bool:
        """Whether attention needs no memory that grows with the square of the length."""
        return self.target == "trt" or (self.target == "gguf" and self.scheme != "f32")

    @property
    def cache_item(self) -> int:
        """Bytes of a value in the cache."""
        return ITEM["f32" if self.target == "gguf" and self.scheme == "f32" else self.activations]


def cache_bytes(text: TextConfig, item: int) -> int:
    """Bytes of one position: keys and values of all layers (57,344 for the 7B in 16 bits)."""
    return 2 * text.num_layers * text.num_kv_heads * text.head_dim * item


def memory(case: Case, available: int) -> MemoryParts:
    """What is held at once."""
    text, vision, load = case.shape.config.text, case.shape.config.vision, case.workload
    one = cache_bytes(text, case.cache_item)
    # ONNX Runtime's cache starts short and is copied when it grows: at its longest the old one is still there.
    cache = load.context * one + (max(0, load.context - CACHE_STEP) * one if case.target == "onnx" else 0)
    tokens = max(load.image_tokens, MOST_IMAGE_TOKENS) if case.target == "trt" and load.image_tokens else load.image_tokens
    rows = min(PIECE[case.target], load.context if case.target == "trt" else load.prompt_tokens)
    return MemoryParts(
        weights=case.weights.resident,
        cache=cache,
        vision=_vision_bytes(vision, tokens, ITEM[case.computed], case.flash),
        prefill=_prefill_bytes(text, rows, load.prompt_tokens, ITEM[case.computed], case.flash),
        runtime=round(RUNTIME[case.target, place(case.kind)] * GIB),
        available=available,
    )


def _vision_bytes(vision: VisionConfig, tokens: int, item: int, flash: bool) -> int:
    """Patch rows and the widest moment of a block: the residual, its norm, and q/k/v rotated or the three of the MLP."""
    patches = tokens * vision.spatial_merge_size**2
    widest = 2 * vision.hidden_size + max(6 * vision.hidden_size, 3 * vision.intermediate_size)
    scores = 0 if flash else vision.num_heads * patches**2
    return patches * (2 * 4 * vision.patch_values + widest * item) + scores * item


def _prefill_bytes(text: TextConfig, rows: int, length: int, item: int, flash: bool) -> int:
    widest = 2 * text.hidden_size + max(6 * text.hidden_size, 3 * text.intermediate_size)
    scores = 0 if flash else text.num_heads * rows * length
    return (rows * widest + scores) * item + 4 * text.vocab_size


def step(case: Case) -> Work:
    """One token in the middle of the answer."""
    text, load = case.shape.config.text, case.workload
    position = load.prompt_tokens + load.output_tokens / 2
    # A plan's cache has a fixed length and ONNX Runtime's steps; attention reads all of it.
    length = {"trt": load.context, "onnx": min(load.context, -(-position // CACHE_STEP) * CACHE_STEP)}.get(case.target, position)
    matrices = _layers(text) + text.vocab_size * text.hidden_size
    nbytes = case.weights.step + length * cache_bytes(text, case.cache_item)
    return Work(nbytes, {case.computed: 2 * matrices + _attention(text, 1, length)}, text.num_layers)


def prefill(case: Case) -> Work:
    """The prompt, in pieces; each reads all weights."""
    text, load = case.shape.config.text, case.workload
    pieces = -(-load.prompt_tokens // PIECE[case.target])
    length = load.context if case.target == "trt" else load.prompt_tokens
    flops: float = 2 * load.prompt_tokens * _layers(text) + 2 * text.vocab_size * text.hidden_size
    flops += _attention(text, load.prompt_tokens, length)
    return Work(pieces * case.weights.step, {case.computed: flops}, pieces * text.num_layers)


def tower(case: Case) -> Work:
    """The photograph through the vision tower."""
    vision = case.shape.config.vision
    patches = case.workload.image_tokens * vision.spatial_merge_size**2
    if not patches:
        return Work(0, {}, 0)
    merged = vision.hidden_size * vision.spatial_merge_size**2
    block = vision.hidden_size * (4 * vision.hidden_size + 3 * vision.intermediate_size)
    full = len(vision.full_attention_blocks)
    seen = full * patches + (vision.depth - full) * vision.window_patches
    flops = (
        2 * patches * (vision.depth * block + vision.patch_values * vision.hidden_size) + 4 * patches * seen * vision.hidden_size
    )
    flops += 2 * case.workload.image_tokens * merged * (merged + vision.out_hidden_size)
    return Work(case.weights.expanded * case.weights.vision, {case.computed: flops}, vision.depth)


def side_branch(branch: AdapterShape | None, patches: int) -> float:
    """Operations of the side branch in f32: every patch through all experts, which run as two dense products."""
    if branch is None:
        return 0.0
    experts = 2 * max(1, branch.experts) * branch.bottleneck * branch.width
    return 2.0 * patches * (branch.patch_values * branch.width + branch.layers * experts)


def _layers(text: TextConfig) -> int:
    """Weights of all layers' matrices."""
    q, kv = text.num_heads * text.head_dim, text.num_kv_heads * text.head_dim
    return text.num_layers * text.hidden_size * (2 * q + 2 * kv + 3 * text.intermediate_size)


def _attention(text: TextConfig, rows: float, length: float) -> float:
    """Operations of attention; what the causal mask hides is computed, too."""
    return 4 * rows * length * text.num_heads * text.head_dim * text.num_layers
