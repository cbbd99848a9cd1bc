"""What becomes of a case: a narrative with scores, or a rejection with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from skinedge.evaluation.cases import Case

Reason = Literal[
    "missing image", "unreadable image", "duplicate image", "conflicting labels", "near-duplicate image",
    "refused by the teacher", "cut short", "empty answer", "unparseable narrative", "diagnosis differs from the label",
    "refers to its instructions", "invalid scores", "low score", "near-duplicate narrative", "over the cap",
    "low clinician score",
]  # fmt: skip


class Rejected(Exception):  # noqa: N818 - an outcome, not an error
    """A case that cannot go on, why, and the words that are at fault."""

    def __init__(self, reason: Reason, detail: str = "", words: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Reason = reason
        self.detail = detail
        self.words = words


@dataclass(frozen=True)
class Narrative:
    """Three layers: what is seen, what follows from it, what it is called."""

    observation: str
    reasoning: str
    diagnosis: str

    @property
    def text(self) -> str:
        """As a model is to say it."""
        return f"<think>{self.observation}\n\n{self.reasoning}</think><answer>{self.diagnosis}</answer>"


@dataclass(frozen=True)
class Told:
    """A case with its narrative and the teacher's six scores of it."""

    case: Case
    image_digest: str
    narrative: Narrative
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Rejection:
    """A case that was left out, with the narrative, or what stood in its place, and its scores if there were any."""

    case: Case
    reason: Reason
    detail: str = ""
    narrative: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
