"""Patch rows for the side branch: kept as bytes, normalised when they are used.

A patch row of a still photograph holds each value twice, once for each of the two frames that Qwen2.5-VL
gives to a still (``skinedge.runtime.image``).  Training keeps one frame, and keeps it as the 8-bit value that
the camera's picture was resized to: 588 bytes a row instead of 4704.  The 768 results of normalising a byte are
those of the runtime, so the rows that come back are the runtime's to the last bit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from skinedge.runtime.image import ProcessorConfig
from skinedge.runtime.session import Float32, Pixels

UInt8 = npt.NDArray[np.uint8]
CHANNELS = 3


def still_rows(pixels: Pixels, config: ProcessorConfig) -> UInt8:
    """One frame of the patch rows, uint8 ``[patches, 588]``, in the processor's order (channel, row, column)."""
    merge, size = config.merge_size, config.patch_size
    rows, cols = pixels.grid.height // merge, pixels.grid.width // merge
    cut = pixels.image.reshape(rows, merge, size, cols, merge, size, CHANNELS)
    return np.ascontiguousarray(cut.transpose(0, 3, 1, 4, 6, 2, 5)).reshape(pixels.grid.patches, -1)


def value_table(config: ProcessorConfig) -> Float32:
    """float32 ``[3, 256]``: what each byte of a channel becomes, in the runtime's order of operations."""
    rescaled = (np.arange(256).astype(np.float64) * config.rescale_factor).astype(np.float32)
    mean, std = (np.array(v, np.float32)[:, None] for v in (config.image_mean, config.image_std))
    table: Float32 = (rescaled - mean) / std
    return table


def normalise(rows: UInt8, table: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """``rows`` through ``table`` ``[3, 256]``, in the table's type."""
    result = np.empty(rows.shape, table.dtype)
    width = rows.shape[1] // CHANNELS
    for channel, values in enumerate(table):
        span = slice(channel * width, (channel + 1) * width)
        result[:, span] = np.take(values, rows[:, span])
    return result
