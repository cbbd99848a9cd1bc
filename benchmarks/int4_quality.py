"""Four bits a weight on real language weights, by each of the tools: what is left of the model's words?

Usage: python -m benchmarks.int4_quality --work DIR [--genai NAME=FOLDER ...] [--plans] [--add] [--json FILE]

The language model is real Qwen2.5-0.5B (``benchmarks.real_weights``); it is calibrated on narratives of DermBench
(``../shared/data``) and judged on others, text only: its vision tower is random.  Every arm is a set of matrices as its tool
stores them, put back into PyTorch in f32, so that the arms differ in their weights alone:

- skinedge's ONNX int4, rounded by nearest, by scale and by gptq, and plans of ``skinedge quantize`` for the size of a peer
- llama.cpp's Q4_K_M with and without importances (ggml's own bytes)
- the bundles of onnxruntime-genai's model builder that ``--genai`` names, read from their ``MatMulNBits``

``bits`` counts scales and zero points over all matrices (the embedding, which every tool may keep as it is, is not
among them).  Results are added arm by arm to ``benchmarks/results/int4_quality.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks import real_weights
from benchmarks.budget_plan import Judge, narratives
from skinedge.artifacts import AdapterCheckpoint
from skinedge.calibration.candidates import Candidates, GgufCandidates, OnnxCandidates, matrices
from skinedge.calibration.planning import Sizes, asked_of, menu
from skinedge.calibration.run import calibrate, prepare
from skinedge.calibration.samples import read_conversations
from skinedge.calibration.statistics import Calibration
from skinedge.console import progress_bar
from skinedge.model.config import ModelConfig
from skinedge.quantize.q4_k_m import MIX
from skinedge.targets._contract import ExportOptions
from skinedge.targets._gguf_tensors import text_tensors
from skinedge.weights.checkpoint import Checkpoint, open_checkpoint
from skinedge.weights.source import Float32

RESULT = Path(__file__).parent / "results" / "int4_quality.json"
SEEN, HELD_OUT = slice(32), slice(200, 216)


class Arm:
    """Matrices as a tool stores them: how many bytes, and what is left of each."""

    def __init__(self, name: str, nbytes: int, restore: Callable[[str], Float32]) -> None:
        self.name, self.nbytes, self.restore = name, nbytes, restore


def uniform(name: str, offered: Candidates, checkpoint: Checkpoint, schemes: Mapping[str, str]) -> Arm:
    """``schemes`` by matrix."""
    weights = checkpoint.weights
    nbytes = sum(offered.nbytes(weights, matrix, scheme) for matrix, scheme in schemes.items())
    return Arm(name, nbytes, lambda matrix: offered.restore(weights, matrix, schemes[matrix]))


def own_and_llama(checkpoint: Checkpoint, calibration: Calibration) -> Iterator[Arm]:
    """Every scheme and rounding of ours, and llama.cpp's."""
    names = list(matrices(checkpoint.config))
    for scheme in ("int4", "int4a", "int4_b64", "int4a_b128"):
        for rounding in ("nearest", "scale", "gptq"):
            offered = OnnxCandidates(calibration, rounding=rounding)
            yield uniform(f"onnx {scheme}, {rounding}", offered, checkpoint, dict.fromkeys(names, scheme))
    for label, known, importances in (("", None, False), (" with importances", calibration, True)):
        kinds = {t.source: t.kind.name for t in text_tensors(checkpoint.config, MIX, importances=importances)}
        yield uniform(f"gguf q4_k_m{label}", GgufCandidates(known), checkpoint, {n: kinds[n] for n in names})


def planned(
    checkpoint: Checkpoint, calibration: Calibration, source: AdapterCheckpoint, data: Path, limit: int, sizes: Mapping[str, int]
) -> Iterator[Arm]:
    """Our ONNX schemes chosen matrix by matrix, together no larger than each of ``sizes``; measured once for all."""
    options, offered = ExportOptions("int4", calibration=calibration), OnnxCandidates(calibration)
    taken = Sizes.of(checkpoint, options, offered, "onnx")
    conversations = read_conversations(data, limit=limit, text_only=True)
    with progress_bar(quiet=False) as progress:
        found = menu(source, options, offered, taken, conversations, progress, target="onnx", quiet=False)
    for name, nbytes in sizes.items():
        yield uniform(f"onnx plan as large as {name}", offered, checkpoint, found.plan(taken.fixed + nbytes).mix)


def genai(name: str, folder: Path, config: ModelConfig) -> Arm:
    """A bundle of the model builder."""
    from benchmarks.peers.genai_weights import read_matrices

    found = read_matrices(folder / "model.onnx", config)
    return Arm(f"genai {name}", sum(m.nbytes for m in found.values()), lambda matrix: found[matrix].restore())


def calibrated(source: AdapterCheckpoint, data: Path, folder: Path) -> Calibration:
    """With second moments, made if it is not there."""
    if not folder.exists():
        with progress_bar(quiet=False) as progress:
            calibrate(prepare(source, data, text_only=True, block=1024), folder, progress)
    return Calibration.open(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/int4-quality"))
    parser.add_argument("--genai", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--plans", type=int, metavar="NARRATIVES", help="also plan, measured on so many narratives")
    parser.add_argument("--add", action="store_true", help="only what is not in the results yet")
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    model = real_weights.make(args.work / "half-billion-shuffled")
    seen, held_out = narratives(args.work / "seen.jsonl", SEEN), narratives(args.work / "held-out.jsonl", HELD_OUT)
    source, checkpoint = AdapterCheckpoint.find(model, []), open_checkpoint(model)
    calibration = calibrated(source, seen, args.work / "calibration-moments")
    names = list(matrices(checkpoint.config))
    size = sum(checkpoint.weights.spec(n).size for n in names)
    known = json.loads(args.json.read_text(encoding="utf-8"))["arms"] if args.add and args.json.is_file() else {}
    arms = list(own_and_llama(checkpoint, calibration))
    arms += [genai(name, Path(folder), checkpoint.config) for name, _, folder in (g.partition("=") for g in args.genai)]
    if args.plans:
        sizes = {a.name: a.nbytes for a in arms if a.name in ("onnx int4, gptq", "gguf q4_k_m with importances")}
        arms += planned(checkpoint, calibration, source, seen, args.plans, sizes)
    judge = Judge(model, asked_of(source, read_conversations(held_out, text_only=True), quiet=False))
    for arm in arms:
        if arm.name in known:
            continue
        start = time.perf_counter()
        found = judge.judge(arm.restore, names)
        known[arm.name] = {"bits": round(arm.nbytes * 8 / size, 3), **found, "seconds": round(time.perf_counter() - start, 1)}
        print(arm.name, json.dumps(known[arm.name]), flush=True)
        about = {"status": "measured", "machine": f"{platform.machine()}, {os.cpu_count()} cores", "weights": size}
        about |= {"calibration_tokens": calibration.record.tokens, "arms": known}
        args.json.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
