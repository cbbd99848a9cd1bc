"""Coordinates in which the side branch's first layer learns: principal components of the patches, each of unit size.

The values of a patch are nearly all alike, so in raw coordinates one direction (the mean colour) drowns the
textures, and ``in_proj`` takes tens of thousands of steps to see them.  In the leading components it takes
hundreds; components past them are mostly the camera's noise.  Only training uses these coordinates: what is
stored is the product, an ``in_proj`` like any other (docs/decisions/0010).
"""

from __future__ import annotations

import torch
from torch import Tensor

from train.batches import Source

# Enough patches for the moments of a few hundred components.
PICTURES = 256
# Components smaller than this share of the largest are not blown up to its size.
FLOOR = 1e-3


def whitening(source: Source, components: int) -> Tensor:
    """The basis ``[patch values of one frame, components]`` from an even sample of the records; same records, same basis."""
    count = len(source.ids)
    chosen = range(0, count, max(1, count // PICTURES))
    moment, rows = torch.zeros(0), 0
    for first in range(0, len(chosen), 16):
        patches = source.batch(list(chosen[first : first + 16])).rows.double()
        moment = patches.T @ patches + (moment if rows else 0)
        rows += len(patches)
    values, vectors = torch.linalg.eigh(moment / rows)
    sizes = values.clamp(min=0).sqrt().flip(0)[:components]
    basis: Tensor = vectors.flip(1)[:, :components] / (sizes + FLOOR * sizes[0])
    return basis.float().contiguous()


def turned(rows: Tensor, channels: int, way: int) -> Tensor:
    """Patch rows ``[N, channels * side * side]`` turned and mirrored in the ``way``-th of the eight ways of a square."""
    side = round((rows.shape[1] // channels) ** 0.5)
    squares = rows.reshape(-1, channels, side, side).rot90(way % 4, (2, 3))
    return (squares.flip(3) if way >= 4 else squares).reshape(rows.shape)
