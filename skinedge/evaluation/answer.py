"""Which disease a text names in the end, and whether two names mean the same one.

The order is REFERENCE section 3's: ``<answer>…</answer>``, then "The answer is X", then "final diagnosis: X", then none.
A thought comes before the answer and is no answer, except for a tag where nothing after the thought names a disease.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from skinedge.evaluation.scores import after_thinking

# Another name -> the usual one, both as ``normalised`` writes them.  The same disease only: no subtype, no wider class.
SYNONYMS: Mapping[str, str] = {
    "acral lentiginous melanoma of skin": "acral lentiginous melanoma",
    "ak": "actinic keratosis", "solar keratosis": "actinic keratosis", "actinic keratoses": "actinic keratosis",
    "senile keratosis": "actinic keratosis",
    "basal cell cancer": "basal cell carcinoma", "basalioma": "basal cell carcinoma", "bcc": "basal cell carcinoma",
    "basal cell epithelioma": "basal cell carcinoma",
    "discoid eczema": "nummular eczema", "nummular dermatitis": "nummular eczema",
    "lichen ruber planus": "lichen planus",
    "malignant melanoma": "melanoma", "cutaneous melanoma": "melanoma", "malignant melanoma of skin": "melanoma",
    "nevus": "melanocytic nevus", "mole": "melanocytic nevus", "nevocellular nevus": "melanocytic nevus",
    "pigmented nevus": "melanocytic nevus", "melanocytic nevi": "melanocytic nevus", "nevi": "melanocytic nevus",
    "nevocytic nevus": "melanocytic nevus",
    "ringworm": "tinea corporis", "ringworm of body": "tinea corporis",
    "seborrheic wart": "seborrheic keratosis", "seborrheic keratoses": "seborrheic keratosis",
    "seborrheic verruca": "seborrheic keratosis", "senile wart": "seborrheic keratosis",
    "shingles": "herpes zoster", "zoster": "herpes zoster",
    "scc": "squamous cell carcinoma", "squamous cell cancer": "squamous cell carcinoma",
    "cutaneous squamous cell carcinoma": "squamous cell carcinoma",
    "psoriasis vulgaris": "psoriasis",
}  # fmt: skip
SEVERAL = " / "

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
_ENDS = r"(?P<name>[^\n]*?)(?=[.;!?](?:[\s*_\"')\]]|$)|\n|<|$)"
_PROSE = (
    re.compile(rf"\bthe\s+answer\s+is\b[\s:*_\"'`]*{_ENDS}", re.IGNORECASE),
    re.compile(rf"\bfinal\s+diagnosis\b[\s*_]*(?::|\bis\b)[\s:*_\"'`]*{_ENDS}", re.IGNORECASE),
)
# What follows the name of the disease in the same sentence.
_REASON = re.compile(
    r",?\s+(?:because|since|given|based\s+on|due\s+to|as\s+(?:the|it|there))\b.*|,\s*(?:which|but|with|as)\b.*", re.I
)
_MARKUP = " \t\r\n*_`\"'“”‘’.,;:!?#"
_LEADS = re.compile(r"^(?:most (?:likely|probably)|very likely|likely|probably|a case of|consistent with|an|a|the) ")
_SPELLING = (
    ("naev", "nev"), ("haem", "hem"), ("oedem", "edem"), ("seborrhoe", "seborrhe"), ("tumour", "tumor"), ("leuco", "leuko"),
)  # fmt: skip


def read_answer(text: str) -> str | None:
    """The disease that a text names in the end, as it is written there; ``None`` if it names none.

    Different names in several ``<answer>`` are all given, joined by ``SEVERAL``: several finals are no right answer.
    Of sentences the last counts.

    >>> read_answer("<think>A jagged border.</think>The answer is **melanoma**.")
    'melanoma'
    """
    end = after_thinking(text)
    return _tagged(end) or _said(end) or _tagged(text)


def normalised(name: str) -> str:
    """A disease's name for comparison: letter case, markup, articles, brackets, hyphens and British spelling apart.

    >>> normalised("A Seborrhoeic-Keratosis (stuck on).")
    'seborrheic keratosis'
    """
    text = unicodedata.normalize("NFKC", name).casefold()
    bare = re.sub(r"\([^()]*\)", " ", text)
    text = re.sub(r"['’`]", "", bare if bare.strip(_MARKUP) else text)
    text = " ".join(re.sub(r"[^\w/&+]|_", " ", text).split())
    for british, american in _SPELLING:
        text = text.replace(british, american)
    while (shorter := _LEADS.sub("", text)) != text:
        text = shorter
    return text


def same_diagnosis(a: str | None, b: str | None, synonyms: Mapping[str, str] = SYNONYMS) -> bool:
    """Whether two names mean the same disease; no name is never the same as anything.

    Args:
        a: a diagnosis as it was written.
        b: another.
        synonyms: another name -> the usual one, both ``normalised``.

    >>> same_diagnosis("BCC", "Basal cell carcinoma.")
    True
    """
    if not a or not b:
        return False
    first, second = usual_name(a, synonyms), usual_name(b, synonyms)
    return bool(first) and first == second


def same_answer(a: str | None, b: str | None) -> bool:
    """Whether two texts answer alike: the same disease, or neither any."""
    return same_diagnosis(a, b) or a is b is None


def usual_name(name: str, synonyms: Mapping[str, str] = SYNONYMS) -> str:
    """The name under which a diagnosis is compared and counted."""
    text = normalised(name)
    return synonyms.get(text, text)


def _tagged(text: str) -> str | None:
    names: dict[str, str] = {}
    for found in _TAGGED.findall(text):
        if name := found.strip(_MARKUP):
            names.setdefault(usual_name(name), name)
    return SEVERAL.join(names.values()) or None


def _said(text: str) -> str | None:
    for form in _PROSE:
        names = [_REASON.sub("", found.group("name")).strip(_MARKUP) for found in form.finditer(text)]
        if named := [name for name in names if name]:
            return named[-1]
    return None
