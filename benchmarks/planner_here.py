"""The planner against this machine: forecast and measured decode speed of bundles of any model, side by side.

Usage: python -m benchmarks.planner_here BUNDLE [BUNDLE ...] [--threads 1,2] [--tokens 96] [--rounds 3] [--json FILE]

    skinedge export -t onnx -s int4 --out build/onnx && skinedge export -t gguf -s q4_k_m --out build/gguf
    python -m benchmarks.planner_here build/onnx build/gguf --threads 1,2

For each number of threads the memory and the cores are probed in the same round as the bundles, each in a fresh process,
and the forecast is made of that: what is compared is the model of time, not two states of a machine.  Run it on a quiet one.
The embedded model is smaller than a cache and is no test of a bandwidth; a checkpoint of the 0.5B's or the 7B's shape is
(``benchmarks/peers/onnx_exporters.py`` and ``benchmarks/export_7b.py`` write such ones).  ``fitted`` is the share of the
probed bandwidth that would make the forecast exact, for ``CPU`` in ``skinedge/devices/constants.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.decode_speed import PROMPT, WARM, own_speed
from skinedge.devices import HERE, Device, read_device
from skinedge.devices.constants import GIB, efficiency
from skinedge.devices.footprint import footprint
from skinedge.devices.here import product_speed
from skinedge.devices.planner import forecast
from skinedge.devices.shape import Shape
from skinedge.devices.work import Case, step
from skinedge.manifest import read_manifest
from skinedge.measure.bandwidth import probe
from skinedge.measure.forecast import Workload

RESULT = Path(__file__).parent / "results" / "planner_here.json"


def here(threads: int) -> Device:
    """This machine, as so many of its threads see it now."""
    import psutil

    memory = psutil.virtual_memory()
    return replace(
        read_device(HERE),
        memory_gb=memory.total / GIB,
        system_gb=(memory.total - memory.available) / GIB,
        bandwidth_gb_s=probe(threads) / 1e9,
        cores=threads,
        compute_tflops={"f32": product_speed(threads) / 1e12},
    )


def compare(bundle: Path, threads: int, tokens: int, rounds: int) -> dict[str, Any]:
    """One bundle on so many threads."""
    manifest = read_manifest(bundle)
    config, target, scheme = manifest.architecture.config(), manifest.target, manifest.scheme.asked
    shape = Shape(bundle.name, "config", config, None)
    # The context that benchmarks.decode_speed opens.
    load = Workload(megapixels=0, image_tokens=0, text_tokens=PROMPT, output_tokens=tokens, context=PROMPT + tokens + 16)
    measured, estimated, fitted = [], [], []
    for _ in range(rounds):
        device = here(threads)
        measured.append(own_speed(bundle.resolve(), threads, tokens + WARM))
        row = forecast(shape, [device], load, target=target, scheme=scheme).rows[0]
        assert row.time is not None, row.reason
        estimated.append(row.time.decode_tok_s)
        work = step(Case(shape, target, scheme, "cpu", load, footprint(config, None, target, scheme, "cpu")))
        fitted.append(work.nbytes * measured[-1] / device.peak.bandwidth)
    tok_s, forecast_tok_s = statistics.median(measured), statistics.median(estimated)
    return {
        "bundle": bundle.name,
        "target": target,
        "scheme": scheme,
        "threads": threads,
        "bandwidth_gb_s": device.bandwidth_gb_s,
        "measured_tok_s": round(tok_s, 2),
        "estimated_tok_s": round(forecast_tok_s, 2),
        "error": round(forecast_tok_s / tok_s - 1, 4),
        "fitted": round(statistics.median(fitted), 3),
        "assumed": efficiency("cpu").bandwidth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    rows = [compare(b, int(n), args.tokens, args.rounds) for n in args.threads.split(",") for b in args.bundles]
    for row in rows:
        speeds = f"{row['measured_tok_s']:8.2f} tokens/s, forecast {row['estimated_tok_s']:8.2f} ({100 * row['error']:+.0f} %)"
        print(f"{row['target']:5} {row['scheme']:8} {row['threads']} threads: {speeds}, {row['fitted']:.2f} of the bandwidth")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
