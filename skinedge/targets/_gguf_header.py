"""The part of a GGUF file before its data: key/value pairs, tokenizer, tensor list.

Values are those ``convert_hf_to_gguf.py`` writes (llama.cpp build 11549), with the name of the folder, the
only thing there that is not in the model, left out.  The official ``gguf`` library packs the bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skinedge.errors import TargetError
from skinedge.model.config import ModelConfig, read_json
from skinedge.model.tiny import QWEN2_PATTERN
from skinedge.runtime.image import read_processor_config
from skinedge.targets._gguf_tensors import Stored, import_gguf
from skinedge.weights.stream import align

ALIGNMENT = 32
NAME = "Qwen2.5-VL"
VISION_EPS = 1e-6  # fixed in transformers' Qwen2_5_VLVisionBlock
IMAGE_SIZE = 560  # the converter's own default; the tower takes any size


def text_header(folder: Path, config: ModelConfig, file_type: int, tensors: Sequence[Stored]) -> bytes:
    """Everything before the data of ``model.gguf``.

    Raises:
        CheckpointError: the tokenizer's files are missing or damaged.
        TargetError: llama.cpp would read the model or its tokenizer otherwise than we do.
    """
    gguf, text = import_gguf(), config.text
    if text.num_heads * text.head_dim != text.hidden_size:
        raise TargetError(
            f"llama.cpp would make the {text.num_heads} heads {text.hidden_size // text.num_heads} wide, not {text.head_dim}.",
            hint="Export it with --target onnx.",
        )
    writer = gguf.GGUFWriter(None, "qwen2vl")
    _general(writer, "model", file_type, sum(t.size for t in tensors))
    writer.add_block_count(text.num_layers)
    writer.add_context_length(text.max_position_embeddings)
    writer.add_embedding_length(text.hidden_size)
    writer.add_feed_forward_length(text.intermediate_size)
    writer.add_head_count(text.num_heads)
    writer.add_head_count_kv(text.num_kv_heads)
    writer.add_rope_dimension_sections([*text.mrope_section, 0])
    writer.add_rope_freq_base(text.rope_theta)
    writer.add_layer_norm_rms_eps(text.rms_norm_eps)
    _tokenizer(writer, folder, text.vocab_size)
    return _pack(writer, tensors)


def vision_header(folder: Path, config: ModelConfig, file_type: int, tensors: Sequence[Stored]) -> bytes:
    """Everything before the data of ``mmproj.gguf``.

    Raises:
        CheckpointError: the image processor's settings are missing or not implemented.
        TargetError: a vision tower that llama.cpp does not compute.
    """
    gguf, vision = import_gguf(), config.vision
    period = _attention_period(config)
    processor = read_processor_config(folder)
    writer = gguf.GGUFWriter(None, "clip")
    _general(writer, "mmproj", file_type, sum(t.size for t in tensors))
    writer.add_clip_has_vision_encoder(True)
    writer.add_vision_projection_dim(config.text.hidden_size)
    writer.add_vision_image_size(IMAGE_SIZE)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    writer.add_vision_block_count(vision.depth)
    writer.add_vision_head_count(vision.num_heads)
    writer.add_vision_image_mean(list(processor.image_mean))
    writer.add_vision_image_std(list(processor.image_std))
    writer.add_clip_projector_type(gguf.VisionProjectorType.QWEN25VL)
    writer.add_vision_use_silu(True)
    writer.add_vision_n_wa_pattern(period)
    writer.add_vision_attention_layernorm_eps(VISION_EPS)
    return _pack(writer, tensors)


def _general(writer: Any, kind: str, file_type: int, parameters: int) -> None:
    gguf = import_gguf()
    writer.add_type(kind)
    writer.add_name(NAME)
    writer.add_size_label(gguf.size_label(parameters, parameters, 0, 0))
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _attention_period(config: ModelConfig) -> int:
    """Every how many blocks llama.cpp attends to the whole image; its window and merge sizes are fixed."""
    v = config.vision
    full = v.full_attention_blocks
    period = full[0] + 1 if full else 0
    known = (v.window_size, v.spatial_merge_size, v.temporal_patch_size, v.in_channels) == (112, 2, 2, 3)
    if not known or tuple(range(period - 1, v.depth, period or 1)) != tuple(b for b in full if b < v.depth):
        raise TargetError(
            f"llama.cpp has no vision tower with window {v.window_size}, merge {v.spatial_merge_size} and full attention "
            f"in blocks {list(full)}.",
            hint="Export it with --target onnx.",
        )
    return period


def _tokenizer(writer: Any, folder: Path, vocab_size: int) -> None:
    gguf = import_gguf()
    settings = read_json(folder / "tokenizer.json", "the tokenizer")
    patterns = [s["pattern"].get("Regex") for s in _steps(settings.get("pre_tokenizer")) if s.get("type") == "Split"]
    if patterns != [QWEN2_PATTERN]:
        raise TargetError(
            f"{folder / 'tokenizer.json'}: text is split by {patterns}, and llama.cpp would split it by Qwen2's rule.",
            hint="Use the tokenizer of the base model.",
        )
    tokens, kinds = _tokens(settings, vocab_size, folder)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # Merges, special tokens and the chat template: the library reads them as the converter does.
    gguf.SpecialVocab(folder, load_merges=True).add_to_gguf(writer, quiet=True)


def _steps(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A pre-tokenizer flattened."""
    if not step:
        return []
    return [s for inner in step.get("pretokenizers", []) for s in _steps(inner)] or [step]


def _tokens(settings: dict[str, Any], vocab_size: int, folder: Path) -> tuple[list[str], list[int]]:
    """Text and ``llama_token_type`` of every id; ids that the tokenizer does not use are named as the converter names them."""
    kind = import_gguf().TokenType
    tokens, kinds = [f"[PAD{i}]" for i in range(vocab_size)], [int(kind.UNUSED)] * vocab_size
    named = [(i, text, kind.NORMAL) for text, i in settings["model"]["vocab"].items()]
    for added in settings["added_tokens"]:
        text = added["content"]
        control = added["special"] or (text.startswith("<|") and text.endswith("|>"))
        named.append((added["id"], text, kind.CONTROL if control else kind.USER_DEFINED))
    for i, text, which in named:
        if not 0 <= i < vocab_size:
            raise TargetError(f"{folder / 'tokenizer.json'}: token '{text}' has number {i} and the model knows {vocab_size}.")
        tokens[i], kinds[i] = text, int(which)
    return tokens, kinds


def _pack(writer: Any, tensors: Sequence[Stored]) -> bytes:
    gguf = import_gguf()
    for t in tensors:
        writer.add_tensor_info(t.name, t.shape, None, t.nbytes, raw_dtype=gguf.GGMLQuantizationType(t.kind.code))
    buffer = io.BytesIO()
    # The writer's own way of opening files, with memory in the file's place.
    writer.fout, writer.state = [buffer], gguf.gguf_writer.WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return buffer.getvalue().ljust(align(buffer.tell(), ALIGNMENT), b"\0")
