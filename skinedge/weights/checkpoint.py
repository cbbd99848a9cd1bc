"""Opening a checkpoint: shards, adapters and configuration become one checked, lazy view.

``open_checkpoint`` is where the path of ``DESIGN.md`` begins.  Every tensor that the configuration
implies must be there, in the right shape, and nothing else may be; LoRA adapters are merged as the
weights are read; the side branch of SkinGPT-R1 is kept apart, because it runs apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skinedge.errors import AdapterError, CheckpointError
from skinedge.model.adapter import AdapterShape, infer_shape, is_side_branch
from skinedge.model.config import ModelConfig, read_config, read_json
from skinedge.model.names import EMBEDDING, HEAD, canonical, expected_shapes
from skinedge.weights.ledger import Ledger
from skinedge.weights.lora import CONFIG_FILE as LORA_CONFIG
from skinedge.weights.lora import Lora, LoraSource, open_lora
from skinedge.weights.safetensors import SafetensorsFile
from skinedge.weights.source import ALL, F32, Array, Float32, RenamedSource, TensorSource, TensorSpec, row_blocks, tensor

INDEX_FILE = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class SideBranch:
    """The image-conditioned adapter: its sizes and its tensors under their released names."""

    shape: AdapterShape
    source: TensorSource

    def weights(self) -> dict[str, Float32]:
        """All tensors in float32 (a few tens of megabytes at 7B)."""
        return {name: tensor(self.source, name).astype(F32) for name in self.source.names()}


@dataclass(frozen=True)
class Checkpoint:
    """A model with its adapters, opened but not read.

    ``weights`` uses canonical names (``skinedge.model.names``), has ``lm_head.weight`` even when it is
    tied, and yields merged weights in the types of the base checkpoint.
    """

    folder: Path
    adapters: tuple[Path, ...]
    config: ModelConfig
    weights: TensorSource
    stored_names: Mapping[str, str]  # canonical -> the base checkpoint's own spelling
    side_branch: SideBranch | None
    loras: tuple[Lora, ...]
    ledger: Ledger


def open_checkpoint(folder: Path, adapters: Sequence[Path] = ()) -> Checkpoint:
    """Open a Qwen2.5-VL checkpoint with PEFT LoRA folders and/or a side branch.

    Args:
        folder: a Hugging Face checkpoint; the side branch may be among its tensors, as released.
        adapters: folders (PEFT LoRA, or any folder of safetensors holding the side branch) or
            single ``.safetensors`` files.

    Raises:
        CheckpointError: a file is missing or damaged, or the tensors are not those of the configuration.
        AdapterError: an adapter does not fit.
    """
    config = read_config(folder)
    stored = _Shards(folder)
    ledger = Ledger()
    backbone, branch = _split(stored, folder)
    _check_backbone(config, stored, backbone, folder)
    weights: TensorSource = RenamedSource(stored, backbone)
    loras = []
    for path in adapters:
        if (path / LORA_CONFIG).exists():
            lora = open_lora(path)
            _refuse_tied_head(config, lora)
            weights = LoraSource(weights, lora, ledger)
            loras.append(lora)
        elif branch:
            raise AdapterError(f"{path}: the checkpoint {folder} already has a side branch.", hint="Leave this --adapter out.")
        else:
            stored_branch = _Shards(path)
            strangers, branch = _split(stored_branch, path)
            if strangers:
                raise AdapterError(f"{path}: tensor '{next(iter(strangers))}' belongs to no adapter skinedge knows.")
            stored = stored_branch
    side = _side_branch(config, RenamedSource(stored, branch), folder, ledger) if branch else None
    if config.text.tie_word_embeddings:
        weights = RenamedSource(weights, {n: n for n in weights.names()} | {HEAD: EMBEDDING})
    return Checkpoint(folder, tuple(adapters), config, FiniteSource(weights), backbone, side, tuple(loras), ledger)


class FiniteSource:
    """``base``, refusing blocks that hold a value that is not a finite number.

    Raises:
        CheckpointError: on reading such a block; the tensor, row and column are named.
    """

    def __init__(self, base: TensorSource) -> None:
        self._base = base

    def names(self) -> tuple[str, ...]:
        return self._base.names()

    def spec(self, name: str) -> TensorSpec:
        return self._base.spec(name)

    def read(self, name: str, rows: slice = ALL, cols: slice = ALL) -> Array:
        block = self._base.read(name, rows, cols)
        finite = np.isfinite(block)
        if not finite.all():
            row, col = np.argwhere(~finite)[0]
            row, col = row + (rows.start or 0), col + (cols.start or 0)
            raise CheckpointError(
                f"tensor '{name}' holds {block[~finite][0]} at row {row}, column {col}: it is not a finite number.",
                hint="The training run diverged or the file is damaged; export an earlier checkpoint.",
            )
        return block


def checkpoint_files(folder: Path, adapters: Sequence[Path] = ()) -> tuple[Path, ...]:
    """The files an export reads: configuration, tokenizer, shards, adapters."""
    files = [p for p in sorted(folder.iterdir()) if p.suffix in {".json", ".safetensors", ".jinja", ".txt"}]
    for path in adapters:
        files += sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return tuple(files)


def checkpoint_digest(folder: Path, adapters: Sequence[Path] = ()) -> str:
    """sha256 over the names and contents of everything an export reads."""
    total = hashlib.sha256()
    for path in checkpoint_files(folder, adapters):
        with path.open("rb") as f:
            total.update(f"{path.name}\0{hashlib.file_digest(f, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


class _Shards:
    """Every tensor of a folder's (or one file's) safetensors, under the names stored there."""

    def __init__(self, path: Path) -> None:
        self._home: dict[str, SafetensorsFile] = {}
        for file in map(SafetensorsFile, _shard_paths(path)):
            for name in file.names():
                if name in self._home:
                    raise CheckpointError(f"{file.path}: tensor '{name}' is also in {self._home[name].path.name}.")
                self._home[name] = file
        if (path / INDEX_FILE).is_file():
            listed: dict[str, str] = read_json(path / INDEX_FILE, "the list of shards")["weight_map"]
            for name in listed:
                if name not in self._home:
                    raise CheckpointError(f"{path / listed[name]}: tensor '{name}' is listed in {INDEX_FILE} and not there.")

    def names(self) -> tuple[str, ...]:
        return tuple(self._home)

    def spec(self, name: str) -> TensorSpec:
        return self._home[name].spec(name)

    def read(self, name: str, rows: slice = ALL, cols: slice = ALL) -> Array:
        return self._home[name].read(name, rows, cols)


def _shard_paths(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder or file.", hint="Give the folder that holds config.json.")
    if (path / INDEX_FILE).is_file():
        weight_map = read_json(path / INDEX_FILE, "the list of shards").get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{path / INDEX_FILE}: it has no 'weight_map'.")
        shards = [path / name for name in sorted(set(weight_map.values()))]
        for shard in shards:
            if shard.resolve().parent != path.resolve():
                raise CheckpointError(f"{path / INDEX_FILE}: shard '{shard.name}' lies outside the folder.")
            if not shard.is_file():
                raise CheckpointError(
                    f"{shard} is missing: {INDEX_FILE} lists {len(shards)} shards.",
                    hint="Copy the missing shard next to the others.",
                )
        return shards
    shards = sorted(path.glob("*.safetensors"))
    if not shards:
        pickles = [p.name for pattern in _PICKLES for p in sorted(path.glob(pattern))]
        if pickles:
            raise CheckpointError(
                f"{path / pickles[0]} is a pickle file, which can run code when it is opened; skinedge reads safetensors only.",
                hint="Convert it where it was made: model.save_pretrained(folder, safe_serialization=True).",
            )
        raise CheckpointError(f"{path}: there is no .safetensors file in it.", hint="Give the folder that holds the weights.")
    return shards


def _split(stored: _Shards, where: Path) -> tuple[dict[str, str], dict[str, str]]:
    """(backbone, side branch) as canonical name -> stored name."""
    backbone: dict[str, str] = {}
    branch: dict[str, str] = {}
    for name in stored.names():
        plain = canonical(name.removeprefix("base_model.model."))
        bare = plain.removeprefix("model.")
        key, part = (bare, branch) if is_side_branch(bare) else (plain, backbone)
        if key in part:
            raise CheckpointError(f"{where}: tensors '{part[key]}' and '{name}' are the same tensor in two spellings.")
        part[key] = name
    return backbone, branch


def _check_backbone(config: ModelConfig, stored: _Shards, backbone: dict[str, str], folder: Path) -> None:
    expected = expected_shapes(config)
    if config.text.tie_word_embeddings and HEAD in backbone:
        _drop_tied_copy(stored, backbone, folder)
    for name, shape in expected.items():
        if name not in backbone:
            raise CheckpointError(
                f"{folder}: tensor '{name}' is missing.", hint="The checkpoint is incomplete, or config.json is not its own."
            )
        found = stored.spec(backbone[name]).shape
        if found != shape:
            raise CheckpointError(f"{folder}: tensor '{name}' has shape {found} where config.json implies {shape}.")
        if stored.spec(backbone[name]).dtype.kind not in "fV":
            raise CheckpointError(f"{folder}: tensor '{name}' holds {stored.spec(backbone[name]).dtype}, not floating point.")
    for name, spelling in backbone.items():
        if name not in expected:
            raise CheckpointError(
                f"{folder}: tensor '{spelling}' is unexpected: no part of a Qwen2.5-VL of this size is called so.",
                hint="Leaving it out could change what the model says; remove it or export with the tool that made it.",
            )


def _drop_tied_copy(stored: _Shards, backbone: dict[str, str], folder: Path) -> None:
    for rows in row_blocks(stored.spec(backbone[EMBEDDING])):
        if not np.array_equal(stored.read(backbone[HEAD], rows), stored.read(backbone[EMBEDDING], rows)):
            raise CheckpointError(f"{folder}: config.json ties lm_head to the embedding and the two differ.")
    del backbone[HEAD]


def _refuse_tied_head(config: ModelConfig, lora: Lora) -> None:
    if config.text.tie_word_embeddings and (HEAD in lora.updates or HEAD in lora.replacements):
        raise AdapterError(
            f"{lora.path}: it adapts lm_head, which this model ties to the embedding.",
            hint="Untie them (tie_word_embeddings: false, with a copy of the embedding as lm_head.weight) and export again.",
        )


def _side_branch(config: ModelConfig, source: RenamedSource, folder: Path, ledger: Ledger) -> SideBranch:
    found = {name: source.spec(name).shape for name in source.names()}
    shape = infer_shape(found, hidden=config.text.hidden_size, patch_values=config.vision.patch_values, where=str(folder))
    for name in found:
        ledger.enter(name, "adapter graph")
    return SideBranch(shape, FiniteSource(source))


def digest_of(value: object) -> str:
    """sha256 of a JSON-able value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
