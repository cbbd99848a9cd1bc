"""Held-out records and how well their pictures were diagnosed: accuracy, skin groups, findings, structure.

Right is an answer whose ``<answer>`` names the record's diagnosis, letter case and a full stop apart; no synonym
counts, and an answer without ``<answer>`` is wrong.  Intervals are Wilson's (``skinedge.parity.statistics``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from skinedge.console import Json
from skinedge.evaluation.structure import check_structure
from skinedge.parity.record import SKIN_GROUPS
from skinedge.parity.statistics import Share
from skinedge.registry import check
from skinedge.runtime.prompt import Message
from skinedge.synthderm.findings import VOCABULARY
from skinedge.synthderm.narrative import read_answer, read_findings
from train.data import read_records
from train.errors import DataError

OTHER = "other"  # a diagnosis that no record has, or none


@dataclass(frozen=True)
class HeldOut:
    """A record with what is true of it; ``messages`` end before the assistant speaks."""

    id: str
    messages: tuple[Message, ...]
    images: tuple[Path, ...]
    diagnosis: str
    skin: int  # 0, 1, 2, or train.data.NO_LABEL
    findings: Mapping[str, str] | None


@dataclass(frozen=True)
class Verdict:
    """What became of one picture."""

    id: str
    text: str
    truth: str
    said: str | None
    skin: int
    well_formed: bool
    findings: Mapping[str, str] | None
    claims: Mapping[str, str]

    @property
    def correct(self) -> bool:
        """Whether the diagnosis is right."""
        return self.said is not None and _plain(self.said) == _plain(self.truth)


@dataclass(frozen=True)
class FindingScore:
    """One finding over all pictures: said rightly, said at all, there to be said, and its commonest value."""

    right: int
    claimed: int
    possible: int
    commonest: int

    @property
    def precision(self) -> float | None:
        """Share of the claims that are true; ``None`` where nothing was claimed."""
        return self.right / self.claimed if self.claimed else None

    @property
    def recall(self) -> float:
        """Share of the findings that were said, and rightly."""
        return self.right / self.possible


@dataclass(frozen=True)
class Report:
    """All pictures together.  ``findings`` is empty where the records tell none."""

    accuracy: Share
    groups: Mapping[str, Share]
    structure: Share
    findings: Mapping[str, FindingScore]
    confusion: Mapping[str, Mapping[str, int]]  # truth -> said -> pictures

    @property
    def worst_group(self) -> str | None:
        """The skin group with the lowest accuracy."""
        return min(self.groups, key=lambda g: self.groups[g].value, default=None)

    @property
    def worst_gap(self) -> float:
        """By how much the accuracy of the worst skin group is below that of all pictures."""
        return self.accuracy.value - self.groups[self.worst_group].value if self.worst_group else 0.0

    @property
    def commonest(self) -> Share:
        """What one gets right who always names the commonest diagnosis."""
        return Share(max(sum(said.values()) for said in self.confusion.values()), self.accuracy.n)

    @property
    def all_findings(self) -> FindingScore | None:
        """All findings together."""
        parts = self.findings.values()
        sums = (sum(getattr(p, name) for p in parts) for name in ("right", "claimed", "possible", "commonest"))
        return FindingScore(*sums) if parts else None

    def to_json(self) -> dict[str, Json]:
        """One JSON object."""
        all_findings = self.all_findings
        return {
            "accuracy": share_json(self.accuracy),
            "commonest_diagnosis": self.commonest.value,
            "skin_groups": {name: share_json(share) for name, share in self.groups.items()},
            "worst_group": self.worst_group,
            "worst_gap": self.worst_gap,
            "structure": share_json(self.structure),
            "findings": None if all_findings is None else _finding_json(all_findings),
            "by_finding": {name: _finding_json(score) for name, score in self.findings.items()},
            "confusion": {truth: dict(said) for truth, said in self.confusion.items()},
        }


def read_held_out(file: Path, limit: int | None = None) -> tuple[HeldOut, ...]:
    """The first ``limit`` records of a JSON Lines file with their truth.

    ``diagnosis`` is the record's own, or what its narrative answers; ``findings`` may be missing.

    Raises:
        DataError: a record cannot be read, or nothing says what is right.
    """
    records = read_records([file])[:limit]
    held_out = []
    for record, raw in zip(records, read_lines(file), strict=False):
        spoken = next(i for i, m in enumerate(record.messages) if m.role == "assistant")
        narrative = cast(str, record.messages[spoken].content)
        diagnosis = raw.get("diagnosis", read_answer(narrative))
        if not isinstance(diagnosis, str) or not diagnosis.strip():
            raise DataError(f"{record.where}: it says no diagnosis.", hint='Add "diagnosis", or an <answer> in its narrative.')
        found = _findings(raw.get("findings"), record.where)
        held_out.append(HeldOut(record.id, record.messages[:spoken], record.images, diagnosis.strip(), record.skin, found))
    return tuple(held_out)


def read_lines(file: Path) -> Iterator[dict[str, object]]:
    """The JSON objects of a file that is known to hold one a line."""
    with file.open(encoding="utf-8") as f:
        yield from (json.loads(line) for line in f if line.strip())


def judge(record: HeldOut, text: str) -> Verdict:
    """Compare an answer with what is true."""
    claims = read_findings(text) if record.findings is not None else {}
    well_formed = check_structure(text).valid
    return Verdict(record.id, text, record.diagnosis, read_answer(text), record.skin, well_formed, record.findings, claims)


def summarise(verdicts: Sequence[Verdict]) -> Report:
    """All verdicts in figures; there must be at least one."""
    groups = {
        name: Share(sum(v.correct for v in group), len(group))
        for label, name in enumerate(SKIN_GROUPS)
        if (group := [v for v in verdicts if v.skin == label])
    }
    return Report(
        accuracy=Share(sum(v.correct for v in verdicts), len(verdicts)),
        groups=groups,
        structure=Share(sum(v.well_formed for v in verdicts), len(verdicts)),
        findings=_score_findings(verdicts),
        confusion=_confusion(verdicts),
    )


def share_json(share: Share) -> Json:
    """A share with its interval."""
    return {"value": share.value, "low": share.interval.low, "high": share.interval.high, "right": share.successes, "n": share.n}


def _score_findings(verdicts: Sequence[Verdict]) -> dict[str, FindingScore]:
    told = [(v.findings, v.claims) for v in verdicts if v.findings is not None]
    return {
        finding: FindingScore(
            right=sum(claims.get(finding) == truth[finding] for truth, claims in told),
            claimed=sum(finding in claims for _, claims in told),
            possible=len(told),
            commonest=max(Counter(truth[finding] for truth, _ in told).values()),
        )
        for finding in (VOCABULARY if told else ())
    }


def _confusion(verdicts: Sequence[Verdict]) -> dict[str, dict[str, int]]:
    known = {_plain(v.truth): v.truth for v in sorted(verdicts, key=lambda v: v.truth)}
    table = {truth: dict.fromkeys((*known.values(), OTHER), 0) for truth in known.values()}
    for v in verdicts:
        said = OTHER if v.said is None else known.get(_plain(v.said), OTHER)
        table[known[_plain(v.truth)]][said] += 1
    return table


def _findings(raw: object, where: str) -> Mapping[str, str] | None:
    if raw is None:
        return None
    if not isinstance(raw, dict) or set(raw) != set(VOCABULARY):
        raise DataError(f"{where}: 'findings' must have exactly the keys {', '.join(VOCABULARY)}.")
    return {name: check(f"{name} in {where}", str(raw[name]), values) for name, values in VOCABULARY.items()}


def _finding_json(score: FindingScore) -> Json:
    return {
        "precision": score.precision,
        "recall": score.recall,
        "always_the_commonest": score.commonest / score.possible,
        "right": score.right,
        "claimed": score.claimed,
        "possible": score.possible,
    }


def _plain(diagnosis: str) -> str:
    return diagnosis.strip().rstrip(".").strip().casefold()
