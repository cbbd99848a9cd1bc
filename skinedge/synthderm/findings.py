"""What can be seen on a SynthDerm picture, and which diagnosis follows from it.

A case is drawn in this order: the diagnosis (in equal share), findings that are true of it, the skin it
sits on.  ``diagnose`` goes back: it names the diagnosis from the findings alone, and does so for every case
that can be drawn, so nothing but the findings decides.  Four diagnoses form two pairs whose members share
colour, surface and size and differ only in outline (melanoma, melanocytic nevus) or arrangement (tinea
corporis, nummular eczema): a model that sees texture without place cannot tell those apart.

The rules are a teaching caricature of dermatology, good for testing software and for nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np

FIELD_OF_VIEW_MM = 30.0

# Every finding with every value that it can take.  Sizes: small below 6 mm, medium to 12 mm, large above.
VOCABULARY: Mapping[str, tuple[str, ...]] = {
    "arrangement": ("single", "scattered", "ring", "band"),
    "colour": ("brown", "dark brown", "pink", "red", "purple", "white"),
    "colours": ("uniform", "variegated"),
    "shape": ("round", "oval", "irregular"),
    "border": ("sharp", "blurred", "jagged"),
    "surface": (
        "smooth", "pearly", "fine scale", "silvery scale", "gritty scale", "warty", "crust", "blisters", "white lines",
    ),
    "vessels": ("none", "branching"),
    "size": ("small", "medium", "large"),
}  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """What is true of the lesion; each value is one of ``VOCABULARY[field]``.

    ``size`` is that of one lesion (of the whole ring for ``ring``).
    """

    arrangement: str
    colour: str
    colours: str
    shape: str
    border: str
    surface: str
    vessels: str
    size: str

    def items(self) -> tuple[tuple[str, str], ...]:
        """Pairs of finding and value, in the order of ``VOCABULARY``."""
        return tuple(asdict(self).items())


@dataclass(frozen=True)
class Case:
    """One drawn patient; ``seed`` fixes everything that the findings leave open."""

    seed: int
    diagnosis: str
    findings: Findings
    fitzpatrick: int  # 1 (I) to 6 (VI)

    @property
    def skin_label(self) -> int:
        """0 light (I, II), 1 medium (III, IV), 2 dark (V, VI): the three classes of the side branch."""
        return (self.fitzpatrick - 1) // 2


# For each diagnosis the values a finding may take, with their shares; a finding not named is drawn from _USUAL.
_Shares = Mapping[str, Mapping[str, float]]
_USUAL: _Shares = {
    "arrangement": {"single": 1},
    "colours": {"uniform": 1},
    "vessels": {"none": 1},
}
_RED: Mapping[str, float] = {"red": 0.6, "pink": 0.4}
_BROWN: Mapping[str, float] = {"brown": 0.5, "dark brown": 0.5}
_ROUNDISH: Mapping[str, float] = {"round": 0.5, "oval": 0.5}
DIAGNOSES: Mapping[str, _Shares] = {
    "melanoma": {
        "colour": _BROWN, "colours": {"variegated": 0.5, "uniform": 0.5}, "shape": {"irregular": 1}, "border": {"jagged": 1},
        "surface": {"smooth": 1}, "size": {"medium": 0.5, "large": 0.5},
    },
    "melanocytic nevus": {
        "colour": _BROWN, "colours": {"variegated": 0.2, "uniform": 0.8}, "shape": _ROUNDISH, "border": {"sharp": 1},
        "surface": {"smooth": 1}, "size": {"small": 0.3, "medium": 0.7},
    },
    "seborrheic keratosis": {
        "colour": _BROWN, "shape": _ROUNDISH, "border": {"sharp": 1}, "surface": {"warty": 1},
        "arrangement": {"single": 0.75, "scattered": 0.25}, "size": {"medium": 0.6, "large": 0.4},
    },
    "basal cell carcinoma": {
        "colour": {"pink": 1}, "shape": _ROUNDISH, "border": {"sharp": 0.7, "blurred": 0.3}, "surface": {"pearly": 1},
        "vessels": {"branching": 1}, "size": {"medium": 0.6, "large": 0.4},
    },
    "squamous cell carcinoma": {
        "colour": _RED, "shape": {"round": 0.4, "irregular": 0.6}, "border": {"blurred": 0.7, "jagged": 0.3},
        "surface": {"crust": 1}, "size": {"medium": 0.4, "large": 0.6},
    },
    "actinic keratosis": {
        "colour": _RED, "shape": {"oval": 0.4, "irregular": 0.6}, "border": {"blurred": 1}, "surface": {"gritty scale": 1},
        "arrangement": {"single": 0.6, "scattered": 0.4}, "size": {"medium": 1},
    },
    "psoriasis": {
        "colour": _RED, "shape": {"round": 0.3, "oval": 0.4, "irregular": 0.3}, "border": {"sharp": 1},
        "surface": {"silvery scale": 1}, "arrangement": {"single": 0.3, "scattered": 0.7}, "size": {"medium": 0.6, "large": 0.4},
    },
    "nummular eczema": {
        "colour": _RED, "shape": _ROUNDISH, "border": {"blurred": 0.6, "sharp": 0.4}, "surface": {"fine scale": 1},
        "arrangement": {"single": 0.4, "scattered": 0.6}, "size": {"medium": 0.5, "large": 0.5},
    },
    "tinea corporis": {
        "colour": _RED, "shape": _ROUNDISH, "border": {"blurred": 0.4, "sharp": 0.6}, "surface": {"fine scale": 1},
        "arrangement": {"ring": 1}, "size": {"large": 1},
    },
    "lichen planus": {
        "colour": {"purple": 1}, "shape": {"irregular": 0.7, "oval": 0.3}, "border": {"sharp": 1}, "surface": {"white lines": 1},
        "arrangement": {"scattered": 0.8, "single": 0.2}, "size": {"small": 0.4, "medium": 0.6},
    },
    "herpes zoster": {
        "colour": _RED, "shape": {"round": 1}, "border": {"blurred": 1}, "surface": {"blisters": 1},
        "arrangement": {"band": 1}, "size": {"small": 1},
    },
    "vitiligo": {
        "colour": {"white": 1}, "shape": {"irregular": 0.7, "oval": 0.3}, "border": {"sharp": 0.8, "jagged": 0.2},
        "surface": {"smooth": 1}, "arrangement": {"scattered": 0.6, "single": 0.4}, "size": {"medium": 0.4, "large": 0.6},
    },
}  # fmt: skip

# Scattered lesions must leave room for one another in the frame.
_NO_ROOM = {"scattered": {"large": "medium"}}
_BY_SURFACE = {
    "pearly": "basal cell carcinoma", "silvery scale": "psoriasis", "gritty scale": "actinic keratosis",
    "warty": "seborrheic keratosis", "crust": "squamous cell carcinoma", "blisters": "herpes zoster",
    "white lines": "lichen planus",
}  # fmt: skip


def diagnose(findings: Findings) -> str:
    """The one diagnosis that the findings of a drawn case allow."""
    if findings.surface in _BY_SURFACE:
        return _BY_SURFACE[findings.surface]
    if findings.surface == "fine scale":
        return "tinea corporis" if findings.arrangement == "ring" else "nummular eczema"
    if findings.colour == "white":
        return "vitiligo"
    return "melanoma" if findings.border == "jagged" else "melanocytic nevus"


def possible_values(diagnosis: str) -> dict[str, tuple[str, ...]]:
    """The values that each finding of a disease may take."""
    shares = {**_USUAL, **DIAGNOSES[diagnosis]}
    return {finding: tuple(shares[finding]) for finding in VOCABULARY}


def draw_case(seed: int, *, diagnosis: str | None = None, fitzpatrick: int | None = None) -> Case:
    """Draw a case; same arguments, same case.

    Args:
        seed: fixes the draw.
        diagnosis: one of ``DIAGNOSES``, or ``None`` to draw one.
        fitzpatrick: 1 to 6, or ``None`` to draw one.
    """
    rng = np.random.default_rng([seed, 1])
    drawn, skin = list(DIAGNOSES)[rng.integers(len(DIAGNOSES))], int(rng.integers(1, 7))
    diagnosis = diagnosis or drawn
    shares = {**_USUAL, **DIAGNOSES[diagnosis]}
    values = {f.name: _pick(rng, shares[f.name]) for f in fields(Findings)}
    values["size"] = _NO_ROOM.get(values["arrangement"], {}).get(values["size"], values["size"])
    return Case(seed, diagnosis, Findings(**values), fitzpatrick or skin)


def draw_cases(count: int, seed: int) -> list[Case]:
    """``count`` cases: diagnoses in equal share, and within each the six skin types in equal share, in random order."""
    rng = np.random.default_rng([seed, 2])
    cells = [(d, f) for d in DIAGNOSES for f in range(1, 7)]
    rest = sorted(cells, key=lambda cell: cell[1])  # what does not fill a round still has every diagnosis
    order = cells * (count // len(cells)) + rest[: count % len(cells)]
    return [
        draw_case(seed * 10_000_000 + i, diagnosis=order[j][0], fitzpatrick=order[j][1])
        for i, j in enumerate(rng.permutation(count))
    ]


def _pick(rng: np.random.Generator, shares: Mapping[str, float]) -> str:
    values = list(shares)
    return values[rng.choice(len(values), p=np.array(list(shares.values())) / sum(shares.values()))]
