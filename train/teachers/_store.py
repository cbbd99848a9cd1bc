"""A folder of features being written: which teacher, which pictures, which shards are there.

::

    OUT/teacher.json                          what the features are of; written first
    OUT/features-00001-of-00007.safetensors   one vector a picture; each shard appears whole

The command may be stopped at any moment: run again, it makes the shards that are missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from skinedge.console import counted
from skinedge.errors import OutputError
from skinedge.staging import refuse_taken, staged_file
from skinedge.weights.checkpoint import digest_of
from skinedge.weights.safetensors import header
from skinedge.weights.source import F32, Float32, TensorSpec
from train.errors import DataError
from train.teachers import Teacher
from train.teachers._pictures import Wanted

STORE_FILE = "teacher.json"
PART = 64  # pictures between two moves of the progress bar


@dataclass(frozen=True)
class Store:
    """What a folder of features is made of; ``pictures`` is a digest of their names and sizes in bytes."""

    teacher: str
    digest: str
    width: int
    pictures: str
    count: int
    shard: int

    @classmethod
    def of(cls, teacher: Teacher, wanted: Sequence[Wanted], shard: int) -> Store:
        """The store of ``teacher``'s features of ``wanted``, ``shard`` of them in a file."""
        pictures = digest_of([[w.key, w.path.name, w.path.stat().st_size] for w in wanted])
        return cls(teacher.name, teacher.digest, teacher.width, pictures, len(wanted), shard)

    @property
    def shards(self) -> int:
        """How many files there will be."""
        return -(-self.count // self.shard)

    def file(self, folder: Path, number: int) -> Path:
        """The file of shard ``number``, from 0."""
        return folder / f"features-{number + 1:05d}-of-{self.shards:05d}.safetensors"

    def missing(self, folder: Path) -> list[int]:
        """The shards that are not there yet."""
        return [i for i in range(self.shards) if not self.file(folder, i).is_file()]

    def pictures_of(self, number: int) -> range:
        """The pictures of shard ``number``."""
        return range(number * self.shard, min(self.count, (number + 1) * self.shard))


def fill(folder: Path, store: Store, teacher: Teacher, wanted: Sequence[Wanted], quiet: bool) -> None:
    """Compute the shards that are missing.

    Raises:
        ImageError: a photograph cannot be read; the shards before its own are kept.
        OutputError: a shard cannot be written.
    """
    parts = [part for number in store.missing(folder) for part in _parts(store, number)]
    rows: list[Float32] = []
    for part in counted("computing features", parts, quiet):
        rows.append(teacher.features([(wanted[i].id, wanted[i].path) for i in part]))
        number = part.start // store.shard
        if part.stop == store.pictures_of(number).stop:
            _write(store.file(folder, number), [wanted[i].key for i in store.pictures_of(number)], np.concatenate(rows))
            rows = []


def _parts(store: Store, number: int) -> list[range]:
    pictures = store.pictures_of(number)
    return [pictures[i : i + PART] for i in range(0, len(pictures), PART)]


def _write(path: Path, keys: Sequence[str], rows: Float32) -> None:
    with staged_file(path) as f:
        f.write(header(TensorSpec(key, row.shape, F32) for key, row in zip(keys, rows, strict=True)))
        f.write(np.ascontiguousarray(rows).tobytes())


def claim(folder: Path, store: Store) -> None:
    """Make ``folder`` the one of ``store``, or check that it is.

    Raises:
        OutputError: it holds something else; the first difference is named.
    """
    check(folder, store)
    if not (folder / STORE_FILE).is_file():
        with staged_file(folder / STORE_FILE) as f:
            f.write(json.dumps(asdict(store), indent=1).encode())


def check(folder: Path, store: Store) -> None:
    """Whether ``claim`` would succeed; raises what it raises."""
    if not (folder / STORE_FILE).is_file():
        refuse_taken(folder)
        return
    begun, wanted = asdict(read_store(folder)), asdict(store)
    for key in ("digest", "pictures", "count", "shard"):  # the digest covers the width; the name may be another path
        if begun[key] != wanted[key]:
            raise OutputError(
                f"{folder} holds features of another run: its {key} is {begun[key]} and not {wanted[key]}.",
                hint="Choose another --out, or remove it first.",
            )


def check_finished(folder: Path) -> None:
    """Refuse features whose computation was stopped.

    Raises:
        DataError: shards are missing.
    """
    if not (folder / STORE_FILE).is_file():
        return
    store = read_store(folder)
    if missing := store.missing(folder):
        raise DataError(
            f"{folder}: {len(missing)} of its {store.shards} files are missing, {store.file(folder, missing[0]).name} first.",
            hint="Run python -m train.teachers again with the same options to make them.",
        )


def read_store(folder: Path) -> Store:
    """What ``folder`` is made of.

    Raises:
        DataError: its ``teacher.json`` is damaged.
    """
    path = folder / STORE_FILE
    try:
        store = Store(**json.loads(path.read_text(encoding="utf-8")))
        if store.shard < 1:
            raise ValueError("no pictures in a file")
    except (OSError, ValueError, TypeError) as e:
        raise DataError(f"{path}: it does not say what the features are of ({e}).", hint="Remove the folder.") from e
    return store
