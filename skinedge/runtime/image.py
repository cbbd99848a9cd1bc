"""What the model sees of a photograph, pixel for pixel as the reference processor makes it.

The reference is ``Qwen2VLImageProcessorPil`` of ``transformers``: a bicubic resize by Pillow to a multiple
of 28 pixels, then ``(value * rescale_factor - mean) / std``, then patches.  The results are identical to the
last bit (``tests/test_image.py``), given the same RGB photograph.  What other engines do here (padding to a
square, another filter) moves the model's answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from skinedge.errors import CheckpointError, ImageError
from skinedge.model.config import read_json
from skinedge.runtime.photograph import ImageLimits, load_photograph
from skinedge.runtime.session import Float32, Grid, Pixels

__all__ = ["ImageLimits", "ProcessorConfig", "load_photograph", "read_processor_config", "smart_size", "to_pixels"]

MAX_ASPECT = 200  # the reference's own limit
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_IMPLEMENTED: Mapping[str, tuple[object, ...]] = {
    "do_resize": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),
    "resample": (int(Image.Resampling.BICUBIC),),
    "image_processor_type": (
        "Qwen2VLImageProcessor",
        "Qwen2VLImageProcessorFast",
        "Qwen2VLImageProcessorPil",
        "Qwen2_5_VLImageProcessor",  # its name in the first release of Qwen2.5-VL
    ),
}


@dataclass(frozen=True)
class ProcessorConfig:
    """How a photograph becomes patches; the defaults are the reference's."""

    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    image_mean: tuple[float, float, float] = _CLIP_MEAN
    image_std: tuple[float, float, float] = _CLIP_STD
    rescale_factor: float = 1 / 255

    @property
    def factor(self) -> int:
        """Both sides of a resized photograph are multiples of this many pixels."""
        return self.patch_size * self.merge_size


def read_processor_config(folder: Path) -> ProcessorConfig:
    """Read ``processor_config.json`` (its ``image_processor``, as ``transformers`` 5 writes it) or ``preprocessor_config.json``.

    Raises:
        CheckpointError: missing, unreadable, or a setting that skinedge does not implement.
    """
    path, raw = _settings(folder)
    for setting, allowed in _IMPLEMENTED.items():
        if setting in raw and raw[setting] not in allowed:
            raise CheckpointError(
                f"{path}: {setting} is {raw[setting]!r}, which skinedge does not implement (it knows {allowed[0]!r})."
            )
    low, high = _pixel_bounds(raw, path)
    default = ProcessorConfig()
    return ProcessorConfig(
        min_pixels=low,
        max_pixels=high,
        patch_size=_whole(raw, "patch_size", default.patch_size, path),
        temporal_patch_size=_whole(raw, "temporal_patch_size", default.temporal_patch_size, path),
        merge_size=_whole(raw, "merge_size", default.merge_size, path),
        image_mean=_per_channel(raw, "image_mean", default.image_mean, path),
        image_std=_per_channel(raw, "image_std", default.image_std, path),
        rescale_factor=float(_number(raw, "rescale_factor", default.rescale_factor, path)),
    )


def smart_size(height: int, width: int, config: ProcessorConfig) -> tuple[int, int]:
    """The size ``(height, width)`` in pixels to which a photograph is resized (the reference's ``smart_resize``).

    Raises:
        ImageError: one side is more than 200 times the other.
    """
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise ImageError(
            f"the photograph is {width} x {height} pixels: its sides differ by more than a factor of {MAX_ASPECT}.",
            hint="Crop it to the lesion and its surroundings.",
        )
    factor = config.factor
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > config.max_pixels:
        beta = math.sqrt((height * width) / config.max_pixels)
        new_height = max(factor, math.floor(height / beta / factor) * factor)
        new_width = max(factor, math.floor(width / beta / factor) * factor)
    elif new_height * new_width < config.min_pixels:
        beta = math.sqrt(config.min_pixels / (height * width))
        new_height = math.ceil(height * beta / factor) * factor
        new_width = math.ceil(width * beta / factor) * factor
    return new_height, new_width


def to_pixels(image: Image.Image, config: ProcessorConfig) -> Pixels:
    """Resize, normalise and cut an RGB photograph into patches.

    Raises:
        ImageError: not RGB (``load_photograph`` gives RGB), or one side more than 200 times the other.
    """
    if image.mode != "RGB":
        raise ImageError(f"the photograph is in mode '{image.mode}' where RGB is needed.", hint="Open it with load_photograph.")
    height, width = smart_size(image.height, image.width, config)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    grid = Grid(1, height // config.patch_size, width // config.patch_size)
    return Pixels(_patches(resized, grid, config), grid, resized)


def _patches(resized: npt.NDArray[np.uint8], grid: Grid, config: ProcessorConfig) -> Float32:
    """uint8 ``[H, W, 3]`` -> float32 ``[patches, 3 * frames * size * size]``, merged neighbours together."""
    merge, size, frames = config.merge_size, config.patch_size, config.temporal_patch_size
    rows, cols = grid.height // merge, grid.width // merge
    cut = resized.reshape(rows, merge, size, cols, merge, size, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    patches = np.empty((rows, cols, merge, merge, 3, frames, size, size), np.float32)
    for channel, values in enumerate(_normalised_values(config)):
        patches[:, :, :, :, channel] = values[cut[:, :, :, :, channel]][:, :, :, :, None]
    return patches.reshape(grid.patches, -1)


def _normalised_values(config: ProcessorConfig) -> Float32:
    """float32 ``[3, 256]``: what becomes of each of a channel's 256 values, in the reference's order of operations.

    Normalising is done value by value, so 768 results stand for all pixels, rounded alike.
    """
    rescaled = (np.arange(256).astype(np.float64) * config.rescale_factor).astype(np.float32)
    mean, std = (np.array(v, np.float32)[:, None] for v in (config.image_mean, config.image_std))
    values: Float32 = (rescaled - mean) / std
    return values


def _settings(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    path = folder / "processor_config.json"
    nested = read_json(path, "how photographs are resized").get("image_processor") if path.is_file() else None
    if isinstance(nested, dict):
        return path, nested
    path = folder / "preprocessor_config.json"
    return path, read_json(path, "how photographs are resized")


def _pixel_bounds(raw: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """Smallest and largest number of pixels; ``min_pixels`` and ``max_pixels`` win over ``size``, as in the reference."""
    size = raw.get("size")
    if size is None:
        size = {"shortest_edge": ProcessorConfig.min_pixels, "longest_edge": ProcessorConfig.max_pixels}
    bounds = []
    for setting, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        if raw.get(setting) is not None:
            bounds.append(_whole(raw, setting, 0, path))
        elif isinstance(size, dict) and size.get(edge) is not None:
            bounds.append(_whole(size, edge, 0, path))
        else:
            raise CheckpointError(f"{path}: there is neither '{setting}' nor a '{edge}' in 'size'.")
    if bounds[0] > bounds[1]:
        raise CheckpointError(f"{path}: at least {bounds[0]} pixels and at most {bounds[1]} cannot both hold.")
    return bounds[0], bounds[1]


def _number(raw: Mapping[str, Any], setting: str, default: float, path: Path) -> int | float:
    value = raw.get(setting, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise CheckpointError(f"{path}: {setting} is {value!r} and must be a number above 0.")
    return value


def _whole(raw: Mapping[str, Any], setting: str, default: int, path: Path) -> int:
    value = _number(raw, setting, default, path)
    if value != int(value):
        raise CheckpointError(f"{path}: {setting} is {value!r} and must be a whole number.")
    return int(value)


def _per_channel(
    raw: Mapping[str, Any], setting: str, default: tuple[float, float, float], path: Path
) -> tuple[float, float, float]:
    value = raw.get(setting, default)
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise CheckpointError(f"{path}: {setting} is {value!r} and must be three numbers, for red, green and blue.")
    red, green, blue = (float(_number({setting: v}, setting, 0, path)) for v in value)
    return red, green, blue
