"""Who gives a narrative its six scores: a judge at an endpoint, DermEval, or a rubric.  One interface for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from skinedge.evaluation.scores import Scores


@dataclass(frozen=True)
class Scorable:
    """A narrative to be scored.

    ``image`` for scorers that look, ``reference`` (a narrative known to be good) for those that compare, ``diagnosis``
    and ``findings`` for those that know the truth; each is ``None`` where there is none.
    """

    id: str
    text: str
    image: Path | None = None
    reference: str | None = None
    diagnosis: str | None = None
    findings: Mapping[str, str] | None = None


REFUSED = "refused: "


@dataclass(frozen=True)
class Scored:
    """The six scores, or ``None`` and why there are none: such a case is invalid, is counted, and is never repaired.

    ``answer`` is the scorer's raw answer, empty where it has no words.
    """

    id: str
    scores: Scores | None
    invalid: str = ""
    answer: str = ""

    @property
    def unanswered(self) -> bool:
        """Whether the scorer did not answer at all (busy, away, too slow): it may be asked again another time."""
        return self.scores is None and self.invalid.startswith(REFUSED) and not self.answer


class Scorer(Protocol):
    """Scores narratives."""

    def identity(self) -> Mapping[str, str]:
        """Who scores, in a form that changes whenever a score could: name, model, digest of its weights or prompts."""
        ...

    def needs(self) -> frozenset[str]:
        """Which fields of ``Scorable`` must be there: ``image``, ``reference``, ``diagnosis``, ``findings``."""
        ...

    def score(self, narratives: Sequence[Scorable]) -> Iterator[Scored]:
        """One result for each, in any order, as they come."""
        ...
