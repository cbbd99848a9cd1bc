"""Healthy skin from Fitzpatrick I to VI, and what the camera does to it."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from skinedge.synthderm.canvas import MELANIN, Canvas, Colour
from skinedge.synthderm.findings import FIELD_OF_VIEW_MM

# Reflectance of each type; neighbours overlap once the jitter of _tone is added, as skin types do.
TONES: tuple[Colour, ...] = (
    (0.91, 0.75, 0.67), (0.86, 0.68, 0.57), (0.78, 0.59, 0.46), (0.67, 0.48, 0.35), (0.51, 0.34, 0.24), (0.36, 0.235, 0.175),
)  # fmt: skip


def paint_skin(canvas: Canvas, fitzpatrick: int) -> None:
    """Fill the canvas with skin: tone, mottling, furrows, pores and, on light skin, freckles."""
    rng = canvas.rng
    canvas.rgb *= np.asarray(TONES[fitzpatrick - 1], np.float32) * rng.uniform(0.95, 1.05, 3).astype(np.float32)
    canvas.stain(0.05 * canvas.noise(9) + 0.03 * canvas.noise(2.5), MELANIN)
    furrows = np.abs(canvas.noise(0.9)) + np.float32(0.6) * np.abs(canvas.noise(1.7))
    canvas.raise_by(np.float32(0.35) * furrows)
    canvas.stain(np.clip(0.10 - 0.10 * furrows, 0, None).astype(np.float32), MELANIN)
    if fitzpatrick <= 3 and rng.random() < 0.3:
        canvas.stain(0.35 * np.clip(canvas.noise(1.6) - 1.9, 0, 1), MELANIN)


def light_relief(canvas: Canvas) -> None:
    """Shade the relief by a light from one side."""
    angle = canvas.rng.uniform(0, 2 * np.pi)
    down, across = np.gradient(canvas.relief, FIELD_OF_VIEW_MM / canvas.size)
    slope = np.cos(angle) * across + np.sin(angle) * down
    canvas.rgb *= (1 + 0.075 * np.tanh(slope))[..., None]


def add_hair(canvas: Canvas) -> None:
    """A few dark hairs, curved, of about a tenth of a millimetre, on some pictures."""
    rng = canvas.rng
    count = int(rng.integers(3, 14)) if rng.random() < 0.35 else 0
    drawing = canvas.drawing()
    pen = ImageDraw.Draw(drawing)
    lean = rng.uniform(0, np.pi)
    for _ in range(count):
        start, angle = rng.uniform(0, FIELD_OF_VIEW_MM, 2), lean + rng.normal(0, 0.35)
        length, bend = rng.uniform(6, 20), rng.normal(0, 0.05)
        t = np.linspace(0, length, 14)
        path = start[:, None] + np.stack([np.cumsum(np.cos(angle + bend * t)), np.cumsum(np.sin(angle + bend * t))]) * length / 14
        pen.line([(canvas.pixels(x), canvas.pixels(y)) for x, y in path.T], fill=255, width=max(1, round(canvas.pixels(0.14))))
    canvas.cover(0.75 * canvas.strokes(drawing), (0.13, 0.09, 0.07))


def photograph(canvas: Canvas) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """What a camera makes of the canvas ``[size, size, 3]``: light, white balance, sometimes a ruler, blur, noise."""
    rng = canvas.rng
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.22)
    middle = FIELD_OF_VIEW_MM / 2
    across = (np.cos(angle) * (canvas.x - middle) + np.sin(angle) * (canvas.y - middle)) / middle
    gain = rng.uniform(0.86, 1.12) * np.exp(rng.normal(0, 0.03, 3))
    lit = canvas.rgb * (1 + fall * across)[..., None] * gain
    if rng.random() < 0.12:
        _ruler(canvas, lit)
    picture = Image.fromarray(np.clip(lit * 255, 0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.11) * canvas.size / FIELD_OF_VIEW_MM))
    grain = rng.normal(0, rng.uniform(1, 4), (canvas.size, canvas.size, 3))
    return np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)


def _ruler(canvas: Canvas, lit: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    """A paper ruler along one side: 2.5 mm of it, with a line at every millimetre."""
    side = canvas.rng.integers(4)
    along, depth = (canvas.x, canvas.y) if side % 2 else (canvas.y, canvas.x)
    depth = depth if side < 2 else FIELD_OF_VIEW_MM - depth
    length = np.where(np.floor(along + 0.06) % 5 == 0, 1.7, 1.0)
    tick = ((along + 0.06) % 1 < 0.2) & (depth > 2.5 - length)
    lit[depth < 2.5] = 0.92
    lit[(depth < 2.5) & tick] = 0.15
