"""What a dermatologist writes about a SynthDerm picture, and the findings read back out of such a text.

A narrative goes from observation to reasoning to differential, inside ``<think>``, and ends with the diagnosis
in ``<answer>``.  Every finding is stated once, in one of several ways; no wording and no order depends on the
diagnosis, so that a text with a diagnosis drawn at random is as good English as a true one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from skinedge.synthderm.findings import DIAGNOSES, VOCABULARY, Findings

QUESTIONS: tuple[str, ...] = (
    "Describe the skin lesion, reason step by step and give the most likely diagnosis.",
    "What do you see, and what is the most likely diagnosis?",
    "Please examine this photograph of the skin and name the diagnosis.",
    "Describe what you see and tell me which disease fits best.",
    "Which skin disease is this? Explain your reasoning.",
    "Look at the skin, list the findings and give your diagnosis.",
)

# How each value is said in the observation.  A clause belongs to one value only and is part of no other clause.
CLAUSES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "arrangement": {
        "single": ("there is a single lesion", "one solitary lesion is present", "the photograph shows one isolated lesion"),
        "scattered": ("there are several scattered lesions", "many separate lesions are present",
                      "the photograph shows lesions spread over the field"),
        "ring": ("there is a ring with a clear centre", "an annular lesion is present",
                 "the photograph shows a ring-shaped lesion"),
        "band": ("there are lesions grouped in a band", "lesions in a line are present",
                 "the photograph shows groups along a band"),
    },
    "colour": {
        "brown": ("the colour is light brown", "the overall tone is tan", "the skin here looks light brown"),
        "dark brown": ("the colour is dark brown", "the overall tone is deep brown", "the skin here looks dark brown"),
        "pink": ("the colour is pink", "the overall tone is pale pink", "the skin here looks pink"),
        "red": ("the colour is red", "the overall tone is strongly red", "the skin here looks red"),
        "purple": ("the colour is purple", "the overall tone is violet", "the skin here looks purple"),
        "white": ("the colour is white", "the overall tone is chalk white", "the skin here looks white"),
    },
    "colours": {
        "uniform": ("the pigment is even throughout", "only one shade is present", "the colour does not vary"),
        "variegated": ("several shades are mixed", "the pigment varies from place to place", "many colours lie side by side"),
    },
    "shape": {
        "round": ("the outline is round", "the shape is circular", "the form is round"),
        "oval": ("the outline is oval", "the shape is elongated", "the form is oval"),
        "irregular": ("the outline is irregular", "the shape is asymmetric", "the form is irregular"),
    },
    "border": {
        "sharp": ("the border is sharp", "the edge is well defined", "the margin is clear"),
        "blurred": ("the border is blurred", "the edge fades into the skin", "the margin is ill defined"),
        "jagged": ("the border is jagged", "the edge is notched", "the margin is ragged"),
    },
    "surface": {
        "smooth": ("the surface is smooth", "nothing is felt on the surface", "the surface is without scale"),
        "pearly": ("the surface is pearly", "the surface is shiny and translucent", "a pearly sheen is visible"),
        "fine scale": ("the surface carries a fine scale", "thin dry flakes are visible", "a fine dry scale is visible"),
        "silvery scale": ("the surface carries a silvery scale", "thick silvery plates are visible",
                          "a thick silvery scale is visible"),
        "gritty scale": ("the surface carries a gritty scale", "hard yellow grains are visible",
                         "a rough gritty scale is visible"),
        "warty": ("the surface is warty", "horn cysts are visible", "a warty, stuck-on surface is visible"),
        "crust": ("the surface carries a crust", "a thick crust is visible", "dried blood and crust are visible"),
        "blisters": ("the surface carries blisters", "clear vesicles are visible", "tense small blisters are visible"),
        "white lines": ("the surface carries fine white lines", "a lace of white lines is visible", "a white network is visible"),
    },
    "vessels": {
        "none": ("no vessels are seen", "there are no visible vessels", "vessels are absent"),
        "branching": ("branching vessels are seen", "there are visible branching vessels", "tree-like vessels run across it"),
    },
    "size": {
        "small": ("the diameter is a few millimetres", "the size is small", "it measures only some millimetres"),
        "medium": ("the diameter is about a centimetre", "the size is moderate", "it measures nearly a centimetre"),
        "large": ("the diameter is well over a centimetre", "the size is large", "it measures more than a centimetre"),
    },
}  # fmt: skip

# How the reasoning refers back to a finding.
NOUNS: Mapping[str, Mapping[str, str]] = {
    "arrangement": {"single": "the single lesion", "scattered": "the scattered lesions", "ring": "the ring", "band": "the band"},
    "colour": {c: f"the {c} colour" for c in VOCABULARY["colour"]},
    "colours": {"uniform": "the even pigment", "variegated": "the mixed shades"},
    "shape": {s: f"the {s} outline" for s in VOCABULARY["shape"]},
    "border": {b: f"the {b} border" for b in VOCABULARY["border"]},
    "surface": {
        **{s: f"the {s}" for s in VOCABULARY["surface"]},
        "smooth": "the smooth surface", "pearly": "the pearly surface", "warty": "the warty surface",
    },
    "vessels": {"none": "the absence of vessels", "branching": "the branching vessels"},
    "size": {"small": "the small size", "medium": "the moderate size", "large": "the large size"},
}  # fmt: skip
JOINTS = (" and ", ", and ", ", while ", "; ")
_REASONS = (
    "Taken together, {a} and {b} point to {d}.",
    "Given {a} and {b}, the first choice is {d}.",
    "With {a} and {b}, the picture fits {d}.",
    "{A} and {b} speak for {d}.",
    "I weigh {a} and {b}, which suggest {d}.",
)
_ONE_OTHER = ("Less likely is {e}.", "One should also consider {e}.", "It could also be {e}.")
_TWO_OTHERS = ("Less likely are {e} and {f}.", "One should also consider {e} or {f}.", "It could also be {e} or {f}.")

# Which diseases each is taken for, the likeliest first.
CONFUSED: Mapping[str, tuple[str, ...]] = {
    "melanoma": ("melanocytic nevus", "seborrheic keratosis", "basal cell carcinoma"),
    "melanocytic nevus": ("melanoma", "seborrheic keratosis"),
    "seborrheic keratosis": ("melanocytic nevus", "melanoma", "actinic keratosis"),
    "basal cell carcinoma": ("squamous cell carcinoma", "melanocytic nevus", "melanoma"),
    "squamous cell carcinoma": ("actinic keratosis", "basal cell carcinoma"),
    "actinic keratosis": ("squamous cell carcinoma", "nummular eczema", "seborrheic keratosis"),
    "psoriasis": ("nummular eczema", "tinea corporis", "lichen planus"),
    "nummular eczema": ("tinea corporis", "psoriasis", "actinic keratosis"),
    "tinea corporis": ("nummular eczema", "psoriasis"),
    "lichen planus": ("psoriasis", "nummular eczema"),
    "herpes zoster": ("nummular eczema", "tinea corporis"),
    "vitiligo": ("tinea corporis", "lichen planus"),
}


def narrate(findings: Findings, diagnosis: str, differentials: Sequence[str], rng: np.random.Generator) -> str:
    """A narrative of true findings that ends in ``diagnosis``; one or two ``differentials``, the diagnosis not among them.

    The same generator state gives the same text but for the names of the diseases.
    """
    reasoning = _reason(findings, diagnosis, rng)
    others = _pick(rng, _ONE_OTHER if len(differentials) == 1 else _TWO_OTHERS)
    differential = others.format(e=differentials[0], f=differentials[-1])
    thought = f"Observation: {_observe(findings, rng)}\nReasoning: {reasoning}\nDifferential: {differential}"
    return f"<think>\n{thought}\n</think>\n<answer>{diagnosis}</answer>"


def draw_differentials(diagnosis: str, rng: np.random.Generator) -> tuple[str, ...]:
    """One or two diseases that are confused with ``diagnosis``."""
    known = CONFUSED[diagnosis]
    return tuple(known[i] for i in rng.permutation(len(known))[: rng.integers(1, 3)])


def draw_random(rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """A diagnosis and one or two differentials, drawn evenly from all: they mean nothing."""
    drawn = [list(DIAGNOSES)[i] for i in rng.permutation(len(DIAGNOSES))]
    return drawn[0], tuple(drawn[1 : 1 + rng.integers(1, 3)])


def read_findings(text: str) -> dict[str, str]:
    """The findings that a text claims before it reasons or names a disease: finding -> value, the first where two are claimed."""
    observation = _OBSERVED.split(text.lower(), maxsplit=1)[0]
    claims = {}
    for finding, pattern in _PATTERNS.items():
        if found := pattern.search(observation):
            claims[finding] = _VALUES[finding][found.group()]
    return claims


def read_answer(text: str) -> str | None:
    """What stands in the last ``<answer>``."""
    answers: list[str] = re.findall(r"<answer>((?:(?!<answer>).)*?)</answer>", text, re.DOTALL)
    return answers[-1].strip() if answers else None


def score_findings(text: str, truth: Findings) -> tuple[int, int, int]:
    """How many findings the text claims rightly, claims at all, and could have claimed."""
    claims = read_findings(text)
    true = dict(truth.items())
    return sum(true[f] == v for f, v in claims.items()), len(claims), len(true)


def _observe(findings: Findings, rng: np.random.Generator) -> str:
    """All findings: how the lesions lie first, the others in any order, one or two to a sentence."""
    clauses = {finding: _pick(rng, CLAUSES[finding][value]) for finding, value in findings.items()}
    first, *others = clauses.values()
    others = [others[i] for i in rng.permutation(len(others))]
    sentences = [first]
    while others:
        taken, others = others[: (size := int(rng.integers(1, 3)))], others[size:]
        sentences.append(_pick(rng, JOINTS).join(taken))
    return " ".join(f"{s[0].upper()}{s[1:]}." for s in sentences)


def _reason(findings: Findings, diagnosis: str, rng: np.random.Generator) -> str:
    cited = [("surface", "colour", "border", "arrangement", "shape")[i] for i in rng.permutation(5)[:2]]
    values = dict(findings.items())
    a, b = (NOUNS[finding][values[finding]] for finding in cited)
    return _pick(rng, _REASONS).format(a=a, A=a[0].upper() + a[1:], b=b, d=diagnosis)


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


# An answer that lost its headings still names a disease only after it has observed.
_OBSERVED = re.compile(rf"reasoning:|\b(?:{'|'.join(DIAGNOSES)})\b")
_VALUES: Mapping[str, Mapping[str, str]] = {
    finding: {clause: value for value, clauses in values.items() for clause in clauses} for finding, values in CLAUSES.items()
}
_PATTERNS: Mapping[str, re.Pattern[str]] = {
    finding: re.compile("|".join(rf"\b{re.escape(c)}\b" for c in sorted(values, key=len, reverse=True)))
    for finding, values in _VALUES.items()
}
