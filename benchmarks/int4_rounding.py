"""What the rounding of int4 costs on real weights: KL of the next-token distribution for each scheme and rounding.

Usage: python -m benchmarks.int4_rounding CHECKPOINT CALIBRATION REFERENCES.jsonl [--first 200] [--count 10] [--blocks a,b]

The language model of CHECKPOINT (``benchmarks.real_weights`` makes one) runs in float32 over held-out narratives, teacher
forced.  Then every linear layer, the head too, is replaced by what a scheme leaves of it, by the production code, and
compared with that at every position.  Writes ``benchmarks/results/int4_rounding.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skinedge.calibration.statistics import Calibration
from skinedge.model.config import TextConfig, read_config
from skinedge.quantize._int4 import scheme_name
from skinedge.quantize._rounding import METHODS, Grid, choose, rounder
from skinedge.weights.checkpoint import open_checkpoint
from skinedge.weights.source import F32, Float32, TensorSource, tensor

RESULT = Path(__file__).parent / "results" / "int4_rounding.json"
OUTPUTS = 2048


def language_model(config: TextConfig, weights: TensorSource) -> Any:
    """The text half, in float32; on text alone its three position axes agree and it is a plain Qwen2."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = Qwen2Config(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size, intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers, num_attention_heads=config.num_heads, num_key_value_heads=config.num_kv_heads,
        rms_norm_eps=config.rms_norm_eps, rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        max_position_embeddings=config.max_position_embeddings, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = Qwen2ForCausalLM(shape)
    model.to_empty(device="cpu")
    model.model.rotary_emb.__init__(shape)
    state = {name: torch.from_numpy(tensor(weights, name).astype(F32)) for name in model.state_dict()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def narratives(tokenizer: Path, references: Path, first: int, count: int) -> list[torch.Tensor]:
    """Token ids ``[1, tokens]`` of some lines' narratives."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(tokenizer))
    lines = references.read_text(encoding="utf-8").splitlines()[first : first + count]
    return [torch.tensor([encoder.encode(json.loads(line)["reference"]).ids[:512]]) for line in lines]


def restored(weights: TensorSource, name: str, grid: Grid, calibration: Calibration, method: str) -> Float32:
    """``[out, in]``, what the scheme leaves of a matrix."""
    spec = weights.spec(name)
    known = choose(method, None if method == "nearest" else calibration.inputs(name), name, spec.cols)
    quantize = rounder(grid, known, slice(0, spec.cols), name)
    out = np.empty((spec.rows, spec.cols), F32)
    for start in range(0, spec.rows, OUTPUTS):
        rows = slice(start, min(start + OUTPUTS, spec.rows))
        out[rows] = quantize(weights.read(name, rows).T.astype(F32, order="C")).restore().T
    return out


@torch.inference_mode()
def log_probabilities(model: Any, texts: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """``[tokens, vocabulary]`` of each text."""
    for ids in texts:
        yield model(ids, use_cache=False).logits[0].float().log_softmax(-1)


def compare(truth: Sequence[torch.Tensor], model: Any, texts: Sequence[torch.Tensor]) -> dict[str, float]:
    """KL in nats over all positions, and how often the likeliest token is the same."""
    kl, same = [], []
    for clean, found in zip(truth, log_probabilities(model, texts), strict=True):
        reference = clean.float()
        kl.append((reference.exp() * (reference - found)).sum(-1))
        same.append((reference.argmax(-1) == found.argmax(-1)).float())
    values, agree = torch.cat(kl), torch.cat(same)
    return {
        "kl_mean": float(values.mean()),
        "kl_p99": float(values.quantile(0.99)),
        "top1": float(agree.mean()),
        "positions": len(values),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("references", type=Path)
    parser.add_argument("--first", type=int, default=200)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--blocks", default="32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="add to the results there are")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config, weights = read_config(given.checkpoint).text, open_checkpoint(given.checkpoint).weights
    calibration = Calibration.open(given.calibration)
    texts = narratives(given.checkpoint / "tokenizer.json", given.references, given.first, given.count)
    model = language_model(config, weights)
    truth = [p.half() for p in log_probabilities(model, texts)]
    linears = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if given.keep and RESULT.is_file() else []
    for block in map(int, given.blocks.split(",")):
        for asymmetric in (False, True):
            for method in METHODS:
                start, grid = time.perf_counter(), Grid(block, asymmetric, np.dtype(np.float16))
                for name in linears:
                    matrix = restored(weights, f"{name}.weight", grid, calibration, method)
                    model.get_submodule(name).weight = torch.nn.Parameter(torch.from_numpy(matrix), requires_grad=False)
                seconds = time.perf_counter() - start
                bits = 4 + (16 + 4 * asymmetric) / block
                row = {"scheme": scheme_name(block, asymmetric=asymmetric), "rounding": method, "bits": bits}
                rows.append(row | compare(truth, model, texts) | {"quantize_s": round(seconds, 1)})
                print(json.dumps(rows[-1]), flush=True)
                about = {"checkpoint": given.checkpoint.name, "calibration_tokens": calibration.record.tokens}
                result = {**about, "calibration_images": calibration.record.images, "rows": rows}
                RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
