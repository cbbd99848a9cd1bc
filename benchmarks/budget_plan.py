"""A plan to a budget against the uniform scheme of the same size: what does the model say differently?

Usage: python -m benchmarks.budget_plan [--work DIR] [--case tiny|half-billion ...] [--json FILE]

The uniform arm is llama.cpp's own Q4_K_M with the calibration's importances (ggml's rounding, skinedge's bytes); the
plan is made by ``skinedge quantize`` for exactly its size; a third arm is Q4_K_M without importances, and two more are ONNX int4
and a plan of its size.  Each arm's matrices are put, as its target restores them, into PyTorch in f32, and read narratives
that neither calibration nor plan has seen: KL to the clean model and top-1 agreement at every position, in one run.

tiny          the embedded base on drawn pictures
half-billion  real Qwen2.5-0.5B weights (``benchmarks.real_weights``) on narratives of DermBench (``../shared/data``), text
              only: its vision tower is random, and what it says of a picture is no measure of anything
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks import real_weights
from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import load_target
from skinedge.calibration.budget import Entry
from skinedge.calibration.candidates import GgufCandidates, OnnxCandidates, matrices
from skinedge.calibration.damage import Asked
from skinedge.calibration.planning import asked_of, candidates, plan_to_budget
from skinedge.calibration.run import calibrate, prepare
from skinedge.calibration.samples import read_conversations
from skinedge.calibration.statistics import Calibration
from skinedge.console import progress_bar
from skinedge.embedded import BASE
from skinedge.model.names import in_memory
from skinedge.model.reference import Reference
from skinedge.quantize.q4_k_m import MIX
from skinedge.synthderm.dataset import write_dataset
from skinedge.targets._contract import ExportOptions
from skinedge.targets._gguf_tensors import text_tensors
from skinedge.weights.checkpoint import open_checkpoint

RESULT = Path(__file__).parent / "results" / "budget_plan.json"
DERMBENCH = Path(__file__).parents[2] / "shared" / "data" / "dermbench" / "references.jsonl"
QUESTION = "Describe the lesion, reason step by step, and name the diagnosis."


def narratives(file: Path, lines: slice) -> Path:
    """Narratives of DermBench as records without photographs."""
    if not DERMBENCH.is_file():
        raise SystemExit(f"skipped: {DERMBENCH} is absent")
    rows = []
    for line in DERMBENCH.read_text(encoding="utf-8").splitlines()[lines]:
        said = {"role": "assistant", "content": json.loads(line)["reference"]}
        rows.append({"messages": [{"role": "user", "content": QUESTION}, said], "images": []})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return file


class Judge:
    """The clean model's words on held-out narratives, and how far another set of matrices is from them."""

    def __init__(self, folder: Path, asked: Sequence[Asked]) -> None:
        self.model = Reference.from_checkpoint(folder, dtype="f32").model
        self._asked = asked
        self._clean = list(self._logits())

    @torch.inference_mode()
    def _logits(self):
        for one in self._asked:
            sample = one.sample
            inputs = {
                "input_ids": torch.from_numpy(sample.token_ids)[None],
                "position_ids": torch.from_numpy(sample.positions)[:, None],
            }
            if sample.grids:
                pixels = [load() for load in sample.pixels]
                inputs["pixel_values"] = torch.from_numpy(np.concatenate([p.patches for p in pixels]))
                inputs["image_grid_thw"] = torch.tensor([[g.frames, g.height, g.width] for g in sample.grids])
            yield self.model(**inputs).logits[0, one.first : -1].log_softmax(-1)

    def judge(self, restore: Callable[[str], np.ndarray], names: Sequence[str]) -> dict[str, float]:
        """KL, its 99th percentile, top-1 agreement and perplexity ratio."""
        parameters = dict(self.model.named_parameters())
        kept = {}
        for name in names:
            weight = parameters[in_memory(name)]
            kept[name] = weight.data
            weight.data = torch.from_numpy(restore(name))
        kls, same, nll = [], [], []
        for one, clean, other in zip(self._asked, self._clean, self._logits(), strict=True):
            kls.append((clean.exp() * (clean - other)).sum(-1))
            same.append((clean.argmax(-1) == other.argmax(-1)).float())
            said = torch.from_numpy(one.sample.token_ids[one.first + 1 :])[:, None]
            nll.append((clean.gather(1, said) - other.gather(1, said)).squeeze(1))
        for name, weight in kept.items():
            parameters[in_memory(name)].data = weight
        kl = torch.cat(kls)
        return {
            "positions": len(kl),
            "kl_mean": float(kl.mean()),
            "kl_p99": float(kl.quantile(0.99)),
            "top1": float(torch.cat(same).mean()),
            "perplexity_ratio": float(torch.cat(nll).mean().exp()),
        }


def measure(case: str, work: Path, limit: int) -> dict[str, object]:
    """One model: calibrate, plan, and judge the arms."""
    text_only = case == "half-billion"
    if text_only:
        model = real_weights.make(work / "half-billion-shuffled")
        files = [
            narratives(work / f"{name}.jsonl", lines) for name, lines in (("seen", slice(32)), ("held-out", slice(200, 216)))
        ]
    else:
        model = BASE
        files = [
            write_dataset(work / f"drawn-{seed}", count, seed, quiet=True)
            if not (work / f"drawn-{seed}").exists()
            else work / f"drawn-{seed}" / "records.jsonl"
            for count, seed in ((64, 31), (64, 32))
        ]
    source = AdapterCheckpoint.find(model, [])
    folder = work / f"calibration-{case}"
    if not folder.exists():
        with progress_bar(quiet=False) as progress:
            calibrate(prepare(source, files[0], text_only=text_only), folder, progress)
    calibration = Calibration.open(folder)
    checkpoint = open_checkpoint(model)
    options = ExportOptions("q4_k_m", calibration=calibration)
    uniform = load_target("gguf").plan(checkpoint, options).nbytes
    with progress_bar(quiet=False) as progress:
        conversations = read_conversations(files[0], limit=limit, text_only=text_only)
        plan = plan_to_budget(source, options, candidates("gguf", calibration), conversations, uniform, progress, quiet=False)
        onnx, words = OnnxCandidates(calibration), ExportOptions("int4", calibration=calibration)
        int4 = load_target("onnx").plan(checkpoint, words).nbytes
        of_onnx = plan_to_budget(source, words, onnx, conversations, int4, progress, target="onnx", quiet=False)
    weighted, blind = GgufCandidates(calibration), GgufCandidates()
    kinds = {t.source: t.kind.name for t in text_tensors(checkpoint.config, MIX, importances=True)}
    names = list(matrices(checkpoint.config))
    judge = Judge(model, asked_of(source, read_conversations(files[1], text_only=text_only), quiet=False))
    arms = {
        "q4_k_m": judge.judge(lambda n: blind.restore(checkpoint.weights, n, kinds[n]), names),
        "q4_k_m with importances": judge.judge(lambda n: weighted.restore(checkpoint.weights, n, kinds[n]), names),
        "plan of the same size": judge.judge(lambda n: weighted.restore(checkpoint.weights, n, plan.mix[n]), names),
        "onnx int4": judge.judge(lambda n: onnx.restore(checkpoint.weights, n, "int4"), names),
        "onnx plan of int4's size": judge.judge(lambda n: onnx.restore(checkpoint.weights, n, of_onnx.mix[n]), names),
    }
    counts = {scheme: sum(e.scheme == scheme for e in plan.entries) for scheme in weighted.schemes}
    return {"uniform_bytes": uniform, "plan_bytes": plan.nbytes, "matrices_by_scheme": counts, "arms": arms,
            "measured_on": limit, "worst": [asdict(e) for e in sorted(plan.entries, key=damage)[-5:]]}  # fmt: skip


def damage(entry: Entry) -> float:
    return entry.damage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/budget-plan"))
    parser.add_argument("--case", action="append", choices=("tiny", "half-billion"))
    parser.add_argument("--limit", type=int, default=4, help="narratives that the damage is measured on")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--again", action="store_true", help="calibrate again")
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    rows = json.loads(args.json.read_text(encoding="utf-8"))["cases"] if args.json.is_file() else {}
    for case in args.case or ("tiny", "half-billion"):
        if args.again:
            shutil.rmtree(args.work / f"calibration-{case}", ignore_errors=True)
        rows[case] = measure(case, args.work, args.limit)
        print(case, json.dumps(rows[case], indent=1), flush=True)
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        args.json.write_text(
            json.dumps({"status": "measured", "machine": machine, "cases": rows}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
