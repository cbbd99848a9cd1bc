"""How a llama.cpp file type spreads its tensor types over a model.

A file type such as Q4_K_M is a *mix*: most matrices take the base type, those whose errors hurt more
(the value projections, the down projections, the head) take more bits, and a matrix whose width the
block does not divide falls back to a smaller block.

Source: ``llama_tensor_get_type_impl`` and ``tensor_type_fallback`` of llama.cpp's ``src/llama-quant.cpp``
(build 11549), for a dense model; ``benchmarks/peers/gguf_upstream.py`` compares the result with the real
one.  A scheme of this family is a module with ``TARGETS`` and ``MIX``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skinedge.model.config import TextConfig
from skinedge.quantize._ggml import TYPES, GgmlType

Rule = Callable[[int, TextConfig], bool]

# 256-value blocks on the left, the 32-value block that stands in on the right
_FALLBACK = {"iq4_xs": "iq4_nl", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}


def never(layer: int, text: TextConfig) -> bool:
    """The base type everywhere."""
    del layer, text
    return False


def more_bits(layer: int, text: TextConfig) -> bool:
    """The first and last eighth of the layers and every third between (``use_more_bits``)."""
    n, eighth = text.num_layers, text.num_layers // 8
    return layer < eighth or layer >= 7 * n // 8 or (layer - eighth) % 3 == 2


def first_eighth(layer: int, text: TextConfig) -> bool:
    """The first eighth of the layers."""
    return layer < text.num_layers // 8


def shared_heads(layer: int, text: TextConfig) -> bool:
    """Everywhere, in models where four or more query heads share one value head."""
    del layer
    return text.num_heads // text.num_kv_heads >= 4


@dataclass(frozen=True)
class Mix:
    """One llama.cpp file type.

    ``file_type`` is its number in ``enum llama_ftype``; ``raised`` is the type of the value and down
    projections in the layers that ``value`` and ``down`` name; of the down projections only where there are
    no importances, if that is a precaution against ``blind`` rounding.
    """

    base: str
    file_type: int
    raised: str = ""
    value: Rule = never
    down: Rule = never
    blind: bool = False

    def choose(
        self, name: str, shape: tuple[int, ...], text: TextConfig, *, importances: bool = False, asked: str | None = None
    ) -> GgmlType:
        """The type of the tensor called ``name`` in GGUF: the mix's, or the one ``asked`` for, if its block fits."""
        if len(shape) < 2 or not name.endswith(".weight") or name.endswith("_norm.weight"):
            return TYPES["f32"]
        if asked:
            return fitting(TYPES[asked], shape[-1])
        wanted = TYPES[self.base]
        if wanted.quantized:
            wanted = fitting(self._wanted(name, shape[-1], text, importances), shape[-1])
        return wanted

    def _wanted(self, name: str, cols: int, text: TextConfig, importances: bool) -> GgmlType:
        base = TYPES[self.base]
        # A tied embedding is the head as well, and a head's errors go straight into the logits.
        if name == "output.weight" or (name == "token_embd.weight" and text.tie_word_embeddings):
            return TYPES["q8_0" if self.base == "q8_0" or cols % base.block else "q6_k"]
        layer = int(name.split(".")[1]) if name.startswith("blk.") else -1
        down = self.down(layer, text) and not (self.blind and importances)
        raised = (".attn_v." in name and self.value(layer, text)) or (".ffn_down." in name and down)
        return TYPES[self.raised] if raised else base


def fitting(wanted: GgmlType, cols: int) -> GgmlType:
    """``wanted``, or the type that stands in where its block does not divide the width."""
    if cols % wanted.block == 0:
        return wanted
    smaller = TYPES[_FALLBACK.get(wanted.name, wanted.name)]
    return smaller if cols % smaller.block == 0 else TYPES["f16"]
