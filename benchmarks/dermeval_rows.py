"""DermEval on what bundles really wrote: six scores of the original's and each bundle's narratives, side by side.

Usage: python -m benchmarks.dermeval_rows [--work build/certificates] [--bundles onnx-int4,gguf-q4_k_m] [--pictures 240]

``--work`` is where ``benchmarks.certificates`` left its rows and pictures.  Of every bundle two files are written to
``--out``: NAME.jsonl with both arms, and NAME.json, what ``skinedge judge NAME.jsonl --judge dermeval`` said of it.  Narratives
are not damaged here, so the truth is only known of the diagnosis: ``right_over_wrong`` is the chance that a narrative with the
right answer has more Accuracy than one with a wrong answer (0.5: a coin).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.dermeval_check import RESULT
from skinedge.console import Json
from skinedge.parity.rows import read_rows
from skinedge.synthderm.narrative import read_answer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/certificates"))
    parser.add_argument("--bundles", default="onnx-int4,gguf-q4_k_m")
    parser.add_argument("--pictures", type=int, default=240)
    parser.add_argument("--out", type=Path, default=Path("build/dermeval-rows"))
    parser.add_argument("--json", type=Path, default=RESULT.with_name("dermeval_bundles.json"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    found = {name: _bundle(name, args) for name in args.bundles.split(",")}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, one thread"
    document = {"status": "measured", "machine": machine, "pictures": args.pictures, "bundles": found}
    args.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8", newline="\n")
    return 0


def _bundle(name: str, args: argparse.Namespace) -> dict[str, Json]:
    rows = read_rows(args.work / "drawn-rows" / name)[: args.pictures]
    pictures = (args.work / "pictures").resolve()
    lines = [
        {"id": r.id, "arm": arm, "text": told.text, "image": str(pictures / f"{r.id}.png")}
        for r in rows
        for arm, told in (("1 original", r.reference), ("2 bundle", r.bundle))
    ]
    file, out = args.out / f"{name}.jsonl", args.out / f"{name}.json"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    out.unlink(missing_ok=True)
    words = ["judge", str(file), "--judge", "dermeval", "--out", str(out), "--threads", "1"]
    subprocess.run([sys.executable, "-m", "skinedge", *words], check=True)
    whole: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    truth = {r.id: r.truth for r in rows}
    answers = {(line["id"], line["arm"]): read_answer(line["text"]) for line in lines}
    right, wrong = [], []
    for one in whole["judgements"]:
        if one["scores"] is not None:
            side = right if answers[one["id"], one["arm"]] == truth[one["id"]] else wrong
            side.append(one["scores"]["Accuracy"])
    wins = sum((a > b) + (a == b) / 2 for a in right for b in wrong) / max(1, len(right) * len(wrong))
    return {
        "narratives": len(lines), "same_text": sum(r.reference.text == r.bundle.text for r in rows), "invalid": whole["invalid"],
        "judge": whole["judge"], "means": whole["means"], "differences": whole["differences"],
        "right": len(right), "wrong": len(wrong), "right_over_wrong": round(wins, 4),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
