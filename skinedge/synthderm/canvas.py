"""The sheet that a SynthDerm picture is painted on: colours as reflectance, places in millimetres.

Skin is painted the way light meets it: pigments multiply what is reflected (Beer-Lambert), so the same
erythema is bright red on light skin and dusky on dark skin, as it is in the clinic.  Every random field is
drawn on a grid in millimetres and then enlarged, so that a case looks the same at any size in pixels.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from skinedge.synthderm.findings import FIELD_OF_VIEW_MM

Field = npt.NDArray[np.float32]  # [size, size]
Colour = tuple[float, float, float]

# Absorbance of one unit of pigment in red, green, blue.
MELANIN: Colour = (0.55, 0.90, 1.10)
BLOOD: Colour = (0.12, 0.95, 0.75)
VIOLET: Colour = (0.55, 0.95, 0.30)


class Canvas:
    """An RGB picture under work, with its relief, in reflectance from 0 to 1."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size = size
        self.rng = rng
        self.rgb = np.ones((size, size, 3), np.float32)
        self.relief = np.zeros((size, size), np.float32)  # height in units that shade well
        axis = (np.arange(size, dtype=np.float32) + 0.5) * (FIELD_OF_VIEW_MM / size)
        self.x, self.y = np.meshgrid(axis, axis)

    def noise(self, grain_mm: float) -> Field:
        """A smooth random field of about unit variance whose bumps are ``grain_mm`` wide."""
        cells = max(4, math.ceil(FIELD_OF_VIEW_MM / grain_mm) + 3)
        grid = self.rng.standard_normal((cells, cells)).astype(np.float32)
        field: Field = np.asarray(Image.fromarray(grid).resize((self.size, self.size), Image.Resampling.BICUBIC))
        return field * np.float32(1.35)  # what interpolation takes from the variance

    def stain(self, amount: Field, pigment: Colour) -> None:
        """Add a pigment, ``amount`` units of it at each place."""
        self.rgb *= np.exp(-amount[..., None] * np.asarray(pigment, np.float32))

    def cover(self, opacity: Field, colour: Colour) -> None:
        """Lay an opaque material over the skin; ``opacity`` is from 0 to 1."""
        self.rgb += opacity[..., None] * (np.asarray(colour, np.float32) - self.rgb)

    def raise_by(self, height: Field) -> None:
        """Lift the surface, which the light will show."""
        self.relief += height

    def drawing(self) -> Image.Image:
        """An empty mask, at twice the size, to draw lines and dots on; ``strokes`` brings it back."""
        return Image.new("L", (2 * self.size, 2 * self.size))

    def strokes(self, drawing: Image.Image) -> Field:
        """What was drawn, as opacity from 0 to 1."""
        small = drawing.resize((self.size, self.size), Image.Resampling.BOX)
        return np.asarray(small, np.float32) / np.float32(255)

    def pixels(self, mm: float) -> float:
        """Millimetres in pixels of ``drawing``."""
        return mm * 2 * self.size / FIELD_OF_VIEW_MM


def step(x: Field, width: float) -> Field:
    """A soft step from 0 to 1 around ``x = 0``."""
    result: Field = 1 / (1 + np.exp(np.clip(-4 * x / np.float32(width), -30, 30)))
    return result
