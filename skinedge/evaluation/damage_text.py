"""Free clinical text damaged, sentence by sentence, in the ways of ``skinedge.evaluation.damage``.

Nothing is known of such a text but its words, so the damage is coarser: a disease's name is replaced wherever it
stands, sentences with findings are left out or brought from another text, unsafe advice is added at the end, what was
described is denied, and words that describe become empty.  ``targets`` of the damage that was done says what is left of
each score if the text was sound.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from skinedge.evaluation.damage import FORMS, MOST, WORDING, Damage
from skinedge.evaluation.damage_words import WORDS, spoken

# Words that describe, and what they become in a vague text.
_THINGS = (
    "papule", "plaque", "macule", "patch", "nodule", "vesicle", "pustule", "blister", "bulla", "scale", "crust", "erosion",
    "ulcer", "wheal", "comedo", "cyst", "lesion", "erythema", "pigmentation", "telangiectasia", "fissure", "excoriation",
    "lichenification", "scar", "atrophy", "scaling", "redness", "swelling", "bump", "rash", "border", "spot",
)  # fmt: skip
_LOOKS = (
    "red", "pink", "brown", "dark", "white", "yellow", "yellowish", "purple", "violaceous", "blue", "black", "erythematous",
    "hyperpigmented", "hypopigmented", "round", "oval", "annular", "linear", "irregular", "sharp", "well-defined", "raised",
    "flat", "smooth", "rough", "scaly", "crusted", "shiny", "waxy", "greasy", "small", "large", "multiple", "solitary",
    "scattered", "symmetrical", "inflamed", "thickened", "firm", "soft",
)  # fmt: skip
_THING = re.compile(rf"\b({'|'.join(_THINGS)})(s|es|s'|ae)?\b", re.IGNORECASE)
_LOOK = re.compile(rf"\b({'|'.join(_LOOKS)})\b", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z*<])")
_WORDS_A_STEP = 4  # words that one step of ``vague`` empties
_LEFT = 2  # sentences that are never dropped


def damage_text(
    text: str,
    kind: str,
    severity: int,
    rng: np.random.Generator,
    *,
    diagnosis: str = "",
    wrong: Sequence[str] = (),
    elsewhere: str = "",
    form: str = FORMS[0],
) -> tuple[str, Damage | None]:
    """A text with one kind of damage done to it; the same arguments give the same text.

    Args:
        text: free clinical text.
        kind: one of ``damage.KINDS``.
        severity: 1 to ``MOST[kind]``.
        rng: what is drawn.
        diagnosis: the disease that the text is about (for ``diagnosis`` and ``contradiction``).
        wrong: other diseases, the nearest first, the farthest last.
        elsewhere: another text, whose findings may be brought in (for ``invented``).
        form: which sentences are used, as in ``Damage``.

    Returns:
        The text and the damage that was done, ``None`` where it could not be done: the disease is not named, there is no
        sentence with a finding.

    Raises:
        UsageError: an unknown kind, form or severity.
    """
    asked = Damage(kind, severity, form)
    if kind == "diagnosis":
        return _misname(text, asked, diagnosis, wrong)
    if kind == "advice":
        bad = spoken(WORDS[WORDING[form]].advice[severity], rng)
        return f"{text.rstrip()} {bad}", asked
    if kind == "contradiction":
        return _contradict(text, asked, diagnosis, wrong, rng)
    if kind == "vague":
        return _blur(text, asked, rng)
    return _insert(text, asked, elsewhere, rng) if kind == "invented" else _drop(text, asked, rng)


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order."""
    return [s for s in _SENTENCE.split(text) if s.strip()]


def findings_in(text: str) -> list[str]:
    """The sentences that describe something."""
    return [s for s in sentences(text) if _THING.search(s) and _LOOK.search(s)]


def _misname(text: str, asked: Damage, diagnosis: str, wrong: Sequence[str]) -> tuple[str, Damage | None]:
    name = re.compile(rf"\b{re.escape(diagnosis.strip())}\b", re.IGNORECASE) if diagnosis.strip() else None
    if name is None or not wrong or not name.search(text):
        return text, None
    place = round((asked.severity - 1) / (MOST["diagnosis"] - 1) * (len(wrong) - 1))
    return name.sub(lambda _: wrong[place], text), asked


def _drop(text: str, asked: Damage, rng: np.random.Generator) -> tuple[str, Damage | None]:
    every = sentences(text)
    telling = [i for i, s in enumerate(every) if _THING.search(s) or _LOOK.search(s)]
    count = min(asked.severity, len(telling), len(every) - _LEFT)
    if count < 1:
        return text, None
    gone = {telling[i] for i in rng.permutation(len(telling))[:count]}
    return " ".join(s for i, s in enumerate(every) if i not in gone), Damage(asked.kind, count, asked.form)


def _insert(text: str, asked: Damage, elsewhere: str, rng: np.random.Generator) -> tuple[str, Damage | None]:
    found = findings_in(elsewhere)
    count = min(asked.severity, len(found))
    if not count:
        return text, None
    every = sentences(text)
    for i in rng.permutation(len(found))[:count]:
        every.insert(int(rng.integers(len(every) // 2 + 1)), found[i])
    return " ".join(every), Damage(asked.kind, count, asked.form)


def _contradict(
    text: str, asked: Damage, diagnosis: str, wrong: Sequence[str], rng: np.random.Generator
) -> tuple[str, Damage | None]:
    words = WORDS[WORDING[asked.form]]
    if asked.severity == MOST["contradiction"]:
        if not wrong or not diagnosis:
            return text, None
        switched = words.switched[int(rng.integers(len(words.switched)))]
        return f"{text.rstrip()} {switched.format(x=wrong[int(rng.integers(len(wrong)))])}", asked
    named = list(dict.fromkeys(m.group(1).lower() for m in _THING.finditer(text)))
    count = min(asked.severity, len(named))
    if not count:
        return text, None
    denied = words.denied[int(rng.integers(len(words.denied)))]
    more = " ".join(denied.format(x=f"the {named[i]}") for i in rng.permutation(len(named))[:count])
    return f"{text.rstrip()} {more}", Damage(asked.kind, count, asked.form)


def _blur(text: str, asked: Damage, rng: np.random.Generator) -> tuple[str, Damage | None]:
    places = sorted((m.span(), "unusual") for m in _LOOK.finditer(text))
    places = sorted((*places, *((m.span(), "changes") for m in _THING.finditer(text))))
    count = min(asked.severity * _WORDS_A_STEP, len(places))
    if count < _WORDS_A_STEP:
        return text, None
    chosen = {int(i) for i in rng.permutation(len(places))[:count]}
    out, end = [], 0
    for i, ((start, stop), empty) in enumerate(places):
        if i in chosen and start >= end:
            out += [text[end:start], empty]
            end = stop
    return "".join((*out, text[end:])), Damage(asked.kind, count // _WORDS_A_STEP, asked.form)
