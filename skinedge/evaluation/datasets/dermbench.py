"""DermBench: 4,000 narratives that clinicians certified, of DermNet photographs in 23 categories.

The narratives are a JSON Lines file; the photographs are DermNet's and the user's own, in folders named by category.
The ``diagnosis`` strings come from file names ("acne open comedo", "IMG004"): an answer is right by its category only,
and the benchmark's measure is the six dimensions that a scorer gives against the reference.
"""

from __future__ import annotations

from pathlib import Path

from skinedge.evaluation.cases import ImageFinder
from skinedge.evaluation.datasets._contract import Contents, Item
from skinedge.evaluation.datasets._files import json_lines, text_of, with_keys
from skinedge.evaluation.labels import Categories

TITLE = "DermBench"
LICENCE = "CC BY-NC 4.0"
CITATION = "Shen et al. 2025, arXiv 2511.09195"
LOOKS_FOR = "a JSON Lines file with the keys id, category, diagnosis, image, reference"
TASKS = ("narrative",)
YIELDS_TO: tuple[str, ...] = ()
QUESTION = (
    "You are shown a photograph of skin. Write a diagnostic narrative as a dermatologist would: describe morphology, colour, "
    "distribution and surface of what you see; name two or three diagnoses that could explain it, with what speaks for and "
    "against each; and say which is the most likely and why. Finish with one line: The answer is <disease>"
)


def find(place: Path) -> Path | None:
    """A file of records with references."""
    return with_keys(place, "id", "category", "diagnosis", "image", "reference")


def read(file: Path, images: Path, task: str) -> Contents:  # noqa: ARG001  (there is one task)
    """Every narrative; ``images`` is where the user's own photographs are."""
    image_of, items = ImageFinder(images), []
    for number, record in json_lines(file):
        identity, category, diagnosis, image, reference = (
            text_of(file, number, record, key) for key in ("id", "category", "diagnosis", "image", "reference")
        )
        items.append(Item(identity, image_of(image), QUESTION, category, diagnosis=diagnosis, reference=reference))
    rule = Categories.of((str(item.diagnosis), str(item.truth)) for item in items)
    return Contents(tuple(items), rule, ("Diagnoses come from file names: answers are right by their category.",))
