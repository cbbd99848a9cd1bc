"""Tokens a second on this machine's CPU: our ONNX int4, llama.cpp's Q4_K_M and onnxruntime-genai's int4.

Usage: python -m benchmarks.decode_speed WORK [--shapes 0.5b,1.5b] [--threads 1,2] [--rounds 4] [--tokens 56]
                                         [--arms int4,int4a_b128,gguf,gguf-native,genai] [--genai PYTHON] [--json FILE]

``python -m benchmarks.decode_bundles WORK`` makes what is measured.  All of it takes about eleven minutes; nothing else may run.

Each arm and round is a fresh process (one thread: on core 0): it reads a prompt of 64 tokens and makes ``--tokens`` greedily,
of which the first eight are not counted.  The context is equally long for all, and choosing the next token is in the time.
Arms alternate, forwards and backwards; ratios are medians over rounds of the pair in the same round.  ``gguf`` is llama.cpp as
xllamacpp's wheel has it (AVX2), ``gguf-native`` as compiled for this processor.

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
from pathlib import Path

import numpy as np

from benchmarks.decode_bundles import GENAI, SHAPES
from skinedge.measure.bandwidth import probe

MODULE = "benchmarks.decode_speed"
ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "decode_speed.json"
OWN, PEERS = ("int4", "int4a_b128"), ("gguf", "gguf-native", "genai")
PROMPT, WARM, MARGIN = 64, 8, 16


def decode(bundle: Path, threads: int, tokens: int) -> list[float]:
    """Seconds of each step of one of our bundles, the choice of the next token included."""
    from skinedge.bundle import load_target
    from skinedge.manifest import read_manifest
    from skinedge.runtime.session import Prompt
    from skinedge.targets._contract import OpenOptions

    manifest = read_manifest(bundle)
    options = OpenOptions(threads, PROMPT + tokens + MARGIN, "cpu")
    session = load_target(manifest.target).open_session(bundle, manifest, options)
    positions = np.tile(np.arange(PROMPT), (3, 1))
    token = int(session.prefill(Prompt("", np.arange(1000, 1000 + PROMPT), positions, PROMPT, ())).argmax())
    times = []
    for _ in range(tokens):
        begin = time.perf_counter()
        token = int(session.step(token).argmax())
        times.append(time.perf_counter() - begin)
    return times


def weight_bytes(arm: str, folder: Path) -> int:
    """What a token reads: all matrices of the language model, not the embedding's table."""
    if arm in OWN:
        return sum((folder / f"{graph}.onnx.data").stat().st_size for graph in ("decoder", "head"))
    if arm.startswith("gguf"):
        import gguf

        tensors = gguf.GGUFReader(folder / "model.gguf").tensors
        tied = not any(t.name == "output.weight" for t in tensors)
        return sum(int(t.n_bytes) for t in tensors if tied or t.name != "token_embd.weight")
    import onnx

    model = onnx.load(folder / "model.onnx", load_external_data=False)
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    places = [{e.key: e.value for e in t.external_data} for t in model.graph.initializer if t.name not in looked_up]
    return sum(int(place.get("length", 0)) for place in places)


class Arms:
    """Where the bundles and interpreters of the arms are."""

    def __init__(self, work: Path, genai: Path) -> None:
        self._work, self._genai = work, genai

    def folder(self, shape: str, arm: str) -> Path:
        return self._work / f"{shape}-{arm.removesuffix('-native')}"

    def tokens_a_second(self, shape: str, arm: str, threads: int, tokens: int) -> float:
        """In a process of its own."""
        script = ROOT / "benchmarks" / "peers" / "genai_decode.py"
        words = [str(self.folder(shape, arm)), str(threads), str(tokens)]
        command = [str(self._genai), str(script)] if arm == "genai" else [sys.executable, "-m", MODULE, "--worker"]
        path = [str(ROOT), str(self._work / "llama-native")] if arm == "gguf-native" else [str(ROOT)]
        return speed(fresh([*command, *words], threads, path))


def own_speed(bundle: Path, threads: int, tokens: int) -> float:
    """Tokens a second of one of our bundles, in a process of its own."""
    return speed(fresh([sys.executable, "-m", MODULE, "--worker", str(bundle), str(threads), str(tokens)], threads, [str(ROOT)]))


def speed(line: str) -> float:
    """Of a worker's times, when it is warm."""
    return 1 / statistics.median(json.loads(line)[WARM:])


def fresh(command: list[str], threads: int, path: list[str]) -> str:
    """The last line a process prints; it stays on one core, the first that this process may use, if it has one thread."""
    pinned = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if threads == 1 else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run([*pinned, *command], capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


def compare(arms: Arms, names: list[str], shape: str, threads: int, tokens: int, rounds: int) -> dict[str, object]:
    """Rounds of all arms, in an order that turns."""
    found: dict[str, list[float]] = {arm: [] for arm in names}
    read: list[float] = []
    for number in range(rounds):
        read.append(float(fresh([sys.executable, "-m", MODULE, "--bandwidth", str(threads)], threads, [str(ROOT)])))
        for arm in reversed(names) if number % 2 else names:
            found[arm].append(arms.tokens_a_second(shape, arm, threads, tokens))
            print(shape, threads, number, arm, round(found[arm][-1], 2), flush=True)
    return {"bandwidth_gb_s": round(statistics.median(read) / 1e9, 1), **summary(arms, shape, found, read), "rounds": rounds}


def summary(arms: Arms, shape: str, found: dict[str, list[float]], read: list[float]) -> dict[str, object]:
    """Speeds, shares of the bandwidth, and ours over each peer and over the better of them."""
    rows: dict[str, object] = {}
    for arm, speeds in found.items():
        needs = weight_bytes(arm, arms.folder(shape, arm))
        share = statistics.median(s * needs / b for s, b in zip(speeds, read, strict=True))
        low, high = round(min(speeds), 2), round(max(speeds), 2)
        rows[arm] = {
            "tokens_s": round(statistics.median(speeds), 2), "range": [low, high], "weight_bytes": needs, "share": round(share, 3)
        }  # fmt: skip
    peers = {arm: speeds for arm, speeds in found.items() if arm in PEERS}
    if peers:
        peers["better peer"] = [max(speeds) for speeds in zip(*peers.values(), strict=True)]
    ratios = {
        f"{own} / {peer}": round(statistics.median(o / s for o, s in zip(found[own], speeds, strict=True)), 3)
        for own in OWN if own in found for peer, speeds in peers.items()
    }  # fmt: skip
    return {"arms": rows, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", default=ROOT / "build" / "decode")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--arms", default=",".join(OWN + PEERS))
    parser.add_argument("--genai", type=Path, default=GENAI, help="the Python that has onnxruntime-genai")
    parser.add_argument("--tokens", type=int, default=56)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--worker", nargs=3, metavar=("BUNDLE", "THREADS", "TOKENS"), help=argparse.SUPPRESS)
    parser.add_argument("--bandwidth", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bandwidth:
        print(probe(args.bandwidth))
        return
    if args.worker:
        folder, threads, tokens = args.worker
        print(json.dumps(decode(Path(folder), int(threads), int(tokens))))
        return
    arms = Arms(args.work.resolve(), args.genai)
    known = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {}
    for shape in args.shapes.split(","):
        for threads in map(int, args.threads.split(",")):
            row = compare(arms, args.arms.split(","), shape, threads, args.tokens, args.rounds)
            print(json.dumps(row, indent=1), flush=True)
            about = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "tokens": args.tokens}
            known[f"{shape}, threads {threads}"] = about | row | {"load_average": os.getloadavg()[0]}
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
