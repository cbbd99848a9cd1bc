"""Do the plans say on a GPU what PyTorch says, and what ONNX Runtime makes of the graphs they were built from?

Usage: python benchmarks/gpu_check.py [--bundle DIR --model DIR --adapter DIR ...] [--steps 64] [--no-bench]
                                      [--no-distillation] [--json FILE]

Without arguments it exports the embedded model for ``trt`` (f16).  Each of three generated pictures goes
through the plans, through the ONNX side of the same bundle on the CPU, and through PyTorch in float32:
features, bias, prefill logits, teacher-forced steps and the greedy text.  Where there is no NVIDIA GPU it
prints ``skipped: no GPU`` and exits 0; a stage out of tolerance exits 1.  On a GPU for which TensorRT-RTX has no plans (an
H100) they are ``skipped`` with the reason, and the rest goes on.  Then the 7B's shape in int4 is measured in ONNX
Runtime with CUDA and in TensorRT-RTX against the ceiling (``benchmarks.gpu_bench``, about 45 GB of disk), and a 7B-shaped
distillation (``benchmarks.gpu_distill``, about 40 GB of GPU memory).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export, verify
from skinedge.embedded import embedded_checkpoint
from skinedge.errors import MissingDependencyError, TargetError
from skinedge.parity.compare import Comparison, compare
from skinedge.parity.metrics import logit_distance
from skinedge.parity.pictures import write_pictures
from skinedge.runtime._tensorrt import gpu_problem
from skinedge.runtime.pipeline import Pipeline, open_pipeline
from skinedge.runtime.prompt import ask
from skinedge.runtime.session import Float32, combined_bias
from skinedge.targets._contract import ExportOptions

RESULT = Path(__file__).parent / "results" / "gpu_check.json"


def gpu() -> dict[str, object]:
    """Name and driver of the GPU that is used."""
    from cuda.bindings import runtime

    properties = runtime.cudaGetDeviceProperties(0)[1]
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return {
        "gpu": name.rstrip("\0"),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": int(properties.totalGlobalMem),
        "cuda_driver": int(runtime.cudaDriverGetVersion()[1]),
    }


class Timed:
    """Wall times of the steps of one conversation, in milliseconds."""

    def __init__(self) -> None:
        self.ms: dict[str, list[float]] = {}

    def run(self, what, call, *args, **options):
        begin = time.perf_counter()
        result = call(*args, **options)
        self.ms.setdefault(what, []).append((time.perf_counter() - begin) * 1e3)
        return result


def narrate(
    pipeline: Pipeline, photograph: Path, tokens: list[int] | None, steps: int, timed: Timed
) -> dict[str, Float32 | list[int]]:
    """One picture through one session, along ``tokens`` or greedily."""
    session, pixels = pipeline.session, pipeline.pixels(photograph)
    image = timed.run("image_encode", session.encode_image, pixels)
    prompt = pipeline.prompts.build(ask(), [image.grid])
    logits = [timed.run("prefill", session.prefill, prompt, [image], bias=combined_bias([image]))]
    path: list[int] = []
    for number in range(steps):
        path.append(tokens[number] if tokens else int(logits[-1].argmax()))
        logits.append(timed.run("step", session.step, path[-1]))
    bias = np.zeros(1, np.float32) if image.bias is None else image.bias
    return {"tokens": path, "features": image.features, "bias": bias, "logits": np.stack(logits)}


def side_by_side(bundle: Path, pictures: list[Path], steps: int) -> dict[str, object]:
    """Plans against the ONNX side, along the ONNX side's greedy text."""
    timed, unused, rows = Timed(), Timed(), []
    with open_pipeline(bundle) as plans, open_pipeline(bundle, side="onnx", device="cpu") as graphs:
        for picture in pictures:
            theirs = narrate(graphs, picture, None, steps, unused)
            ours = narrate(plans, picture, theirs["tokens"], steps, timed)
            distance = logit_distance(theirs["logits"], ours["logits"])
            rows.append(
                {
                    "features_max_abs": float(np.abs(ours["features"] - theirs["features"]).max()),
                    "bias_max_abs": float(np.abs(ours["bias"] - theirs["bias"]).max()),
                    "logits_max_abs": distance.max_abs,
                    "kl_mean": distance.kl_mean,
                    "kl_max": distance.kl_max,
                    "top1": distance.top1,
                }
            )
    # The first runs compile kernels and load the adapter's plan for the first time.
    median = {what: float(np.median(ms[1:] or ms)) for what, ms in timed.ms.items()}
    return {"pictures": rows, "first_ms": {w: ms[0] for w, ms in timed.ms.items()}, "median_ms": median}


def plans_problem(bundle: Path) -> str | None:
    """Why a bundle's plans cannot be opened on this GPU, if they cannot."""
    try:
        with open_pipeline(bundle):
            return None
    except (MissingDependencyError, TargetError) as e:
        return str(e)


def check(bundle: Path, source: AdapterCheckpoint, steps: int, pictures: Path) -> tuple[dict[str, object], list[Comparison]]:
    """The document, and the comparisons with PyTorch: of the plans, if they can be opened here, and of the ONNX side."""
    manifest = verify(bundle)
    written = write_pictures(pictures)
    problem = plans_problem(bundle)
    sides = {"onnx": "onnx"} if problem else {"plans": None, "onnx": "onnx"}
    against_pytorch = {name: compare(bundle, source, pictures, steps=steps, side=side) for name, side in sides.items()}
    for name, comparison in against_pytorch.items():
        print(f"{name} against PyTorch")
        for stage in comparison.stages:
            print("  ", stage.line())
    against_onnx = None if problem else side_by_side(bundle, written, steps)
    print(f"plans: skipped: {problem}" if problem else f"plans against the ONNX side {json.dumps(against_onnx, indent=1)}")
    result = {
        "status": "measured",
        "machine": platform.machine(),
        **gpu(),
        "library": f"{manifest.details['library']} {manifest.details['version']}",
        "bundle": manifest.digest,
        "scheme": manifest.scheme.asked,
        "plans": {"status": "skipped", "reason": problem} if problem else {"status": "measured"},
        "against_pytorch": {name: c.to_json() for name, c in against_pytorch.items()},
        "against_onnx": against_onnx,
    }
    return result, list(against_pytorch.values())


def part(module: str) -> bool:
    """Run another benchmark in a process of its own, which finds all of the GPU's memory; whether it went well."""
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{module}"], cwd=Path(__file__).parents[1], check=False)
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--adapter", type=Path, action="append", default=[])
    parser.add_argument("--scheme", default="f16", help="of the embedded model's export")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--no-bench", action="store_true", help="leave out the 7B-shaped int4 decoding")
    parser.add_argument("--no-distillation", action="store_true", help="leave out the 7B-shaped distillation")
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    if bool(args.bundle) != bool(args.model):
        parser.error("--bundle and --model (the checkpoint it was made from) belong together")
    problem = gpu_problem()
    if problem:
        print(f"skipped: no GPU ({problem})")
        return
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skinedge-")))
        source = AdapterCheckpoint.find(args.model, args.adapter) if args.bundle else embedded_checkpoint()
        try:
            bundle = args.bundle or export(source, "trt", ExportOptions(args.scheme), scratch / "bundle").path
        except TargetError as e:  # TensorRT may refuse to build where there is a GPU that it does not know
            result, comparisons = {"status": "skipped", "reason": str(e), **gpu()}, []
            print(f"skipped: {e}")
        else:
            result, comparisons = check(bundle, source, args.steps, scratch / "pictures")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    wanted = {"gpu_bench": not args.no_bench, "gpu_distill": not args.no_distillation}
    failed = [module for module, run in wanted.items() if run and not part(module)]
    for module in failed:
        print(f"FAILED: python -m benchmarks.{module}")
    if failed or not all(c.passed for c in comparisons):
        sys.exit(1)


if __name__ == "__main__":
    main()
