"""The safetensors files of a folder as one source: an index and its shards, loose files, or a single one."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from skinedge.errors import CheckpointError
from skinedge.model.config import read_json
from skinedge.weights.safetensors import SafetensorsFile
from skinedge.weights.source import ALL, Array, TensorSpec

INDEX_FILE = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Shards:
    """Every tensor of a folder's (or one file's) safetensors, under the names stored there."""

    def __init__(self, path: Path) -> None:
        self._home: dict[str, SafetensorsFile] = {}
        for file in map(SafetensorsFile, shard_paths(path)):
            for name in file.names():
                if name in self._home:
                    raise CheckpointError(f"{file.path}: tensor '{name}' is also in {self._home[name].path.name}.")
                self._home[name] = file
        for name, shard in _index(path).items():
            if name not in self._home:
                raise CheckpointError(f"{path / shard}: tensor '{name}' is listed in {INDEX_FILE} and not there.")

    def names(self) -> tuple[str, ...]:
        return tuple(self._home)

    def spec(self, name: str) -> TensorSpec:
        return self._home[name].spec(name)

    def read(self, name: str, rows: slice = ALL, cols: slice = ALL) -> Array:
        return self._home[name].read(name, rows, cols)

    def file(self, name: str) -> Path:
        """The file that holds ``name``."""
        return self._home[name].path


def shard_paths(path: Path) -> list[Path]:
    """The safetensors files of a folder (those its index lists, if it has one), or the one file given.

    Raises:
        CheckpointError: there is none, one is missing, or the index names a file outside the folder.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder or file.", hint="Give the folder that holds config.json.")
    listed = sorted(set(_index(path).values()))
    for name in listed:
        # By name, not by where it resolves to: the Hugging Face cache is made of links.
        if name != PurePosixPath(name).name or name != PureWindowsPath(name).name:
            raise CheckpointError(f"{path / INDEX_FILE}: shard '{name}' lies outside the folder.")
        if not (path / name).is_file():
            raise CheckpointError(
                f"{path / name} is missing: {INDEX_FILE} lists {len(listed)} shards.",
                hint="Copy the missing shard next to the others.",
            )
    return [path / name for name in listed] or _loose_shards(path)


def _loose_shards(path: Path) -> list[Path]:
    shards = sorted(path.glob("*.safetensors"))
    pickles = [p for pattern in _PICKLES for p in sorted(path.glob(pattern))]
    if not shards and pickles:
        raise CheckpointError(
            f"{pickles[0]} is a pickle file, which can run code when it is opened; skinedge reads safetensors only.",
            hint="Convert it where it was made: model.save_pretrained(folder, safe_serialization=True).",
        )
    if not shards:
        raise CheckpointError(f"{path}: there is no .safetensors file in it.", hint="Give the folder that holds the weights.")
    return shards


def _index(path: Path) -> dict[str, str]:
    """Tensor -> shard, as the folder's index has it; empty if there is no index."""
    index = path / INDEX_FILE
    if not index.is_file():
        return {}
    weight_map = read_json(index, "the list of shards").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index}: its 'weight_map' is not a table of tensors and shards.")
    return weight_map
