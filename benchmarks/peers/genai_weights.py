"""The matrices of a model that onnxruntime-genai's builder has written, read from its ``MatMulNBits`` nodes.

Source: ``MatMulNBits`` in ONNX Runtime's ContribOperators.md: ``B`` is ``[N, blocks, block * bits / 8]`` bytes, the first of
two values in the low half; without zero points the middle of the range stands for zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skinedge.model.config import ModelConfig
from skinedge.model.names import HEAD
from skinedge.weights.source import F32, Float32

Bytes = npt.NDArray[np.uint8]
MODULES = {
    "q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj", "o_proj": "self_attn.o_proj",
    "gate_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj", "down_proj": "mlp.down_proj",
}  # fmt: skip


@dataclass(frozen=True)
class NBits:
    """Rows of one node's weight ``[N, K]``."""

    values: Bytes  # [N, blocks, bytes of a block]
    scales: Float32  # [N, blocks]
    zeros: Bytes | None  # [N, bytes of all blocks]
    bits: int

    @property
    def nbytes(self) -> int:
        """What they take in the file."""
        return self.values.nbytes + self.scales.nbytes + (self.zeros.nbytes if self.zeros is not None else 0)

    def rows(self, rows: slice) -> NBits:
        """Some of them."""
        return NBits(self.values[rows], self.scales[rows], None if self.zeros is None else self.zeros[rows], self.bits)

    def restore(self) -> Float32:
        """``[N, K]``."""
        steps = _unpacked(self.values, self.bits)
        zeros = np.full(self.scales.shape, 1 << (self.bits - 1), F32)
        if self.zeros is not None:
            zeros = _unpacked(self.zeros, self.bits)[:, : self.scales.shape[1]]
        steps -= zeros[..., None]
        steps *= self.scales[..., None]
        return steps.reshape(len(steps), -1)


def read_matrices(file: Path, config: ModelConfig) -> dict[str, NBits]:
    """By canonical names; a stacked q/k/v is taken apart."""
    import onnx

    model = onnx.load(file)
    weights = {t.name: t for t in model.graph.initializer}
    found: dict[str, NBits] = {}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            whole = _read(node, weights)
            found |= {name: whole.rows(rows) for name, rows in _parts(node.name, config)}
    return found


def _read(node: object, weights: dict[str, object]) -> NBits:
    from onnx import helper, numpy_helper

    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}  # type: ignore[attr-defined]
    values, scales, *rest = (numpy_helper.to_array(weights[n]) for n in node.input[1:4] if n)  # type: ignore[attr-defined, arg-type]
    outputs, blocks = given["N"], -(-given["K"] // given["block_size"])
    zeros = rest[0].view(np.uint8).reshape(outputs, -1) if rest else None
    return NBits(values.reshape(outputs, blocks, -1), scales.astype(F32).reshape(outputs, blocks), zeros, given.get("bits", 4))


def _parts(node: str, config: ModelConfig) -> Iterator[tuple[str, slice]]:
    """The matrices in a node and their rows."""
    if "lm_head" in node:
        yield HEAD, slice(None)
        return
    at = re.search(r"layers[./](\d+)[./](?:attn|self_attn|mlp)[./](\w+?_proj)", node)
    if not at:
        raise SystemExit(f"no matrix of ours is called '{node}'")
    layer, module = at.groups()
    if module != "qkv_proj":
        yield f"model.layers.{layer}.{MODULES[module]}.weight", slice(None)
        return
    text, first = config.text, 0
    for part, heads in (("q", text.num_heads), ("k", text.num_kv_heads), ("v", text.num_kv_heads)):
        rows = slice(first, first + heads * text.head_dim)
        yield f"model.layers.{layer}.self_attn.{part}_proj.weight", rows
        first = rows.stop


def _unpacked(data: Bytes, bits: int) -> Float32:
    """The last axis as numbers."""
    if bits == 8:
        return data.astype(F32)
    return np.stack((data & 15, data >> 4), -1).reshape(*data.shape[:-1], -1).astype(F32)
