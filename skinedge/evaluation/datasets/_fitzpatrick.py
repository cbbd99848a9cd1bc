"""The table of Fitzpatrick17k, which SkinCon shares."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from skinedge.evaluation.cases import ImageFinder
from skinedge.evaluation.datasets._contract import Contents, Item, closed_question
from skinedge.evaluation.datasets._files import table_of
from skinedge.evaluation.labels import ClosedSet
from skinedge.evaluation.tables import Row, Table
from skinedge.parity.record import skin_group

FILE = "fitzpatrick17k.csv"
TASKS = ("three-partition", "nine-partition", "condition")
_COLUMNS = {"three-partition": "three_partition_label", "nine-partition": "nine_partition_label", "condition": "label"}
_WHAT = {"three-partition": "kind of disease", "nine-partition": "group of diseases", "condition": "disease"}
_WRONG = "3 Wrongly labelled"  # of the column qc, where a dermatologist looked again


def read_table_of(file: Path, images: Path, task: str, only: Collection[str] | None = None) -> Contents:
    """The rows, all or those whose md5hash is among ``only``; labels a dermatologist found wrong are left out."""
    table = table_of(file, "md5hash", "fitzpatrick_scale", "label", _COLUMNS[task])
    rows = [row for row in table.rows if only is None or row.cells["md5hash"] in only]
    good = [row for row in rows if row.cells.get("qc", "").casefold() != _WRONG.casefold()]
    column = _COLUMNS[task]
    labels = tuple(sorted({row.cells[column] for row in good if row.cells[column]}))
    question, image_of = closed_question(labels, _WHAT[task]), ImageFinder(images)
    items = tuple(_item(table, row, column, question, image_of) for row in good)
    wrong = len(rows) - len(good)
    notes = (f"{wrong} rows are left out: the data set's own check found them wrongly labelled.",) if wrong else ()
    return Contents(items, ClosedSet(dict.fromkeys(labels, ())), notes)


def _item(table: Table, row: Row, column: str, question: str, image_of: ImageFinder) -> Item:
    cells = row.cells
    for needed in ("md5hash", column):
        if not cells[needed]:
            raise table.fault(row, needed, "it is empty")
    scale = cells["fitzpatrick_scale"].removesuffix(".0")
    if scale not in ("", "-1", *"123456"):
        raise table.fault(row, "fitzpatrick_scale", f"'{scale}' is not -1 (unknown) or 1 to 6")
    skin = skin_group(int(scale) if scale in tuple("123456") else None)
    digest = cells["md5hash"]
    return Item(digest, image_of(f"{digest}.jpg"), question, cells[column], skin, diagnosis=cells["label"])
