"""Which diagnoses are malignant: those of SynthDerm and PAD-UFES-20, and names close to them.  All others are unknown.

PAD-UFES-20's authors count basal and squamous cell carcinoma (Bowen's disease with it) and melanoma as skin cancer and
actinic keratosis as a disease (Pacheco et al. 2020, doi 10.1016/j.dib.2020.106221); so it stands among the benign here, and a
carcinoma that becomes one is a flip that counts.
"""

from __future__ import annotations

from typing import Literal

from skinedge.evaluation.answer import usual_name

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


def nature(diagnosis: str | None) -> Nature:
    """Whether a diagnosis is malignant; no diagnosis, and one that is on neither list, is unknown.

    >>> nature("BCC"), nature("a mole"), nature("pemphigus")
    ('malignant', 'benign', 'unknown')
    """
    name = usual_name(diagnosis or "")
    return "malignant" if name in MALIGNANT else "benign" if name in BENIGN else "unknown"
