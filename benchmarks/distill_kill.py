"""Twenty kills of a training run at random moments, each followed by the same command again: is the end the same?

Usage: python -m benchmarks.distill_kill [--kills 20] [--records 240] [--json FILE]

The embedded model, drawn pictures, EfficientNet-Lite0 as teacher and the demo's recipe, in f32 and on one thread, so
that equal means equal bit by bit.  One run is left alone; the other is killed (SIGKILL) after a random share of the
time that is left, twenty times, from the building of the cache on.  Compared are every loss of every step and every
byte of the adapter.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
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
    if (out / "README.md").exists():
        return "finished"
    steps = sorted((out / "checkpoints").glob("step-*")) if (out / "checkpoints").is_dir() else []
    if steps:
        return steps[-1].name
    shards = list(out.with_name(f"{out.name}.cache").glob("*.safetensors"))
    return f"cache, {len(shards)} shards" if shards else "start"


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
        reached = []
        for number in range(args.kills):
            # Start-up takes seconds in which nothing is done; a kill falls anywhere in it or in what follows.
            with subprocess.Popen(command(data, cut, args.epochs), cwd=ROOT) as running:
                try:
                    running.wait(moments.uniform(0.2, 1.0) * took * 0.5)
                except subprocess.TimeoutExpired:
                    running.kill()
            reached.append(stage(cut))
            print(f"kill {number + 1}: {reached[-1]}", flush=True)
            if reached[-1] == "finished":
                break
        if not (cut / "README.md").exists():
            subprocess.run(command(data, cut, args.epochs), check=True, cwd=ROOT)
        adapter = "adapter.safetensors"
        result = {
            "status": "measured",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
            "uninterrupted_s": took,
            "kills": len(reached) - (reached[-1] == "finished"),
            "reached": reached,
            "steps": len(losses(whole)),
            "losses_equal": losses(whole) == losses(cut),
            "adapter_bytes_equal": (whole / adapter).read_bytes() == (cut / adapter).read_bytes(),
            "left_behind": [p.name for p in cut.glob(".*")],
        }
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    if not (result["losses_equal"] and result["adapter_bytes_equal"] and not result["left_behind"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
