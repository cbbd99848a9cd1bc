"""Peak memory and time of exporting a 7B-shaped model (2 layers, full vocabulary) to every target.

Usage: python benchmarks/export_memory.py [--work DIR] [--targets onnx:int4,gguf:q4_k_m,...] [--json FILE]

Each export runs in a process of its own; its anonymous memory (``RssAnon`` of /proc/PID/status: heap and
stacks, without the mapped checkpoint and without the page cache) is sampled every 20 ms.  Linux only.
The checkpoint is written first, shard by shard, and deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

CASES = "onnx:f16,onnx:int8,onnx:int4,gguf:f16,gguf:q4_k_m,safetensors:as-stored,trt:f16,trt:int4"


def status_kib(pid: int, field: str) -> int:
    """A field of /proc/PID/status in KiB; 0 once the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field + ":")), 0)


def measure(command: list[str]) -> dict[str, float | int]:
    """Run ``command`` and sample its memory."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    anon = rss = 0
    while process.poll() is None:
        anon = max(anon, status_kib(process.pid, "RssAnon"))
        rss = max(rss, status_kib(process.pid, "VmHWM"))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {process.stderr.read() if process.stderr else ''}")
    return {"seconds": round(time.perf_counter() - begin, 1), "anon_mib": anon >> 10, "rss_mib": rss >> 10}


def make_checkpoint(folder: Path) -> list[str]:
    from skinedge.model.config import read_config
    from skinedge.model.tiny import SHAPE_7B, make_lora, make_model, make_side_branch

    model = make_model(folder / "model", SHAPE_7B, shards=4)
    config = read_config(model)
    lora = make_lora(folder / "lora", config, rank=16)
    branch = make_side_branch(folder / "branch", config, width=1024, teacher=1024)
    return ["--model", str(model), "--adapter", str(lora), "--adapter", str(branch)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/export_memory"))
    parser.add_argument("--targets", default=CASES)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    try:
        source = make_checkpoint(args.work)
        rows = []
        for case in args.targets.split(","):
            target, scheme = case.split(":")
            out = args.work / "out"
            command = [
                sys.executable,
                "-m",
                "skinedge",
                "export",
                *source,
                "-t",
                target,
                "-s",
                scheme,
                "-o",
                str(out),
                "--unverified",
                "--json",
            ]
            row = {"target": target, "scheme": scheme, **measure(command)}
            row["bundle_mib"] = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) >> 20
            shutil.rmtree(out)
            rows.append(row)
            print(row, flush=True)
        checkpoint = sum(p.stat().st_size for p in args.work.rglob("*") if p.is_file()) >> 20
        result = {"checkpoint_mib": checkpoint, "cores": os.cpu_count(), "rows": rows}
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(args.work, ignore_errors=True)


if __name__ == "__main__":
    main()
