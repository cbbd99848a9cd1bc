"""Which model a forecast is of: a checkpoint, its ``config.json`` alone, or a shape by name.  No weight is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skinedge.errors import UsageError
from skinedge.measure.forecast import PlannedModel
from skinedge.model.adapter import AdapterShape
from skinedge.model.config import ModelConfig, TextConfig, VisionConfig, read_config
from skinedge.model.names import expected_shapes
from skinedge.registry import check


@dataclass(frozen=True)
class Shape:
    """A model's sizes, those of its side branch, and where they were read."""

    name: str
    source: Literal["weights", "config", "shape"]
    config: ModelConfig
    branch: AdapterShape | None

    @property
    def planned(self) -> PlannedModel:
        """For the forecast's document."""
        sizes = {name: math.prod(shape) for name, shape in expected_shapes(self.config).items()}
        vision = sum(size for name, size in sizes.items() if name.startswith("visual."))
        branch = sum(math.prod(shape) for shape in self.branch.tensors().values()) if self.branch else 0
        return PlannedModel(
            name=self.name,
            source=self.source,
            text_parameters=sum(sizes.values()) - vision,
            vision_parameters=vision,
            adapter_parameters=branch,
        )


def _qwen2_5_vl(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocab: int, *, tied: bool) -> ModelConfig:
    """A Qwen2.5-VL as released; only the language model's sizes differ (their ``config.json``)."""
    text = TextConfig(
        vocab, hidden, intermediate, layers, heads, kv_heads, 128, 1e-6, 1e6, (16, 24, 24), 128000, tie_word_embeddings=tied
    )
    vision = VisionConfig(32, 1280, 3420, 16, hidden, 3, 14, 2, 2, 112, (7, 15, 23, 31))
    return ModelConfig(text, vision, 151655, (151645, 151643))


def _released_branch(hidden: int) -> AdapterShape:
    """The side branch as released (REFERENCE section 1); its teacher's features have 1024 values (PanDerm)."""
    return AdapterShape(1176, 1024, 4, 8, 64, 64, 3, 64, hidden, 1024)


_SEVEN = _qwen2_5_vl(3584, 28, 28, 4, 18944, 152064, tied=False)
_THREE = _qwen2_5_vl(2048, 36, 16, 2, 11008, 151936, tied=True)
NAMED = {
    "skingpt-r1-7b": Shape("skingpt-r1-7b", "shape", _SEVEN, _released_branch(3584)),
    "qwen2.5-vl-7b": Shape("qwen2.5-vl-7b", "shape", _SEVEN, None),
    "qwen2.5-vl-3b": Shape("qwen2.5-vl-3b", "shape", _THREE, None),
}
DEFAULT = "skingpt-r1-7b"


def find_shape(model: str | None, adapters: tuple[Path, ...] = ()) -> Shape:
    """The model called ``model``: a folder, a ``config.json``, or one of ``NAMED``; left out: SkinGPT-R1's 7B.

    Raises:
        UsageError: neither a folder nor a known shape.
        CheckpointError: the folder holds no model that skinedge exports.
        AdapterError: an adapter does not fit.
    """
    path = Path(model) if model else None
    if path is None or not path.exists():
        if path is not None and (len(path.parts) > 1 or adapters):
            raise UsageError(f"{path}: no such folder.", hint=f"Give a checkpoint, or a shape by name: {', '.join(NAMED)}.")
        return NAMED[check("model shape", model or DEFAULT, tuple(NAMED))]
    folder = path.parent if path.is_file() else path
    if not any(folder.glob("*.safetensors")):
        return Shape(folder.resolve().name, "config", read_config(folder), None)
    from skinedge.weights.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(folder, adapters)
    side = checkpoint.side_branch
    return Shape(folder.resolve().name, "weights", checkpoint.config, side.shape if side else None)
