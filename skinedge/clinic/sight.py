"""What a photograph is like before the model sees it: too blurred, dark, bright or small, or of something that is not skin.

Five simple measures with fixed limits; each finding is a warning with advice, never a refusal.  The limits were set on 482
real photographs (PAD-UFES-20, of which only 3 are said to be of types V and VI) and on drawn ones (SynthDerm);
``python -m benchmarks.sight_check`` measures them again, by skin type: ``benchmarks/results/sight.json``, in words in
``docs/photograph-checks.md``.

What such rules cannot see: whether the lesion is in the picture or in focus (a sharp ruler beside it is enough), blur finer
than a four-hundredth of the picture, whether skin-coloured wood, sand, fur or food is skin, whose skin it is, or whether the
photograph was taken of a screen.  A photograph in shades of grey counts as not skin, and so may one under blue light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Code = Literal["blurred", "dark", "bright", "small", "not_skin"]
Float32 = npt.NDArray[np.float32]

WORK = 256  # pixels of the longer side at which a photograph is measured
SCALES = 3  # for blur: WORK, half and a quarter of it
BLURRED, DARK, BRIGHT, SMALL, NOT_SKIN = 0.64, 0.16, 0.15, 160, 0.20
_LUMA = np.asarray([0.299, 0.587, 0.114], np.float32)
_WINDOW = 5
_CLIPPED = 0.96


@dataclass(frozen=True)
class Finding:
    """What is amiss: ``value`` is beyond ``limit``, in the unit that ``Measures`` gives."""

    code: Code
    value: float
    limit: float


@dataclass(frozen=True)
class Measures:
    """What was measured of a photograph.

    Attributes:
        blur: 0 (sharp) to 1: how little of its steps from pixel to pixel a further blur takes away (the blur effect of
            Crété-Roffet et al. 2007), the worst of three scales.  It does not depend on contrast, so not on skin tone.
        light: 0 to 1: the brightness that only a twentieth of the picture exceeds.  What is well lit and of skin type VI
            has a quarter and more, which is why the limit lies so low: dark skin must not pass for a dark photograph.
        glare: 0 to 1: the share of the picture whose green is saturated: red, pink and white look alike there.
        side: pixels of the shorter side.
        skin: 0 to 1: the share of the picture that has a colour which skin can have under a usual light.
    """

    blur: float
    light: float
    glare: float
    side: int
    skin: float

    def findings(self) -> tuple[Finding, ...]:
        """What is beyond its limit, in the order of the codes."""
        judged: tuple[tuple[Code, float, float, bool], ...] = (
            ("blurred", self.blur, BLURRED, self.blur > BLURRED),
            ("dark", self.light, DARK, self.light < DARK),
            ("bright", self.glare, BRIGHT, self.glare > BRIGHT),
            ("small", self.side, SMALL, self.side < SMALL),
            ("not_skin", self.skin, NOT_SKIN, self.skin < NOT_SKIN),
        )
        return tuple(Finding(code, value, limit) for code, value, limit, beyond in judged if beyond)


def look(image: Image.Image) -> tuple[Finding, ...]:
    """What is amiss with a photograph (see ``measure``); nothing is the usual answer."""
    return measure(image).findings()


def measure(image: Image.Image) -> Measures:
    """Measure a photograph of any size, in any mode that Pillow converts to RGB; transparency is ignored.

    A photograph of 12 megapixels in RGB takes 11 to 24 ms on one busy core of an x86-64 server, in other modes up to 60.
    """
    rgb = np.asarray(_reduced(image), np.float32) / np.float32(255)
    luma: Float32 = (rgb @ _LUMA).astype(np.float32)
    return Measures(
        blur=round(_blur(luma), 3),
        light=round(float(np.percentile(luma, 95)), 3),
        glare=round(float((rgb[..., 1] >= _CLIPPED).mean()), 3),
        side=min(image.size),
        skin=round(float(_skin_coloured(rgb).mean()), 3),
    )


def _reduced(image: Image.Image) -> Image.Image:
    """``image`` in RGB with a longer side of ``WORK`` pixels at most, each the mean of what it covers."""
    longer = max(image.size)
    if image.mode in ("RGB", "L") and longer >= 2 * WORK:
        image = image.reduce(longer // WORK)  # by a whole number: fast, and done before anything copies millions of pixels
    image = image.convert("RGB")
    if max(image.size) <= WORK:
        return image
    scale = WORK / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _blur(luma: Float32) -> float:
    """The largest blur effect of ``luma`` ``[height, width]`` and of its halves; nothing to see is wholly blurred."""
    worst = 0.0
    for _ in range(SCALES):
        if min(luma.shape) < 2 * _WINDOW:
            return worst or 1.0
        worst = max(worst, _blur_effect(luma), _blur_effect(luma.T))
        luma = _halved(luma)
    return worst


def _blur_effect(luma: Float32) -> float:
    """Which share of the steps along the columns is left when they are blurred by ``_WINDOW`` pixels."""
    sums = np.cumsum(luma, axis=0, dtype=np.float64)
    blurred = (sums[_WINDOW:] - sums[:-_WINDOW]) / _WINDOW
    middle = luma[_WINDOW // 2 + 1 : _WINDOW // 2 + 1 + len(blurred)]
    steps, left = np.abs(np.diff(middle, axis=0)), np.abs(np.diff(blurred, axis=0))
    total = float(steps.sum())
    return 1.0 - float(np.maximum(steps - left, 0).sum()) / total if total > 1e-4 * steps.size else 1.0


def _halved(luma: Float32) -> Float32:
    even = luma[: len(luma) // 2 * 2, : luma.shape[1] // 2 * 2]
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / np.float32(4)


def _skin_coloured(rgb: Float32) -> npt.NDArray[np.bool_]:
    """Where ``rgb`` ``[height, width, 3]`` has a colour that skin can have.

    Melanin and blood both take away more blue than red, at every brightness: in logarithms of the ratios of the channels
    skin of all types lies in one region, whatever the exposure.  It is wide, since cameras differ in their white.
    """
    red, green, blue = np.moveaxis(np.log(rgb + np.float32(4 / 255)), -1, 0)
    warm, yellow = red - green, green - blue
    inside: npt.NDArray[np.bool_] = (warm > 0.02) & (warm < 1.2) & (yellow > -0.15) & (yellow < 0.8) & (warm + yellow > 0.05)
    return inside
