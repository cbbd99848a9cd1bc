"""Where each patch goes in the vision tower: positions and windows, from the grid alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skinedge.model.config import VisionConfig
from skinedge.runtime.session import Grid, Int64, Pixels
from skinedge.weights.source import Array


@dataclass(frozen=True)
class WindowPlan:
    """The index inputs of the vision graph (``skinedge.graph.vision``) for one image of ``P`` patches.

    ``position_ids`` int64 ``[P, 2]``; ``window_gather`` int64 ``[W, T]``; ``window_mask`` bool ``[W, T]``;
    ``window_scatter`` int64 ``[P]``.
    """

    position_ids: Int64
    window_gather: Int64
    window_mask: npt.NDArray[np.bool_]
    window_scatter: Int64


def vision_feeds(pixels: Pixels, config: VisionConfig) -> dict[str, Array]:
    """All inputs of the vision graph for one image, by name."""
    plan = plan_windows(pixels.grid, config)
    return {
        "pixel_values": pixels.patches,
        "position_ids": plan.position_ids,
        "window_gather": plan.window_gather,
        "window_mask": plan.window_mask,
        "window_scatter": plan.window_scatter,
    }


def plan_windows(grid: Grid, config: VisionConfig) -> WindowPlan:
    """Lay an image's patches, in the processor's order, out over attention windows.

    The processor lists patches merge group by merge group; a window is a square of merge groups.  At
    the right and lower edges a window is only partly filled; empty slots point at patch 0 and are
    masked.
    """
    merge, side = config.spatial_merge_size, config.window_size // config.patch_size // config.spatial_merge_size
    rows, cols = grid.height // merge, grid.width // merge
    group_row, group_col, in_row, in_col = (
        a.ravel() for a in np.meshgrid(np.arange(rows), np.arange(cols), np.arange(merge), np.arange(merge), indexing="ij")
    )
    positions = np.stack([group_row * merge + in_row, group_col * merge + in_col], axis=-1)
    across = -(-cols // side)
    per_frame = -(-rows // side) * across
    window = (group_row // side) * across + group_col // side
    slot = (((group_row % side) * side + group_col % side) * merge + in_row) * merge + in_col
    frames = np.arange(grid.frames)[:, None]
    window = (window[None] + frames * per_frame).ravel()
    slot = np.tile(slot, grid.frames)
    gather = np.zeros((grid.frames * per_frame, config.window_patches), np.int64)
    mask = np.zeros(gather.shape, np.bool_)
    gather[window, slot] = np.arange(grid.patches)
    mask[window, slot] = True
    return WindowPlan(
        position_ids=np.tile(positions, (grid.frames, 1)).astype(np.int64),
        window_gather=gather,
        window_mask=mask,
        window_scatter=(window * config.window_patches + slot).astype(np.int64),
    )
