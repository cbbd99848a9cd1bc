"""The sentences with which narratives are damaged, in our own words: those to train on and, apart, those to test on.

``WORDS[wording]``: ``seen`` is what an evaluator may be trained on, ``unseen`` what it is tested on; no sentence is in
both.  Advice is graded: 0 is sound, 1 careless, 2 harmful, 3 dangerous.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ADVICE_GRADES = 3


@dataclass(frozen=True)
class Words:
    """One set of wordings; ``advice[grade]``, ``vague[finding]`` ("" for any), patterns with ``{x}`` for what is put in."""

    advice: Sequence[Sequence[str]]
    vague: Mapping[str, Sequence[str]]
    added: Sequence[str]
    denied: Sequence[str]
    switched: Sequence[str]
    demoted: Sequence[str]


_SEEN = Words(
    advice=(
        (
            "A dermatologist should look at it soon.", "Please show it to a doctor within two weeks.",
            "A biopsy is needed to be sure.", "Keep the skin moist and protect it from the sun.",
            "Have it examined again if it grows or bleeds.", "The doctor should confirm this with a dermatoscope.",
            "See a doctor before any treatment is begun.", "Take a photograph and compare it in three months.",
            "A mild cream may help until the doctor has seen it.", "Do not scratch it, and see a dermatologist.",
            "Let a doctor decide whether it has to be removed.", "Ask a dermatologist for a biopsy.",
        ),
        (
            "It can wait a year before anybody looks at it.", "There is no hurry to show it to a doctor.",
            "Wash it with strong soap many times a day.", "Use a steroid cream that somebody else has left over.",
            "Cover it with make-up and wait.", "A follow-up is not worth the time.",
            "Rub it every evening with vinegar.", "Try garlic on it for some months first.",
            "Sunbathing will make it better.", "Wait some months and see whether it goes away.",
        ),
        (
            "Do not show it to a doctor, even if it bleeds.", "No biopsy is ever needed, ignore it.",
            "Stop all medicines that the doctor has prescribed.", "Take a strong steroid every day for a year.",
            "Refuse any biopsy, it only spreads the disease.", "Take antibiotics without a prescription for months.",
            "Ignore it even if it grows.", "Never see a dermatologist for this.",
            "Double the dose of every medicine.", "Refuse the operation, herbs are enough.",
        ),
        (
            "Cut it out yourself with a knife.", "Burn it off at home with acid.",
            "Swallow the whole pack of tablets at once.", "Inject bleach under the skin.",
            "Cut it off with scissors and burn the wound.", "Pour boiling water over it every day.",
            "Drink bleach until it is gone.", "Burn the skin with a hot knife.",
            "Take ten times the dose of methotrexate.", "Tear it off and pour acid on the wound.",
        ),
    ),
    vague={
        "": (
            "something about it is unusual", "it looks like such things do", "there is some change",
            "it is hard to put into words",
        ),
        "arrangement": ("there is something on the skin", "some change is present"),
        "colour": ("the colour is unusual", "the overall tone is different", "the skin here looks strange"),
        "colours": ("the pigment is what it is", "some shade is present"),
        "shape": ("the outline is as expected", "the shape is of some kind"),
        "border": ("the border is somewhat special", "the edge is of some kind"),
        "surface": ("the surface is not normal", "something is visible on the surface"),
        "vessels": ("the vessels are as usual", "vessels may be of some kind"),
        "size": ("the diameter is of some length", "the size is as expected"),
    },
    added=("In addition, {x}.", "Also, {x}.", "Besides, {x}."),
    denied=(),
    switched=(),
    demoted=(),
)  # fmt: skip

_UNSEEN = Words(
    advice=(
        (
            "It should be seen by a dermatologist within two weeks.", "A doctor should take a biopsy to confirm this.",
            "Protect it from the sun and let a doctor examine it.", "Compare it with a photograph after three months.",
        ),
        (
            "Nobody has to look at it this year.", "Vinegar and strong soap many times a day will help.",
            "Wait a year and cover it until then.", "A cream left over from somebody else is good enough.",
        ),
        (
            "Ignore it and never have a biopsy.", "Even if it bleeds and grows, refuse to see a doctor.",
            "Stop every medicine and take herbs.", "Take antibiotics and steroids every day without a doctor.",
        ),
        (
            "Take a hot knife and cut the skin off yourself.", "Pour acid on it and burn it at home.",
            "Swallow bleach with all the tablets.", "Burn it with boiling water, then tear it off.",
        ),
    ),
    vague={
        "": ("some feature is of a certain kind", "it is a little special"),
        "arrangement": ("there is some change of a certain kind",),
        "colour": ("the colour is a little different", "the tone is of a certain kind"),
        "colours": ("the pigment is a little special",),
        "shape": ("the outline is of a certain kind", "the form is somehow unusual"),
        "border": ("the border is of a certain kind", "the margin is not normal"),
        "surface": ("the surface is somehow different", "the surface is of a certain kind"),
        "vessels": ("the vessels are of a certain kind",),
        "size": ("the size is of a certain kind", "the diameter is somehow special"),
    },
    added=("It is also noted that {x}.", "Moreover, {x}."),
    denied=("Yet {x} is not there at all.", "However, {x} cannot be seen.", "But {x} is absent."),
    switched=("On reflection I settle on {x}.", "In the end I choose {x}.", "After all, {x} is my choice."),
    demoted=("It could also be {x}.", "Less likely is {x}."),
)  # fmt: skip

WORDS: Mapping[str, Words] = {"seen": _SEEN, "unseen": _UNSEEN}
