"""What all teachers that are networks share: pixels, reading ahead, batches, device and precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from skinedge.errors import CheckpointError
from skinedge.runtime.photograph import load_photograph
from skinedge.weights.checkpoint import FiniteSource, digest_of
from skinedge.weights.source import F32, Float32, TensorSource, tensor
from train.ahead import ahead
from train.teachers import Picture

BATCH = 32
Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Pixels:
    """The square picture a network was trained on.

    ``mean`` and ``std`` are of bytes (0 to 255).  ``crop`` is how much of the largest central square is kept;
    ``squash`` takes the whole photograph instead, whatever its shape.
    """

    side: int
    mean: Channels
    std: Channels
    crop: float = 1.0
    squash: bool = False
    resample: Image.Resampling = Image.Resampling.BICUBIC

    def prepare(self, photograph: Image.Image) -> Tensor:
        """Bytes, ``[3, side, side]``."""
        image = photograph.resize((self.side, self.side), self.resample, box=self._box(*photograph.size))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Floats of bytes, ``[n, 3, side, side]``; stored channels last, in which convolutions are fastest."""
        mean, std = (torch.tensor(c, device=pixels.device).view(3, 1, 1) for c in (self.mean, self.std))
        return (pixels.to(torch.float32, memory_format=torch.channels_last) - mean) / std

    def _box(self, width: int, height: int) -> tuple[float, float, float, float]:
        if self.squash:
            return 0, 0, width, height
        kept = min(width, height) * self.crop
        left, top = (width - kept) / 2, (height - kept) / 2
        return left, top, left + kept, top + kept


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
            rows = [run(self.encode, batch) for batch in ahead(reader, self._stack, groups)]
        found = np.concatenate([np.empty((0, self.width), np.float32), *rows])
        for (identity, path), finite in zip(records, np.isfinite(found).all(1), strict=True):
            if not finite:
                raise CheckpointError(f"the teacher {self.name} gave no finite numbers for {path.name} of record '{identity}'.")
        return found

    def _stack(self, group: Sequence[Picture]) -> Tensor:
        return torch.stack([self.prepare(load_photograph(path)) for _, path in group])


def pixel_encoder(name: str, weights: str, pixels: Pixels, network: Callable[[Tensor], Tensor]) -> Encoder:
    """The teacher whose ``network`` makes ``[n, width]`` of normalised pixels; ``weights`` is their digest."""

    def encode(batch: Tensor) -> Tensor:
        return network(pixels.normalise(batch))

    return make_encoder(name, [weights, asdict(pixels)], pixels.prepare, encode)


def make_encoder(
    name: str, made_of: object, prepare: Callable[[Image.Image], Tensor], encode: Callable[[Tensor], Tensor]
) -> Encoder:
    """The teacher, its width found by showing it a grey picture; ``made_of`` (JSON-able) is digested.

    Raises:
        CheckpointError: the network does not make one vector of a picture.
    """
    shape = run(encode, prepare(Image.new("RGB", (256, 256), "grey"))[None]).shape
    if len(shape) != 2:
        raise CheckpointError(f"the teacher {name} gives an array of shape {shape[1:]} for a picture where a vector was due.")
    return Encoder(name, shape[1], digest_of([made_of, precision()]), prepare, encode)


def run(encode: Callable[[Tensor], Tensor], batch: Tensor) -> Float32:
    """``encode`` on the device, in this machine's precision."""
    where = device()
    with torch.inference_mode(), torch.autocast(where.type, torch.bfloat16, enabled=precision() == "bf16"):
        found: Float32 = encode(batch.to(where)).float().cpu().numpy()
    return found


def device() -> torch.device:
    """The accelerator of this process (the one ``accelerate`` gave it), or the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def precision() -> str:
    """``bf16`` where the processor multiplies it (several times faster), else ``f32``; part of every digest."""
    if device().type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "f32"
    able: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if device().type == "cpu" and (able.get("avx512_bf16") or able.get("amx_bf16")) else "f32"


def read_tensors(source: TensorSource) -> dict[str, Tensor]:
    """Every tensor of ``source`` in float32, on the device.

    Raises:
        CheckpointError: one holds a value that is not a finite number.
    """
    finite = FiniteSource(source)
    return {name: torch.from_numpy(tensor(finite, name).astype(F32)).to(device()) for name in finite.names()}
