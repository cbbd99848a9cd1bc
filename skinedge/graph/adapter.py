"""The side branch as one graph: patch rows in, what the image says out, run once per image.

Input: ``pixel_values`` f32 ``[P, 1176]``.  Outputs: ``shift`` f32 ``[1, hidden]``, which the language model's head turns
into the bias on the vocabulary, ``skin`` f32 ``[1, 3]`` and ``embedding`` f32 ``[1, teacher]``, the image in the
distillation teacher's space.

The branch runs in float32 in every target: it is small, and routing decides between experts on
differences that half precision would blur.  All experts run as two dense products and the two chosen
ones are kept by *index*: a threshold at the second largest would keep three on a tie.

Source: arXiv 2511.15242; arithmetic in ``skinedge.model.adapter``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skinedge.graph.builder import Graph, GraphBuilder
from skinedge.model.adapter import RENORMALISE_EPS, TOP_K, AdapterShape
from skinedge.quantize._storage import StoredTensor
from skinedge.weights.checkpoint import SideBranch
from skinedge.weights.source import F32, Array, Float32
from skinedge.weights.stream import Payload

if TYPE_CHECKING:
    import onnx_ir as ir

_HEAD = "distill_head."


def build_adapter(branch: SideBranch) -> Graph:
    """The adapter graph."""
    return _AdapterGraph(branch, GraphBuilder("adapter")).build()


class _AdapterGraph:
    def __init__(self, branch: SideBranch, g: GraphBuilder) -> None:
        self.shape: AdapterShape = branch.shape
        self.values = branch.weights()
        self.g = g

    def build(self) -> Graph:
        g, shape = self.g, self.shape
        pixels = g.input("pixel_values", "FLOAT", ["P", shape.patch_values])
        h = self._linear(g.op("Unsqueeze", pixels, g.constant([0])), _HEAD + "in_proj", bias=False)
        skin = g.op("Softmax", self._mlp(_mean(g, h), _HEAD + "skin_classifier."), axis=-1)
        for i in range(shape.layers):
            h = g.op("Add", h, self._experts(h, skin, i) if shape.experts else self._mlp(h, shape.nets(i)[0]))
        v = _mean(g, h)
        inner = g.op("Tanh", self._linear(v, "text_bias.0", bias=False))
        scale = self._weight("logit_bias_scale", self.values["logit_bias_scale"].reshape(1))
        shift = g.op("Mul", self._linear(inner, "text_bias.2", bias=False), scale)
        self._emit(shift, "shift", shape.hidden)
        has_bias = _HEAD + "out_proj.bias" in self.values
        self._emit(self._linear(v, _HEAD + "out_proj", bias=has_bias), "embedding", shape.teacher)
        self._emit(skin, "skin", shape.skin_types)
        return g.finish()

    def _emit(self, x: ir.Value, name: str, size: int) -> None:
        self.g.output(self.g.reshape(x, 1, size), name, "FLOAT", [1, size])

    def _experts(self, h: ir.Value, skin: ir.Value, layer: int) -> ir.Value:
        """Top-2 mixture: ``sum_e r_e * (W2_e relu(W1_e h + b1_e) + b2_e)`` as two products over all experts."""
        g, shape, stem = self.g, self.shape, f"{_HEAD}adapters.{layer}."
        scores = g.op(
            "Add",
            self._linear(h, stem + "router_img", bias=False),
            self._linear(skin, stem + "router_skin", bias=False),
        )
        route = self._top2(g.op("Softmax", scores, axis=-1))
        w1, b1, w2, b2 = (np.stack([self.values[net + part] for net in shape.nets(layer)]) for part in _PARTS)
        inner = g.op("Relu", self._stacked(h, stem + "up", w1.reshape(-1, shape.width).T, b1.reshape(-1)))
        inner = g.op("Mul", g.reshape(inner, 0, 0, shape.experts, shape.bottleneck), g.op("Unsqueeze", route, g.constant([3])))
        inner = g.reshape(inner, 0, 0, shape.experts * shape.bottleneck)
        out = self._stacked(inner, stem + "down", w2.transpose(0, 2, 1).reshape(-1, shape.width))
        return g.op("Add", out, self._stacked(route, stem + "down_bias", b2))

    def _top2(self, route: ir.Value) -> ir.Value:
        """Routing weights with all but the two largest set to zero, divided by what is left."""
        g = self.g
        _, index = g.ops("TopK", 2, route, g.constant([TOP_K]), axis=-1)
        numbers = g.constant(np.arange(self.shape.experts, dtype=np.int64))
        hits = g.op("Equal", g.op("Unsqueeze", index, g.constant([3])), numbers)
        kept = g.op("Mul", route, g.op("ReduceSum", g.cast(hits, "FLOAT"), g.constant([2]), keepdims=0))
        total = g.op("ReduceSum", kept, g.constant([2]), keepdims=1)
        return g.op("Div", kept, g.op("Add", total, g.scalar(RENORMALISE_EPS)))

    def _mlp(self, x: ir.Value, prefix: str) -> ir.Value:
        return self._linear(self.g.op("Relu", self._linear(x, prefix + "0")), prefix + "2")

    def _linear(self, x: ir.Value, module: str, *, bias: bool = True) -> ir.Value:
        values = self.values
        return self._stacked(x, module, values[module + ".weight"].T, values[module + ".bias"] if bias else None)

    def _stacked(self, x: ir.Value, name: str, matrix: Float32, bias: Float32 | None = None) -> ir.Value:
        y = self.g.op("MatMul", x, self._weight(name + ".weight", matrix))
        return y if bias is None else self.g.op("Add", y, self._weight(name + ".bias", bias))

    def _weight(self, name: str, values: Float32) -> ir.Value:
        array: Array = np.ascontiguousarray(values, F32)
        return self.g.weight(StoredTensor("FLOAT", array.shape, Payload(f"adapter.{name}", array.nbytes, [lambda: array])))


_PARTS = ("0.weight", "0.bias", "2.weight", "2.bias")


def _mean(g: GraphBuilder, h: ir.Value) -> ir.Value:
    """``[1, P, width]`` to ``[1, 1, width]``."""
    return g.op("ReduceMean", h, g.constant([1]), keepdims=1)
