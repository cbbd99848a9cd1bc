"""Two choices of the decoder graph, measured at the shape of Qwen2.5-0.5B with int4 weights.

Usage: python benchmarks/decoder_choices.py [--rounds 5] [--threads 1] [--json FILE]

1. q/k/v and gate/up stacked into one product each, against five products (linear layers only, one token).
2. The length of the cache buffer: milliseconds per token with 200 positions in use.

Variants alternate (A B B A ...) within one process; medians and the median of the paired ratios are printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from skinedge.graph.builder import GraphBuilder
from skinedge.graph.files import write_graphs
from skinedge.graph.model import build_graphs
from skinedge.graph.precision import Precision
from skinedge.graph.weights import GraphWeights
from skinedge.model.tiny import Size, make_model
from skinedge.runtime import ort
from skinedge.runtime.session import Prompt
from skinedge.weights.checkpoint import open_checkpoint
from skinedge.weights.source import F32, MemorySource
from skinedge.weights.stream import Quiet

HIDDEN, QUERY, KEYS, MIDDLE, LAYERS = 896, 896, 128, 4864, 24
SHAPE = Size(8192, HIDDEN, MIDDLE, LAYERS, 14, 2, (8, 12, 12), vision_depth=1, vision_full=(0,))
LENGTHS = (256, 512, 1024, 4096)
IN_USE = 200


def median_ms(run: Callable[[], object], repeats: int = 20) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def linear_graph(folder: Path, name: str, widths: dict[str, int]) -> None:
    """All linear layers that read the hidden state, ``LAYERS`` times over."""
    rng = np.random.default_rng(0)
    source = MemorySource({
        f"model.layers.{i}.{part}.weight": rng.standard_normal((width, HIDDEN), np.float32).astype(F32)
        for i in range(LAYERS) for part, width in widths.items()
    })  # fmt: skip
    g = GraphBuilder(name)
    weights = GraphWeights(source, Precision("f32"), lambda _: "int4")
    x = g.input("x", "FLOAT", [1, "S", HIDDEN])
    for i in range(LAYERS):
        for part in widths:
            y = weights.linear(g, x, f"model.layers.{i}.{part}", bias=False)
            # A little of the result goes on, so that nothing is optimised away and nothing else costs time.
            piece = g.op("Slice", y, g.constant([0]), g.constant([1]), g.constant([2]))
            x = g.op("Add", x, piece)
    g.output(x, "y", "FLOAT", [1, "S", HIDDEN])
    write_graphs(folder, [g.finish()], Quiet())


def stacking(folder: Path, rounds: int, threads: int) -> dict[str, float]:
    linear_graph(folder, "stacked", {"qkv": QUERY + 2 * KEYS, "gate_up": 2 * MIDDLE})
    linear_graph(folder, "apart", {"q": QUERY, "k": KEYS, "v": KEYS, "gate": MIDDLE, "up": MIDDLE})
    x = np.ones((1, 1, HIDDEN), np.float32)
    sessions = {name: ort.open_graph(folder / f"{name}.onnx", threads, "cpu") for name in ("stacked", "apart")}
    runs = {name: (lambda s=s: s.run(None, {"x": x})) for name, s in sessions.items()}
    found: dict[str, list[float]] = {"stacked": [], "apart": []}
    for r in range(rounds):
        for name in ("stacked", "apart") if r % 2 else ("apart", "stacked"):
            found[name].append(median_ms(runs[name]))
    ratios = [a / b for a, b in zip(found["stacked"], found["apart"], strict=True)]
    return {n: round(statistics.median(v), 3) for n, v in found.items()} | {"ratio": round(statistics.median(ratios), 3)}


def cache_lengths(folder: Path, rounds: int, threads: int) -> dict[str, float]:
    checkpoint = open_checkpoint(make_model(folder / "half", SHAPE))
    model = build_graphs(checkpoint, scheme="int4", head_scheme="int4", vision_scheme="f32", precision=Precision("f32"))
    model.write(folder, Quiet())
    prompt = Prompt("", np.arange(IN_USE), np.tile(np.arange(IN_USE), (3, 1)), IN_USE, ())
    sessions = {}
    for length in LENGTHS:
        ort.CACHE_STEP = length
        sessions[length] = ort.OrtSession(folder, checkpoint.config, threads=threads, device="cpu")
        sessions[length].prefill(prompt)
    found: dict[int, list[float]] = {length: [] for length in LENGTHS}
    for r in range(rounds):
        for length in LENGTHS if r % 2 else reversed(LENGTHS):
            found[length].append(median_ms(lambda s=sessions[length]: s.step(5), repeats=8))
    return {str(length): round(statistics.median(times), 2) for length, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = {
            "threads": args.threads,
            "stacking_ms": stacking(Path(scratch), args.rounds, args.threads),
            "cache_length_ms_per_token": cache_lengths(Path(scratch), args.rounds, args.threads),
        }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
