"""Every target and scheme of a tiny model with random weights against PyTorch, on real photographs and three awkward pictures.

Usage: python benchmarks/parity_photographs.py [--images DIR] [--count 8] [--only onnx:f32,...] [--json FILE]

Photographs are read from ../shared/data/pad-ufes-20/images if ``--images`` is not given; without them only the
generated pictures (very wide, very tall, at the pixel cap) are compared.  Prints one line per bundle and
stage and writes all figures.  Exit code 1 if a gated stage fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export, known_targets, load_target
from skinedge.model.tiny import make_checkpoint
from skinedge.parity.compare import compare
from skinedge.parity.pictures import write_pictures
from skinedge.targets._contract import ExportOptions

PHOTOGRAPHS = Path(__file__).parents[2] / "shared" / "data" / "pad-ufes-20" / "images"
CONTEXT = 2048


def cases(only: str | None) -> list[tuple[str, str]]:
    """(target, scheme) of every bundle that can be run, or of those asked for."""
    if only:
        return [(t, s) for t, _, s in (case.partition(":") for case in only.split(","))]
    found = [(t, s) for t in known_targets() if load_target(t).RUNS for s in load_target(t).SCHEMES]
    return [(t, s) for t, s in found if s != "bf16" or t == "gguf"]  # no bf16 kernels on a CPU outside llama.cpp


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=PHOTOGRAPHS)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--only")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows, passed = [], True
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        source = AdapterCheckpoint.find(*make_checkpoint(work / "checkpoint"))
        pictures = write_pictures(work / "pictures")
        if args.images.is_dir():
            for path in sorted(args.images.glob("*.jpg"))[: args.count]:
                shutil.copy(path, work / "pictures")
        count = len(list((work / "pictures").iterdir()))
        print(f"{count - len(pictures)} photographs and {len(pictures)} generated pictures, {args.steps} steps")
        for target, scheme in cases(args.only):
            folder = export(source, target, ExportOptions(scheme, context=CONTEXT), work / f"{target}-{scheme}").path
            side = "onnx" if target == "trt" else None  # the very graphs the plans were built from
            result = compare(folder, source, work / "pictures", steps=args.steps, side=side, threads=1, quiet=True)
            passed &= result.passed
            for stage in result.stages:
                print(f"{target:5} {scheme:7} {stage.line()}", flush=True)
            rows.append(result.to_json())
            shutil.rmtree(folder)
    report = {"machine": platform.machine(), "pictures": count, "steps": args.steps, "bundles": rows}
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
