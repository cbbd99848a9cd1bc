"""The embedded model in PyTorch and as its ONNX f32 bundle, on PAD-UFES-20 val and on SynthDerm pictures nobody trained on.

Usage: python -m benchmarks.evaluate_pad [--pad DIR] [--count N] [--max-new-tokens N] [--own-question] [--work DIR] [--json FILE]

It types what a user would: ``skinedge export``, four times ``skinedge evaluate`` (SynthDerm with the rubric) and ``skinedge
compare``.  With --own-question the model is asked once more on PAD-UFES-20, in the words that it was trained on.
Photographs are read from ../shared/data/pad-ufes-20; without them that half is left out, and said to be.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from skinedge.evaluation.result import read_evaluation
from skinedge.evaluation.run import STEP, journal_beside
from skinedge.synthderm.dataset import write_dataset
from skinedge.synthderm.narrative import QUESTIONS

PAD = Path(__file__).parents[2] / "shared" / "data" / "pad-ufes-20"
SEED = 707  # train_seed 101 and test_seed 202 of the ablation, 303 of the demonstration: this is none of them


def runs_of(results: list[Path]) -> list[dict[str, object]]:
    """Wall seconds of each run, how many answers it made in them, and how many an interrupted run had left."""
    found = []
    for path in results:
        one = read_evaluation(path)
        new = one.figures.answered - one.reused
        found.append({"run": path.stem, "seconds": round(one.seconds, 1), "new_answers": new, "reused": one.reused})
    return found


def same_texts(work: Path, runs: Iterable[str], models: Iterable[str]) -> dict[str, dict[str, int]]:
    """Of how many items all models say the same to the letter."""
    found = {}
    for run in runs:
        told = []
        for name in models:
            lines = journal_beside(work / f"{run}-{name.replace(' ', '-')}.json").read_text(encoding="utf-8").splitlines()
            entries = map(json.loads, lines)
            told.append({entry["case"]: entry["text"] for entry in entries if entry["step"] == STEP})
        found[run] = {"items": len(told[0]), "same": sum(len({t.get(case) for t in told}) == 1 for case in told[0])}
    return found


def skinedge(*words: str | Path) -> None:
    """Run a command."""
    subprocess.run([sys.executable, "-m", "skinedge", *map(str, words)], check=True, stdout=sys.stderr, env=dict(os.environ))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pad", type=Path, default=PAD)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--own-question", action="store_true")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        report = measure(work, args.pad, args.count, args.max_new_tokens, own_question=args.own_question)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


def measure(work: Path, pad: Path, count: int, most: int, *, own_question: bool) -> dict[str, object]:
    """All runs and the table of them; the table goes to standard output as Markdown."""
    bundle, synthderm = work / "onnx-f32", work / "synthderm"
    if not bundle.exists():
        skinedge("export", "--target", "onnx", "--scheme", "f32", "--out", bundle, "--unverified")
    if not synthderm.exists():
        write_dataset(synthderm, 6 * count, SEED, workers=1)
    runs: dict[str, tuple[str | Path, ...]] = {
        "synthderm": ("--data", synthderm, "--limit", str(count), "--judge", "rubric"),
    }
    if pad.is_dir():
        runs["pad"] = ("--data", pad, "--split", "val")
    if pad.is_dir() and own_question:
        runs["pad-own-question"] = ("--data", pad, "--split", "val", "--question", QUESTIONS[0])
    models: dict[str, tuple[str | Path, ...]] = {"pytorch f32": (), "onnx f32": (bundle,)}
    results = []
    for run, what in runs.items():
        for name, model in models.items():
            out = work / f"{run}-{name.replace(' ', '-')}.json"
            if not out.exists():
                how = ("--name", name, "--max-new-tokens", str(most), "--threads", "1", "--quiet")
                skinedge("evaluate", *model, *what, *how, "--out", out)
            results.append(out)
    for suffix in (".md", ".json"):
        (work / f"table{suffix}").unlink(missing_ok=True)
        skinedge("compare", *results, "--out", work / f"table{suffix}")
    print((work / "table.md").read_text(encoding="utf-8"))
    table = json.loads((work / "table.json").read_text(encoding="utf-8"))
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "threads": 1}
    left_out = [] if pad.is_dir() else [f"PAD-UFES-20: {pad} is absent"]
    return {
        **machine,
        "max_new_tokens": most,
        "runs": runs_of(results),
        "left_out": left_out,
        "same_texts": same_texts(work, runs, models),
        "table": table,
    }


if __name__ == "__main__":
    sys.exit(main())
