"""What all teachers that are networks share: reading pictures ahead, batches, the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from skinedge.errors import CheckpointError
from skinedge.runtime.photograph import load_photograph
from skinedge.weights.source import Float32
from train.ahead import ahead
from train.teachers import Picture

BATCH = 32


@dataclass(frozen=True)
class Encoder:
    """A teacher that is a network.

    ``prepare`` makes of a photograph what ``encode`` takes a stack of (``[n, ...]``, on the device) and turns into
    ``[n, width]``.
    """

    name: str
    width: int
    digest: str
    prepare: Callable[[Image.Image], Tensor]
    encode: Callable[[Tensor], Tensor]

    def features(self, records: Sequence[Picture]) -> Float32:
        """``[n, width]``.

        Raises:
            ImageError: a photograph cannot be read.
            CheckpointError: the network gave a value that is not a finite number.
        """
        groups = [records[i : i + BATCH] for i in range(0, len(records), BATCH)]
        with ThreadPoolExecutor(1) as reader:
            rows = [self._encode(batch) for batch in ahead(reader, self._stack, groups)]
        found = np.concatenate([np.empty((0, self.width), np.float32), *rows])
        for (identity, path), finite in zip(records, np.isfinite(found).all(1), strict=True):
            if not finite:
                raise CheckpointError(f"the teacher {self.name} gave no finite numbers for {path.name} of record '{identity}'.")
        return found

    def _stack(self, group: Sequence[Picture]) -> Tensor:
        return torch.stack([self.prepare(load_photograph(path)) for _, path in group])

    def _encode(self, batch: Tensor) -> Float32:
        with torch.inference_mode():
            found: Float32 = self.encode(batch.to(device())).float().cpu().numpy()
        return found


def device() -> torch.device:
    """The accelerator of this process (the one ``accelerate`` gave it), or the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found or torch.device("cpu")


def square(photograph: Image.Image, side: int, margin: float = 0.0) -> Image.Image:
    """The largest central square without ``margin`` of it, at ``side`` pixels (bicubic)."""
    width, height = photograph.size
    kept = min(width, height) * (1 - margin)
    left, top = (width - kept) / 2, (height - kept) / 2
    return photograph.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + kept, top + kept))


def to_bytes(image: Image.Image) -> Tensor:
    """``[3, height, width]`` of uint8, stored channels last: normalised on the device, where it is cheap."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
