"""Photographs for a measurement: drawn by the program, so that everybody measures the same ones, or one's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from skinedge.errors import UsageError
from skinedge.synthderm.findings import draw_cases
from skinedge.synthderm.picture import render

DRAWN = 896  # pixels that are drawn at most; a larger picture is this one enlarged
JPEG_QUALITY = 92  # about what telephones write
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def draw(folder: Path, sizes: Sequence[tuple[int, int]], *, seed: int = 66) -> list[Path]:
    """Write a JPEG of a SynthDerm case for each size (width, height); same arguments, same pixels.

    A picture is a square scene, cropped to its middle.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (case, (width, height)) in enumerate(zip(draw_cases(len(sizes), seed), sizes, strict=True)):
        side = max(width, height)
        scene = Image.fromarray(render(case, min(side, DRAWN))).resize((side, side), Image.Resampling.BICUBIC)
        left, top = (side - width) // 2, (side - height) // 2
        paths.append(folder / f"{number}-{width}x{height}.jpg")
        scene.crop((left, top, left + width, top + height)).save(paths[-1], quality=JPEG_QUALITY)
    return paths


def photographs(folder: Path) -> Iterator[Path]:
    """The photographs of a folder by name, again and again.

    Raises:
        UsageError: it is no folder, or holds none.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder of photographs.", hint="Give a folder with --images, or leave it out.")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)
    if not found:
        raise UsageError(
            f"{folder} holds no photograph ({', '.join(s[1:] for s in _SUFFIXES)}).",
            hint="Leave --images out to have pictures drawn.",
        )
    return _again(found)


def _again(paths: Sequence[Path]) -> Iterator[Path]:
    while True:
        yield from paths
