"""How often is a photograph of skin warned of without reason, and what is found when there is one?

Usage: python -m benchmarks.sight_check --photographs FOLDER [--others FOLDER] [--json FILE]

``FOLDER`` is that of PAD-UFES-20 (``metadata.csv`` and ``images/``): clinical photographs, all of skin, all 300 x 300 pixels.
False alarms are counted on them as they are, by the Fitzpatrick type that the data set states, and on SynthDerm, which has
as many pictures of every type; then the same pictures are blurred, darkened, brightened and shrunk by known amounts.  What
is not skin is drawn (twelve kinds, fifty each, some of them with the colours of skin) and taken from ``--others``, any folder
of pictures of other things.  The limits in ``skinedge/clinic/sight.py`` were chosen on these same photographs: a share here
is not one of photographs never seen.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from skinedge.clinic import sight
from skinedge.clinic.sight import Measures, measure
from skinedge.parity.statistics import Share
from skinedge.synthderm.findings import draw_cases
from skinedge.synthderm.picture import SIZE, render

CODES = ("blurred", "dark", "bright", "small", "not_skin")
TYPES = ("I", "II", "III", "IV", "V", "VI")
BLURS = (0.0025, 0.004, 0.005, 0.006, 0.008, 0.01, 0.02, 0.04)  # radius of a Gaussian, as a share of the shorter side
STOPS = (-1, -2, -3, -4, -5, 1, 1.5, 2, 3)
SIDES = (224, 168, 150, 112, 64)
LARGE = 840  # pixels of a side of drawn photographs that are scaled down to be measured, as a camera's are
EACH = 50
Picture = Image.Image


def shares(found: Iterable[Measures]) -> dict[str, object]:
    """How many of the pictures get each code, with Wilson's interval of 95 %."""
    rows = [{f.code for f in m.findings()} for m in found]
    told: dict[str, object] = {"n": len(rows)}
    for code in CODES:
        share = Share(sum(code in row for row in rows), len(rows))
        told[code] = {"count": share.successes, "share": round(share.value, 4), "to": round(share.interval.high, 4)}
    return told


def real(folder: Path) -> tuple[list[Picture], list[str]]:
    """The photographs that are there, with their skin type, or ``unknown``."""
    with (folder / "metadata.csv").open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if (folder / "images" / r["img_id"]).is_file()]
    types = [TYPES[int(float(r["fitspatrick"])) - 1] if r["fitspatrick"] else "unknown" for r in rows]
    return [Image.open(folder / "images" / r["img_id"]).convert("RGB") for r in rows], types


def drawn(count: int, size: int = SIZE) -> tuple[list[Picture], list[str]]:
    """SynthDerm, ``count`` pictures of each type."""
    wanted, kept = dict.fromkeys(range(1, 7), count), []
    for case in draw_cases(count * 12, 4_100_000):
        if wanted[case.fitzpatrick]:
            wanted[case.fitzpatrick] -= 1
            kept.append(case)
    assert not any(wanted.values()), "too few cases were drawn"
    return [Image.fromarray(render(case, size)) for case in kept], [TYPES[case.fitzpatrick - 1] for case in kept]


def blurred(picture: Picture, share: float) -> Picture:
    return picture.filter(ImageFilter.GaussianBlur(share * min(picture.size)))


def exposed(picture: Picture, stops: float) -> Picture:
    """As the camera would have taken it with so many stops more light (sRGB, without what lies beyond its range)."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4) * 2.0**stops
    curve = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)
    return picture.point([round(255 * min(1.0, float(v))) for v in curve] * 3)


def shrunk(picture: Picture, side: float) -> Picture:
    return picture.resize((int(side), int(side)), Image.Resampling.LANCZOS)


def found_when(
    pictures: Sequence[Picture],
    types: Sequence[str],
    code: str,
    change: Callable[[Picture, float], Picture],
    amounts: Sequence[float],
) -> dict[str, object]:
    """The share that gets ``code`` after each amount of change: of all, and of each skin type."""
    told: dict[str, object] = {}
    for amount in amounts:
        hits = [any(f.code == code for f in measure(change(p, amount)).findings()) for p in pictures]
        by_type = {
            t: round(statistics.mean(h for h, of in zip(hits, types, strict=True) if of == t), 3) for t in sorted(set(types))
        }
        told[f"{amount:g}"] = {"all": round(statistics.mean(hits), 3), "by_type": by_type}
    return told


# --- what is not skin ---------------------------------------------------------------------------------------------------


def _noise(rng: np.random.Generator, side: int, grain: float) -> npt.NDArray[np.float64]:
    """Soft noise ``[side, side]`` of mean 0 and deviation 1."""
    raw = Image.fromarray((rng.random((side, side)) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(grain))
    values = np.asarray(raw, np.float64)
    return (values - values.mean()) / max(values.std(), 1e-6)


def _tinted(grey: npt.NDArray[np.float64], colour: Sequence[float], rng: np.random.Generator) -> Picture:
    pixels = grey[..., None] * np.asarray(colour) * 255 + rng.normal(0, 3, (*grey.shape, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def text_page(rng: np.random.Generator, paper: tuple[int, int, int] = (250, 250, 248)) -> Picture:
    page = Image.new("RGB", (600, 800), paper)
    pen = ImageDraw.Draw(page)
    for y in range(40, 760, 18):
        words = " ".join("".join(map(chr, rng.integers(97, 123, rng.integers(2, 10)))) for _ in range(10))
        pen.text((40, y), words, fill=(25, 25, 30))
    return page


def screenshot(rng: np.random.Generator) -> Picture:
    page = Image.new("RGB", (1280, 720), tuple(int(v) for v in rng.choice([30, 245]) + rng.integers(-8, 8, 3)))
    pen = ImageDraw.Draw(page)
    for _ in range(24):
        x, y = (int(v) for v in rng.integers(0, (1100, 640)))
        pen.rectangle(
            (x, y, x + int(rng.integers(40, 180)), y + int(rng.integers(12, 80))), fill=tuple(map(int, rng.integers(0, 255, 3)))
        )
        pen.text((x, y), "Save Open Close", fill=(128, 128, 128))
    return page


def checkerboard(rng: np.random.Generator) -> Picture:
    n = int(rng.integers(8, 40))
    cells = (np.add.outer(np.arange(480) // n, np.arange(480) // n) % 2).astype(np.float64)
    return _tinted(0.1 + 0.8 * cells, (1, 1, 1), rng)


def landscape(rng: np.random.Generator) -> Picture:
    side, horizon = 480, int(rng.integers(150, 330))
    pixels = np.empty((side, side, 3))
    pixels[:horizon] = np.linspace((0.35, 0.55, 0.9), (0.75, 0.85, 0.95), horizon)[:, None]
    pixels[horizon:] = np.linspace((0.35, 0.5, 0.25), (0.15, 0.3, 0.1), side - horizon)[:, None]
    pixels *= 1 + 0.1 * _noise(rng, side, 2)[..., None]
    return Image.fromarray(np.clip(pixels * 255, 0, 255).astype(np.uint8))


def x_ray(rng: np.random.Generator) -> Picture:
    return ImageOps.grayscale(
        _tinted(np.clip(0.4 + 0.25 * _noise(rng, 480, 40) + 0.05 * _noise(rng, 480, 2), 0, 1), (1, 1, 1), rng)
    )


def fabric(rng: np.random.Generator, colour: Sequence[float] = ()) -> Picture:
    weave = np.add.outer(np.sin(np.arange(480) * 1.3), np.sin(np.arange(480) * 1.1))
    hue = colour or tuple(float(v) for v in rng.uniform(0.1, 0.9, 3))
    return _tinted(np.clip(0.75 + 0.1 * weave + 0.04 * _noise(rng, 480, 1), 0, 1), hue, rng)


def wood(rng: np.random.Generator) -> Picture:
    rings = np.sin(_noise(rng, 480, 60) * 14)
    return _tinted(np.clip(0.75 + 0.12 * rings + 0.05 * _noise(rng, 480, 1), 0, 1), (0.72, 0.5, 0.33), rng)


def plain(rng: np.random.Generator, colour: Sequence[float]) -> Picture:
    return _tinted(np.full((480, 480), float(rng.uniform(0.8, 1.1))), colour, rng)


KINDS: Mapping[str, Callable[[np.random.Generator], Picture]] = {
    "text page": text_page,
    "screenshot": screenshot,
    "checkerboard": checkerboard,
    "landscape": landscape,
    "X-ray, grey": x_ray,
    "fabric, blue": lambda rng: fabric(rng, (0.25, 0.4, 0.75)),
    "fabric, green": lambda rng: fabric(rng, (0.3, 0.6, 0.4)),
    "fabric, any colour": fabric,
    "wall, white": lambda rng: plain(rng, (0.85, 0.85, 0.84)),
    "wall, beige": lambda rng: plain(rng, (0.85, 0.74, 0.62)),
    "page, cream": lambda rng: text_page(rng, (246, 228, 200)),
    "wood": wood,
}


def not_skin(others: Path | None) -> dict[str, object]:
    """How much of what is not skin is told, by kind; and file by file what ``others`` holds."""
    told: dict[str, object] = {}
    for kind, draw in KINDS.items():
        hits = [measure(draw(np.random.default_rng([7, n]))).skin < sight.NOT_SKIN for n in range(EACH)]
        told[kind] = round(statistics.mean(hits), 3)
    if others is None:
        return {"drawn": told}
    files = {}
    for path in sorted(p for p in others.rglob("*") if p.is_file()):
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
        except OSError:
            continue
        if min(picture.size) >= 100:
            files[path.name.rpartition("__")[2]] = measure(picture).skin
    missed = {name: skin for name, skin in files.items() if skin >= sight.NOT_SKIN}
    return {"drawn": told, "others": {"n": len(files), "told": len(files) - len(missed), "missed": missed}}


def seconds_of_12_megapixels(picture: Picture) -> float:
    """The median of 15 looks at a photograph of 4032 x 3024 pixels that is already decoded."""
    large, taken = picture.resize((4032, 3024)), []
    for _ in range(15):
        begin = time.perf_counter()
        measure(large)
        taken.append(time.perf_counter() - begin)
    return round(statistics.median(taken), 4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--others", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report: dict[str, object] = {
        "machine": platform.machine(),
        "limits": {code: getattr(sight, code.upper()) for code in CODES},
    }
    sets = {"pad_ufes_20": real(args.photographs), "synthderm": drawn(100), f"synthderm_{LARGE}": drawn(30, LARGE)}
    for name, (pictures, types) in sets.items():
        measured = [measure(p) for p in pictures]
        groups = {t: shares(m for m, of in zip(measured, types, strict=True) if of == t) for t in sorted(set(types))}
        report[name] = {
            "false_alarms": {"all": shares(measured), "by_type": groups},
            "found": {
                "blurred": found_when(pictures, types, "blurred", blurred, BLURS),
                "dark": found_when(pictures, types, "dark", exposed, [s for s in STOPS if s < 0]),
                "bright": found_when(pictures, types, "bright", exposed, [s for s in STOPS if s > 0]),
                "small": found_when(pictures, types, "small", shrunk, SIDES),
            },
        }
    report["seconds_12_megapixels"] = seconds_of_12_megapixels(sets["pad_ufes_20"][0][0])
    report["not_skin"] = not_skin(args.others)
    text = json.dumps(report, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
