"""A tiny Qwen2.5-VL with random weights and everything else real.

Tokenizer machinery, processor settings, chat template, tensor names and shapes are those of the
released model at a size that exports in a second; odd sizes of the 7B (a vision MLP that divides
neither 32 nor 256, a vocabulary larger than the tokenizer) are kept odd.  The weights are drawn so
that the model's words depend sharply on its input, which a parity test needs.

Same arguments, same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from skinedge.model.adapter import AdapterShape
from skinedge.model.config import ModelConfig, read_config
from skinedge.model.names import EMBEDDING, HEAD, expected_shapes, in_memory
from skinedge.weights import safetensors
from skinedge.weights.source import BF16, Array, TensorSpec

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
ADDED_TOKENS = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<answer>", "</answer>")

# Qwen2's published pre-tokenizer pattern (tokenizer.json of the Qwen2 family).
QWEN2_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = """\
{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}<|im_end|>
{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content %}\
<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

_WORDS = (
    "The lesion shows an asymmetric outline with irregular borders and several shades of brown, suspicious for melanoma.",
    "Erythematous plaques with a silvery scale on the extensor surfaces are consistent with psoriasis.",
    "A pearly papule with telangiectasia and a rolled edge suggests basal cell carcinoma.",
    "A rough, scaly patch on sun damaged skin of the forearm is typical of actinic keratosis.",
    "A waxy, stuck-on plaque with horn cysts favours seborrheic keratosis over a melanocytic nevus.",
    "<think> Observation: symmetric, evenly pigmented macule of 4 mm. Reasoning: regular network, no change. </think>",
    "Describe the skin lesion in this image, think step by step and give the most likely diagnosis.",
    "Differential diagnoses: squamous cell carcinoma, eczema, tinea, lichen planus. The answer is nevus.",
)


@dataclass(frozen=True)
class Size:
    """The numbers of a model; the defaults make one of about 8 million parameters."""

    vocab: int = 2048
    hidden: int = 256
    intermediate: int = 768
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    mrope: tuple[int, int, int] = (8, 12, 12)
    vision_hidden: int = 128
    vision_intermediate: int = 340
    vision_depth: int = 4
    vision_heads: int = 4
    vision_full: tuple[int, ...] = (1, 3)
    tied: bool = False


# Two layers of the 7B, with its vocabulary: every shape an export of the real model meets.
SHAPE_7B = Size(
    152064, 3584, 18944, 2, 28, 4, (16, 24, 24), vision_hidden=1280, vision_intermediate=3420, vision_depth=2, vision_heads=16
)  # fmt: skip


def make_model(folder: Path, size: Size = Size(), *, seed: int = 0, dtype: np.dtype[np.generic] = BF16, shards: int = 2) -> Path:
    """Write a whole checkpoint folder, sharded as Hugging Face shards it, tensor by tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, size.vocab, _WORDS)
    write_settings(folder, size, dtype)
    write_weights(folder, read_config(folder), seed=seed, dtype=dtype, shards=shards)
    return folder


def make_checkpoint(folder: Path) -> tuple[Path, list[Path]]:
    """Write a model, a LoRA and a side branch; the folder of the first and those of the others."""
    model = make_model(folder / "model")
    config = read_config(model)
    return model, [make_lora(folder / "lora", config), make_side_branch(folder / "side-branch", config)]


def make_side_branch(
    folder: Path, config: ModelConfig, *, experts: int = 8, width: int = 64, teacher: int = 48, seed: int = 1
) -> Path:
    """Write a random side branch (released names, float32) that tilts the logits visibly."""
    shape = AdapterShape(config.vision.patch_values, width, 4, experts, 16, 16, 3, 16, config.text.hidden_size, teacher)
    rng = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}
    for name, wanted in shape.tensors().items():
        gain = 6.0 if "router" in name or "text_bias.0" in name else 0.5 if "text_bias" in name else 1.0
        tensors[name] = _draw(rng, wanted, gain)
    tensors["logit_bias_scale"] = np.array(1.5, np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.save(folder / "adapter.safetensors", tensors)
    return folder


def make_lora(
    folder: Path, config: ModelConfig, *, rank: int = 8, vision: bool = True, seed: int = 2, **settings: object
) -> Path:
    """Write a PEFT LoRA over every linear layer of the language model and, if asked, the vision tower.

    ``settings`` are added to ``adapter_config.json`` (``use_rslora=True``, ``alpha_pattern={...}``).
    """
    rng = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}
    modules = set()
    for name, wanted in expected_shapes(config).items():
        module = name.removesuffix(".weight")
        linear = len(wanted) == 2 and name not in (EMBEDDING, HEAD)
        if not linear or (name.startswith("visual.") and not vision):
            continue
        modules.add(_ending(module))
        stem = "base_model.model." + in_memory(module)
        tensors[f"{stem}.lora_A.weight"] = _draw(rng, (rank, wanted[1]), 1.0)
        tensors[f"{stem}.lora_B.weight"] = _draw(rng, (wanted[0], rank), 0.2)
    defaults = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.0, "bias": "none",
        "target_modules": sorted(modules), "use_dora": False, "use_rslora": False, "modules_to_save": None,
        "fan_in_fan_out": False, "inference_mode": True, "base_model_name_or_path": None,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.save(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    _write_json(folder / "adapter_config.json", defaults | settings)
    return folder


def _ending(module: str) -> str:
    """As much of a module's name as ``target_modules`` needs: ``proj`` alone would hit the patch embedding too."""
    parts = module.split(".")
    return ".".join(parts[-{"proj": 2, "0": 3, "2": 3}.get(parts[-1], 1) :])


def _draw(rng: np.random.Generator, shape: tuple[int, ...], gain: float) -> Array:
    if len(shape) < 2:
        return rng.normal(0, 0.1, shape).astype(np.float32)
    fan_in = math.prod(shape[1:])
    return (rng.standard_normal(shape, np.float32) * np.float32(gain / math.sqrt(fan_in))).astype(np.float32)


def _weight(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    if "norm" in name or "ln_q" in name:
        return (1 + rng.normal(0, 0.1, shape)).astype(np.float32)
    if name == EMBEDDING:
        return rng.standard_normal(shape, np.float32)
    return _draw(rng, shape, 3.0 if name == HEAD else 1.0)


def write_weights(
    folder: Path,
    config: ModelConfig,
    *,
    seed: int,
    dtype: np.dtype[np.generic],
    shards: int,
    given: Mapping[str, Array] = MappingProxyType({}),
) -> None:
    """Write the shards of a model and their index: ``given`` tensors as they are, all others random."""
    specs = [TensorSpec(name, shape, dtype) for name, shape in expected_shapes(config).items()]
    groups = [specs[len(specs) * i // shards : len(specs) * (i + 1) // shards] for i in range(shards)]
    rng = np.random.default_rng(seed)
    weight_map = {}
    for i, group in enumerate(groups):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        with (folder / file).open("wb") as f:
            f.write(safetensors.header(group, {"format": "pt"}))
            for spec in group:
                weight_map[spec.name] = file
                for block in [given[spec.name]] if spec.name in given else _blocks(rng, spec.name, spec.shape):
                    f.write(block.astype(dtype).tobytes())
    total = sum(s.nbytes for s in specs)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def _blocks(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Iterator[Array]:
    """A weight in pieces of at most 4096 rows, so that a 7B-shaped one is never whole in memory."""
    for start in range(0, shape[0], 4096):
        yield _weight(rng, name, (min(4096, shape[0] - start), *shape[1:]))


def write_tokenizer(folder: Path, vocab: int, texts: Iterable[str]) -> None:
    """Train a byte-level BPE with Qwen's pre-tokenizer and special tokens, at most ``vocab`` in all, and write its files."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    room = min(vocab, 2048) - len(SPECIAL_TOKENS) - len(ADDED_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=room, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ADDED_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {tokenizer.token_to_id(t): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
             "single_word": False, "special": t in SPECIAL_TOKENS} for t in SPECIAL_TOKENS + ADDED_TOKENS}  # fmt: skip
    _write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False, "add_prefix_space": False, "bos_token": None,
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None, "model_max_length": 131072,
        "clean_up_tokenization_spaces": False, "errors": "replace", "split_special_tokens": False,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "added_tokens_decoder": {str(i): t for i, t in sorted(added.items())},
    })  # fmt: skip
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8", newline="\n")


def write_settings(folder: Path, size: Size, dtype: np.dtype[np.generic], *, max_pixels: int = 1003520) -> None:
    """Write the configurations of model, generation and image processor; the tokenizer's files are there already."""
    tokens: dict[str, int] = {
        t["content"]: t["id"] for t in json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    }
    _write_json(folder / "config.json", {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "dtype": str(dtype),
        "tie_word_embeddings": size.tied, "image_token_id": tokens["<|image_pad|>"], "video_token_id": tokens["<|video_pad|>"],
        "vision_start_token_id": tokens["<|vision_start|>"], "vision_end_token_id": tokens["<|vision_end|>"],
        "text_config": {
            "model_type": "qwen2_5_vl_text", "vocab_size": size.vocab, "hidden_size": size.hidden,
            "intermediate_size": size.intermediate, "num_hidden_layers": size.layers, "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads, "hidden_act": "silu", "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "use_sliding_window": False, "tie_word_embeddings": size.tied,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": list(size.mrope)},
            "bos_token_id": tokens["<|endoftext|>"], "eos_token_id": tokens["<|im_end|>"],
        },
        "vision_config": {
            "model_type": "qwen2_5_vl", "depth": size.vision_depth, "hidden_size": size.vision_hidden, "hidden_act": "silu",
            "intermediate_size": size.vision_intermediate, "num_heads": size.vision_heads, "in_channels": 3,
            "out_hidden_size": size.hidden, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
            "window_size": 112, "tokens_per_second": 2, "fullatt_block_indexes": list(size.vision_full),
        },
    })  # fmt: skip
    _write_json(folder / "generation_config.json", {
        "do_sample": False, "eos_token_id": [tokens["<|im_end|>"], tokens["<|endoftext|>"]],
        "pad_token_id": tokens["<|endoftext|>"],
    })  # fmt: skip
    _write_json(folder / "preprocessor_config.json", {
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor", "min_pixels": 3136,
        "max_pixels": max_pixels, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    })  # fmt: skip


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
