"""Writing the merged weights as a standard Hugging Face checkpoint, shard by shard.

``skinedge merge`` and the ``safetensors`` target are this one function.  Tensors keep the spelling and
(unless cast) the type they have in the base checkpoint; the side branch follows in a shard of its own,
under its released names and as it was stored, because its router decides by small differences.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from skinedge.model.config import read_json
from skinedge.weights.cast import FLOATS, cast
from skinedge.weights.checkpoint import Checkpoint
from skinedge.weights.safetensors import header
from skinedge.weights.shards import INDEX_FILE
from skinedge.weights.source import Array, TensorSource, TensorSpec, row_blocks
from skinedge.weights.stream import Payload, Progress, Quiet, hashing_file, write_payloads

AS_STORED = "as-stored"
SCHEMES = (AS_STORED, *FLOATS)
MAX_SHARD = 5_000_000_000  # what save_pretrained used for years; the hub takes ten times as much
COPIED = (
    "generation_config.json", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json", "LICENSE", "LICENSE.txt", "LICENSE.md",
)  # fmt: skip


@dataclass(frozen=True)
class MergedTensor:
    """One tensor of the merged checkpoint: ``spec`` as it is written, and where it comes from."""

    spec: TensorSpec
    source: TensorSource
    name: str  # in ``source``

    def payload(self) -> Payload:
        """Its bytes, in blocks of rows."""
        blocks = row_blocks(self.source.spec(self.name))
        return Payload(self.spec.name, self.spec.nbytes, [partial(self._read, rows) for rows in blocks])

    def _read(self, rows: slice) -> Array:
        return cast(self.source.read(self.name, rows), self.spec.dtype, self.name)


@dataclass(frozen=True)
class MergedLayout:
    """Every file that a merge writes, before a weight is read."""

    shards: Mapping[str, tuple[MergedTensor, ...]]
    texts: Mapping[str, str]  # the configuration and the index
    copies: tuple[Path, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """File -> bytes."""
        shards = {file: len(_header(tensors)) + sum(t.spec.nbytes for t in tensors) for file, tensors in self.shards.items()}
        texts = {file: len(text.encode()) for file, text in self.texts.items()}
        return shards | texts | {path.name: path.stat().st_size for path in self.copies}


def lay_out(checkpoint: Checkpoint, scheme: str = AS_STORED, max_shard: int = MAX_SHARD) -> MergedLayout:
    """Divide the merged tensors over shards of at most ``max_shard`` bytes of data (one tensor at least).

    Args:
        checkpoint: the model with its adapters.
        scheme: ``as-stored``, or the float type that the language model and the vision tower are cast to.
        max_shard: bytes.
    """
    groups = list(_groups(_backbone(checkpoint, FLOATS.get(scheme)), max_shard))
    if checkpoint.side_branch:
        branch = checkpoint.side_branch.source
        groups.append([MergedTensor(branch.spec(name), branch, name) for name in branch.names()])
    # The wider types first, as the format's own writer does, so that every tensor lies at a multiple of its width.
    ordered = [tuple(sorted(group, key=lambda t: -t.spec.dtype.itemsize)) for group in groups]
    if len(ordered) == 1:
        shards = {"model.safetensors": ordered[0]}
        texts = {}
    else:
        shards = {f"model-{i:05d}-of-{len(ordered):05d}.safetensors": group for i, group in enumerate(ordered, 1)}
        texts = {INDEX_FILE: _index(shards)}
    texts["config.json"] = _config(checkpoint.folder / "config.json", scheme)
    copies = tuple(path for name in COPIED if (path := checkpoint.folder / name).is_file())
    return MergedLayout(shards, texts, copies)


def merge(layout: MergedLayout, folder: Path, progress: Progress | None = None, workers: int | None = None) -> dict[str, str]:
    """Write ``layout`` into the empty ``folder``.

    Returns:
        The sha256 of each shard.

    Raises:
        CheckpointError: a weight is not a finite number.
        QuantizeError: a weight is too large for the type asked for.
    """
    progress = progress or Quiet()
    progress.begin("weights", sum(layout.sizes[file] for file in layout.shards))
    digests = {file: _write_shard(folder / file, tensors, progress, workers) for file, tensors in layout.shards.items()}
    for file, text in layout.texts.items():
        (folder / file).write_text(text, encoding="utf-8", newline="\n")
    for path in layout.copies:
        shutil.copyfile(path, folder / path.name)
    return digests


def _backbone(checkpoint: Checkpoint, dtype: np.dtype[np.generic] | None) -> Iterator[MergedTensor]:
    # By the stored names, so that a tied head, which is not stored, is not written either.
    for name, stored in checkpoint.stored_names.items():
        spec = checkpoint.weights.spec(name)
        written = TensorSpec(stored.removeprefix("base_model.model."), spec.shape, dtype or spec.dtype)
        yield MergedTensor(written, checkpoint.weights, name)


def _groups(tensors: Iterator[MergedTensor], most: int) -> Iterator[list[MergedTensor]]:
    group: list[MergedTensor] = []
    room = most
    for tensor in tensors:
        if group and tensor.spec.nbytes > room:
            yield group
            group, room = [], most
        group.append(tensor)
        room -= tensor.spec.nbytes
    yield group


def _write_shard(path: Path, tensors: tuple[MergedTensor, ...], progress: Progress, workers: int | None) -> str:
    start = _header(tensors)
    with hashing_file(path) as out:
        out.begin(start)
        write_payloads(out, _placed(tensors, len(start)), progress, workers)
        return out.hexdigest()


def _placed(tensors: tuple[MergedTensor, ...], offset: int) -> Iterator[tuple[int, Payload]]:
    for tensor in tensors:
        yield offset, tensor.payload()
        offset += tensor.spec.nbytes


def _header(tensors: tuple[MergedTensor, ...]) -> bytes:
    return header((t.spec for t in tensors), {"format": "pt"})


def _index(shards: Mapping[str, tuple[MergedTensor, ...]]) -> str:
    weight_map = {t.spec.name: file for file, tensors in shards.items() for t in tensors}
    total = sum(t.spec.nbytes for tensors in shards.values() for t in tensors)
    return _json({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def _config(path: Path, scheme: str) -> str:
    """``config.json``, naming the type that the weights now have (``torch_dtype`` before ``transformers`` 5)."""
    if scheme == AS_STORED:
        return path.read_text(encoding="utf-8")
    raw = read_json(path, "the model's configuration")
    raw.setdefault("dtype", FLOATS[scheme].name)
    for part in (raw, raw.get("text_config"), raw.get("vision_config")):
        if isinstance(part, dict):
            part.update({key: FLOATS[scheme].name for key in ("dtype", "torch_dtype") if key in part})
    return _json(raw)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
