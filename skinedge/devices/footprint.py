"""What a model weighs in each target and scheme, tensor by tensor, without its weights.

Sizes come from the same code that writes bundles (``skinedge/quantize``, ``targets/gguf.py``), asked about shapes alone, so
that what a forecast says of bytes is what an export will write; ``tests/test_planner.py`` compares the two.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from skinedge.devices.constants import Kind
from skinedge.model.adapter import AdapterShape
from skinedge.model.config import ModelConfig
from skinedge.model.names import EMBEDDING, HEAD, Shapes, expected_shapes
from skinedge.weights.cast import FLOATS
from skinedge.weights.source import ALL, BF16, Array, TensorSource, TensorSpec


@dataclass(frozen=True)
class Footprint:
    """Bytes of each part as it is stored, and how a device keeps it.

    The embedding's table is mapped from disk in every target, a few rows of it in use, and is counted nowhere; a tied one is
    the head.  ``expanded`` is the factor by which a device keeps and reads more than is stored.
    """

    decoder: int
    head: int
    vision: int
    adapter: int
    expanded: int = 1

    @property
    def step(self) -> int:
        """Bytes of weights that one token reads."""
        return self.expanded * (self.decoder + self.head)

    @property
    def tower(self) -> int:
        """Bytes of weights that one photograph reads."""
        return self.expanded * self.vision + self.adapter

    @property
    def resident(self) -> int:
        """All that is in the device's memory at once."""
        return self.step + self.tower


class ShapeSource:
    """A ``TensorSource`` that knows names and shapes and has no values."""

    def __init__(self, shapes: Shapes) -> None:
        self._specs = {name: TensorSpec(name, shape, BF16) for name, shape in shapes.items()}

    def names(self) -> tuple[str, ...]:
        return tuple(self._specs)

    def spec(self, name: str) -> TensorSpec:
        return self._specs[name]

    def read(self, name: str, rows: slice = ALL, cols: slice = ALL) -> Array:
        del rows, cols
        raise RuntimeError(f"'{name}' has a shape and no values: only its size may be asked for")


def activations_of(target: str, scheme: str, kind: Kind) -> str:
    """The float type between the weights that an export for such a device would choose."""
    if scheme in FLOATS:
        return scheme
    if target == "gguf":
        return "f16"
    return "f32" if target == "onnx" and kind == "cpu" else "f16"


def footprint(config: ModelConfig, branch: AdapterShape | None, target: str, scheme: str, kind: Kind) -> Footprint:
    """The bytes of a model.

    Args:
        config: its sizes.
        branch: those of its side branch, if it has one.
        target: ``onnx``, ``trt`` or ``gguf``.
        scheme: one that the target has.
        kind: of device; an ONNX graph for a GPU has 16-bit activations and so smaller scales.
    """
    return _footprint(config, branch, target, scheme, "cpu" if kind == "cpu" else "gpu")


@functools.cache
def _footprint(config: ModelConfig, branch: AdapterShape | None, target: str, scheme: str, kind: Kind) -> Footprint:
    adapter = sum(4 * math.prod(shape) for shape in branch.tensors().values()) if branch else 0
    if target == "gguf":
        return _gguf(config, scheme, adapter)
    activations = activations_of(target, scheme, kind)
    # ONNX Runtime has no 16-bit products on a CPU: it casts such weights once, when it loads them.
    expanded = 2 if kind == "cpu" and scheme == "f16" else 1
    return _graphs(config, target, scheme, activations, adapter, expanded)


def _graphs(config: ModelConfig, target: str, scheme: str, activations: str, adapter: int, expanded: int) -> Footprint:
    from skinedge.graph.decoder import stack_linears, stacked
    from skinedge.targets.onnx import eight_bits

    shapes = expected_shapes(config)
    if config.text.tie_word_embeddings:
        shapes[HEAD] = shapes[EMBEDDING]
    source = stack_linears(config.text, ShapeSource(shapes))
    parts = {part for group in stacked(config.text).values() for part in group}
    text = [n for n in source.names() if not n.startswith("visual.") and n not in parts | {HEAD, EMBEDDING}]
    vision = [n for n in source.names() if n.startswith("visual.")]

    def nbytes(names: Sequence[str], which: str) -> int:
        # Layers are alike: one tensor of each shape is asked for.
        one_of = {source.spec(name).shape: name for name in names}
        known = {shape: _stored(source, name, which, activations) for shape, name in one_of.items()}
        return sum(known[source.spec(name).shape] for name in names)

    head = eight_bits(scheme) if target == "trt" else scheme
    return Footprint(nbytes(text, scheme), nbytes([HEAD], head), nbytes(vision, eight_bits(scheme)), adapter, expanded)


def _stored(source: TensorSource, name: str, scheme: str, activations: str) -> int:
    """Bytes of one tensor in a graph's file: norms, biases and the patch embedding stay in the activations' type."""
    from skinedge.graph.weights import store

    spec = source.spec(name)
    if len(spec.shape) < 2:
        return spec.size * FLOATS[activations].itemsize
    return store(source, name, activations if len(spec.shape) > 2 else scheme, activations).nbytes


def _gguf(config: ModelConfig, scheme: str, adapter: int) -> Footprint:
    from skinedge.targets._contract import ExportOptions
    from skinedge.targets._gguf_tensors import text_tensors, vision_tensors
    from skinedge.targets.gguf import _mix, _vision_scheme

    text = {t.source: t.nbytes for t in text_tensors(config, _mix(scheme), names=_llama_name)}
    table = text.pop(EMBEDDING)
    head = table if config.text.tie_word_embeddings else text.pop(HEAD)
    vision = vision_tensors(config, _vision_scheme(ExportOptions(scheme)), names=lambda source: source)
    return Footprint(sum(text.values()), head, sum(t.nbytes for t in vision), adapter)


_LLAMA = {EMBEDDING: "token_embd.weight", HEAD: "output.weight"}


def _llama_name(source: str) -> str:
    """A tensor's name in GGUF as far as its type depends on it (``skinedge.quantize._llama_mix``)."""
    name = (
        source.replace("model.layers.", "blk.").replace(".self_attn.v_proj.", ".attn_v.").replace(".mlp.down_proj.", ".ffn_down.")
    )
    return _LLAMA.get(source, name)
