"""What the model is, read from its ``config.json``: Qwen2.5-VL of any size, in both layouts.

``transformers`` 4 wrote the language model's fields at the top level and ``rope_scaling``;
version 5 writes them under ``text_config`` with ``rope_parameters``.  Both are read; anything that
would change the arithmetic and is not implemented (sliding window, another activation, another
rope) is refused by name instead of being ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skinedge.errors import CheckpointError

_AGAIN = "Copy the checkpoint's own file again."


@dataclass(frozen=True)
class TextConfig:
    """The language model (a Qwen2 decoder)."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    max_position_embeddings: int
    tie_word_embeddings: bool


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower (a windowed ViT with a 2x2 patch merger)."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    window_size: int
    full_attention_blocks: tuple[int, ...]

    @property
    def head_dim(self) -> int:
        """Values per attention head."""
        return self.hidden_size // self.num_heads

    @property
    def patch_values(self) -> int:
        """Values in one patch row: channels x frames x height x width (1176 at 7B)."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def window_patches(self) -> int:
        """Patches in a full attention window (64 at 7B)."""
        return (self.window_size // self.patch_size) ** 2


@dataclass(frozen=True)
class ModelConfig:
    """A whole Qwen2.5-VL."""

    text: TextConfig
    vision: VisionConfig
    image_token_id: int
    eos_token_ids: tuple[int, ...]


def read_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` (and the end tokens of ``generation_config.json``) of a checkpoint.

    Raises:
        CheckpointError: missing, unreadable, another architecture, or a setting that is not implemented.
    """
    path = folder / "config.json"
    raw = read_json(path, "the model's configuration")
    kind = raw.get("model_type")
    if kind != "qwen2_5_vl":
        raise CheckpointError(
            f"{path}: model_type is {kind!r} and skinedge exports 'qwen2_5_vl'.",
            hint="Point --model at a Qwen2.5-VL checkpoint (SkinGPT-R1, Vision-R1 and Skin-R1 are ones).",
        )
    if quantization := raw.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise CheckpointError(
            f"{path}: the weights are already quantized ({method}), and skinedge starts from 16- or 32-bit floats.",
            hint="Point --model at the checkpoint in bfloat16 that this one was made from.",
        )
    try:
        text, vision = _text(raw, path), _vision(raw["vision_config"], path)
        image_token_id = int(raw["image_token_id"])
    except KeyError as e:
        raise CheckpointError(f"{path}: the setting {e} is missing.", hint="Copy the checkpoint's own file again.") from e
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as e:
        raise CheckpointError(
            f"{path}: a setting has an impossible value ({e}).", hint="Copy the checkpoint's own file again."
        ) from e
    if vision.out_hidden_size != text.hidden_size:
        raise CheckpointError(
            f"{path}: the vision tower gives {vision.out_hidden_size} values per token "
            f"and the language model takes {text.hidden_size}."
        )
    return ModelConfig(text, vision, image_token_id, _eos(folder, raw))


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from outside.

    Raises:
        CheckpointError: no such file, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise CheckpointError(
            f"{path} is missing: {what} is read from it.", hint="Point --model at the checkpoint's folder."
        ) from e
    except ValueError as e:
        raise CheckpointError(f"{path}: not JSON ({e}).", hint=_AGAIN) from e
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object.")
    return value


def _text(raw: Mapping[str, Any], path: Path) -> TextConfig:
    t: Mapping[str, Any] = raw.get("text_config") or raw
    rope: Mapping[str, Any] = t.get("rope_parameters") or t.get("rope_scaling") or {}
    section = tuple(int(n) for n in rope.get("mrope_section", ()))
    head_dim = int(t.get("head_dim") or t["hidden_size"] // t["num_attention_heads"])
    _require(path, "hidden_act", t.get("hidden_act", "silu"), "silu")
    _require(path, "use_sliding_window", bool(t.get("use_sliding_window", False)), False)
    # 4.x files say rope type "mrope", 5.x files "default": both mean multimodal rotary with sections.
    _require(path, "rope type", rope.get("rope_type", rope.get("type", "default")), "default", "mrope")
    if len(section) != 3 or sum(section) * 2 != head_dim:
        raise CheckpointError(
            f"{path}: mrope_section {list(section)} must be three numbers that sum to half the head size {head_dim}."
        )
    return TextConfig(
        vocab_size=int(t["vocab_size"]),
        hidden_size=int(t["hidden_size"]),
        intermediate_size=int(t["intermediate_size"]),
        num_layers=int(t["num_hidden_layers"]),
        num_heads=int(t["num_attention_heads"]),
        num_kv_heads=int(t["num_key_value_heads"]),
        head_dim=head_dim,
        rms_norm_eps=float(t["rms_norm_eps"]),
        rope_theta=float(rope["rope_theta"] if "rope_theta" in rope else t["rope_theta"]),
        mrope_section=(section[0], section[1], section[2]),
        max_position_embeddings=int(t["max_position_embeddings"]),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", t.get("tie_word_embeddings", False))),
    )


def _vision(v: Mapping[str, Any], path: Path) -> VisionConfig:
    _require(path, "vision hidden_act", v.get("hidden_act", "silu"), "silu")
    return VisionConfig(
        depth=int(v["depth"]),
        hidden_size=int(v["hidden_size"]),
        intermediate_size=int(v["intermediate_size"]),
        num_heads=int(v["num_heads"]),
        out_hidden_size=int(v["out_hidden_size"]),
        in_channels=int(v.get("in_channels", v.get("in_chans", 3))),
        patch_size=int(v["patch_size"]),
        temporal_patch_size=int(v.get("temporal_patch_size", 2)),
        spatial_merge_size=int(v["spatial_merge_size"]),
        window_size=int(v["window_size"]),
        full_attention_blocks=tuple(int(n) for n in v["fullatt_block_indexes"]),
    )


def _eos(folder: Path, raw: Mapping[str, Any]) -> tuple[int, ...]:
    generation = folder / "generation_config.json"
    settings = read_json(generation, "the end tokens") if generation.exists() else {}
    eos = settings.get("eos_token_id")
    if eos is None:
        eos = (raw.get("text_config") or raw).get("eos_token_id", raw.get("eos_token_id"))
    if eos is None:
        raise CheckpointError(f"{folder}: no eos_token_id in generation_config.json or config.json.")
    return tuple(int(n) for n in (eos if isinstance(eos, list) else [eos]))


def _require(path: Path, setting: str, value: object, *allowed: object) -> None:
    if value not in allowed:
        raise CheckpointError(f"{path}: {setting} is {value!r}, which skinedge does not implement (it knows {allowed[0]!r}).")
