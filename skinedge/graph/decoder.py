"""The language model as two graphs: ``decoder``, from embeddings to hidden states over a cache, and ``head``.

``decoder`` inputs (``S`` new tokens, ``L`` cache positions, ``N`` positions wanted)::

    inputs_embeds   float [1, S, hidden]    token embeddings, image features in their places
    position_ids    int64 [3, S]            temporal, height, width
    start           int64 [1]               cache position of the first new token
    hidden_index    int64 [N]               which of the new tokens' states are wanted
    past.i.key, past.i.value  float [1, kv_heads, L, head_dim]

Outputs: ``hidden`` float ``[1, N, hidden]`` after the final norm, and ``present.i.key``/``.value``, shaped as their
``past``: a runtime that binds both to one buffer updates the cache in place (``TensorScatter``).  ``L`` is symbolic,
so the host sizes the cache to the need; TensorRT takes only a fixed length, which a graph made for it has.

``head`` inputs: ``hidden`` as above and ``logit_bias`` f32 ``[1, vocabulary]``; output: ``logits`` f32 ``[1, N, vocabulary]``.
It also turns the side branch's ``shift`` into that bias, so nobody needs a second copy of the model's largest
matrix; and the embedding is a table on the host (``skinedge.graph.embedding``), of which a device never needs more
than a few rows.  Both are argued in ``docs/decisions/0007-table-decoder-head.md``.

``float`` is the activations' type, or a wider one where ``skinedge.graph.precision`` says so.

Source: Qwen2.5-VL (arXiv 2502.13923) and, for the positions, mRoPE (arXiv 2409.12191, section 2.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skinedge.graph.builder import Graph, GraphBuilder
from skinedge.graph.precision import INPUTS, OUTPUT_HEAD, heads
from skinedge.graph.residual import Residual
from skinedge.graph.weights import GraphWeights
from skinedge.model.config import TextConfig
from skinedge.model.names import HEAD
from skinedge.quantize._storage import ONNX_TYPES
from skinedge.weights.source import F32, Float32, TensorSource
from skinedge.weights.stacked import StackedSource

if TYPE_CHECKING:
    import onnx_ir as ir


def stacked(config: TextConfig) -> dict[str, tuple[str, ...]]:
    """The tensors that are one in the graph, q/k/v and gate/up of each layer, and what they consist of."""
    stacks: dict[str, tuple[str, ...]] = {}
    for i in range(config.num_layers):
        attention, mlp = f"model.layers.{i}.self_attn.", f"model.layers.{i}.mlp."
        for part in ("weight", "bias"):
            stacks[f"{attention}qkv_proj.{part}"] = tuple(f"{attention}{x}_proj.{part}" for x in "qkv")
        stacks[f"{mlp}gate_up_proj.weight"] = (f"{mlp}gate_proj.weight", f"{mlp}up_proj.weight")
    return stacks


def stack_linears(config: TextConfig, weights: TensorSource) -> StackedSource:
    """The language model's weights with those stacked."""
    return StackedSource(weights, stacked(config))


def build_decoder(config: TextConfig, weights: GraphWeights, cache_length: int | None = None) -> Graph:
    """The decoder graph over weights that ``stack_linears`` has stacked; ``None`` leaves ``L`` symbolic."""
    g, kind, into = GraphBuilder("decoder"), weights.precision.of(INPUTS), weights.precision.of(OUTPUT_HEAD)
    x = g.input("inputs_embeds", ONNX_TYPES[kind], [1, "S", config.hidden_size])
    stream = Residual(g, weights, x, kind, config.rms_norm_eps)
    rope = _rope(g, config)
    cache = _Cache(g, config, cache_length)
    for i in range(config.num_layers):
        layer = f"model.layers.{i}"
        normed = stream.normed(f"{layer}.input_layernorm", f"{layer}.self_attn")
        stream.add(f"{layer}.self_attn", _attention(g, config, weights, i, normed, rope, cache))
        normed = stream.normed(f"{layer}.post_attention_layernorm", f"{layer}.mlp")
        stream.add(f"{layer}.mlp", _mlp(g, config, weights, f"{layer}.mlp", normed))
    # Only the positions asked for go on to the head, the largest matrix of the model.
    stream.value = g.op("Gather", stream.value, g.input("hidden_index", "INT64", ["N"]), axis=1)
    g.output(stream.normed("model.norm", OUTPUT_HEAD), "hidden", ONNX_TYPES[into], [1, "N", config.hidden_size])
    cache.declare_outputs()
    return g.finish()


def build_head(config: TextConfig, weights: GraphWeights) -> Graph:
    """The head graph: hidden states to logits, and the side branch's shift to its bias."""
    g, kind = GraphBuilder("head"), weights.precision.of(OUTPUT_HEAD)
    hidden = g.input("hidden", ONNX_TYPES[kind], [1, "N", config.hidden_size])
    bias = g.input("logit_bias", "FLOAT", [1, config.vocab_size])
    logits = g.op("Add", g.convert(g.matmul(hidden, weights.matrix(HEAD)), kind, "f32"), bias)
    g.output(logits, "logits", "FLOAT", [1, "N", config.vocab_size])
    return g.finish()


def rope_frequencies(config: TextConfig) -> Float32:
    """``[3, head_dim / 2]``: inverse frequencies in the row of the axis that rules each of them.

    A product with the positions' three rows then gives every angle exactly, since the other two
    terms are zero.
    """
    half = config.head_dim // 2
    # The exponent is formed as the reference forms it, in float32.
    exponent = np.arange(0, config.head_dim, 2, dtype=F32) / F32.type(config.head_dim)
    inverse = (np.float32(1.0) / np.power(np.float32(config.rope_theta), exponent)).astype(F32)
    axis = np.repeat(np.arange(3), config.mrope_section)
    table = np.zeros((3, half), F32)
    table[axis, np.arange(half)] = inverse
    return table


def _rope(g: GraphBuilder, config: TextConfig) -> tuple[ir.Value, ir.Value]:
    """cos and sin ``[1, S, head_dim / 2]``, float32."""
    positions = g.transpose(g.cast(g.input("position_ids", "INT64", [3, "S"]), "FLOAT"), 1, 0)
    angles = g.op("Unsqueeze", g.op("MatMul", positions, g.constant(rope_frequencies(config))), g.constant([0]))
    return g.op("Cos", angles), g.op("Sin", angles)


class _Cache:
    """The key/value cache: inputs, in-place updates, the causal mask over it, outputs."""

    def __init__(self, g: GraphBuilder, config: TextConfig, length: int | None) -> None:
        self._g, self._presents = g, list[tuple[str, "ir.Value", str]]()
        self._shape: list[int | str] = [1, config.num_kv_heads, length or "L", config.head_dim]
        self.start = g.input("start", "INT64", [1])
        self._masks: dict[str, ir.Value] = {}

    def update(self, name: str, kind: str, new: ir.Value) -> ir.Value:
        """Write ``new`` ``[1, kv_heads, S, head_dim]``, of type ``kind``, at ``start`` and return the whole cache."""
        past = self._g.input(f"past.{name}", ONNX_TYPES[kind], self._shape)
        if kind not in self._masks:
            self._masks[kind] = self._causal(past, new, len(self._masks))
        present = self._g.op("TensorScatter", past, new, self.start, axis=2)
        self._presents.append((f"present.{name}", present, ONNX_TYPES[kind]))
        return present

    def mask(self, kind: str) -> ir.Value:
        """Boolean ``[1, 1, S, L]``: new token ``s`` sees cache positions up to ``start + s``.

        Attention in each type has its own, counted from another number so that TensorRT does not find them to be one:
        TensorRT-RTX 1.7.1 cannot build f16 and bf16 over one mask ("more than one op named").
        """
        return self._masks[kind]

    def declare_outputs(self) -> None:
        for name, value, onnx_type in self._presents:
            self._g.output(value, name, onnx_type, self._shape)

    def _causal(self, past: ir.Value, new: ir.Value, first: int) -> ir.Value:
        """The mask, by numbers of positions that begin with ``first``."""
        g = self._g

        def count(x: ir.Value) -> ir.Value:
            length = g.op("Squeeze", g.op("Shape", x, start=2, end=3), g.constant([0]))
            end = g.op("Add", length, g.constant(first)) if first else length
            return g.op("Range", g.constant(first), end, g.constant(1))

        rows = g.op("Unsqueeze", g.op("Add", count(new), self.start), g.constant([1]))
        seen = g.op("LessOrEqual", g.op("Unsqueeze", count(past), g.constant([0])), rows)
        return g.op("Unsqueeze", seen, g.constant([0, 1]))


def _attention(
    g: GraphBuilder,
    config: TextConfig,
    weights: GraphWeights,
    layer: int,
    x: ir.Value,
    rope: tuple[ir.Value, ir.Value],
    cache: _Cache,
) -> ir.Value:
    """Grouped-query attention over the cache.

    The heads of q, k and v are made and turned together and taken apart afterwards: for one token each node costs
    microseconds whatever it does.
    """
    module = f"model.layers.{layer}.self_attn"
    part, inside = weights.precision.of(module), weights.precision.of(heads(module))
    queries, pairs = config.num_heads, config.num_kv_heads
    qkv = weights.linear(g, x, f"{module}.qkv_proj")
    every = g.transpose(g.reshape(qkv, 0, 0, queries + 2 * pairs, config.head_dim), 0, 2, 1, 3)
    qk, v = g.ops("Split", 2, every, g.constant([queries + pairs, pairs]), axis=1)
    turned = g.op("RotaryEmbedding", qk, *(g.convert(t, "f32", part) for t in rope))
    q, k = g.ops("Split", 2, g.convert(turned, part, inside), g.constant([queries, pairs]), axis=1)
    v = g.convert(v, part, inside)
    keys, values = cache.update(f"{layer}.key", inside, k), cache.update(f"{layer}.value", inside, v)
    out = g.convert(g.op("Attention", q, keys, values, cache.mask(inside), scale=config.head_dim**-0.5), inside, part)
    out = g.reshape(g.transpose(out, 0, 2, 1, 3), 0, 0, queries * config.head_dim)
    return weights.linear(g, out, f"{module}.o_proj", bias=False)


def _mlp(g: GraphBuilder, config: TextConfig, weights: GraphWeights, module: str, x: ir.Value) -> ir.Value:
    """SwiGLU (arXiv 2002.05202)."""
    both = weights.linear(g, x, f"{module}.gate_up_proj", bias=False)
    gate, up = g.ops("Split", 2, both, g.constant([config.intermediate_size] * 2), axis=-1)
    return weights.linear(g, g.op("Mul", g.silu(gate), up), f"{module}.down_proj", bias=False)
