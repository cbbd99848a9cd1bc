"""Where each token of a prompt stands: Qwen2.5-VL's multimodal rotary positions, for text and still images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skinedge.errors import PromptError
from skinedge.runtime.session import Grid, Int64


def mrope_positions(token_ids: Int64, grids: Sequence[Grid], image_token_id: int, merge: int) -> tuple[Int64, int]:
    """Positions on three axes (arXiv 2409.12191, section 2.1), and the position of the first generated token.

    Text advances all axes by one a token.  An image spreads over rows and columns from where it stands and
    advances by the longer of its two sides, in merged patches.

    Args:
        token_ids: ``[S]``, with one image token per merged patch.
        grids: those of the images, in order.
        image_token_id: the token that stands for a merged patch.
        merge: patches merged per side.

    Returns:
        int64 ``[3, S]`` (temporal, height, width) and the next position.

    Raises:
        PromptError: the image tokens are not as many as the grids need.
    """
    expected, found = sum(g.patches // merge**2 for g in grids), int(np.count_nonzero(token_ids == image_token_id))
    if expected != found:
        raise PromptError(f"the prompt has {found} image tokens and its images need {expected}.")
    columns: list[Int64] = []
    start = position = 0
    for grid in grids:
        begin = start + int(np.argmax(token_ids[start:] == image_token_id))
        columns.append(_text_positions(position, begin - start))
        position += begin - start
        rows, cols = grid.height // merge, grid.width // merge
        columns.append(position + np.indices((grid.frames, rows, cols), np.int64).reshape(3, -1))
        position += max(rows, cols)
        start = begin + grid.frames * rows * cols
    columns.append(_text_positions(position, len(token_ids) - start))
    positions = np.concatenate(columns, axis=1)
    return positions, int(positions.max(initial=-1)) + 1


def _text_positions(first: int, length: int) -> Int64:
    return np.broadcast_to(np.arange(first, first + length, dtype=np.int64), (3, length))
