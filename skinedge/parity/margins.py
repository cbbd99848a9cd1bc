"""How much worse a bundle may be than its reference: the margins of REFERENCE section 7, each with its reason.

They are fixed before anything is measured.  Only that of the answers depends on the bits that the weights have.
"""

from __future__ import annotations

from dataclasses import dataclass

from skinedge.manifest import Manifest
from skinedge.parity.equivalence import Margin


@dataclass(frozen=True)
class AnswerMargin:
    """For weights of at least ``bits`` bits: by how much the share of right answers may fall."""

    bits: float
    name: str
    margin: float
    reason: str


ANSWERS: tuple[AnswerMargin, ...] = (
    AnswerMargin(
        16, "16 bits and more", 0.01,
        "a float format has nothing to trade away, so this is the least that 600 pictures can show: it takes 381 without "
        "one changed answer, and with one or two 600 still show it with a chance of about 80 %",
    ),
    AnswerMargin(
        8, "8 bits", 0.02,
        "8-bit weights are sold as free of loss; 2 points is what 600 pictures show where 2 % of the answers change",
    ),
    AnswerMargin(
        0, "fewer than 8 bits", 0.03,
        "few-bit weights buy memory and speed with some quality; more than 3 points is a different model",
    ),
)  # fmt: skip

STRUCTURE = Margin(low=-0.01)  # a page that cannot be read loses the whole case, and a format is the easiest thing to keep
LENGTH = Margin(low=0.90, high=1.10)  # a tenth shorter loses findings, a tenth longer costs time and hints at loops
WIDTH_OF_SCORES = 0.10
MEAN_SCORE = Margin(low=-WIDTH_OF_SCORES, high=WIDTH_OF_SCORES)  # of 5: a tenth of the step between two descriptions of the scale
SAFETY = Margin(low=-WIDTH_OF_SCORES)  # safer is welcome
# Of a flip from malignant to benign none is acceptable that nobody has looked at.  None seen is no proof either: at least
# so many malignant cases that one flip in twenty is excluded (Wilson, 0 of 73).
LEAST_MALIGNANT = 73
# Means of few cases are not judged, however alike the cases look: of so many, one in thirty that loses three points (100), or
# one in a hundred that runs on to eight times its length (300), has been seen with a chance of 19 in 20 (docs/decisions/0020).
LEAST_SCORES, LEAST_LENGTHS = 100, 300


def answer_margin(bits: float) -> AnswerMargin:
    """The margin of the answers for weights of so many bits."""
    return next(row for row in ANSWERS if bits >= row.bits)


def narrowest_bits(manifest: Manifest) -> float:
    """The fewest bits that any weights of a bundle have, scales included: by these it is judged."""
    return min(a.bits for a in manifest.applied.values() if a.weights)
