"""The vision tower as one graph: patch rows in, one feature per merged 2x2 patch out.

Inputs (``P`` patches in the processor's order, ``W`` windows of ``T`` patches)::

    pixel_values    f32   [P, 1176]
    position_ids    int64 [P, 2]    row and column of each patch
    window_gather   int64 [W, T]    which patch fills each slot of each window
    window_mask     bool  [W, T]    slots that hold a patch
    window_scatter  int64 [P]       where each patch went: window * T + slot

Output: ``image_features`` f32 ``[P / 4, hidden]``.

Windowed blocks attend inside batches of small windows, gathered by index and padded inside the window;
nothing of size P x P is ever masked, and the four full-attention blocks need no mask at all.  The
indices depend only on the grid and are made on the host (``window_plan``).

Source: Qwen2.5-VL, arXiv 2502.13923 section 2.1.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skinedge.graph.builder import Graph, GraphBuilder
from skinedge.graph.precision import MERGER, PATCHES, heads
from skinedge.graph.residual import Residual
from skinedge.graph.weights import GraphWeights
from skinedge.model.config import VisionConfig
from skinedge.weights.source import F32, Float32

if TYPE_CHECKING:
    import onnx_ir as ir

NORM_EPS = 1e-6  # fixed in the architecture, not in config.json
ROPE_THETA = 10000.0


def build_vision(config: VisionConfig, weights: GraphWeights) -> Graph:
    """The vision graph."""
    g, kind, merging = GraphBuilder("vision"), weights.precision.of(PATCHES), weights.precision.of(MERGER)
    pixels = g.convert(g.input("pixel_values", "FLOAT", ["P", config.patch_values]), "f32", kind)
    # The 3-D convolution's stride is its kernel: it is a product with the flattened patch.
    kernel = weights.matrix("visual.patch_embed.proj.weight", quantized=False)
    stream = Residual(g, weights, g.matmul(g.op("Unsqueeze", pixels, g.constant([0])), kernel), kind, NORM_EPS)
    rope = _rope(g, config)
    windows = _Windows(g, config)
    for i in range(config.depth):
        block = f"visual.blocks.{i}"
        normed = stream.normed(f"{block}.norm1", f"{block}.attn")
        stream.add(f"{block}.attn", _attention(g, config, weights, i, normed, rope, windows))
        normed = stream.normed(f"{block}.norm2", f"{block}.mlp")
        stream.add(f"{block}.mlp", _mlp(g, weights, f"{block}.mlp", normed))
    features = _merge(g, config, weights, stream.normed("visual.merger.ln_q", MERGER))
    # The host puts the features in their places, and numpy knows no bfloat16 of ONNX Runtime's.
    g.output(g.convert(features, merging, "f32"), "image_features", "FLOAT", ["M", config.out_hidden_size])
    return g.finish()


def rope_frequencies(config: VisionConfig) -> Float32:
    """``[2, head_dim / 2]``: inverse frequencies, the first half ruled by the row, the second by the column."""
    quarter = config.head_dim // 4
    exponent = np.arange(0, config.head_dim // 2, 2, dtype=F32) / F32.type(config.head_dim // 2)
    inverse = (np.float32(1.0) / np.power(np.float32(ROPE_THETA), exponent)).astype(F32)
    table = np.zeros((2, 2 * quarter), F32)
    table[0, :quarter] = inverse
    table[1, quarter:] = inverse
    return table


def _rope(g: GraphBuilder, config: VisionConfig) -> tuple[ir.Value, ir.Value]:
    """cos and sin ``[1, P, head_dim / 2]``, float32."""
    positions = g.cast(g.input("position_ids", "INT64", ["P", 2]), "FLOAT")
    angles = g.op("Unsqueeze", g.op("MatMul", positions, g.constant(rope_frequencies(config))), g.constant([0]))
    return g.op("Cos", angles), g.op("Sin", angles)


class _Windows:
    """Moving patches into batched windows and back."""

    def __init__(self, g: GraphBuilder, config: VisionConfig) -> None:
        self._g, self._config = g, config
        slots = config.window_patches
        self._gather = g.reshape(g.input("window_gather", "INT64", ["W", slots]), -1)
        mask = g.op("Unsqueeze", g.input("window_mask", "BOOL", ["W", slots]), g.constant([1, 2]))
        # ONNX Runtime's Attention does not broadcast the query axis of a mask: spell it out.
        self.mask = g.op("Expand", mask, g.constant([1, 1, slots, 1]))
        self._scatter = g.input("window_scatter", "INT64", ["P"])

    def split(self, x: ir.Value) -> ir.Value:
        """``[1, heads, P, d]`` to ``[W, heads, T, d]``."""
        g, c = self._g, self._config
        rows = g.op("Gather", g.reshape(g.transpose(x, 0, 2, 1, 3), -1, c.hidden_size), self._gather, axis=0)
        return g.transpose(g.reshape(rows, -1, c.window_patches, c.num_heads, c.head_dim), 0, 2, 1, 3)

    def join(self, x: ir.Value) -> ir.Value:
        """``[W, heads, T, d]`` to ``[1, P, hidden]``."""
        g, c = self._g, self._config
        rows = g.reshape(g.transpose(x, 0, 2, 1, 3), -1, c.hidden_size)
        return g.op("Unsqueeze", g.op("Gather", rows, self._scatter, axis=0), g.constant([0]))


def _attention(
    g: GraphBuilder,
    config: VisionConfig,
    weights: GraphWeights,
    block: int,
    x: ir.Value,
    rope: tuple[ir.Value, ir.Value],
    windows: _Windows,
) -> ir.Value:
    module = f"visual.blocks.{block}.attn"
    part, inside = weights.precision.of(module), weights.precision.of(heads(module))
    scale = config.head_dim**-0.5
    q, k, v = g.ops("Split", 3, weights.linear(g, x, f"{module}.qkv"), axis=-1, num_outputs=3)
    q, k, v = (g.transpose(g.reshape(t, 0, 0, config.num_heads, config.head_dim), 0, 2, 1, 3) for t in (q, k, v))
    turn = [g.convert(t, "f32", part) for t in rope]
    q, k = (g.op("RotaryEmbedding", t, *turn) for t in (q, k))
    q, k, v = (g.convert(t, part, inside) for t in (q, k, v))
    if block in config.full_attention_blocks:
        out = g.op("Attention", q, k, v, scale=scale)
        out = g.reshape(g.transpose(out, 0, 2, 1, 3), 0, 0, config.hidden_size)
    else:
        q, k, v = (windows.split(t) for t in (q, k, v))
        out = windows.join(g.op("Attention", q, k, v, windows.mask, scale=scale))
    return weights.linear(g, g.convert(out, inside, part), f"{module}.proj")


def _mlp(g: GraphBuilder, weights: GraphWeights, module: str, x: ir.Value) -> ir.Value:
    gate = g.silu(weights.linear(g, x, f"{module}.gate_proj"))
    return weights.linear(g, g.op("Mul", gate, weights.linear(g, x, f"{module}.up_proj")), f"{module}.down_proj")


def _merge(g: GraphBuilder, config: VisionConfig, weights: GraphWeights, x: ir.Value) -> ir.Value:
    """Four neighbouring patches, normalised, become one token of the language model."""
    x = g.reshape(x, 1, -1, config.hidden_size * config.spatial_merge_size**2)
    x = g.op("Gelu", weights.linear(g, x, "visual.merger.mlp.0"))
    return g.op("Squeeze", weights.linear(g, x, "visual.merger.mlp.2"), g.constant([0]))
