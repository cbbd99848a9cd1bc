"""Attention by plain products, for training small models on a CPU.

The backward of torch's fused attention takes most of a training step there; for the short texts of a small
model two products and a softmax are several times as fast.  On a GPU, or where a matrix of all scores would
not fit (a photograph at the cap has 5120 patches), it is torch's own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Longest sequence for which a matrix of all its scores is made.
SHORT = 1024


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """Attention ``[..., S, D]``; scores and softmax in float32, ``causal`` hides later positions."""
    if q.device.type != "cpu" or q.shape[-2] > SHORT:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    result: Tensor = scores.softmax(-1).to(v.dtype) @ v
    return result


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of ``x`` ``[..., D]``: the halves of ``D`` are the two axes of each plane."""
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)
