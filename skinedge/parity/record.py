"""What two models said about one picture: the row from which every figure of a certificate is made.

Rows are written one a line while a comparison runs (so it can go on after a stop) and read back whole.  A photograph
appears as the digest of its bytes, never by name or content.
"""

from __future__ import annotations

from dataclasses import dataclass

# Fitzpatrick types by group (REFERENCE section 7), and of which a row is where the type is not known.
SKIN_GROUPS = ("I-II", "III-IV", "V-VI")
UNKNOWN_SKIN = "unknown"


def skin_group(fitzpatrick: int | None) -> str:
    """The group of a Fitzpatrick type, 1 to 6.

    >>> skin_group(4)
    'III-IV'
    """
    return UNKNOWN_SKIN if fitzpatrick is None else SKIN_GROUPS[(fitzpatrick - 1) // 2]


@dataclass(frozen=True)
class Narrative:
    """One model's greedy answer.

    ``tokens`` counts what was generated, the end token not among them; ``finish`` is ``stop``, ``length`` or ``context``.
    """

    text: str
    tokens: int
    finish: str


@dataclass(frozen=True)
class Forced:
    """The bundle's distribution beside the reference's, along the reference's own narrative with the picture in context.

    One entry a position, ``N`` positions: KL(reference || bundle) in nats, whether both have the same arg max, and the
    probability that each gives to the token that the reference chose.
    """

    kl: tuple[float, ...]
    same_top: tuple[bool, ...]
    reference_p: tuple[float, ...]
    bundle_p: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """One picture, both arms.

    ``truth`` is the diagnosis in words where it is known; ``skin`` one of ``SKIN_GROUPS`` or ``UNKNOWN_SKIN``;
    ``first_different`` the number of the first token in which the narratives differ, ``None`` where they are the same.
    """

    id: str
    image_sha256: str
    truth: str | None
    skin: str
    reference: Narrative
    bundle: Narrative
    first_different: int | None
    forced: Forced | None
