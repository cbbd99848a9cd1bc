"""Dermatologists' scores: cases out as a sheet, scores and corrections back in.

A reviewer scores the narrative as it shall stand: one who corrects it scores the corrected one.  A row whose
six cells are empty has not been reviewed and changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skinedge.errors import CasesError, UsageError
from skinedge.evaluation.cases import SPLITS
from skinedge.evaluation.scores import DIMENSIONS, Thresholds, is_score
from skinedge.evaluation.tables import Row, Table, read_table, write_table
from train.corpus.card import card
from train.corpus.layers import parse_record
from train.corpus.records import IMAGES, Certificate, Corpus, Record, Refusal, read_corpus, relative, write_corpus

CORRECTED, REVIEWER = "corrected narrative", "reviewer"
COLUMNS = ("id", "image", "narrative", *DIMENSIONS, CORRECTED, REVIEWER)
_SHOWN_FAULTS = 5


@dataclass(frozen=True)
class Review:
    """What one reviewer says of one case; ``corrected`` is empty where nothing was changed."""

    id: str
    reviewer: str
    scores: Mapping[str, float]
    corrected: str


def export_review(folder: Path, sheet: Path, splits: Sequence[str], limit: int | None = None) -> int:
    """Write the cases of a corpus that no dermatologist has certified yet as a CSV with empty score cells.

    Returns: how many.

    Raises:
        OutputError: there is a file already.
    """
    corpus = read_corpus(folder)
    waiting = [record for name in splits for record in corpus.splits[name] if record.certified is None][:limit]
    blank = [""] * (len(COLUMNS) - 3)
    rows = [[r.id, relative(folder / r.images[0], sheet.parent), r.narrative, *blank] for r in waiting]
    write_table(sheet, COLUMNS, rows)
    return len(waiting)


def certify(folder: Path, sheet: Path, out: Path, least: float) -> tuple[int, int]:
    """Write a corpus anew with a sheet's scores: passed cases certified, corrections in place, failed cases rejected.

    Args:
        folder: the corpus that the sheet was exported from; it stays as it is.
        sheet: the CSV as it came back.
        out: the new folder.
        least: what each of the six scores must reach.

    Returns: how many were certified, how many rejected.

    Raises:
        CasesError: cells that cannot be meant, by row and column.
        OutputError: ``out`` is taken.
    """
    corpus = read_corpus(folder)
    reviews = read_reviews(sheet, {record.id: record for record in corpus.records})
    failed = {r.id: why for r in reviews.values() if (why := Thresholds(least, least).shortfall(r.scores))}
    splits = {
        name: [_moved(_reviewed(r, reviews.get(r.id)), folder, out) for r in corpus.splits[name] if r.id not in failed]
        for name in SPLITS
    }
    rejected = [one.model_copy(update={"image": relative(folder / one.image, out)}) for one in corpus.rejected]
    rejected += [_failed(r, failed[r.id], folder, out) for r in corpus.records if r.id in failed]
    by = f"`{sheet.name}`, sha256 `{hashlib.sha256(sheet.read_bytes()).hexdigest()}`, each score at least {least:g}"
    about = corpus.about.model_copy(update={"certified_by": "; ".join(filter(None, (corpus.about.certified_by, by)))})
    new = Corpus(about, splits, rejected)
    own = {Path(i).name: folder / i for r in new.records for i in r.images if i.startswith(f"{IMAGES}/")}
    write_corpus(out, new, card(new), {}, own)
    return len(reviews) - len(failed), len(failed)


def read_reviews(sheet: Path, records: Mapping[str, Record]) -> dict[str, Review]:
    """The reviewed rows of a sheet, by case id.

    Raises:
        CasesError: cells that cannot be meant; the first by row and column, more in the hint.
        UsageError: there is no such file, or a column is missing.
    """
    if not sheet.is_file():
        raise UsageError(f"{sheet}: no such file.", hint="Check the spelling.")
    table = read_table(sheet)
    for column in ("id", *DIMENSIONS, REVIEWER):
        if column.casefold() not in table.columns:
            raise UsageError(f"{sheet} has no column '{column}'.", hint="Export a sheet and keep its header as it is.")
    reviews: dict[str, Review] = {}
    faults: list[CasesError] = []
    for row in table.rows:
        try:
            for review in _review(table, row, records):
                if review.id in reviews:
                    raise table.fault(row, "id", f"case '{review.id}' has been scored in an earlier row")
                reviews[review.id] = review
        except CasesError as e:
            faults.append(e)
    if faults:
        more = "".join(f"\n  {e.message}" for e in faults[1:_SHOWN_FAULTS])
        raise CasesError(faults[0].message, hint=f"{len(faults)} rows have faults; nothing was changed.{more}")
    return reviews


def _review(table: Table, row: Row, records: Mapping[str, Record]) -> Iterator[Review]:
    """The row's review, if it has one."""
    name, corrected = row.cells["id"], row.cells.get(CORRECTED, "")
    if name not in records:
        raise table.fault(row, "id", f"there is no case '{name}' in this corpus")
    if not any(row.cells[dimension.casefold()] for dimension in DIMENSIONS):
        if corrected:
            raise table.fault(row, CORRECTED, "it is filled in, but the case is not scored")
        return
    scores = {dimension: _score(table, row, dimension) for dimension in DIMENSIONS}
    if not row.cells[REVIEWER]:
        raise table.fault(row, REVIEWER, "it is empty, and a certificate needs a name")
    yield Review(name, row.cells[REVIEWER], scores, _corrected(table, row, corrected, records[name]))


def _score(table: Table, row: Row, dimension: str) -> float:
    """A number from 0 to 5; a comma may be its decimal sign."""
    text = row.cells[dimension.casefold()]
    if not text:
        raise table.fault(row, dimension, "it is empty, though others of the six are filled in")
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        raise table.fault(row, dimension, f"'{text}' is not a number") from None
    if not is_score(value):
        raise table.fault(row, dimension, f"{text} is not between 0 and 5")
    return value


def _corrected(table: Table, row: Row, text: str, record: Record) -> str:
    """A corrected narrative in the form of all; empty if it says what was there."""
    if not text:
        return ""
    observation_and_reasoning, diagnosis = parse_record(text)
    if not observation_and_reasoning:
        raise table.fault(row, CORRECTED, "it is not of the form <think>…</think><answer>…</answer>")
    if diagnosis.casefold() != record.diagnosis.casefold():
        raise table.fault(row, CORRECTED, f"it answers '{diagnosis}' where the label is '{record.diagnosis}'")
    whole = f"<think>{observation_and_reasoning}</think><answer>{record.diagnosis}</answer>"
    return "" if whole == record.narrative else whole


def _reviewed(record: Record, review: Review | None) -> Record:
    if review is None:
        return record
    certificate = Certificate(reviewer=review.reviewer, scores=dict(review.scores), corrected=bool(review.corrected))
    said = record.messages[-1].model_copy(update={"content": review.corrected or record.narrative})
    return record.model_copy(update={"certified": certificate, "messages": [*record.messages[:-1], said]})


def _failed(record: Record, why: str, folder: Path, out: Path) -> Refusal:
    return Refusal(
        id=record.id,
        image=relative(folder / record.images[0], out),
        diagnosis=record.diagnosis,
        category=record.category,
        site=record.site,
        reason="low clinician score",
        detail=why,
        narrative=record.narrative,
        scores=record.scores,
    )


def _moved(record: Record, folder: Path, out: Path) -> Record:
    return record.model_copy(update={"images": [_image(image, folder, out) for image in record.images]})


def _image(image: str, folder: Path, out: Path) -> str:
    """An image's path in the new folder: the same where the corpus holds it, else another way to the same file."""
    return image if image.startswith(f"{IMAGES}/") else relative(folder / image, out)
