"""Which diagnoses are malignant: those of SynthDerm and PAD-UFES-20, names close to them, and every kind of carcinoma, melanoma,
sarcoma and lymphoma.  All others are unknown.

PAD-UFES-20's authors count basal and squamous cell carcinoma (Bowen's disease with it) and melanoma as skin cancer and
actinic keratosis as a disease (Pacheco et al. 2020, doi 10.1016/j.dib.2020.106221); so it stands among the benign here, and a
carcinoma that becomes one is a flip that counts.
"""

from __future__ import annotations

import re
from typing import Literal

from skinedge.evaluation.answer import SEVERAL, usual_name
from skinedge.evaluation.labels import synonyms

Nature = Literal["malignant", "benign", "unknown"]

MALIGNANT = frozenset({
    "acral lentiginous melanoma", "amelanotic melanoma", "basal cell carcinoma", "bowen disease", "bowens disease",
    "cutaneous t cell lymphoma", "dermatofibrosarcoma protuberans", "kaposi sarcoma", "lentigo maligna",
    "lentigo maligna melanoma", "melanoma", "melanoma in situ", "merkel cell carcinoma", "mycosis fungoides",
    "nodular melanoma", "squamous cell carcinoma", "squamous cell carcinoma in situ", "superficial spreading melanoma",
})  # fmt: skip
BENIGN = frozenset({
    "actinic keratosis", "dermatofibroma", "eczema", "hemangioma", "herpes zoster", "lichen planus", "melanocytic nevus",
    "nummular eczema", "psoriasis", "seborrheic keratosis", "tinea corporis", "vitiligo",
})  # fmt: skip
_KIND = re.compile(r"\b(?!pseudo)\w*(?:carcinoma|melanoma|sarcoma|lymphoma)(?: in situ)?$")
_DENIED = re.compile(r"\b(?:no|non|not|without|versus|vs|or)\b")


def nature(diagnosis: str | None) -> Nature:
    """Whether a diagnosis is malignant; no diagnosis, and one that is on neither list, is unknown.

    Of several finals one that is malignant makes the whole so.

    >>> nature("BCC"), nature("a mole"), nature("pemphigus"), nature("metastatic melanoma"), nature("not a melanoma")
    ('malignant', 'benign', 'unknown', 'malignant', 'unknown')
    """
    natures = {_nature(usual_name(name, synonyms())) for name in (diagnosis or "").split(SEVERAL)}
    return "malignant" if "malignant" in natures else "unknown" if len(natures) > 1 else natures.pop()


def _nature(name: str) -> Nature:
    if name in BENIGN:
        return "benign"
    kind = _KIND.search(name) and not _DENIED.search(name)
    return "malignant" if name in MALIGNANT or kind else "unknown"
