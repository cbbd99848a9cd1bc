"""Fitzpatrick17k: 16,577 pictures of two atlases, 114 conditions; the picture of a row is ``<md5hash>.jpg``."""

from __future__ import annotations

from pathlib import Path

from skinedge.evaluation.datasets import _fitzpatrick
from skinedge.evaluation.datasets._contract import Contents
from skinedge.evaluation.datasets._files import named

TITLE = "Fitzpatrick17k"
LICENCE = "CC BY-NC-SA 3.0 (labels); the photographs belong to the atlases they come from"
CITATION = "Groh et al. 2021, arXiv 2104.09957"
LOOKS_FOR = f"{_fitzpatrick.FILE} with the columns md5hash, fitzpatrick_scale, label, three_partition_label"
TASKS = _fitzpatrick.TASKS
YIELDS_TO = ("skincon",)


def find(place: Path) -> Path | None:
    """``fitzpatrick17k.csv``."""
    return named(place, _fitzpatrick.FILE)


def read(file: Path, images: Path, task: str) -> Contents:
    """``three-partition``: benign, malignant or non-neoplastic; ``nine-partition``; ``condition``: one of 114."""
    return _fitzpatrick.read_table_of(file, images, task)
