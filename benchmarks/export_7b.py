"""A whole 7B-shaped model with its adapters, exported on a small machine: time, memory and bytes.

    python benchmarks/export_7b.py [--work DIR] [--cases gguf:q4_k_m,onnx:int4,trt:int4] [--layers 28] [--keep] [--json FILE]

Writes a checkpoint of random weights shard by shard (28 layers and 32 vision blocks: 16.6 GB of bf16), a LoRA of rank
16 on every linear layer and a side branch of the released shape; exports them, each case in a process of its own;
deletes everything.  Its weights are one block of normal numbers, each tensor a shifted piece of it times a power of
two: as irregular to a quantizer as new ones, and written as fast as the disk takes them.

``peak_private`` is what the machine must have beside the mapped checkpoint, whose pages the system takes back as it needs
them.  See ``benchmarks/measuring.py``.  Linux only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import measure  # noqa: E402
from skinedge.model.config import read_config  # noqa: E402
from skinedge.model.names import HEAD, expected_shapes  # noqa: E402
from skinedge.model.tiny import SHAPE_7B, make_lora, make_side_branch, write_settings, write_tokenizer  # noqa: E402
from skinedge.weights import safetensors  # noqa: E402
from skinedge.weights.source import BF16, TensorSpec  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "export_7b.json"
FULL = replace(SHAPE_7B, layers=28, vision_depth=32, vision_full=(7, 15, 23, 31))
SHARD_BYTES = 4 << 30
POOL = (32 << 20) + 1  # values drawn; odd, so that no two rows of a matrix are the same piece
RANK, WIDTH, TEACHER = 16, 1024, 1024
_EXPONENT = 7  # bits of a bf16 below its exponent

Bits = npt.NDArray[np.uint16]


def make_checkpoint(folder: Path, layers: int) -> tuple[Path, list[Path]]:
    """The model's folder and those of its two adapters."""
    size = replace(FULL, layers=layers)
    model = folder / "model"
    model.mkdir(parents=True)
    write_tokenizer(model, size.vocab, ["a lesion with irregular borders"])
    write_settings(model, size, BF16)
    config = read_config(model)
    write_shards(model, [TensorSpec(name, shape, BF16) for name, shape in expected_shapes(config).items()])
    lora = make_lora(folder / "lora", config, rank=RANK)
    branch = make_side_branch(folder / "branch", config, width=WIDTH, teacher=TEACHER)
    return model, [lora, branch]


def write_shards(folder: Path, specs: list[TensorSpec]) -> None:
    """Shards of about four GiB and their index."""
    pool, position, weight_map = draw(), 0, {}
    shards = list(_shards(specs))
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        with (folder / file).open("wb") as f:
            f.write(safetensors.header(shard, {"format": "pt"}))
            for spec in shard:
                weight_map[spec.name] = file
                for piece in _pieces(pool, position, spec.size):
                    f.write(_scaled(piece, spec).data)
                position = (position + spec.size) % POOL
    total = sum(s.nbytes for s in specs)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def draw() -> Bits:
    """Normal numbers as bf16 bits, without zeros, whose exponent cannot be moved."""
    bits = np.random.default_rng(0).standard_normal(POOL, np.float32).astype(BF16).view(np.uint16)
    return np.where(bits << 1 == 0, np.uint16(0x3F80), bits)


def _pieces(pool: Bits, position: int, count: int) -> Iterator[Bits]:
    """``count`` values from ``position`` on, round and round."""
    while count:
        piece = pool[position : position + min(count, 4 << 20)]
        yield piece
        position, count = (position + len(piece)) % len(pool), count - len(piece)


def _scaled(piece: Bits, spec: TensorSpec) -> Bits:
    """Times the power of two nearest ``1 / sqrt(fan in)``; norms about one."""
    if "norm" in spec.name or "ln_q" in spec.name:
        return np.full(piece.shape, 0x3F80, np.uint16) + (piece & np.uint16(15))
    gain = 0.1 if len(spec.shape) < 2 else (3.0 if spec.name == HEAD else 1.0) / math.sqrt(spec.cols)
    return piece - np.uint16(round(-math.log2(gain)) << _EXPONENT)


def _shards(specs: list[TensorSpec]) -> Iterator[list[TensorSpec]]:
    shard: list[TensorSpec] = []
    for spec in specs:
        if shard and sum(s.nbytes for s in shard) + spec.nbytes > SHARD_BYTES:
            yield shard
            shard = []
        shard.append(spec)
    yield shard


def export_command(model: Path, adapters: list[Path], case: str, out: Path) -> list[str]:
    target, scheme = case.split(":")
    words = ["export", "--model", str(model), "-t", target, "-s", scheme, "-o", str(out), "--unverified", "--json"]
    return [sys.executable, "-m", "skinedge", *words, *(w for a in adapters for w in ("--adapter", str(a)))]


def run(model: Path, adapters: list[Path], case: str, out: Path) -> dict[str, object]:
    """Export once; the bundle is left at ``out``."""
    usage = measure(export_command(model, adapters, case, out), {**os.environ, "PYTHONPATH": str(ROOT)})
    bundle = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    return {"case": case, **asdict(usage), "bundle": bundle, "load_average": os.getloadavg()[0]}


def describe(row: dict[str, object]) -> str:
    gib = {k: f"{int(str(row[k])) / 2**30:.2f} GiB" for k in ("peak_private", "written", "bundle") if k in row}
    return f"{row['case']}: {row['seconds']} s, {row['cpu_s']} s of CPU, {gib}"


def save(path: Path, key: str, value: object) -> None:
    """Put ``value`` under ``key`` of a JSON file, beside what is there."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**known, key: value}, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/export_7b"))
    parser.add_argument("--cases", default="gguf:q4_k_m")
    parser.add_argument("--layers", type=int, default=FULL.layers)
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint there, and use one that is")
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    model, adapters = args.work / "model", [args.work / "lora", args.work / "branch"]
    out = args.work / "out"
    try:
        if not (args.keep and (args.work / "branch").is_dir()):
            model, adapters = make_checkpoint(args.work, args.layers)
        weights = sum(p.stat().st_size for p in model.glob("*.safetensors"))
        for case in filter(None, args.cases.split(",")):
            row = run(model, adapters, case, out)
            shutil.rmtree(out)
            print(describe(row), flush=True)
            machine = {"processor": platform.machine(), "cores": os.cpu_count()}
            save(args.json, case, {"checkpoint": weights, "layers": args.layers, "rank": RANK, "machine": machine, **row})
    finally:
        shutil.rmtree(out if args.keep else args.work, ignore_errors=True)


if __name__ == "__main__":
    main()
