"""A folder of features being written: which teacher, which pictures, which shards are there.

::

    OUT/teacher.json                          what the features are of; written first
    OUT/features-00001-of-00007.safetensors   one vector a picture; each shard appears whole

The command may be stopped at any moment: run again, it makes the shards that are missing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from skinedge.errors import OutputError
from skinedge.staging import refuse_taken, staged_file
from train.errors import DataError

STORE_FILE = "teacher.json"


@dataclass(frozen=True)
class Store:
    """What a folder of features is made of; ``pictures`` is a digest of their names and sizes."""

    teacher: str
    digest: str
    width: int
    pictures: str
    shards: int

    def shard(self, folder: Path, number: int) -> Path:
        """The file of shard ``number``, from 0."""
        return folder / f"features-{number + 1:05d}-of-{self.shards:05d}.safetensors"

    def missing(self, folder: Path) -> list[int]:
        """The shards that are not there yet."""
        return [i for i in range(self.shards) if not self.shard(folder, i).is_file()]


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
    for key, value in wanted.items():
        if begun[key] != value:
            raise OutputError(
                f"{folder} holds features of another run: its {key} is {begun[key]} and not {value}.",
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
            f"{folder}: {len(missing)} of its {store.shards} shards are missing, {store.shard(folder, missing[0]).name} first.",
            hint="Run python -m train.teachers again with the same options to make them.",
        )


def read_store(folder: Path) -> Store:
    """What ``folder`` is made of.

    Raises:
        DataError: its ``teacher.json`` is damaged.
    """
    path = folder / STORE_FILE
    try:
        return Store(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as e:
        raise DataError(f"{path}: it does not say what the features are of ({e}).", hint="Remove the folder.") from e
