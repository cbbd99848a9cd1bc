"""Pictures that drive a vision tower to its largest values: hard edges, flat extremes, noise."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from skinedge.calibration.samples import Sample, SampleMaker
from skinedge.runtime.image import smart_size, to_pixels
from skinedge.runtime.prompt import ask
from skinedge.runtime.session import Grid, Pixels

WIDTH, HEIGHT = 1350, 1800
CHECKERBOARDS = (14, 28, 56)  # pixels: a patch, a merged patch, and the one known to overflow


def trigger(name: str, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """The RGB picture called ``name``, one of ``TRIGGERS``."""
    y, x = np.mgrid[0:height, 0:width]
    if name.startswith("checkerboard-"):
        side = int(name.removeprefix("checkerboard-"))
        grey = ((y // side + x // side) % 2 * 255).astype(np.uint8)
    elif name == "stripes":
        grey = (x // 28 % 2 * 255).astype(np.uint8)
    elif name == "noise":
        grey = np.random.default_rng(0).integers(0, 2, (height, width), np.uint8) * 255
    elif name == "spot":
        grey = ((np.hypot(y - height / 2, x - width / 2) < 100) * 255).astype(np.uint8)
    else:
        grey = np.full((height, width), {"black": 0, "white": 255}[name], np.uint8)
    return Image.fromarray(grey).convert("RGB")


TRIGGERS = (*(f"checkerboard-{side}" for side in CHECKERBOARDS), "stripes", "noise", "spot", "black", "white")


def trigger_samples(make: SampleMaker) -> dict[str, Sample]:
    """Each trigger with the default question."""
    height, width = smart_size(HEIGHT, WIDTH, make.processor)
    grid = Grid(1, height // make.processor.patch_size, width // make.processor.patch_size)
    samples = {}
    for name in TRIGGERS:
        samples[name] = make.sample(ask(), (grid,), (functools.partial(_pixels, make, name),), answer=False)
    return samples


def _pixels(make: SampleMaker, name: str) -> Pixels:
    return to_pixels(trigger(name), make.processor)
