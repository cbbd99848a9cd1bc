"""Which items of a benchmark are asked: a split, none that the model was trained on, and few of them fairly drawn."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from skinedge.errors import UsageError
from skinedge.evaluation.datasets._contract import Item


@dataclass(frozen=True)
class Selection:
    """What is asked: ``seen`` is a file of names (pictures, lesions or patients, one a line) that training used."""

    split: str | None = None
    limit: int | None = None
    seed: int = 0
    seen: Path | None = None


@dataclass(frozen=True)
class Chosen:
    """The items, in the benchmark's order, how many were left out because training used them, and what is not there."""

    items: tuple[Item, ...]
    missing: tuple[str, ...]
    left_out_as_seen: int


def choose(items: Sequence[Item], how: Selection, images: Path) -> Chosen:
    """Apply a selection; photographs that are missing are named, and a limit counts only those that are there.

    ``images`` is where they were looked for.

    Raises:
        UsageError: nothing is left, there is no such split, or the file of names cannot be read.
    """
    splits = sorted({item.split for item in items if item.split})
    if how.split and how.split not in splits:
        has = f"It has: {', '.join(splits)}." if splits else "It has none: leave --split out."
        raise UsageError(f"the benchmark has no split '{how.split}'.", hint=has)
    wanted = [item for item in items if not how.split or item.split == how.split]
    unseen = _without(wanted, _names(how.seen)) if how.seen else wanted
    there = [item for item in unseen if item.image.is_file()]
    missing = tuple(item.id for item in unseen if not item.image.is_file())
    if not there and missing:
        first = next(item.image for item in unseen)
        raise UsageError(
            f"not one of {len(missing)} photographs is there; the first is {first.name}.",
            hint=f"They were looked for in {images} and below; say where they are: --images DIR",
        )
    if not there:
        raise UsageError("nothing is left to ask.", hint="Training used all of it: use another split or benchmark.")
    return Chosen(tuple(draw(there, how.limit, how.seed)), missing, len(wanted) - len(unseen))


def draw(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """At most ``limit`` items in their order: of each skin group and label its share, no lesion or patient twice if that will do.

    The same seed gives the same items, and a larger limit adds to them.
    """
    if limit is None or limit >= len(items):
        return list(items)
    shuffled = sorted(items, key=lambda item: _hash(seed, item.id))
    strata: dict[tuple[str, str], list[Item]] = defaultdict(list)
    again: Counter[str] = Counter()
    rank: dict[str, tuple[int, float, str]] = {}
    repeats = {}
    for item in shuffled:
        repeats[item.id] = again[item.unit]
        again[item.unit] += 1
        strata[item.skin, item.truth or ""].append(item)
    for members in strata.values():
        members.sort(key=lambda item: repeats[item.id])
        for place, item in enumerate(members):
            rank[item.id] = (repeats[item.id], (place + 0.5) / len(members), _hash(seed, item.id))
    kept = {item.id for item in sorted(shuffled, key=lambda item: rank[item.id])[:limit]}
    return [item for item in items if item.id in kept]


def _hash(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def _names(file: Path) -> set[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{file} cannot be read: {e}.", hint="Give a text file with one name a line with --seen.") from e
    return {PurePosixPath(line.strip()).stem for line in lines if line.strip()}


def _without(items: Sequence[Item], names: set[str]) -> list[Item]:
    """What shares no lesion or patient with a picture that was seen."""
    seen = {item.unit for item in items if {item.id, item.unit, item.image.stem} & names}
    return [item for item in items if item.unit not in seen]
