"""Diverse Dermatology Images: 656 biopsied lesions of three groups of skin tone; ``ddi_metadata.csv``."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from skinedge.evaluation.cases import ImageFinder
from skinedge.evaluation.datasets._contract import OPEN_QUESTION, Contents, Item, closed_question
from skinedge.evaluation.datasets._files import flag, named, table_of
from skinedge.evaluation.labels import ClosedSet, OpenName
from skinedge.parity.record import SKIN_GROUPS, UNKNOWN_SKIN

TITLE = "DDI"
LICENCE = "Stanford University Dataset Research Use Agreement: not commercial, not to be passed on"
CITATION = "Daneshjou et al. 2022, doi 10.1126/sciadv.abq6147"
LOOKS_FOR = "ddi_metadata.csv with the columns DDI_file, skin_tone, malignant, disease"
TASKS = ("disease", "malignancy")
YIELDS_TO: tuple[str, ...] = ()
_TONES = {"12": SKIN_GROUPS[0], "34": SKIN_GROUPS[1], "56": SKIN_GROUPS[2], "": UNKNOWN_SKIN}
_KINDS = {"malignant": (), "benign": ("non malignant", "not malignant")}


def find(place: Path) -> Path | None:
    """``ddi_metadata.csv``."""
    return named(place, "ddi_metadata.csv")


def read(file: Path, images: Path, task: str) -> Contents:
    """``disease``: any name, by the rules of DDI's judge; ``malignancy``: malignant or benign."""
    table = table_of(file, "DDI_file", "skin_tone", "malignant", "disease")
    rule = OpenName() if task == "disease" else ClosedSet(_KINDS)
    question = OPEN_QUESTION if task == "disease" else closed_question(tuple(_KINDS), "kind of lesion")
    image_of, items = ImageFinder(images), []
    for row in table.rows:
        tone, picture = row.cells["skin_tone"].removesuffix(".0"), row.cells["ddi_file"]
        if tone not in _TONES:
            raise table.fault(row, "skin_tone", f"'{tone}' is not 12, 34 or 56")
        for column in ("ddi_file", "disease"):
            if not row.cells[column]:
                raise table.fault(row, column, "it is empty")
        disease = " ".join(row.cells["disease"].replace("-", " ").replace("_", " ").split())
        malignant = "malignant" if flag(table, row, "malignant") else "benign"
        truth = disease if task == "disease" else malignant
        identity = PurePosixPath(picture).stem
        items.append(Item(identity, image_of(picture), question, truth, _TONES[tone], diagnosis=disease))
    return Contents(tuple(items), rule)
