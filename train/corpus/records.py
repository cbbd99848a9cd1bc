"""A corpus on disk: records, rejections and what it was made from, in a folder that trains as it is.

A line of ``train.jsonl``, ``val.jsonl`` and ``test.jsonl`` has the layout of the authors' data (REFERENCE, section
2) and a few fields more; image paths are relative to the folder.  ``skin_labels`` is left out where the skin type is
not known.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from skinedge.errors import CasesError, UsageError
from skinedge.evaluation.cases import SPLITS
from skinedge.evaluation.pictures import copy_without_metadata
from skinedge.runtime.prompt import DEFAULT_QUESTION
from skinedge.staging import staged
from train.corpus.outcomes import Rejection, Told

ABOUT_FILE, REJECTED_FILE, CARD_FILE, IMAGES = "corpus.json", "rejected.jsonl", "README.md", "images"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Message(_Strict):
    """One turn; the user's begins with ``<image>``."""

    role: str
    content: str


class Certificate(_Strict):
    """A dermatologist's word for a case."""

    reviewer: str
    scores: dict[str, float]
    corrected: bool


class Record(_Strict):
    """One case to train on; ``scores`` are the teacher's."""

    id: str
    messages: list[Message]
    images: list[str]
    diagnosis: str
    category: str
    site: str | None = None
    patient: str | None = None
    fitzpatrick: int | None = None
    skin_labels: int | None = None
    image_sha256: str
    scores: dict[str, float]
    certified: Certificate | None = None

    @property
    def narrative(self) -> str:
        return self.messages[-1].content


class Refusal(_Strict):
    """One case that was left out."""

    id: str
    image: str
    diagnosis: str
    category: str
    site: str | None = None
    reason: str
    detail: str = ""
    narrative: str = ""
    scores: dict[str, float] | None = None


class About(_Strict):
    """What a corpus was made from, by whom and how; ``settings_digest`` fixes all of it but the answers."""

    cases_file: str
    cases_sha256: str
    cases: int
    descriptions_given: int
    teacher: str
    judge: str
    settings: dict[str, str | int | float | bool]
    settings_digest: str
    notes: list[str]
    certified_by: str = ""


@dataclass(frozen=True)
class Corpus:
    """All of it; ``splits`` has the names of ``SPLITS``."""

    about: About
    splits: Mapping[str, Sequence[Record]]
    rejected: Sequence[Refusal]

    @property
    def records(self) -> list[Record]:
        return [record for name in SPLITS for record in self.splits[name]]


def record_of(one: Told, out: Path, copied: bool) -> Record:
    """A record for a corpus in the folder ``out``."""
    case = one.case
    image = f"{IMAGES}/{copy_name(one)}" if copied else relative(case.image, out)
    question = Message(role="user", content=f"<image>{DEFAULT_QUESTION}")
    return Record(
        id=case.id,
        messages=[question, Message(role="assistant", content=one.narrative.text)],
        images=[image],
        diagnosis=case.diagnosis,
        category=case.category,
        site=case.site or None,
        patient=case.patient or None,
        fitzpatrick=case.fitzpatrick,
        skin_labels=None if case.fitzpatrick is None else (case.fitzpatrick - 1) // 2,
        image_sha256=one.image_digest,
        scores=dict(one.scores),
    )


def refusal_of(rejection: Rejection, out: Path) -> Refusal:
    """A line of ``rejected.jsonl`` for a corpus in the folder ``out``."""
    case = rejection.case
    return Refusal(
        id=case.id,
        image=relative(case.image, out),
        diagnosis=case.diagnosis,
        category=case.category,
        site=case.site or None,
        reason=rejection.reason,
        detail=rejection.detail,
        narrative=rejection.narrative,
        scores=dict(rejection.scores) or None,
    )


def copy_name(one: Told) -> str:
    """What a copied picture is called: by its content, which no two of a corpus share."""
    return f"{one.image_digest[:16]}.jpg"


def relative(image: Path, out: Path) -> str:
    """``image`` as seen from the folder ``out``; the whole path where there is no way (another drive)."""
    try:
        return Path(os.path.relpath(image.resolve(), out.resolve())).as_posix()
    except ValueError:
        return image.resolve().as_posix()


def write_corpus(out: Path, corpus: Corpus, card: str, copies: Mapping[str, Path], own: Mapping[str, Path]) -> None:
    """Write a corpus, whole or not at all.

    Args:
        out: the new folder.
        corpus: what goes in.
        card: its ``README.md``.
        copies: photographs to copy without their metadata, by their new name.
        own: pictures of an earlier corpus to take over as they are, by name.

    Raises:
        OutputError: the place is taken or cannot be written.
    """
    with staged(out) as folder:
        if copies or own:
            (folder / IMAGES).mkdir()
        for name, source in copies.items():
            copy_without_metadata(source, folder / IMAGES / name)
        for name, source in own.items():
            shutil.copyfile(source, folder / IMAGES / name)
        for name in SPLITS:
            _write_lines(folder / f"{name}.jsonl", corpus.splits[name])
        _write_lines(folder / REJECTED_FILE, corpus.rejected)
        about = json.dumps(corpus.about.model_dump(), indent=2, sort_keys=True, ensure_ascii=False)
        (folder / ABOUT_FILE).write_text(about + "\n", encoding="utf-8", newline="\n")
        (folder / CARD_FILE).write_text(card, encoding="utf-8", newline="\n")


def read_corpus(folder: Path) -> Corpus:
    """Read a corpus that ``write_corpus`` wrote.

    Raises:
        UsageError: there is none.
        CasesError: a line of it is damaged.
    """
    if not (folder / ABOUT_FILE).is_file():
        raise UsageError(
            f"{folder} is not a corpus: it has no {ABOUT_FILE}.", hint="Give a folder that train.corpus build wrote."
        )
    about = _parsed(About, (folder / ABOUT_FILE).read_bytes(), ABOUT_FILE)
    splits = {name: _read_lines(folder / f"{name}.jsonl", Record) for name in SPLITS}
    return Corpus(about, splits, _read_lines(folder / REJECTED_FILE, Refusal))


_Line = TypeVar("_Line", bound=BaseModel)


def _write_lines(path: Path, lines: Sequence[BaseModel]) -> None:
    text = "".join(json.dumps(line.model_dump(exclude_none=True), ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8", newline="\n")


def _read_lines(path: Path, kind: type[_Line]) -> list[_Line]:
    lines = path.read_bytes().split(b"\n")
    return [_parsed(kind, line, f"{path.name}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _parsed(kind: type[_Line], text: bytes, where: str) -> _Line:
    try:
        return kind.model_validate_json(text)
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        raise CasesError(f"{where}: {field} cannot be used ({first['msg'].lower()}).") from e
