"""What ``benchmarks/decode_speed.py`` measures: two language models of one shape each, as every arm stores them.

Usage: python -m benchmarks.decode_bundles WORK [--shapes 0.5b,1.5b] [--genai PYTHON]

``0.5b`` is real Qwen2.5-0.5B (``benchmarks.real_weights``); ``1.5b`` has the shape of Qwen2.5-1.5B and random weights, for
speed does not depend on their values.  Written to ``WORK/SHAPE-ARM``, each if it is not there:

- ``int4``, ``int4a_b128``: ``skinedge export -t onnx``, rounded to nearest (rounding changes values, not bytes)
- ``gguf``: ``skinedge export -t gguf -s q4_k_m``
- ``genai``: ``python -m onnxruntime_genai.models.builder -p int4 -e cpu`` in the environment of PYTHON
  (``python -m venv build/peers/genai``; its pip: torch==2.13.0, transformers, onnx_ir, onnxruntime-genai==0.18.0)
- ``llama-native`` (once): llama-cpp-python compiled for this processor; xllamacpp's wheel is made for any with AVX2
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import real_weights
from benchmarks.export_7b import write_shards
from skinedge.model.config import read_config
from skinedge.model.names import expected_shapes
from skinedge.model.tiny import Size, write_settings, write_tokenizer
from skinedge.weights.source import BF16, TensorSpec

ROOT = Path(__file__).resolve().parents[1]
GENAI = ROOT / "build" / "peers" / "genai" / "bin" / "python"
SHAPES = ("0.5b", "1.5b")
# The vision tower is small: it is not measured.
QWEN_1_5B = Size(
    vocab=151936, hidden=1536, intermediate=8960, layers=28, heads=12, kv_heads=2, mrope=(16, 24, 24),
    vision_hidden=256, vision_intermediate=684, vision_depth=4, vision_heads=4, vision_full=(1, 3), tied=True,
)  # fmt: skip
OURS = {"int4": ("onnx", "int4"), "int4a_b128": ("onnx", "int4a_b128"), "gguf": ("gguf", "q4_k_m")}


def checkpoint(work: Path, shape: str) -> Path:
    """The model that all arms are made of."""
    if shape == "0.5b":
        return real_weights.make(work / "half-billion-shuffled")
    folder = work / shape
    if not (folder / "model.safetensors.index.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_tokenizer(folder, QWEN_1_5B.vocab, ["a lesion with irregular borders"])
        write_settings(folder, QWEN_1_5B, BF16)
        write_shards(folder, [TensorSpec(n, s, BF16) for n, s in expected_shapes(read_config(folder)).items()])
    return folder


def export(model: Path, target: str, scheme: str, out: Path) -> None:
    """One of our bundles."""
    rounding = ["--rounding", "nearest"] if target == "onnx" else []
    words = ["export", "-m", str(model), "-t", target, "-s", scheme, "-o", str(out), *rounding, "--unverified", "--json"]
    subprocess.run([sys.executable, "-m", "skinedge", *words], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def build_genai(python: Path, model: Path, out: Path) -> None:
    """onnxruntime-genai's bundle of the language model, as its builder makes one if not told otherwise."""
    from benchmarks.peers.text_half import write_text_half

    half = out.with_name(f".{out.name}")
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        text = write_text_half(model, Path(scratch) / "text")
        builder = [str(python), "-m", "onnxruntime_genai.models.builder", "-i", str(text), "-o", str(half)]
        quiet = {**os.environ, "HF_HUB_OFFLINE": "1"}
        subprocess.run([*builder, "-p", "int4", "-e", "cpu", "-c", f"{scratch}/cache"], check=True, env=quiet)
    half.rename(out)


def compile_llama(folder: Path) -> None:
    """llama.cpp with every instruction this processor has (``GGML_NATIVE``): about ten minutes of two cores."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
    native = {**os.environ, "CMAKE_ARGS": "-DGGML_NATIVE=on"}
    subprocess.run([*pip, "--target", str(folder), "llama-cpp-python==0.3.36"], check=True, env=native)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--genai", type=Path, default=GENAI)
    args = parser.parse_args()
    work: Path = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    for shape in args.shapes.split(","):
        for arm, (target, scheme) in OURS.items():
            if not (work / f"{shape}-{arm}").is_dir():
                export(checkpoint(work, shape), target, scheme, work / f"{shape}-{arm}")
        if not (work / f"{shape}-genai").is_dir():
            build_genai(args.genai, checkpoint(work, shape), work / f"{shape}-genai")
    if not (work / "llama-native").is_dir():
        compile_llama(work / "llama-native")


if __name__ == "__main__":
    main()
