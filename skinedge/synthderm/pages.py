"""The textbook of SynthDerm: one page a disease, with the findings it may show and whether it is a cancer.

A page says of a disease what ``skinedge.synthderm.findings`` draws its cases from, in words.  Where a name means
nothing yet (a disease that a reader has never met), its page says what would speak for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skinedge.synthderm.findings import DIAGNOSES, VOCABULARY, Findings, possible_values

CANCERS = frozenset({"melanoma", "basal cell carcinoma", "squamous cell carcinoma"})

# What needs no word on a page: most diseases show it.
_USUAL = {"colours": ("uniform",), "vessels": ("none",)}


@dataclass(frozen=True)
class Page:
    """A disease: its name, the values that each finding of it may take, and whether it is a cancer."""

    name: str
    shows: Mapping[str, tuple[str, ...]]
    cancer: bool

    def unexplained(self, findings: Findings) -> tuple[str, ...]:
        """Which of a patient's findings this disease does not show."""
        return tuple(finding for finding, value in findings.items() if value not in self.shows[finding])

    def entries(self) -> list[tuple[str | None, str]]:
        """The page in words, piece by piece, each with the finding that it is about."""
        told = [f for f in VOCABULARY if self.shows[f] != _USUAL.get(f)]
        said: list[tuple[str | None, str]] = [(f, f" {f} {' or '.join(self.shows[f])};") for f in told]
        return [(None, f"{self.name}:"), *said, (None, f" {'cancer' if self.cancer else 'no cancer'}.")]

    def text(self) -> str:
        """The page in words: what is shown, then its danger."""
        return "".join(words for _, words in self.entries())


def textbook() -> dict[str, Page]:
    """The page of every disease, by its name."""
    return {name: Page(name, possible_values(name), name in CANCERS) for name in DIAGNOSES}
