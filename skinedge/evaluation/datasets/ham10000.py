"""HAM10000: 10,015 dermatoscopic pictures of 7,470 lesions, seven classes; ``HAM10000_metadata`` and its pictures below."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from skinedge.evaluation.cases import ImageFinder
from skinedge.evaluation.datasets._contract import Contents, Item, closed_question
from skinedge.evaluation.datasets._files import named, table_of
from skinedge.evaluation.labels import ClosedSet

TITLE = "HAM10000"
LICENCE = "CC BY-NC 4.0"
CITATION = "Tschandl et al. 2018, doi 10.1038/sdata.2018.161"
LOOKS_FOR = "HAM10000_metadata (.csv or .tab) with the columns lesion_id, image_id, dx"
TASKS = ("diagnosis",)
YIELDS_TO: tuple[str, ...] = ()
# The class descriptions of the data set; a class is right by any disease that it is made of.
CLASSES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "akiec": ("actinic keratosis or Bowen's disease", ("actinic keratosis", "bowens disease", "intraepithelial carcinoma",
              "squamous cell carcinoma in situ")),
    "bcc": ("basal cell carcinoma", ()),
    "bkl": ("benign keratosis", ("seborrheic keratosis", "solar lentigo", "lichen planus like keratosis",
            "benign keratosis like lesion")),
    "df": ("dermatofibroma", ()),
    "mel": ("melanoma", ()),
    "nv": ("melanocytic nevus", ()),
    "vasc": ("vascular lesion", ("angioma", "cherry angioma", "hemangioma", "angiokeratoma", "pyogenic granuloma", "hemorrhage")),
}  # fmt: skip


def find(place: Path) -> Path | None:
    """The metadata, whatever it was saved as."""
    return named(place, "HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata")


def read(file: Path, images: Path, task: str) -> Contents:  # noqa: ARG001  (there is one task)
    """Every picture; the lesion is the unit, for up to six pictures show the same one."""
    table = table_of(file, "lesion_id", "image_id", "dx")
    rule = ClosedSet({label: (code, *others) for code, (label, others) in CLASSES.items()})
    question, image_of, items = closed_question(rule.labels), ImageFinder(images), []
    for row in table.rows:
        code, picture = row.cells["dx"].casefold(), row.cells["image_id"]
        if code not in CLASSES:
            raise table.fault(row, "dx", f"'{row.cells['dx']}' is not one of {', '.join(CLASSES)}")
        if not picture:
            raise table.fault(row, "image_id", "it is empty")
        label = CLASSES[code][0]
        file_name = picture if picture.endswith(".jpg") else f"{picture}.jpg"
        lesion = row.cells["lesion_id"]
        items.append(Item(file_name.removesuffix(".jpg"), image_of(file_name), question, label, unit=lesion, diagnosis=label))
    return Contents(tuple(items), rule, ("Skin types are not known.",))
