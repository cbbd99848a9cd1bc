"""How far is the planner's model of time from published measurements?  Leave one out, and say so.

Usage: python -m benchmarks.planner_error [--json FILE]

``benchmarks/published/*.toml`` holds published rows: tokens a second, vision and prefill times of models of known sizes on
devices of known data sheets.  The three constants of ``skinedge/devices/constants.py`` for GPUs are fitted to all figures
of all devices but one, and that one's figures are forecast; every device is left out once, so nothing of a device that is
forecast has been seen, not even another model's figure.  Two sets: the rows of REFERENCE section 8, and all rows of the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skinedge.devices import Device, read_device
from skinedge.devices.constants import Efficiency
from skinedge.devices.timing import Work, duration

PUBLISHED = Path(__file__).parent / "published" / "edge_llm_0_10.toml"
RESULT = Path(__file__).parent / "results" / "planner_error.json"
FIGURES = ("image_encode_ms", "prefill_ms", "decode_tok_s")
BITS = {"int4": 4.125, "nvfp4": 4.5}
TYPES = {"int4": "f16", "nvfp4": "fp4"}  # of the products: AWQ unpacks to 16 bits, NVFP4 checkpoints there are W4A4
ANSWER = 128  # tokens of which half are in the cache on average; the answers' lengths are not published


@dataclass(frozen=True)
class Figure:
    """One published number and the work it stands for; milliseconds, of a token for a speed."""

    device: str
    model: str
    scheme: str
    name: str
    ms: float
    work: Work
    reference: bool


def read_figures(path: Path = PUBLISHED) -> list[Figure]:
    """Every figure of every row."""
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    return [figure for row in raw["rows"] for figure in _figures(row, raw["models"][row["model"]])]


def _figures(row: dict[str, Any], model: dict[str, Any]) -> list[Figure]:
    reference = row.get("reference", False)
    works = {"image_encode_ms": _vision(row, model), "prefill_ms": _prefill(row, model), "decode_tok_s": _step(row, model)}
    found = []
    for name, work in works.items():
        ms = 1e3 / row[name] if name == "decode_tok_s" else row[name]
        ours = reference is True or (isinstance(reference, list) and name in reference)
        found.append(Figure(row["device"], row["model"], row["scheme"], name, ms, work, ours))
    return found


def _layer_weights(m: dict[str, Any]) -> float:
    q, kv = m["heads"] * m["head_dim"], m["kv_heads"] * m["head_dim"]
    return float(m["hidden"] * (2 * q + 2 * kv + 3 * m["intermediate"]))


def _text_bytes(row: dict[str, Any], m: dict[str, Any]) -> float:
    layers = m["layers"] * _layer_weights(m) * BITS[row["scheme"]]
    return float(layers + m["vocab"] * m["hidden"] * m["head_bits"]) / 8


def _cache(m: dict[str, Any]) -> float:
    """Bytes a position, 16 bits."""
    return float(4 * m["layers"] * m["kv_heads"] * m["head_dim"])


def _step(row: dict[str, Any], m: dict[str, Any]) -> Work:
    context = row["prompt_tokens"] + ANSWER / 2
    return Work(_text_bytes(row, m) + _cache(m) * context, {"f16": 2 * m["layers"] * _layer_weights(m)}, m["layers"])


def _prefill(row: dict[str, Any], m: dict[str, Any]) -> Work:
    tokens = row["prompt_tokens"]
    products = 2 * tokens * m["layers"] * _layer_weights(m)
    attention = 2 * tokens**2 * m["heads"] * m["head_dim"] * m["layers"]  # half of it is masked
    flops = {"f16": attention}
    flops[TYPES[row["scheme"]]] = flops.get(TYPES[row["scheme"]], 0) + products
    return Work(_text_bytes(row, m), flops, m["layers"])


def _vision(row: dict[str, Any], m: dict[str, Any]) -> Work:
    v, patches = m["vision"], 4 * row["image_tokens"]
    block = v["hidden"] * (4 * v["hidden"] + (3 if v["gated"] else 2) * v["intermediate"])
    merger = v["mergers"] * v["merged"] * (v["merged"] + v["out"])
    seen = v["full_layers"] * patches + (v["depth"] - v["full_layers"]) * v["window"]
    attention = 4 * patches * seen * v["hidden"]
    flops = 2 * patches * v["depth"] * block + 2 * row["image_tokens"] * merger + attention
    return Work(2.0 * (v["depth"] * block + merger), {"f16": flops}, v["depth"])


def forecast(figure: Figure, device: Device, known: Efficiency) -> float:
    """Milliseconds."""
    return 1e3 * duration(figure.work, device.peak, known).seconds


def fit(figures: Sequence[Figure], devices: dict[str, Device], *, overlaps: bool = False) -> Efficiency:
    """The constants with the least sum of absolute log errors, found by refining a grid around the best point."""
    best, reach = Efficiency(0.8, 0.5, 4e-5, overlaps), (0.19, 0.4, 3.9e-5)
    for _ in range(12):
        steps = [[c + r * s / 3 for s in range(-3, 4)] for c, r in zip(_values(best), reach, strict=True)]
        points = [Efficiency(*p, overlaps) for p in itertools.product(*steps) if 0 < p[0] <= 1 and 0 < p[1] <= 1 and p[2] >= 0]
        best = min(points, key=lambda p: sum(abs(math.log(forecast(f, devices[f.device], p) / f.ms)) for f in figures))
        reach = (reach[0] * 0.6, reach[1] * 0.6, reach[2] * 0.6)
    return best


def _values(known: Efficiency) -> tuple[float, float, float]:
    return known.bandwidth, known.compute, known.layer_s


def leave_one_out(figures: Sequence[Figure], devices: dict[str, Device], *, overlaps: bool = False) -> list[float]:
    """Relative error of each figure, forecast by constants that have seen nothing of its device."""
    left_out = {f.device for f in figures}
    unseen = {left: fit([f for f in figures if f.device != left], devices, overlaps=overlaps) for left in sorted(left_out)}
    return [forecast(f, devices[f.device], unseen[f.device]) / f.ms - 1 for f in figures]


def summary(errors: Sequence[float]) -> dict[str, float]:
    """Median and worst of the absolute errors."""
    absolute = [abs(e) for e in errors]
    return {"median": statistics.median(absolute), "worst": max(absolute), "figures": len(absolute)}


def report(figures: Sequence[Figure], devices: dict[str, Device], title: str) -> dict[str, Any]:
    """Print the table of one set and return it."""
    errors = leave_one_out(figures, devices)
    known = fit(figures, devices)
    constants = f"bandwidth {known.bandwidth:.3f}, compute {known.compute:.3f}, layer {known.layer_s * 1e6:.1f} us"
    print(f"{title}: fitted to all, {constants}")
    for f, error in zip(figures, errors, strict=True):
        print(f"  {f.device:22} {f.model:14} {f.scheme:6} {f.name:16} {f.ms:8.2f} ms published  {100 * error:+6.1f} %")
    found = {"all": summary(errors)}
    for name in FIGURES:
        found[name] = summary([e for f, e in zip(figures, errors, strict=True) if f.name == name])
    for name, values in found.items():
        median, worst = 100 * values["median"], 100 * values["worst"]
        print(f"  {name:16} median {median:5.1f} %, worst {worst:5.1f} %, {values['figures']} figures")
    rows = [{"device": f.device, "model": f.model, "scheme": f.scheme, "figure": f.name, "published_ms": round(f.ms, 3),
             "error": round(e, 4)} for f, e in zip(figures, errors, strict=True)]  # fmt: skip
    return {"fitted": asdict(known), "leave_one_device_out": found, "rows": rows}


def alternatives(devices: dict[str, Device]) -> dict[str, dict[str, float]]:
    """What the reference rows' errors would be under other assumptions (docs/decisions/0016-model-of-time.md)."""
    raw = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))

    def reference(head_bits: float) -> list[Figure]:
        models = {**raw["models"], "qwen2_5_vl_7b": {**raw["models"]["qwen2_5_vl_7b"], "head_bits": head_bits}}
        figures = [figure for row in raw["rows"] for figure in _figures(row, models[row["model"]])]
        return [figure for figure in figures if figure.reference]

    boosted = {**devices, "jetson-orin-nano-8gb": read_device("jetson-orin-nano-8gb-super")}
    found = {
        "the slower of bytes and operations": leave_one_out(reference(4.5), devices, overlaps=True),
        "the slower of bytes and operations, whole table": leave_one_out(read_figures(), devices, overlaps=True),
        "the 7B's head in fp8": leave_one_out(reference(8), devices),
        "the 7B's head in 16 bits": leave_one_out(reference(16), devices),
        "the Orin Nano in its Super mode": leave_one_out(reference(4.5), boosted),
    }
    return {name: summary(errors) for name, errors in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    figures = read_figures()
    devices = {name: read_device(name) for name in {f.device for f in figures}}
    sets = {"reference": [f for f in figures if f.reference], "table": figures}
    found = {name: report(chosen, devices, name) for name, chosen in sets.items()}
    found["alternatives"] = alternatives(devices)
    for name, errors in found["alternatives"].items():
        print(f"{name}: median {100 * errors['median']:.1f} %, worst {100 * errors['worst']:.1f} %")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
