"""Benchmarks in their official layouts: a folder in, items with questions, truths and a rule of reading out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from skinedge.errors import CasesError, UsageError
from skinedge.evaluation.datasets._contract import Item, Layout
from skinedge.evaluation.labels import Rule
from skinedge.registry import check, load, names
from skinedge.weights.checkpoint import file_digest

_FOLDER = "evaluation/datasets"


@dataclass(frozen=True)
class Dataset:
    """A benchmark, read; ``digest`` is that of the file it is known by, ``images`` where its photographs were looked for."""

    layout: str
    task: str
    title: str
    licence: str
    citation: str
    file: Path
    images: Path
    digest: str
    items: tuple[Item, ...]
    rule: Rule
    notes: tuple[str, ...]


def known_layouts() -> tuple[str, ...]:
    """Names of all layouts."""
    return tuple(name.replace("_", "-") for name in names(_FOLDER))


def load_layout(name: str) -> Layout:
    """The module of a layout.

    Raises:
        UsageError: there is none of that name.
    """
    check("layout", name, known_layouts())
    return cast(Layout, load(_FOLDER, "layout", name.replace("-", "_")))


def open_dataset(place: Path, *, layout: str | None = None, images: Path | None = None, task: str | None = None) -> Dataset:
    """Read a benchmark.

    Args:
        place: its folder, or the file it is known by.
        layout: one of ``known_layouts``, by default the one that is found.
        images: the folder of its photographs, by default that of the file; names are looked for below it.
        task: one of the layout's ``TASKS``, by default the first.

    Raises:
        UsageError: there is no such folder, layout or task, or a column is missing.
        CasesError: a row cannot be understood, or an id is there twice.
    """
    for path in filter(None, (place, images)):
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder.", hint="Check the spelling, or give the full path.")
    if layout is None:
        layout, file = detect(place)
    else:
        found = load_layout(layout).find(place)
        if found is None:
            raise UsageError(f"{place} does not hold {layout}.", hint=f"It looks for {load_layout(layout).LOOKS_FOR}.")
        file = found
    module = load_layout(layout)
    chosen = check(f"task of {layout}", task or module.TASKS[0], module.TASKS)
    contents = module.read(file, images or file.parent, chosen)
    _check_ids(file, contents.items)
    return Dataset(
        layout, chosen, module.TITLE, module.LICENCE, module.CITATION, file, images or file.parent, file_digest(file),
        contents.items, contents.rule, contents.notes,
    )  # fmt: skip


def detect(place: Path) -> tuple[str, Path]:
    """The layout of a folder and the file it is known by.

    Raises:
        UsageError: it fits none, or more than one.
    """
    found: Mapping[str, Path] = {name: file for name in known_layouts() if (file := load_layout(name).find(place)) is not None}
    meant = [name for name in found if not set(load_layout(name).YIELDS_TO) & set(found)]
    if len(meant) == 1:
        return meant[0], found[meant[0]]
    if meant:
        raise UsageError(f"{place} fits the layouts {' and '.join(meant)}.", hint=f"Say which: --layout {meant[0]}")
    looked = "; ".join(f"{name}: {load_layout(name).LOOKS_FOR}" for name in known_layouts())
    raise UsageError(f"{place} holds no benchmark that is known.", hint=f"It was looked for {looked}.")


def _check_ids(file: Path, items: tuple[Item, ...]) -> None:
    if not items:
        raise CasesError(f"{file} has no items.")
    name, times = Counter(item.id for item in items).most_common(1)[0]
    if times > 1:
        raise CasesError(f"{file}: the id '{name}' is there {times} times.", hint="Remove the double rows.")
