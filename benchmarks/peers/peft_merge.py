"""Is our merge PEFT's own, bit for bit, and what do the two cost?

Merges one LoRA (language model and vision tower) into one checkpoint with ``skinedge`` and with PEFT's
``merge_and_unload`` + ``save_pretrained``, each in a process of its own, alternating (A B B A), and compares
every element of the two folders.

    python benchmarks/peers/peft_merge.py [--hidden 1024 --intermediate 2816 --layers 12 --rank 16] [--json]
    python benchmarks/peers/peft_merge.py --model FOLDER --adapter FOLDER

Writes ``benchmarks/results/peft_merge.json``, one entry per size.  ``work_s`` runs from opening the files to the
last byte written; ``total_s`` counts starting Python and importing, too.  ``peak_private_bytes`` leaves out pages of
mapped files, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from skinedge.model.config import read_config  # noqa: E402
from skinedge.model.tiny import Size, make_lora, make_model  # noqa: E402
from skinedge.weights.cast import FLOATS  # noqa: E402
from skinedge.weights.checkpoint import open_checkpoint  # noqa: E402
from skinedge.weights.merge import lay_out, merge  # noqa: E402
from skinedge.weights.source import Array, row_blocks  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "peft_merge.json"
HEAD_DIM = 64


@dataclass(frozen=True)
class Run:
    """One merge in a process of its own."""

    by: str
    work_s: float
    total_s: float
    peak_rss_bytes: int
    peak_private_bytes: int


@dataclass(frozen=True)
class Difference:
    """Two merged checkpoints, element by element; distances in units in the last place."""

    elements: int
    differing: int
    max_ulp: int


def merge_with_skinedge(model: Path, adapter: Path, out: Path, threads: int) -> None:
    checkpoint = open_checkpoint(model, [adapter])
    merge(lay_out(checkpoint), out, workers=threads)
    checkpoint.ledger.settle()


def merge_with_peft(model: Path, adapter: Path, out: Path, threads: int) -> None:
    import peft
    import torch
    import transformers

    torch.set_num_threads(threads)
    base = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(model, dtype="auto")
    peft.PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().save_pretrained(out)


MERGERS = {"skinedge": merge_with_skinedge, "peft": merge_with_peft}


class PeakMemory:
    """The most memory this process held while the block ran, looked at every 5 ms."""

    def __enter__(self) -> PeakMemory:
        self.rss = self.private = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._done.wait(0.005):
            memory = process.memory_info()
            mapped = getattr(memory, "shared", 0)  # Linux only; elsewhere both figures are the same
            self.rss, self.private = max(self.rss, memory.rss), max(self.private, memory.rss - mapped)


def child(by: str, model: Path, adapter: Path, out: Path, threads: int) -> None:
    """What runs in the process of its own; prints its figures as the last line."""
    out.mkdir()
    if by == "peft":  # imported before the clock starts
        import peft  # noqa: F401
    with PeakMemory() as peak:
        start = time.perf_counter()
        MERGERS[by](model, adapter, out, threads)
        work = time.perf_counter() - start
    print(json.dumps({"work_s": work, "peak_rss_bytes": peak.rss, "peak_private_bytes": peak.private}))


def run(by: str, model: Path, adapter: Path, out: Path, threads: int) -> Run:
    command = [sys.executable, __file__, "--child", by, "--model", str(model), "--adapter", str(adapter), "--out", str(out)]
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    quiet = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}
    start = time.perf_counter()
    done = subprocess.run(
        [*command, "--threads", str(threads)],
        env={**os.environ, **quiet, **dict.fromkeys(pools, str(threads))},
        capture_output=True,
        text=True,
        check=False,
    )
    total = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{by} failed:\n{done.stderr}")
    return Run(by=by, total_s=total, **json.loads(done.stdout.splitlines()[-1]))


def compare(ours: Path, theirs: Path) -> Difference:
    one, other = open_checkpoint(ours).weights, open_checkpoint(theirs).weights
    elements = differing = worst = 0
    for name in one.names():
        for rows in row_blocks(one.spec(name)):
            distance = np.abs(_order(one.read(name, rows)) - _order(other.read(name, rows)))
            elements += distance.size
            differing += int(np.count_nonzero(distance))
            worst = max(worst, int(distance.max()))
    return Difference(elements, differing, worst)


def _order(a: Array) -> npt.NDArray[np.int64]:
    """The place of each value among all that its type can represent."""
    signed = {2: np.int16, 4: np.int32}[a.dtype.itemsize]
    bits = np.ascontiguousarray(a).view(signed).astype(np.int64)
    return np.where(bits < 0, -(bits & np.iinfo(signed).max), bits)


def measure(model: Path, adapter: Path, rounds: int, threads: int, scratch: Path) -> tuple[list[Run], Difference]:
    runs = []
    for i, by in enumerate(("skinedge", "peft", "peft", "skinedge") * rounds):
        runs.append(run(by, model, adapter, scratch / f"{i}-{by}", threads))
        if i > 1:  # the first of each is compared, the others were for the clock
            shutil.rmtree(scratch / f"{i}-{by}")
    return runs, compare(scratch / "0-skinedge", scratch / "1-peft")


def report(what: dict[str, object], runs: list[Run], difference: Difference) -> dict[str, object]:
    by = {name: [r for r in runs if r.by == name] for name in MERGERS}
    middle = {
        name: {key: statistics.median(asdict(r)[key] for r in found) for key in asdict(found[0]) if key != "by"}
        for name, found in by.items()
    }
    packages = ("numpy", "torch", "transformers", "peft", "safetensors")
    return {
        "schema": 1,
        "what": what,
        "difference": asdict(difference),
        "median": middle,
        "runs": [asdict(r) for r in runs],
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def say(result: dict[str, object], runs: list[Run], difference: Difference) -> None:
    print(f"{result['what']}")
    print(f"  {difference.differing} of {difference.elements} elements differ, at most {difference.max_ulp} ulp")
    for r in runs:
        memory = f"{r.peak_private_bytes / 2**20:7.0f} MiB of its own, {r.peak_rss_bytes / 2**20:7.0f} MiB with mapped files"
        print(f"  {r.by:9} {r.work_s:7.2f} s of work, {r.total_s:7.2f} s in all, {memory}")


def keep(result: dict[str, object]) -> None:
    """Replace the entry of the same size, or add one."""
    entries = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else []
    entries = [e for e in entries if e["what"] != result["what"]] + [result]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8", newline="\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint; by default one with random weights is made")
    parser.add_argument("--adapter", type=Path, help="a PEFT LoRA for it")
    parser.add_argument("--hidden", type=int, default=Size.hidden, help=f"a multiple of {2 * HEAD_DIM}")
    parser.add_argument("--intermediate", type=int, default=Size.intermediate)
    parser.add_argument("--layers", type=int, default=Size.layers)
    parser.add_argument("--vocab", type=int, default=Size.vocab)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", choices=list(FLOATS), default="bf16")
    parser.add_argument("--rounds", type=int, default=1, help="each is A B B A")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="where the checkpoints go; by default the system's own place")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--child", choices=list(MERGERS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.child:
        child(args.child, args.model, args.adapter, args.out, args.threads)
        return
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        model, adapter = args.model, args.adapter
        what: dict[str, object] = {"model": str(model), "adapter": str(adapter), "threads": args.threads}
        if model is None:
            heads = args.hidden // HEAD_DIM
            size = Size(args.vocab, args.hidden, args.intermediate, args.layers, heads, kv_heads=max(1, heads // 4))
            model = make_model(Path(scratch) / "model", size, dtype=FLOATS[args.dtype])
            adapter = make_lora(Path(scratch) / "lora", read_config(model), rank=args.rank)
            what = {"size": asdict(size), "dtype": args.dtype, "rank": args.rank, "threads": args.threads}
        runs, difference = measure(model, adapter, args.rounds, args.threads, Path(scratch))
    result = json.loads(json.dumps(report(what, runs, difference)))  # tuples become lists, as they will be read back
    keep(result)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        say(result, runs, difference)


if __name__ == "__main__":
    main()
