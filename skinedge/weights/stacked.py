"""Several linear layers with the same input, stacked into one: one product instead of three.

``q``, ``k`` and ``v`` read the same activations, as do ``gate`` and ``up``.  Stacking their rows makes one
wider matrix; a decoder of one token at a time spends its time starting products, so fewer is faster
(measured in ``docs/decisions/0006-packed-projections.md``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from skinedge.weights.source import ALL, Array, TensorSource, TensorSpec


class StackedSource:
    """``base`` plus virtual tensors whose rows are those of several of its tensors, in order."""

    def __init__(self, base: TensorSource, stacks: Mapping[str, tuple[str, ...]]) -> None:
        self._base, self._stacks = base, dict(stacks)

    def names(self) -> tuple[str, ...]:
        return self._base.names() + tuple(self._stacks)

    def parts(self, name: str) -> tuple[str, ...]:
        """The tensors that ``name`` consists of."""
        return self._stacks.get(name, (name,))

    def spec(self, name: str) -> TensorSpec:
        if name not in self._stacks:
            return self._base.spec(name)
        parts = [self._base.spec(p) for p in self._stacks[name]]
        return TensorSpec(name, (sum(p.rows for p in parts), *parts[0].shape[1:]), parts[0].dtype)

    def read(self, name: str, rows: slice = ALL, cols: slice = ALL) -> Array:
        if name not in self._stacks:
            return self._base.read(name, rows, cols)
        start, stop, _ = rows.indices(self.spec(name).rows)
        blocks, first = [], 0
        for part in self._stacks[name]:
            height = self._base.spec(part).rows
            lo, hi = max(start - first, 0), min(stop - first, height)
            if lo < hi:
                blocks.append(self._base.read(part, slice(lo, hi), cols))
            first += height
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
