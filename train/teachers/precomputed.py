"""Features computed elsewhere: a folder of safetensors files and/or ``.npy`` files, one vector a picture.

A vector's name (the tensor's name; a ``.npy`` file's path within the folder, without its suffix) is one of

- ``<record id>/<image stem>``: for records with several pictures,
- ``<record id>``,
- ``<image stem>``,

looked for in this order.  ``python -m train.teachers`` writes such a folder.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skinedge.errors import CheckpointError, UsageError
from skinedge.weights.safetensors import SafetensorsFile
from skinedge.weights.source import BF16, Array, Float32, tensor
from train.errors import DataError
from train.teachers import Picture, Teacher
from train.teachers._store import check_finished

_FLOATS = (np.dtype(np.float16), BF16, np.dtype(np.float32), np.dtype(np.float64))
_LAYOUT = "Every picture has one vector; see train/teachers/precomputed.py."


def open_teacher(argument: str) -> Teacher:
    """The features in the folder ``argument``.

    Raises:
        UsageError: there is no such folder.
        DataError: it holds no features, or vectors of different widths.
        CheckpointError: a file in it is damaged.
    """
    if not argument or not Path(argument).is_dir():
        raise UsageError(
            f"the teacher precomputed needs a folder of features, and '{argument}' is none.", hint="Write precomputed:DIR."
        )
    return Precomputed(Path(argument))


class Precomputed:
    """A folder of features, opened and not read."""

    def __init__(self, folder: Path) -> None:
        check_finished(folder)
        self.name = f"precomputed:{folder}"
        self._folder = folder
        self._files = sorted(p for suffix in ("safetensors", "npy") for p in folder.rglob(f"*.{suffix}"))
        self._read: dict[str, Callable[[], Array]] = {}
        self._used: dict[str, Path] = {}
        widths: dict[int, str] = {}
        for file in self._files:
            for name, width in self._index(file).items():
                widths.setdefault(width, name)
        if not widths:
            raise DataError(f"{folder}: there are no features in it, neither .safetensors nor .npy.", hint=_LAYOUT)
        if len(widths) > 1:
            (one, first), (other, second) = list(widths.items())[:2]
            raise DataError(f"{folder}: the vector '{first}' has {one} values and '{second}' has {other}.", hint=_LAYOUT)
        self.width = next(iter(widths))

    @cached_property
    def digest(self) -> str:
        """sha256 over the names and contents of the files."""
        total = hashlib.sha256(b"precomputed\n")
        for path in self._files:
            with path.open("rb") as f:
                name = path.relative_to(self._folder).as_posix()
                total.update(f"{name}\0{hashlib.file_digest(f, 'sha256').hexdigest()}\n".encode())
        return total.hexdigest()

    def features(self, records: Sequence[Picture]) -> Float32:
        """``[n, width]``.

        Raises:
            DataError: a record has no vector, or one that is not finite, or the same as another picture's.
        """
        rows = [self._row(identity, path) for identity, path in records]
        return np.stack(rows) if rows else np.empty((0, self.width), np.float32)

    def _row(self, identity: str, path: Path) -> Float32:
        name = self._name(identity, path)
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is named below
            row = self._read[name]().reshape(self.width).astype(np.float32)
        if not np.isfinite(row).all():
            raise DataError(f"{self._folder}: the vector '{name}' of record '{identity}' holds a value that is not finite.")
        return row

    def _name(self, identity: str, path: Path) -> str:
        for name in (f"{identity}/{path.stem}", identity, path.stem):
            if name in self._read:
                if (other := self._used.setdefault(name, path)) != path:
                    raise DataError(
                        f"{self._folder}: the vector '{name}' would stand for two pictures, {other} and {path}.",
                        hint="Name the vectors <record id>/<image stem>.",
                    )
                return name
        raise DataError(
            f"{self._folder}: there are no features of record '{identity}' ({path.name}).",
            hint=f"It was looked for as '{identity}/{path.stem}', '{identity}' and '{path.stem}'.",
        )

    def _index(self, file: Path) -> Mapping[str, int]:
        """Name and width of each vector of a file."""
        found: dict[str, int] = {}
        for name, vector in _vectors(self._folder, file).items():
            if name in self._read:
                raise DataError(f"{file}: the vector '{name}' is there twice.", hint=_LAYOUT)
            found[name], self._read[name] = _width(file, name, vector), vector.read
        return found


class _Vector(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    read: Callable[[], Array]


def _vectors(folder: Path, file: Path) -> dict[str, _Vector]:
    if file.suffix == ".safetensors":
        stored = SafetensorsFile(file)
        specs = map(stored.spec, stored.names())
        return {spec.name: _Vector(spec.shape, spec.dtype, partial(tensor, stored, spec.name)) for spec in specs}
    array = _load(file)
    return {file.relative_to(folder).with_suffix("").as_posix(): _Vector(array.shape, array.dtype, partial(_load, file))}


def _load(file: Path) -> Array:
    try:
        array: Array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise CheckpointError(
            f"{file}: it is no array of numbers that numpy can open ({e}).", hint="Write it again with numpy.save."
        ) from e
    return array


def _width(file: Path, name: str, vector: _Vector) -> int:
    if vector.dtype not in _FLOATS or math.prod(vector.shape) != max(vector.shape, default=0) or not math.prod(vector.shape):
        raise DataError(
            f"{file}: '{name}' is {vector.dtype} of shape {vector.shape} and must be one vector of floats.", hint=_LAYOUT
        )
    return math.prod(vector.shape)
