"""Tokens a second on this machine's CPU: our ONNX int4, llama.cpp's Q4_K_M and onnxruntime-genai's int4.

Usage: python -m benchmarks.decode_speed --shape 0.5b --onnx BUNDLE --gguf BUNDLE --genai FOLDER [--python PYTHON]
                                         [--tokens 96] [--rounds 5] [--threads 1,2] [--json FILE]

The three hold the same language model: ``skinedge export -t onnx -s int4``, ``-t gguf -s q4_k_m``, and what onnxruntime-genai's
model builder writes (``benchmarks/peers/onnx_exporters.py``); ``--python`` runs the last in an environment of its own.  Each
arm and round is a fresh process: it reads a prompt of 64 tokens and makes ``--tokens`` greedily, of which the first eight are
not counted.  Arms alternate; ratios are medians over rounds of the pair in the same round.

``share`` is the part of the memory's read bandwidth that an arm uses: bytes of weights that a token needs, times tokens a
second, over what as many threads read from a gigabyte in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "decode_speed.json"
GENAI = ROOT / "benchmarks" / "peers" / "genai_decode.py"
PROMPT, WARM = 64, 8


def decode(bundle: Path, threads: int, tokens: int) -> list[float]:
    """Seconds of each step of one of our bundles."""
    from skinedge.bundle import load_target
    from skinedge.manifest import read_manifest
    from skinedge.runtime.session import Prompt
    from skinedge.targets._contract import OpenOptions

    manifest = read_manifest(bundle)
    session = load_target(manifest.target).open_session(bundle, manifest, OpenOptions(threads, PROMPT + tokens + 16, "cpu"))
    positions = np.tile(np.arange(PROMPT), (3, 1))
    logits = session.prefill(Prompt("", np.arange(1000, 1000 + PROMPT), positions, PROMPT, ()))
    times = []
    for _ in range(tokens):
        begin = time.perf_counter()
        logits = session.step(int(logits.argmax()))
        times.append(time.perf_counter() - begin)
    return times


def bandwidth(threads: int) -> float:
    """Bytes a second that so many threads read from memory, the best of five."""
    block = np.ones((threads, (1 << 30) // 8 // threads), np.int64)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            begin = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, block))
            best = max(best, block.nbytes / (time.perf_counter() - begin))
    return best


def weight_bytes(arm: str, folder: Path) -> int:
    """What a token reads: all matrices of the language model, not the embedding's table."""
    if arm == "onnx":
        return sum((folder / f"{graph}.onnx.data").stat().st_size for graph in ("decoder", "head"))
    if arm == "gguf":
        import gguf

        tensors = gguf.GGUFReader(folder / "model.gguf").tensors
        tied = not any(t.name == "output.weight" for t in tensors)
        return sum(int(t.n_bytes) for t in tensors if tied or t.name != "token_embd.weight")
    import onnx

    model = onnx.load(folder / "model.onnx", load_external_data=False)
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    places = [{e.key: e.value for e in t.external_data} for t in model.graph.initializer if t.name not in looked_up]
    return sum(int(place.get("length", 0)) for place in places)


def fresh(arm: str, folder: Path, threads: int, tokens: int, python: Path) -> float:
    """Tokens a second, in a process of its own."""
    own = [sys.executable, "-m", "benchmarks.decode_speed", "--worker", str(folder)]
    command = own if arm != "genai" else [str(python), str(GENAI), str(folder)]
    done = subprocess.run([*command, str(threads), str(tokens)], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{arm}: {done.stderr[-2000:]}")
    return 1 / statistics.median(json.loads(done.stdout.splitlines()[-1])[WARM:])


def compare(folders: dict[str, Path], threads: int, tokens: int, rounds: int, python: Path) -> dict[str, object]:
    """Rounds of all arms, in an order that turns."""
    found: dict[str, list[float]] = {arm: [] for arm in folders}
    read: list[float] = []
    for number in range(rounds):
        read.append(bandwidth(threads))
        for arm in sorted(folders, reverse=bool(number % 2)):
            found[arm].append(fresh(arm, folders[arm], threads, tokens, python))
            print(threads, number, arm, round(found[arm][-1], 2), flush=True)
    needs = {arm: weight_bytes(arm, folder) for arm, folder in folders.items()}
    rows = {
        arm: {
            "tokens_s": round(statistics.median(speeds), 2),
            "weight_bytes": needs[arm],
            "share": round(statistics.median(s * needs[arm] / b for s, b in zip(speeds, read, strict=True)), 3),
        }
        for arm, speeds in found.items()
    }
    ratios = {
        f"onnx / {arm}": round(statistics.median(o / s for o, s in zip(found["onnx"], speeds, strict=True)), 3)
        for arm, speeds in found.items()
        if arm != "onnx"
    }
    return {"bandwidth_gb_s": round(statistics.median(read) / 1e9, 1), "arms": rows, "ratios": ratios, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="0.5b", help="a name for the result")
    for arm in ("onnx", "gguf", "genai"):
        parser.add_argument(f"--{arm}", type=Path)
    parser.add_argument("--python", type=Path, default=ROOT / "build" / "peers" / "genai" / "bin" / "python")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        folder, threads, tokens = args.worker
        print(json.dumps(decode(Path(folder), int(threads), int(tokens))))
        return
    folders = {arm: getattr(args, arm) for arm in ("onnx", "gguf", "genai") if getattr(args, arm)}
    known = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {}
    for threads in map(int, args.threads.split(",")):
        row = compare(folders, threads, args.tokens, args.rounds, args.python)
        print(json.dumps(row, indent=1), flush=True)
        about = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "tokens": args.tokens}
        known[f"{args.shape}, threads {threads}"] = about | row
        args.json.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
