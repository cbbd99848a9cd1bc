"""The language model over a batch of whole, right-padded texts: no cache, no mask, small enough to compile.

The modules and their weights are the model's own, wrapped by PEFT or not, and the result equals the model's
(``tests/test_train_vision.py``).  No token looks at a later one, so padding on the right disturbs nothing.
"""

from __future__ import annotations

from typing import Any

import transformers
from torch import Tensor

from train.attention import attend, rotate


def decode(model: transformers.PreTrainedModel, embeds: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Hidden states after the final norm ``[B, S, hidden]``; ``cos`` and ``sin`` are those of ``rotary``."""
    h = embeds
    for layer in model.layers:
        h = h + _attention(layer.self_attn, layer.input_layernorm(h), cos, sin)
        h = h + layer.mlp(layer.post_attention_layernorm(h))
    hidden: Tensor = model.norm(h)
    return hidden


def rotary(model: transformers.PreTrainedModel, embeds: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine ``[B, 1, S, D]`` of positions ``[3, B, S]`` (mRoPE)."""
    cos, sin = model.rotary_emb(embeds, positions)
    return cos[:, None], sin[:, None]


def _attention(attention: Any, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    batch, length, _ = h.shape
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    q, k, v = (p(h).reshape(batch, length, -1, attention.head_dim).transpose(1, 2) for p in projections)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    repeats = q.shape[1] // k.shape[1]
    out = attend(q, *(x.repeat_interleave(repeats, dim=1) for x in (k, v)), causal=True)
    result: Tensor = attention.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
    return result
