"""The vision tower over a batch of equal pictures, windows of equal size side by side.

``transformers`` runs attention window by window; a batch of 32 small pictures then makes hundreds of tiny
products a layer.  Here the pictures of a batch share one grid, so windows of one size are stacked and each
layer takes one product per size (at most four).  The modules and their weights are the model's own, wrapped
by PEFT or not, and the result equals ``get_image_features`` (``tests/test_train_vision.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from skinedge.model.config import VisionConfig
from skinedge.runtime.session import Grid
from skinedge.runtime.windows import plan_windows
from train.attention import attend, rotate


class UniformVision:
    """How pictures of one ``grid`` go through the vision tower of ``config``."""

    def __init__(self, grid: Grid, config: VisionConfig) -> None:
        plan = plan_windows(grid, config)
        sizes = plan.window_mask.sum(1)
        self._sizes = [int(s) for s in np.unique(sizes)]
        # All windows of one size, one after another; within a window the patches keep their order.
        windows = [w for s in self._sizes for w in np.nonzero(sizes == s)[0]]
        order = np.concatenate([plan.window_gather[w][plan.window_mask[w]] for w in windows])
        self._counts = [int((sizes == s).sum()) for s in self._sizes]
        merged = order.reshape(-1, config.spatial_merge_size**2)[:, 0] // config.spatial_merge_size**2
        self._order = torch.from_numpy(order)
        self._back = torch.from_numpy(np.argsort(merged))
        self._places = torch.from_numpy(plan.position_ids[order])
        self._full = frozenset(config.full_attention_blocks)
        self._heads = config.num_heads

    def encode(self, visual: transformers.PreTrainedModel, patches: Tensor) -> Tensor:
        """Features ``[B, merged patches, hidden]`` of patch rows ``[B, P, patch values]``."""
        kernel = visual.patch_embed.proj.weight
        h = nn.functional.linear(patches[:, self._order], kernel.reshape(kernel.shape[0], -1))
        cos, sin = self._rotary(visual)
        for number, block in enumerate(visual.blocks):
            h = h + self._attention(block.attn, block.norm1(h), cos, sin, full=number in self._full)
            h = h + block.mlp(block.norm2(h))
        merged: Tensor = visual.merger(h.reshape(-1, h.shape[-1]))
        return merged.reshape(len(patches), -1, merged.shape[-1])[:, self._back]

    def _rotary(self, visual: transformers.PreTrainedModel) -> tuple[Tensor, Tensor]:
        hidden = visual.blocks[0].attn.qkv.weight
        cos, sin = visual.rotary_pos_emb(hidden, self._places.to(hidden.device))
        return cos[:, None], sin[:, None]  # broadcast over the heads

    def _attention(self, attention: Any, h: Tensor, cos: Tensor, sin: Tensor, *, full: bool) -> Tensor:
        batch, length, hidden = h.shape
        q, k, v = attention.qkv(h).reshape(batch, length, 3, self._heads, -1).unbind(2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        spans = [(1, length)] if full else list(zip(self._counts, self._sizes, strict=True))
        outputs, start = [], 0
        for count, size in spans:
            stop = start + count * size
            parts = (x[:, start:stop].reshape(batch * count, size, self._heads, -1).transpose(1, 2) for x in (q, k, v))
            out = attend(*parts)
            outputs.append(out.transpose(1, 2).reshape(batch, stop - start, hidden))
            start = stop
        result: Tensor = attention.proj(torch.cat(outputs, 1))
        return result
