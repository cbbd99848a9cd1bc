"""Frozen means cached: what the frozen model and the teacher say of a data set, computed once and kept in shards.

With a side branch, the final hidden states at the supervised positions never change (REFERENCE section 2), nor
do the teacher's features and the pictures.  A cache is a folder::

    made_of.json                    digests of the model, the data, the teacher ... that it belongs to; written first
    shard-0000000-0000512.safetensors   records 0 to 511
    index.json                      sha256 of every shard, and how much each record holds; written last

Pictures are kept as the resized 8-bit values (``train.rows``): an eighth of the float32 patch rows, and exactly
those come back.  A shard appears whole, so an interrupted build goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skinedge.console import counted
from skinedge.errors import CheckpointError
from skinedge.staging import staged_file
from skinedge.weights.checkpoint import digest_of
from skinedge.weights.safetensors import SafetensorsFile
from skinedge.weights.source import Array
from train.batches import Batch, assemble
from train.errors import CacheError
from train.examples import Counts

LAYOUT = 1
MADE_OF_FILE = "made_of.json"
INDEX_FILE = "index.json"
_OTHER = {
    "model": "another model, tokenizer or image processor",
    "data": "other data (the records or their photographs)",
    "teacher": "another teacher",
    "precision": "another precision",
    "cutoff": "another cut-off length",
    "layout": "another version of this program",
}


@dataclass(frozen=True)
class MadeOf:
    """What a cache depends on: digests and settings."""

    model: str
    data: str
    teacher: str
    precision: str
    cutoff: int
    layout: int = LAYOUT

    @property
    def digest(self) -> str:
        """sha256 of all of it."""
        return digest_of(asdict(self))


@dataclass(frozen=True)
class Shard:
    """The records ``first`` to ``stop - 1``."""

    first: int
    stop: int
    sha256: str = ""

    @property
    def file(self) -> str:
        """Its file name."""
        return f"shard-{self.first:07d}-{self.stop:07d}.safetensors"


def claim(folder: Path, made_of: MadeOf) -> None:
    """Make ``folder`` the cache of ``made_of``, or check that it is.

    Raises:
        CacheError: it was made from something else, or is no cache.
    """
    path = folder / MADE_OF_FILE
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CacheError(f"{folder} exists and is no cache.", hint="Choose another --cache.")
        with staged_file(path) as f:
            f.write(json.dumps(asdict(made_of), indent=1).encode())
        return
    found = _read(path)
    for part, value in asdict(made_of).items():
        if found.get(part) != value:
            raise CacheError(
                f"the cache {folder} was made from {_OTHER[part]}.", hint="Remove it, or choose another folder with --cache."
            )


def missing_shards(folder: Path, plan: Sequence[Shard]) -> list[Shard]:
    """Those of ``plan`` that are not there yet."""
    return [shard for shard in plan if not (folder / shard.file).is_file()]


def write_index(folder: Path, plan: Sequence[Shard], ids: Sequence[str], counts: Sequence[Counts], skin: Sequence[int]) -> None:
    """Finish a cache whose shards are all there."""
    shards = [{"first": s.first, "stop": s.stop, "sha256": _sha256(folder / s.file)} for s in plan]
    records = {"ids": list(ids), "tokens": [c.tokens for c in counts], "patches": [list(c.patches) for c in counts]}
    (folder / INDEX_FILE).unlink(missing_ok=True)
    with staged_file(folder / INDEX_FILE) as f:
        f.write(json.dumps({"shards": shards, **records, "skin": list(skin)}).encode())


@dataclass(frozen=True)
class Index:
    """What ``index.json`` says."""

    shards: tuple[Shard, ...]
    ids: tuple[str, ...]
    counts: tuple[Counts, ...]
    skin: tuple[int, ...]


def read_index(folder: Path) -> Index | None:
    """The index of a finished cache, ``None`` if the cache is unfinished.

    Raises:
        CacheError: it is damaged.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        return None
    raw = _read(path)
    try:
        shards = tuple(Shard(**s) for s in raw["shards"])
        counts = tuple(Counts(t, tuple(p)) for t, p in zip(raw["tokens"], raw["patches"], strict=True))
        return Index(shards, tuple(raw["ids"]), counts, tuple(raw["skin"]))
    except (KeyError, TypeError, ValueError) as e:
        raise CacheError(f"{path} is damaged.", hint="Remove it and run the same command again.") from e


def verify(folder: Path, index: Index, *, quiet: bool) -> None:
    """Read every shard once and compare it with what was written.

    Raises:
        CacheError: one differs; it is named.
    """
    for shard in counted("checking the cache", index.shards, quiet):
        if _sha256(folder / shard.file) != shard.sha256:
            raise CacheError(
                f"{folder / shard.file} is damaged: it is not what was written.",
                hint="Remove this file and run the same command again: only this shard is made anew.",
            )


class CachedSource:
    """A finished cache as a ``train.batches.Source``; shards are mapped, not read."""

    def __init__(self, folder: Path, index: Index, table: npt.NDArray[np.generic]) -> None:
        self.counts, self.ids, self.skin = index.counts, index.ids, index.skin
        self._table = table
        self._files: list[SafetensorsFile] = []
        self._home: list[tuple[int, int, int, int]] = []  # per record: shard, first token, first patch, first image
        for number, shard in enumerate(index.shards):
            self._files.append(_open(folder / shard.file))
            token = patch = image = 0
            for counts in index.counts[shard.first : shard.stop]:
                self._home.append((number, token, patch, image))
                token, patch, image = token + counts.tokens, patch + sum(counts.patches), image + len(counts.patches)

    def batch(self, indices: Sequence[int]) -> Batch:
        teacher = [self._read(i, "teacher") for i in indices] if "teacher" in self._files[0].names() else None
        return assemble(
            [self.ids[i] for i in indices],
            [self._read(i, "hidden") for i in indices],
            [self._read(i, "labels")[:, 0] for i in indices],
            [np.split(self._read(i, "rows"), np.cumsum(self.counts[i].patches)[:-1]) for i in indices],
            [self.skin[i] for i in indices],
            teacher,
            self._table,
        )

    def _read(self, record: int, name: str) -> Any:
        """The record's rows of a tensor ``[tokens, patches or images of the shard, ...]``."""
        shard, token, patch, image = self._home[record]
        counts = self.counts[record]
        start, length = {"rows": (patch, sum(counts.patches)), "teacher": (image, len(counts.patches))}.get(
            name, (token, counts.tokens)
        )
        return self._files[shard].read(name, slice(start, start + length))


def plan_shards(counts: Sequence[Counts], token_bytes: int, patch_bytes: int, image_bytes: int, most: int) -> tuple[Shard, ...]:
    """Cut the records into shards of at most ``most`` bytes (a record larger than that has one to itself)."""
    shards, first, held = [], 0, 0
    for number, c in enumerate(counts):
        nbytes = c.tokens * token_bytes + sum(c.patches) * patch_bytes + len(c.patches) * image_bytes
        if held and held + nbytes > most:
            shards.append(Shard(first, number))
            first, held = number, 0
        held += nbytes
    return (*shards, Shard(first, len(counts)))


def write_shard(path: Path, arrays: dict[str, Array]) -> None:
    """Write a shard; it appears whole."""
    from skinedge.weights.safetensors import header
    from skinedge.weights.source import TensorSpec

    with staged_file(path) as f:
        f.write(header([TensorSpec(name, a.shape, a.dtype) for name, a in arrays.items()]))
        for array in arrays.values():
            f.write(np.ascontiguousarray(array).tobytes())


def _open(path: Path) -> SafetensorsFile:
    try:
        return SafetensorsFile(path)
    except CheckpointError as e:
        raise CacheError(e.message, hint="Remove this file and run the same command again: only it is made anew.") from e


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise CacheError(f"{path} is damaged: it is not JSON.", hint="Remove the cache and run the same command again.") from e
    if not isinstance(found, dict):
        raise CacheError(f"{path} is damaged: it is not a JSON object.", hint="Remove the cache and run the same command again.")
    return found
