"""Pictures made here, for comparisons where no photograph may be shipped: awkward sizes, skin-like colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

# name -> (width, height): very wide, very tall, and one that is exactly the processor's pixel cap (1003520).
SIZES = {"wide": (1176, 61), "tall": (57, 1003), "cap": (1120, 896)}


def make_picture(width: int, height: int, seed: int) -> Image.Image:
    """A lesion on skin: smooth shading, a darker blotch with a ragged edge, fine noise.  Same seed, same bytes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / width - 0.5, y / height - 0.5
    skin = np.array([214, 168, 140], np.float32) * (1 - 0.25 * (x + y))[..., None]
    angle = np.arctan2(y, x)
    edge = 0.25 + 0.05 * np.sin(3 * angle + seed) + 0.03 * np.sin(7 * angle)
    inside = 1 / (1 + np.exp((np.hypot(x, y) - edge) * 40))
    lesion = np.array([96, 58, 46], np.float32) + 30 * np.sin(20 * x + 13 * y)[..., None]
    picture = skin + inside[..., None] * (lesion - skin) + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def write_pictures(folder: Path) -> list[Path]:
    """Write the three pictures as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed, (name, (width, height)) in enumerate(SIZES.items()):
        paths.append(folder / f"{name}.png")
        make_picture(width, height, seed).save(paths[-1])
    return paths
