"""The float type that each place of a model computes in, and which places an overflow report asks to widen.

A place is a part of a block (``visual.blocks.3.mlp``), the heads of its attention (``visual.blocks.3.attn.heads``), the
residual stream that it adds to (``visual.blocks.3``), the language model's input (``model.embed_tokens``), the merger, the
patch embedding or the head.  Types meet where parts read from the stream and add to it (``skinedge.graph.residual``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from skinedge.calibration.overflow_report import Reach
from skinedge.errors import UsageError
from skinedge.model.names import EMBEDDING

INPUTS = EMBEDDING.removesuffix(".weight")
PATCHES, MERGER, OUTPUT_HEAD = "visual.patch_embed", "visual.merger", "lm_head"

_PART = re.compile(r"(visual\.blocks|model\.layers)\.\d+\.\w+|visual\.\w+|lm_head")
# In each kind of block: what adds to the residual stream, and between which layers its heads compute.
_ADDS = (".proj.weight", ".o_proj.weight", ".down_proj.weight")
_INTO_HEADS = (".qkv.weight", ".q_proj.weight", ".k_proj.weight", ".v_proj.weight")
_OUT_OF_HEADS = (".attn.proj.weight", ".o_proj.weight")
_ORDER = ("f16", "bf16", "f32")


@dataclass(frozen=True)
class Precision:
    """The float type of the activations, and what stands in for it where that is too narrow.

    Attributes:
        kind: ``f32``, ``f16`` or ``bf16``.
        wide: the places that compute in ``wide_kind``, and the value that shows why.
        wide_kind: a type of more range.
        heads_kind: the same inside the Attention operator, which TensorRT has in 16 bits only.
    """

    kind: str
    wide: Mapping[str, Reach] = field(default_factory=lambda: MappingProxyType({}))
    wide_kind: str = "f32"
    heads_kind: str = "f32"

    def of(self, place: str) -> str:
        """The float type at ``place``."""
        if place not in self.wide:
            return self.kind
        return self.heads_kind if is_heads(place) else self.wide_kind

    def part(self, name: str) -> str:
        """The float type of the part that the tensor ``name`` belongs to."""
        return self.of(part_of(name))

    def details(self) -> dict[str, dict[str, dict[str, str]]]:
        """What was widened and why, for the target's page of a manifest; empty if nothing was."""
        wide = {place: {"kind": self.of(place), "why": reach.reason()} for place, reach in self.wide.items()}
        return {"wide": wide} if wide else {}


def heads(module: str) -> str:
    """The place of an attention module's heads: rotated queries and keys, values, and what comes of them."""
    return f"{module}.heads"


def is_heads(place: str) -> bool:
    """Whether a place is that of attention heads."""
    return place.endswith(".heads")


def widest(one: str, other: str) -> str:
    """Of two float types the one that holds the values of both well enough."""
    return max(one, other, key=_ORDER.index)


def part_of(name: str) -> str:
    """The part that a tensor belongs to.

    >>> part_of("model.layers.3.mlp.down_proj.weight"), part_of("visual.merger.mlp.0.bias")
    ('model.layers.3.mlp', 'visual.merger')

    Raises:
        UsageError: it is no layer's.
    """
    found = _PART.match(name)
    if found is None:
        raise UsageError(f"'{name}' is no layer of a Qwen2.5-VL.", hint="Survey the model again: skinedge overflow --out.")
    return found.group()


def places(reaches: Iterable[Reach]) -> dict[str, Reach]:
    """The places that must be widened so that none of ``reaches`` is computed or kept in a narrow type, in their order.

    A norm computes in the wider type of the stream that it reads and the part that it feeds, so it needs no place.
    """
    found: dict[str, Reach] = {}
    for reach in reaches:
        for place in _around(reach):
            if place not in found or reach.peak > found[place].peak:
                found[place] = reach
    return found


def _around(reach: Reach) -> Iterable[str]:
    layer = reach.layer
    if reach.place == "residual":
        # The norm's output is the head's input, the merger's the language model's.
        yield {"model.norm": OUTPUT_HEAD}.get(layer, layer)
        if layer == MERGER:
            yield INPUTS
        return
    part = part_of(layer)
    yield part
    block, _, own = part.rpartition(".")
    if reach.place == "output" and layer.endswith(_ADDS) and own in ("attn", "self_attn", "mlp"):
        yield block
    if layer.endswith(_INTO_HEADS if reach.place == "output" else _OUT_OF_HEADS):
        yield heads(part)
