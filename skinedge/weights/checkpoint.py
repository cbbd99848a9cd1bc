"""Opening a checkpoint: shards, adapters and configuration become one checked, lazy view.

``open_checkpoint`` is where the path of ``DESIGN.md`` begins.  Every tensor that the configuration
implies must be there, in the right shape, and nothing else may be; LoRA adapters are merged as the
weights are read; the side branch of SkinGPT-R1 is kept apart, because it runs apart.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skinedge.errors import AdapterError, CheckpointError
from skinedge.model.adapter import AdapterShape, infer_shape, released_name
from skinedge.model.config import ModelConfig, read_config
from skinedge.model.names import EMBEDDING, HEAD, canonical, expected_shapes
from skinedge.weights.cast import all_finite
from skinedge.weights.ledger import Ledger
from skinedge.weights.lora import CONFIG_FILE as LORA_CONFIG
from skinedge.weights.lora import WEIGHTS_FILE as LORA_WEIGHTS
from skinedge.weights.lora import Lora, LoraSource, open_lora
from skinedge.weights.shards import Shards
from skinedge.weights.source import (
    ALL,
    BF16,
    F16,
    F32,
    Array,
    Float32,
    RenamedSource,
    TensorSource,
    TensorSpec,
    row_blocks,
    tensor,
)


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
    stored = Shards(folder)
    ledger = Ledger()
    backbone, branch = _split(stored, folder)
    _check_backbone(config, stored, backbone, folder)
    weights: TensorSource = RenamedSource(stored, backbone)
    side = _side_branch(config, RenamedSource(stored, branch), folder, ledger) if branch else None
    loras = []
    for path in adapters:
        found = _open_adapter(path)
        if found.lora:
            _refuse_tied_head(config, found.lora)
            weights = LoraSource(weights, found.lora, ledger)
            loras.append(found.lora)
        if found.branch and side:
            raise AdapterError(f"{path}: there is already a side branch.", hint="Leave this --adapter out.")
        if found.branch:
            side = _side_branch(config, found.branch, path, ledger)
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
        if not all_finite(block):
            finite = np.isfinite(block)
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
    total, files = hashlib.sha256(), checkpoint_files(folder, adapters)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, digest in zip(files, pool.map(file_digest, files), strict=True):
            total.update(f"{path.name}\0{digest}\n".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@dataclass(frozen=True)
class _Adapter:
    """What one ``--adapter`` holds."""

    lora: Lora | None
    branch: TensorSource | None


def _open_adapter(path: Path) -> _Adapter:
    lora = open_lora(path) if (path / LORA_CONFIG).is_file() else None
    files = Shards(path)
    others, branch = _split(files, path)
    for name in others.values():
        if not lora or files.file(name).name != LORA_WEIGHTS:
            raise AdapterError(
                f"{path}: tensor '{name}' belongs to no adapter skinedge knows.",
                hint=f"A LoRA folder has {LORA_CONFIG} and {LORA_WEIGHTS}; a side branch has tensors like 'distill_head.*'.",
            )
    return _Adapter(lora, RenamedSource(files, branch) if branch else None)


def _split(stored: Shards, where: Path) -> tuple[dict[str, str], dict[str, str]]:
    """(backbone, side branch) as canonical name -> stored name."""
    backbone: dict[str, str] = {}
    branch: dict[str, str] = {}
    for name in stored.names():
        side = released_name(name)
        key, part = (side, branch) if side else (canonical(name.removeprefix("base_model.model.")), backbone)
        if key in part:
            raise CheckpointError(
                f"{where}: tensors '{part[key]}' and '{name}' are the same tensor in two spellings.",
                hint="Save the model again where it was trained: only one of them can be meant.",
            )
        part[key] = name
    return backbone, branch


def _check_backbone(config: ModelConfig, stored: Shards, backbone: dict[str, str], folder: Path) -> None:
    expected = expected_shapes(config)
    if config.text.tie_word_embeddings and HEAD in backbone and EMBEDDING in backbone:
        _drop_tied_copy(stored, backbone, folder)
    for name, shape in expected.items():
        if name not in backbone:
            raise CheckpointError(
                f"{folder}: tensor '{name}' is missing.", hint="The checkpoint is incomplete, or config.json is not its own."
            )
        spec = stored.spec(backbone[name])
        if spec.shape != shape:
            raise CheckpointError(
                f"{folder}: tensor '{name}' has shape {spec.shape} where config.json implies {shape}.",
                hint="The file is damaged, or config.json is another model's: copy both again.",
            )
        _require_float(spec, folder)
    for name, spelling in backbone.items():
        if name not in expected:
            raise CheckpointError(
                f"{folder}: tensor '{spelling}' is unexpected: no part of a Qwen2.5-VL of this size is called so.",
                hint="Leaving it out could change what the model says; remove it or export with the tool that made it.",
            )


def _drop_tied_copy(stored: Shards, backbone: dict[str, str], folder: Path) -> None:
    for rows in row_blocks(stored.spec(backbone[EMBEDDING])):
        if not np.array_equal(stored.read(backbone[HEAD], rows), stored.read(backbone[EMBEDDING], rows)):
            raise CheckpointError(
                f"{folder}: config.json ties lm_head to the embedding and the two differ.",
                hint="If the head was trained, set tie_word_embeddings to false in config.json.",
            )
    del backbone[HEAD]


def _require_float(spec: TensorSpec, where: Path) -> None:
    if spec.dtype not in (F32, F16, BF16):
        raise CheckpointError(
            f"{where}: tensor '{spec.name}' holds {spec.dtype}, and skinedge starts from 16- or 32-bit floats.",
            hint="Save the model in bfloat16 or float32 where it was trained.",
        )


def _refuse_tied_head(config: ModelConfig, lora: Lora) -> None:
    adapted = {HEAD, EMBEDDING} & {*lora.updates, *lora.replacements}
    if config.text.tie_word_embeddings and adapted:
        raise AdapterError(
            f"{lora.path}: it adapts {adapted.pop()}, and this model ties lm_head to the embedding: one would change the other.",
            hint="Untie them (tie_word_embeddings: false, with a copy of the embedding as lm_head.weight) and export again.",
        )


def _side_branch(config: ModelConfig, source: TensorSource, where: Path, ledger: Ledger) -> SideBranch:
    found = {name: source.spec(name).shape for name in source.names()}
    shape = infer_shape(found, hidden=config.text.hidden_size, patch_values=config.vision.patch_values, where=str(where))
    for name in found:
        _require_float(source.spec(name), where)
        ledger.enter(name, "adapter graph")
    return SideBranch(shape, FiniteSource(source))


def digest_of(value: object) -> str:
    """sha256 of a JSON-able value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
