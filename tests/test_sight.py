"""What is measured before the model looks: real and drawn skin passes, what was spoiled is named, on every skin."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.sight_check import KINDS, TYPES, blurred, drawn, exposed, shrunk
from skinedge.clinic import sight
from skinedge.clinic.sight import Finding, look, measure

Picture = Image.Image


@pytest.fixture(scope="module")
def skin() -> tuple[list[Picture], list[str]]:
    return drawn(12)


def codes(picture: Picture) -> set[str]:
    return {f.code for f in look(picture)}


def share(pictures: list[Picture], code: str) -> float:
    return statistics.mean(code in codes(p) for p in pictures)


def test_drawn_skin_of_every_type_passes(skin: tuple[list[Picture], list[str]]) -> None:
    pictures, types = skin
    for kind in TYPES:
        told = [codes(p) for p, of in zip(pictures, types, strict=True) if of == kind]
        assert len(told) == 12
        assert not set().union(*told) - {"bright"}, kind
        assert sum("bright" in t for t in told) <= 2, kind


def test_real_skin_passes(photographs: list[Path]) -> None:
    told = [codes(Image.open(p)) for p in sorted(photographs[0].parent.glob("*.jpg"))[::4]]
    assert len(told) > 100
    for code in ("blurred", "dark", "bright", "small", "not_skin"):
        assert statistics.mean(code in t for t in told) <= 0.02, code


@pytest.mark.parametrize("kind", TYPES)
def test_what_is_blurred_is_named_on_every_skin(skin: tuple[list[Picture], list[str]], kind: str) -> None:
    pictures = [p for p, of in zip(*skin, strict=True) if of == kind]
    assert share([blurred(p, 0.01) for p in pictures], "blurred") >= 0.75
    assert share([blurred(p, 0.02) for p in pictures], "blurred") == 1
    assert share([blurred(p, 0.04) for p in pictures], "blurred") == 1
    assert share([blurred(p, 0.002) for p in pictures], "blurred") == 0


def test_blur_does_not_depend_on_contrast_or_exposure(skin: tuple[list[Picture], list[str]]) -> None:
    for picture in skin[0][::6]:
        pale = Image.blend(Image.new("RGB", picture.size, (190, 150, 130)), picture, 0.5)
        assert measure(pale).blur == pytest.approx(measure(picture).blur, abs=0.06)
        assert measure(exposed(picture, -1)).blur == pytest.approx(measure(picture).blur, abs=0.06)


def test_what_is_too_dark_bright_or_small_is_named(skin: tuple[list[Picture], list[str]]) -> None:
    pictures, types = skin
    light = [p for p, of in zip(pictures, types, strict=True) if of in ("I", "II", "III")]
    assert share([exposed(p, -6) for p in pictures], "dark") == 1
    assert share([exposed(p, 3) for p in light], "bright") == 1
    assert share([shrunk(p, 159) for p in pictures], "small") == 1
    assert share([shrunk(p, 160) for p in pictures], "small") == 0


def test_dark_skin_is_no_dark_photograph(skin: tuple[list[Picture], list[str]]) -> None:
    dark = [p for p, of in zip(*skin, strict=True) if of in ("V", "VI")]
    assert share(dark, "dark") == share([exposed(p, -0.5) for p in dark], "dark") == 0


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("wall, beige", "page, cream", "wood")])
def test_what_has_not_the_colours_of_skin_is_named(kind: str) -> None:
    told = [measure(KINDS[kind](np.random.default_rng([1, n]))).skin < sight.NOT_SKIN for n in range(8)]
    assert statistics.mean(told) >= (0.6 if kind in ("screenshot", "fabric, any colour") else 1)


def test_wood_passes_for_skin_as_is_said() -> None:
    """What the module says that it cannot see; if this fails, the words there are out of date."""
    assert measure(KINDS["wood"](np.random.default_rng(0))).skin > sight.NOT_SKIN


def test_a_finding_says_by_how_much() -> None:
    grey = Image.new("RGB", (120, 400), (128, 128, 128))
    assert look(grey) == (
        Finding("blurred", 1.0, sight.BLURRED),
        Finding("small", 120, sight.SMALL),
        Finding("not_skin", 0.0, sight.NOT_SKIN),
    )
    assert codes(Image.new("RGB", (400, 400))) == {"blurred", "dark", "not_skin"}
    assert "bright" in codes(Image.new("RGB", (400, 400), (255, 255, 255)))


def test_a_large_photograph_is_measured_as_a_small_one_is(skin: tuple[list[Picture], list[str]]) -> None:
    for picture in skin[0][::10]:
        small, large = measure(picture), measure(picture.resize((1680, 1680), Image.Resampling.BOX).convert("RGBA"))
        assert large.side == 1680
        assert large.light == pytest.approx(small.light, abs=0.03)
        assert large.skin == pytest.approx(small.skin, abs=0.06)


@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    mode=st.sampled_from(["RGB", "L", "RGBA", "P", "CMYK", "LA", "1", "I;16", "F", "YCbCr", "HSV", "LAB", "I"]),
    seed=st.integers(0, 99),
)
def test_any_picture_is_measured(width: int, height: int, mode: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    picture = Image.new("I;16", (width, height), seed) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    found = measure(picture)
    assert all(0 <= v <= 1 for v in (found.blur, found.light, found.glare, found.skin))
    assert found.side == min(width, height)
    assert len(found.findings()) <= 5
