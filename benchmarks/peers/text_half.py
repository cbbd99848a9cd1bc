"""The language model of a Qwen2.5-VL checkpoint as a plain ``Qwen2ForCausalLM``: what every exporter of text models takes.

Usage: python -m benchmarks.peers.text_half MODEL OUT

Text has the same position on all three axes of M-RoPE, so the plain model computes the same logits of text.  The weights are
copied as they are, the head is tied if it was.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from skinedge.model.names import expected_shapes
from skinedge.weights import safetensors
from skinedge.weights.checkpoint import open_checkpoint
from skinedge.weights.source import row_blocks

BESIDE = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")


def write_text_half(model: Path, out: Path) -> Path:
    """``out``, made if it is not there.

    Raises:
        CheckpointError: ``model`` is not a Qwen2.5-VL checkpoint.
    """
    if (out / "config.json").is_file():
        return out
    checkpoint = open_checkpoint(model)
    weights = checkpoint.weights
    out.mkdir(parents=True, exist_ok=True)
    specs = [weights.spec(name) for name in expected_shapes(checkpoint.config) if not name.startswith("visual.")]
    with (out / "model.safetensors").open("wb") as f:
        f.write(safetensors.header(specs, {"format": "pt"}))
        for spec in specs:
            for rows in row_blocks(spec):
                f.write(weights.read(spec.name, rows).tobytes())
    for name in BESIDE:
        shutil.copyfile(model / name, out / name)
    settings = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (out / "config.json").write_text(json.dumps(plain_config(settings), indent=2) + "\n", encoding="utf-8")
    return out


def plain_config(settings: dict[str, object]) -> dict[str, object]:
    """``config.json`` of the language model alone, as transformers 4 and 5 read it."""
    text = dict(settings["text_config"])  # type: ignore[call-overload]
    rope = text.pop("rope_parameters")
    named = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "dtype": settings["dtype"]}
    return text | named | {"rope_theta": rope["rope_theta"], "tie_word_embeddings": settings["tie_word_embeddings"]}


if __name__ == "__main__":
    print(write_text_half(*map(Path, sys.argv[1:3])))
