"""The 7B's shape in int4 on a GPU: ONNX Runtime with CUDA and TensorRT-RTX, measured by ``skinedge bench`` against the ceiling.

Usage: python -m benchmarks.gpu_bench [--work DIR] [--keep] [--layers 28] [--suite standard] [--json FILE]
       (also a part of benchmarks.gpu_check)

The checkpoint has random weights (``benchmarks.export_7b``) with a LoRA and a side branch; both bundles are exported here.
The ceiling is what the GPU's memory gives, measured by copies inside it, over the bytes that a token reads.  It needs about
45 GB of disk.  Without a GPU it prints ``skipped: no GPU``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.console import note
from skinedge.errors import SkinedgeError
from skinedge.manifest import read_manifest
from skinedge.measure.bench import Opening, Subject, bench, ceiling_share, questions
from skinedge.measure.harness import PROTOCOL, Rules
from skinedge.measure.result import Result
from skinedge.measure.show import result_json, show_result
from skinedge.measure.suites import Suite, read_suite
from skinedge.runtime._tensorrt import gpu_problem
from skinedge.targets._contract import ExportOptions

RESULT = Path(__file__).parent / "results" / "gpu_bench.json"
CONTEXT = 4096


@dataclass(frozen=True)
class Arm:
    """A target, and how its bundle is opened."""

    target: str
    opening: Opening
    options: ExportOptions


# ONNX Runtime's CUDA kernels for int4 take 16-bit activations.
GPU_ARMS = (
    Arm("onnx", Opening(processor="cuda", context=CONTEXT), ExportOptions("int4", activations="f16", context=CONTEXT)),
    Arm("trt", Opening(), ExportOptions("int4", context=CONTEXT)),
)


def measure(
    source: AdapterCheckpoint, arms: Sequence[Arm], suite: Suite, work: Path, rules: Rules = PROTOCOL
) -> list[dict[str, object]]:
    """Export and measure every arm; what cannot be run is ``skipped`` with its reason."""
    rows: list[dict[str, object]] = []
    asked = questions(suite, work / "pictures")
    for arm in arms:
        out = work / f"{arm.target}-int4"
        try:
            if not out.is_dir():
                export(source, arm.target, arm.options, out)
            result = bench(Subject(out, arm.opening), suite, asked, rules, show=note)
        except SkinedgeError as e:
            rows.append({"target": arm.target, "status": "skipped", "reason": str(e)})
            print(f"{arm.target}: skipped: {e}", flush=True)
            continue
        show_result(result, read_manifest(out))
        rows.append(row(arm, result, out))
    return rows


def row(arm: Arm, result: Result, bundle: Path) -> dict[str, object]:
    """An arm's numbers with the share of the ceiling of each case."""
    manifest = read_manifest(bundle)
    shares = {c.case.name: ceiling_share(c, result, manifest) for c in result.cases}
    return {
        "target": arm.target,
        "machine": result.machine.model_dump(mode="json"),
        "flags": result.flags,
        "of_ceiling": shares,
        **result_json(result, None),
    }


@contextmanager
def working_folder(parent: Path | None, keep: bool) -> Iterator[Path]:
    """A folder of our own in ``parent`` (left out: where temporary files go) that is removed; with ``keep`` ``parent`` itself."""
    if parent:
        parent.mkdir(parents=True, exist_ok=True)
    if keep:
        yield parent or Path(tempfile.mkdtemp(prefix="skinedge-"))
        return
    with tempfile.TemporaryDirectory(prefix="skinedge-", dir=parent) as folder:
        yield Path(folder)


def checkpoint(work: Path, layers: int) -> AdapterCheckpoint:
    """That of an earlier run in ``work``, or a new one."""
    from benchmarks.export_7b import make_checkpoint

    model, adapters = work / "model", [work / "lora", work / "branch"]
    if not adapters[-1].is_dir():
        model, adapters = make_checkpoint(work, layers)
    return AdapterCheckpoint.find(model, adapters)


def exit_code(rows: Sequence[dict[str, object]]) -> int:
    """What cannot run on this GPU is no failure; a measurement that was disturbed is."""
    return 0 if all(r["status"] in ("measured", "skipped") for r in rows) else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where the folder with the checkpoint and the bundles is made")
    parser.add_argument(
        "--keep", action="store_true", help="put them into --work itself, leave them there, and use those that are"
    )
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    problem = gpu_problem()
    if problem:
        print(f"skipped: no GPU ({problem})")
        return
    with working_folder(args.work, args.keep) as work:
        rows = measure(checkpoint(work, args.layers), GPU_ARMS, read_suite(args.suite), work)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({"layers": args.layers, "arms": rows}, indent=1) + "\n", encoding="utf-8")
    sys.exit(exit_code(rows))


if __name__ == "__main__":
    main()
