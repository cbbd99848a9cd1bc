"""Lesions: outlines from shape and border, arrangements, colours, and what covers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

from skinedge.synthderm.canvas import BLOOD, MELANIN, VIOLET, Canvas, Colour, Field, step
from skinedge.synthderm.findings import FIELD_OF_VIEW_MM, Findings

DIAMETER_MM: Mapping[str, tuple[float, float]] = {"small": (3.5, 5.2), "medium": (7, 11), "large": (13.5, 19)}
# Width of the passage from lesion to skin.
_EDGE_MM: Mapping[str, tuple[float, float]] = {"sharp": (0.25, 0.5), "jagged": (0.3, 0.6), "blurred": (1.8, 3.0)}
_BLISTER_MM = (2.2, 3.6)


@dataclass(frozen=True)
class Outline:
    """Where a lesion is: opacity from 0 to 1 and depth inside the border in millimetres, ``[size, size]``."""

    mask: Field
    depth: Field


def paint_lesion(canvas: Canvas, findings: Findings) -> None:
    """Paint what the findings say, and nothing that they do not."""
    outline = _outline(canvas, findings)
    _colour(canvas, findings, outline.mask)
    if findings.colours == "variegated":
        _variegate(canvas, outline.mask)
    _SURFACES[findings.surface](canvas, outline)
    if findings.vessels == "branching":
        _branching_vessels(canvas, outline.mask)


def _outline(canvas: Canvas, findings: Findings) -> Outline:
    rng = canvas.rng
    if findings.arrangement == "band":
        return _band(canvas)
    low, high = DIAMETER_MM[findings.size]
    radii = rng.uniform(low, high, 1 if findings.arrangement in ("single", "ring") else int(rng.integers(3, 7))) / 2
    edge = rng.uniform(*_EDGE_MM[findings.border])
    depth = np.full((canvas.size, canvas.size), -99, np.float32)
    for (x, y), radius in zip(_places(rng, radii), radii, strict=False):
        depth = np.maximum(depth, _depth(canvas, x, y, radius, findings))
    if findings.arrangement == "ring":
        half = rng.uniform(0.11, 0.16) * 2 * radii[0]
        depth = half - np.abs(depth - half)
    return Outline(step(depth, edge), depth)


def _places(rng: np.random.Generator, radii: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[tuple[float, float]]:
    """Centres that keep the lesions apart and mostly inside the frame; those without room are left out."""
    if len(radii) == 1:
        x, y = FIELD_OF_VIEW_MM / 2 + rng.uniform(-4, 4, 2)
        return [(x, y)]
    placed: list[tuple[float, float]] = []
    for _ in range(200):
        radius = radii[len(placed)]
        x, y = rng.uniform(radius * 0.8, FIELD_OF_VIEW_MM - radius * 0.8, 2)
        if all(np.hypot(x - a, y - b) > radius + r + 1.2 for (a, b), r in zip(placed, radii, strict=False)):
            placed.append((x, y))
        if len(placed) == len(radii):
            break
    return placed


def _depth(canvas: Canvas, x: float, y: float, radius: float, findings: Findings) -> Field:
    """Distance inside the border, about, of one lesion: a radius that changes with the direction."""
    rng = canvas.rng
    angle = rng.uniform(0, np.pi)
    stretch = {"round": rng.uniform(0.95, 1.05), "oval": rng.uniform(1.9, 2.4), "irregular": rng.uniform(1.0, 1.3)}
    ratio = np.sqrt(stretch[findings.shape])
    across, along = canvas.x - x, canvas.y - y
    u = (np.cos(angle) * across + np.sin(angle) * along) / ratio
    v = (np.cos(angle) * along - np.sin(angle) * across) * ratio
    theta = np.arctan2(v, u)
    wave = np.zeros_like(theta)
    bumps: list[tuple[int, float]] = [(k, 0.02) for k in (2, 3)]
    if findings.shape == "irregular":
        bumps = [(k, rng.uniform(0.13, 0.22) / (k - 0.5) ** 0.5) for k in (1, 2, 3, 4)]
    if findings.border == "jagged":
        bumps += [(int(k), rng.uniform(0.018, 0.038)) for k in rng.integers(7, 17, 5)]
    for k, height in bumps:
        wave += height * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    result: Field = (radius * (1 + wave) - np.hypot(u, v)).astype(np.float32)
    return result


def _band(canvas: Canvas) -> Outline:
    """Two to four patches of inflamed skin along a line through the frame; the blisters follow on top of them."""
    rng = canvas.rng
    angle, count = rng.uniform(0, np.pi), int(rng.integers(3, 5))
    depth = np.full((canvas.size, canvas.size), -99, np.float32)
    for along in np.linspace(-10.5, 10.5, count) + rng.normal(0, 0.8, count):
        off = rng.normal(0, 0.9)
        x = FIELD_OF_VIEW_MM / 2 + along * np.cos(angle) - off * np.sin(angle)
        y = FIELD_OF_VIEW_MM / 2 + along * np.sin(angle) + off * np.cos(angle)
        radius = rng.uniform(2.8, 4.2)
        depth = np.maximum(depth, (radius - np.hypot(canvas.x - x, canvas.y - y)).astype(np.float32))
    return Outline(step(depth, rng.uniform(1.5, 2.4)), depth)


def _colour(canvas: Canvas, findings: Findings, mask: Field) -> None:
    """Pigment the lesion; its strength varies a little inside."""
    amount = mask * (1 + 0.10 * canvas.noise(2.5)) * np.float32(canvas.rng.uniform(0.88, 1.12))
    match findings.colour:
        case "brown":
            canvas.stain(0.75 * amount, MELANIN)
        case "dark brown":
            canvas.stain(1.75 * amount, MELANIN)
        case "pink":
            canvas.stain(0.36 * amount, BLOOD)
        case "red":
            canvas.stain(0.95 * amount, BLOOD)
        case "purple":
            canvas.stain(0.80 * amount, VIOLET)
        case "white":
            canvas.cover(np.clip(0.88 * amount, 0, 0.95).astype(np.float32), (0.97, 0.92, 0.90))


def _variegate(canvas: Canvas, mask: Field) -> None:
    """Islands of other shades: blue-grey, black, reddish, pale."""
    shades: tuple[Colour, ...] = ((0.36, 0.40, 0.48), (0.07, 0.05, 0.05), (0.62, 0.25, 0.22), (0.80, 0.72, 0.68))
    chosen = canvas.rng.permutation(len(shades))[:3]
    for i in chosen:
        island = step(canvas.noise(4.0) - np.float32(0.75), 0.5)
        canvas.cover(0.8 * mask * island, shades[i])


def _smooth(canvas: Canvas, outline: Outline) -> None:
    canvas.raise_by(0.5 * outline.mask)


def _pearly(canvas: Canvas, outline: Outline) -> None:
    """Translucent, with a raised, light rim and wet highlights."""
    rim = np.exp(-((outline.depth - 0.9) ** 2) / 0.7).astype(np.float32)
    canvas.cover(0.35 * rim * outline.mask, (0.97, 0.88, 0.86))
    canvas.raise_by(3.0 * rim + 2.0 * outline.mask)
    canvas.cover(0.85 * outline.mask * step(canvas.noise(1.8) - np.float32(1.75), 0.3), (1, 0.98, 0.97))


def _flakes(canvas: Canvas, outline: Outline, grain: float, level: float, opacity: float, colour: Colour, height: float) -> None:
    flakes = step(canvas.noise(grain) - np.float32(level), 0.35) * outline.mask
    canvas.cover(opacity * flakes, colour)
    canvas.raise_by(height * flakes)


def _fine_scale(canvas: Canvas, outline: Outline) -> None:
    """Thin dry flakes that leave most of the red to be seen."""
    _flakes(canvas, outline, 0.75, 0.85, 0.5, (0.90, 0.86, 0.82), 1.0)


def _silvery_scale(canvas: Canvas, outline: Outline) -> None:
    """Thick white plates with red cracks between them."""
    cracks = step(np.abs(canvas.noise(2.4)) - np.float32(0.16), 0.2)
    plates = cracks * step(outline.depth - np.float32(0.7), 0.8) * step(canvas.noise(4.5) + np.float32(0.9), 0.6)
    canvas.cover(0.85 * plates, (0.90, 0.90, 0.92))
    canvas.raise_by(2.2 * plates + 0.8 * canvas.noise(0.8) * plates)


def _gritty_scale(canvas: Canvas, outline: Outline) -> None:
    """Hard yellow grains like sandpaper."""
    _dots(canvas, outline.mask, 1.3, (0.40, 0.75), (0.90, 0.80, 0.58), 0.85, 2.0)


def _warty(canvas: Canvas, outline: Outline) -> None:
    """Bumps and furrows, with cream horn cysts and dark pits."""
    bumps = canvas.noise(1.5)
    canvas.stain(0.55 * outline.mask * np.clip(-bumps, -0.4, 1.2), MELANIN)
    canvas.raise_by(outline.mask * (3 + 1.6 * bumps))
    _dots(canvas, outline.mask, 0.16, (0.7, 1.15), (0.93, 0.87, 0.72), 0.9, 0.5)
    _dots(canvas, outline.mask, 0.14, (0.6, 1.0), (0.10, 0.06, 0.04), 0.85, -0.5)


def _crust(canvas: Canvas, outline: Outline) -> None:
    """A brown-yellow crust over the middle, with spots of dried blood."""
    plate = step(outline.depth - np.float32(0.9) + 0.8 * canvas.noise(2.6), 0.6) * step(outline.depth, 0.4)
    rough = canvas.noise(0.9)
    canvas.cover(0.88 * plate, (0.60, 0.43, 0.24))
    canvas.stain(0.16 * plate * (0.5 + rough), MELANIN)
    canvas.cover(0.85 * plate * step(canvas.noise(1.6) - np.float32(1.1), 0.3), (0.27, 0.07, 0.05))
    canvas.raise_by(plate * (1.6 + 0.9 * rough))


def _white_lines(canvas: Canvas, outline: Outline) -> None:
    """A lace of thin white lines on a flat top."""
    lace = np.minimum(np.abs(canvas.noise(2.0)), np.abs(canvas.noise(2.0)))
    canvas.cover(0.8 * outline.mask * step(np.float32(0.13) - lace, 0.12), (0.93, 0.90, 0.93))
    canvas.raise_by(1.5 * outline.mask)


def _blisters(canvas: Canvas, outline: Outline) -> None:
    """Tense clear domes, each with its highlight, crowded on the inflamed patches."""
    rng = canvas.rng
    light = rng.uniform(0, 2 * np.pi)
    placed: list[tuple[float, float, float]] = []
    for _ in range(400):
        x, y = rng.uniform(1, FIELD_OF_VIEW_MM - 1, 2)
        radius = rng.uniform(*_BLISTER_MM) / 2
        i, j = (int(v * canvas.size / FIELD_OF_VIEW_MM) for v in (y, x))
        if outline.depth[i, j] > 0.2 and all(np.hypot(x - a, y - b) > 0.95 * (radius + r) for a, b, r in placed):
            placed.append((x, y, radius))
    for x, y, radius in placed:
        away = np.hypot(canvas.x - x, canvas.y - y)
        dome = step(np.float32(radius) - away, 0.3)
        canvas.cover(0.45 * dome, (0.93, 0.80, 0.66))
        canvas.stain(0.45 * dome * step(away - np.float32(0.72 * radius), 0.35), BLOOD)
        glint = np.hypot(canvas.x - x + 0.42 * radius * np.cos(light), canvas.y - y + 0.42 * radius * np.sin(light))
        canvas.cover(0.9 * step(np.float32(0.27 * radius) - glint, 0.2), (1, 1, 0.98))
        canvas.raise_by(2.0 * np.clip(1 - (away / radius) ** 2, 0, 1))


def _dots(
    canvas: Canvas, mask: Field, per_mm2: float, diameter_mm: tuple[float, float], colour: Colour, opacity: float, height: float
) -> None:
    """Round grains, ``per_mm2`` of them, wherever the mask is."""
    rng = canvas.rng
    drawing = canvas.drawing()
    pen = ImageDraw.Draw(drawing)
    for x, y in rng.uniform(0, FIELD_OF_VIEW_MM, (int(per_mm2 * FIELD_OF_VIEW_MM**2), 2)):
        r = rng.uniform(*diameter_mm) / 2
        pen.ellipse([canvas.pixels(v) for v in (x - r, y - r, x + r, y + r)], fill=255)
    dots = canvas.strokes(drawing) * mask
    canvas.cover(opacity * dots, colour)
    canvas.raise_by(height * dots)


def _branching_vessels(canvas: Canvas, mask: Field) -> None:
    """Red vessels that run over the lesion and fork."""
    rng = canvas.rng
    drawing = canvas.drawing()
    pen = ImageDraw.Draw(drawing)
    inside = np.argwhere(mask > 0.6)
    for i, j in inside[rng.integers(0, len(inside), int(rng.integers(6, 10)))]:
        start = (float(canvas.x[i, j]), float(canvas.y[i, j]))
        _vessel(canvas, pen, start, rng.uniform(0, 2 * np.pi), rng.uniform(3.0, 5.5), 0.36)
    canvas.cover(0.85 * np.clip(mask * 1.1, 0, 1) * canvas.strokes(drawing), (0.62, 0.08, 0.12))


def _vessel(
    canvas: Canvas, pen: ImageDraw.ImageDraw, start: tuple[float, float], angle: float, length: float, width: float
) -> None:
    rng = canvas.rng
    x, y = start
    for _ in range(5):
        angle += rng.normal(0, 0.35)
        x, y, old = x + length / 5 * np.cos(angle), y + length / 5 * np.sin(angle), (x, y)
        pen.line([canvas.pixels(v) for v in (*old, x, y)], fill=255, width=max(1, round(canvas.pixels(width))))
        if length > 1.5 and rng.random() < 0.4:
            _vessel(canvas, pen, (x, y), angle + rng.choice([-0.8, 0.8]), length * 0.5, width * 0.75)


_SURFACES: Mapping[str, Callable[[Canvas, Outline], None]] = {
    "smooth": _smooth, "pearly": _pearly, "fine scale": _fine_scale, "silvery scale": _silvery_scale,
    "gritty scale": _gritty_scale, "warty": _warty, "crust": _crust, "white lines": _white_lines, "blisters": _blisters,
}  # fmt: skip
