"""Twenty kills of a training run at random moments, each followed by the same command again: is the end the same?

Usage: python -m benchmarks.distill_kill [--kills 20] [--records 240] [--json FILE]

The embedded model, drawn pictures, EfficientNet-Lite0 as teacher and the demo's recipe, in f32 and on one thread, so
that equal means equal bit by bit.  One run is left alone; others are killed (SIGKILL) after a random time, from the
building of the cache on, and started again with the same command until they end; a new one begins from nothing until
twenty kills have fallen.  Compared are every loss of every step and every byte of the adapter.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from skinedge.embedded import BASE
from skinedge.synthderm.dataset import write_dataset

RESULT = Path(__file__).parent / "results" / "distill_kill.json"
ROOT = Path(__file__).parents[1]


def command(data: Path, out: Path, epochs: int) -> list[str]:
    settings = ["--set", f"train.epochs={epochs}", "--set", "cache.shard_mb=1", "--save-every", "5", "--precision", "f32"]
    places = ["--model", str(BASE), "--data", str(data), "--out", str(out)]
    more = ["--device", "cpu", "--threads", "1", "--quiet"]
    return [sys.executable, "-m", "train.distill", "--recipe", "demo", *places, *settings, *more]


def losses(out: Path) -> list[list[float]]:
    """Every step's figures, without those that depend on the clock."""
    rows = [json.loads(line) for line in (out / "log" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [[v for k, v in row.items() if k not in ("seconds", "tokens_per_s")] for row in rows]


def stage(out: Path) -> str:
    """How far the run is."""
    if (out / "adapter.safetensors").exists():
        return "adapter written"
    steps = sorted((out / "checkpoints").glob("step-*")) if (out / "checkpoints").is_dir() else []
    if steps:
        return steps[-1].name
    shards = list(out.with_name(f"{out.name}.cache").glob("*.safetensors"))
    return f"cache, {len(shards)} shards" if shards else "start"


def same(whole: Path, cut: Path) -> bool:
    """Every loss, every byte of the adapter, and nothing else left."""
    adapters = [(out / "adapter.safetensors").read_bytes() for out in (whole, cut)]
    return losses(whole) == losses(cut) and adapters[0] == adapters[1] and not list(cut.glob(".*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--records", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    moments = random.Random(11)
    with tempfile.TemporaryDirectory(prefix="skinedge-") as scratch:
        data = write_dataset(Path(scratch) / "data", args.records, 101, quiet=True)
        whole, cut = Path(scratch) / "whole", Path(scratch) / "cut"
        begin = time.perf_counter()
        subprocess.run(command(data, whole, args.epochs), check=True, cwd=ROOT)
        took = time.perf_counter() - begin
        reached: list[str] = []
        ends: list[bool] = []
        while len(reached) < args.kills or cut.exists():
            with subprocess.Popen(command(data, cut, args.epochs), cwd=ROOT) as running:
                try:
                    running.wait(moments.uniform(0.05, 0.4) * took if len(reached) < args.kills else None)
                except subprocess.TimeoutExpired:
                    running.kill()
                    reached.append(stage(cut))
                    print(f"kill {len(reached)}: {reached[-1]}", flush=True)
            if running.returncode == 0:
                ends.append(same(whole, cut))
                shutil.rmtree(cut)
                shutil.rmtree(cut.with_name("cut.cache"))
        result = {
            "status": "measured",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
            "uninterrupted_s": took,
            "steps": len(losses(whole)),
            "kills": len(reached),
            "reached": reached,
            "runs_ended": len(ends),
            "runs_equal_to_the_uninterrupted_one": sum(ends),
        }
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    if not all(ends):
        sys.exit(1)


if __name__ == "__main__":
    main()
