"""One model on one benchmark as a document: what ``skinedge evaluate`` writes and ``skinedge compare`` reads.

Every figure can be made again from ``answers``; the raw texts are in the journal beside the document, by ``key``.
Photographs appear as digests, never by content.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from skinedge.errors import UsageError
from skinedge.manifest import Sha256
from skinedge.measure.document import Document, Record, read_json, validated

SCHEMA_VERSION = 1
KIND = "evaluation"


class ModelRecord(Record):
    """Who answered; ``identity`` changes whenever an answer could, ``settings`` are how it was asked."""

    name: str
    identity: dict[str, str]
    settings: dict[str, str | int | float]


class DatasetRecord(Record):
    """What was asked: ``digest`` is that of the benchmark's own file, ``rule`` how answers were read."""

    layout: str
    task: str
    title: str
    licence: str
    citation: str
    digest: Sha256
    items: int = Field(ge=1)
    labels: tuple[str, ...]
    rule: str
    notes: tuple[str, ...] = ()


class SelectionRecord(Record):
    """Which of its items; ``question`` is set where another than the benchmark's own was asked."""

    split: str | None
    limit: int | None
    seed: int
    left_out_as_seen: int = Field(ge=0)
    question: str | None


class AnswerRecord(Record):
    """One item: what is true, what was said, and how it was judged.

    ``well_formed``: whether it is ``<think>…</think><answer>…</answer>`` and nothing else; ``scores`` are the six, or ``None``
    and ``unscored`` says why.
    """

    id: str
    key: Sha256
    image: Sha256
    unit: str
    skin: str
    truth: str | None
    said: str | None
    correct: bool | None
    reason: str
    finish: str
    prompt_tokens: int
    tokens: int
    well_formed: bool
    scores: dict[str, float] | None = None
    unscored: str | None = None


class FailureRecord(Record):
    """An item that got no answer, and why."""

    id: str
    why: str


class ShareRecord(Record):
    """``right`` of ``n`` with Wilson's interval of 95 %."""

    right: int = Field(ge=0)
    n: int = Field(ge=1)
    value: float
    low: float
    high: float


class MeanRecord(Record):
    """A mean or rate with its bootstrap interval of 95 %, resampled by unit."""

    value: float
    low: float
    high: float
    n: int = Field(ge=1)


class FiguresRecord(Record):
    """What the answers come to; ``None`` where the benchmark or the run has nothing to make it from.

    ``units`` are independent cases (lesions, patients): where there are fewer than answers, ``accuracy_by_unit`` is the
    interval to read.  ``reasons`` count why answers were wrong, ``cut_off`` the answers that met the limit of tokens.
    """

    answered: int = Field(ge=0)
    units: int = Field(ge=0)
    cut_off: int = Field(ge=0)
    accuracy: ShareRecord | None
    accuracy_by_unit: MeanRecord | None
    commonest: float | None
    balanced_accuracy: MeanRecord | None
    groups: dict[str, ShareRecord]
    worst_group: str | None
    recall: dict[str, ShareRecord]
    confusion: dict[str, dict[str, int]]
    reasons: dict[str, int]
    structure: ShareRecord | None
    dimensions: dict[str, MeanRecord]
    mean_score: MeanRecord | None
    unscored: int = Field(ge=0)


class Evaluation(Document):
    """The whole run.  ``missing`` are items whose photograph is not there, ``failed`` those that got no answer."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["evaluation"] = "evaluation"
    skinedge: str
    time: str  # UTC, ISO 8601
    seconds: float = Field(ge=0)  # this run's, not counting answers that were in the journal
    reused: int = Field(ge=0)  # answers that were
    versions: dict[str, str]
    model: ModelRecord
    dataset: DatasetRecord
    selection: SelectionRecord
    judge: dict[str, str] | None
    figures: FiguresRecord
    missing: tuple[str, ...]
    failed: tuple[FailureRecord, ...]
    answers: tuple[AnswerRecord, ...]


def read_evaluation(path: Path) -> Evaluation:
    """Read and check a result.

    Raises:
        UsageError: it is missing, too large, of another version, or no result of ``skinedge evaluate``.
    """
    make = "Make one: skinedge evaluate MODEL --data DIR --out result.json"
    text, raw = read_json(path, "an evaluation", make)
    if not isinstance(raw, dict) or raw.get("kind") != KIND:
        raise UsageError(f"{path} is no evaluation.", hint=make)
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: its schema version is {raw.get('schema_version')!r} and this skinedge reads {SCHEMA_VERSION}.",
            hint="Use the skinedge that wrote it, or evaluate again: the journal keeps the answers.",
        )
    return validated(Evaluation, path, text, "evaluation", "evaluate again: the journal keeps the answers.")
