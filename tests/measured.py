"""Documents shaped like measurements, made from a seed: for tests of what reads them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from skinedge.kit.record import KitRecord
from skinedge.manifest import DecodingRecord, LineageRecord
from skinedge.measure.forecast import (
    Accuracy,
    Constant,
    Forecast,
    ForecastRow,
    MemoryParts,
    PlannedModel,
    TimeParts,
    Verdict,
    Workload,
)
from skinedge.measure.result import (
    BundleRecord,
    CaseRecord,
    CaseResult,
    EnergyRecord,
    MachineRecord,
    Mode,
    PowerMode,
    Result,
    RunSample,
)
from skinedge.parity.golden import GoldenOutcome


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


ORIN = MachineRecord(
    model="NVIDIA Jetson AGX Orin Developer Kit", device="jetson-agx-orin-64gb", processor="Cortex-A78AE", cores=12,
    memory_bytes=64 * 10**9, system="Ubuntu 24.04.2 LTS, Linux 6.8.12-tegra aarch64",
    gpu="Orin (nvgpu)", l4t="R38.2.0", jetpack="7.2",
    power_mode=PowerMode(name="MAXN", id=0), power_source="mains", governor="schedutil",
    clocks_mhz={"cpu": 2201.6, "gpu": 1300.5}, temperatures_c={"cpu": 48.2, "gpu": 46.0},
    versions={"tensorrt": "10.15.1", "onnxruntime": "1.32.0"},
)  # fmt: skip
OFFICE = MachineRecord(
    model="OptiPlex 7020", processor="12th Gen Intel(R) Core(TM) i5-12500", cores=6, memory_bytes=32 * 2**30,
    system="Debian 12, Linux 6.1 x86_64", governor="performance",
    versions={"onnxruntime": "1.32.0", "xllamacpp": "2026.10.11549"},
)  # fmt: skip


def bundle(target: str, scheme: str, bits: float, nbytes: int) -> BundleRecord:
    name = f"{target} {scheme}"
    steps = (("adapter checkpoint", "SkinGPT-R1, side branch v2"), ("merged weights", "no LoRA"), ("quantized weights", scheme))
    return BundleRecord(
        digest=sha(name), nbytes=nbytes, target=target, scheme=scheme, activations="f16" if target == "trt" else None,
        bits_per_weight=bits, calibration=sha("dermcot") if scheme == "q4_k_m" else None,
        lineage=tuple(LineageRecord(kind=kind, digest=sha(kind), note=note) for kind, note in steps),
    )  # fmt: skip


def case(name: str = "cap", mode: Mode = "fixed", new: int = 32, image_tokens: int = 1280) -> CaseRecord:
    side = round((image_tokens * 784) ** 0.5 / 28) * 28
    return CaseRecord(
        name=name, mode=mode, images=(sha("photograph"),), image_pixels=((side, side),), prompt=sha("prompt"),
        prompt_tokens=image_tokens + 150, image_tokens=image_tokens, max_new_tokens=new, decoding=DecodingRecord(), context=4096,
    )  # fmt: skip


def sample(rng: np.random.Generator, tokens: int, prefill: float, step: float) -> RunSample:
    wobble = rng.normal(1, 0.01, 5).clip(0.9)
    parts = [float(w * t) for w, t in zip(wobble, (18.0, prefill * 0.4, prefill, 0.3), strict=False)]
    steps = tuple(float(v) for v in step * rng.normal(1, 0.02, tokens - 1).clip(0.8))
    return RunSample(
        preprocess_ms=parts[0], image_encode_ms=parts[1], prefill_ms=parts[2], sample_ms=parts[3], ttft_ms=sum(parts),
        e2e_ms=sum(parts) + sum(steps), output_tokens=tokens, step_ms=steps,
    )  # fmt: skip


def measured_case(record: CaseRecord, prefill: float, step: float, seed: int = 0, **changes: Any) -> CaseResult:
    rng = np.random.default_rng(seed)
    lengths = [record.max_new_tokens - (i if record.mode == "natural" else 0) for i in range(10)]
    samples = tuple(sample(rng, n, prefill, step) for n in lengths)
    return CaseResult(**{"case": record, "status": "measured", "warmups": 3, "samples": samples, **changes})


def result(
    machine: MachineRecord, what: BundleRecord, cases: tuple[CaseResult, ...], *, weights: int | None = None, **changes: Any
) -> Result:
    values = {
        "skinedge": "0.1.0", "time": "2026-05-04T09:12:33+00:00", "status": "measured", "machine": machine, "bundle": what,
        "suite": "standard", "threads": 6, "flags": {"kv_cache": "in place"}, "load_cold_s": 9.1, "load_warm_s": 2.2,
        "peak_resident_bytes": what.nbytes + 2**30, "peak_private_bytes": 2**30, "bandwidth_gb_s": 62.0,
        "weight_bytes_per_token": weights, "cache_bytes_per_position": 57344, "cases": cases,
    }  # fmt: skip
    return Result(**{**values, **changes})


def energy(joules: float, tokens: int, seconds: float) -> EnergyRecord:
    return EnergyRecord(gross_j=joules, net_j=joules * 0.7, tokens=tokens, seconds=seconds, source="ina3221")


def parity(what: BundleRecord, kl: float, *, passed: bool = True) -> dict[str, Any]:
    stages = [
        {"name": "pixels", "measured": {"max_abs": 0.0}, "limit": None, "images": 3, "passed": True},
        {"name": "steps", "measured": {"max_abs": 8 * kl**0.5, "kl_mean": kl, "kl_max": 9 * kl, "top1": 1 - kl**0.5 / 4},
         "limit": {"metric": "kl_mean", "value": 0.1}, "images": 3, "passed": passed},
        {"name": "narrative", "measured": {"different": 0.0, "same_tokens": 65.0}, "limit": None, "images": 3, "passed": True},
    ]  # fmt: skip
    return {
        "bundle": what.digest, "reference": sha("adapter checkpoint"), "same_source": True, "target": what.target,
        "scheme": what.scheme, "images": ["a", "b", "c"], "stages": stages, "passed": passed,
        "first_bad_stage": None if passed else "steps",
    }  # fmt: skip


def forecast() -> Forecast:
    def row(title: str, verdict: Verdict, weights: int, speed: float) -> ForecastRow:
        fits = verdict == "fits"
        memory = MemoryParts(weights=weights, cache=2**28, vision=2**29, prefill=2**28, runtime=2**29, available=6 * 10**9)
        time = TimeParts(
            preprocess_ms=20, image_encode_ms=180, prefill_ms=600, sample_ms=0.5, ttft_ms=800.5, tpot_ms=1000 / speed,
            decode_tok_s=speed, ceiling_tok_s=1.6 * speed, e2e_ms=800.5 + 767 * 1000 / speed, image_encode_bound="compute",
            prefill_bound="compute", decode_bound="memory bandwidth",
        )  # fmt: skip
        return ForecastRow(
            device=title, title=title, target="trt", scheme="int4" if fits else "bf16", activations="f16", verdict=verdict,
            reason=None if fits else "its weights alone are larger than the memory; int4 would fit", bytes_per_token=weights,
            memory=memory, time=time if fits else None, bound="memory bandwidth" if fits else "memory size",
        )  # fmt: skip

    return Forecast(
        skinedge="0.1.0", time="2026-05-03T08:00:00+00:00",
        model=PlannedModel(name="SkinGPT-R1", source="shape", text_parameters=7_615_616_512, vision_parameters=676_550_144,
                           adapter_parameters=4_000_000),
        workload=Workload(megapixels=1.0, image_tokens=1296, text_tokens=150, output_tokens=768, context=4096),
        constants={"bandwidth share": Constant(value=0.72, unit="of the data sheet", why="median of the published rows")},
        accuracy=Accuracy(median_error=0.11, worst_error=0.31, rows=6),
        rows=(row("Jetson Orin Nano 8 GB Super", "fits", 4 * 10**9, 14.2),
              row("Jetson Orin Nano 8 GB", "too large", 15 * 10**9, 1)),
    )  # fmt: skip


def comparison(a: Result, b: Result) -> dict[str, Any]:
    judged = {"case": "thumbnail", "metric": "tpot_ms", "verdict": "difference", "ratio": 0.81, "interval": [0.8, 0.82],
              "pairs": 16, "noise_ratio": 1.0, "noise_interval": [0.99, 1.01], "noise_floor": 0.012, "level": 0.025}  # fmt: skip
    results = {"a": a.model_dump(mode="json"), "b": b.model_dump(mode="json")}
    return {"kind": "comparison", "status": "measured", "reason": None, "judgements": [judged], "results": results}


def kit_record(run: Result | None, *, passed: bool = True) -> KitRecord:
    golden = GoldenOutcome(
        name="wide", passed=passed, reason=None if passed else "token 3 of 16 is another", pixels_same=True, kl=0.0004,
        tolerance=0.02, same_tokens=16 if passed else 2, tokens=16,
    )  # fmt: skip
    return KitRecord(
        skinedge="0.1.0", time="2026-05-05T07:00:00+00:00", kit=sha("kit"), device="jetson-agx-orin-64gb", machine=ORIN.model,
        system=ORIN.system, python="3.12.3", bundle=sha("trt int4"), rebuilt=True, verified_files=21, golden=(golden,),
        result=run,
        reason=None if run else "skinedge bench is not part of this kit",
    )  # fmt: skip


def write_documents(folder: Path) -> list[Path]:
    """Two machines, five bundles of a 7B: measured, estimated, above the ceiling, invalid, skipped; parity of four."""
    trt, gguf8 = bundle("trt", "int4", 4.6, 6 * 10**9), bundle("gguf", "q8_0", 8.5, 8 * 10**9)
    gguf4, onnx = bundle("gguf", "q4_k_m", 4.9, 5 * 10**9), bundle("onnx", "int4", 4.6, 5 * 10**9)
    small, cap, natural = case("thumbnail", image_tokens=64), case("cap"), case("whole answer", "natural", 40)
    hot = measured_case(cap, 400, 33, status="invalid", reason="throttled: GPU clock fell from 1300 to 930 MHz")
    left = CaseResult(case=case("two photographs", image_tokens=640), status="skipped", reason="it does not fit into memory")
    documents: dict[str, str] = {}
    runs = {
        "orin-trt": result(ORIN, trt, (
            measured_case(small, 60, 31, 1), left,
            measured_case(cap, 178, 31.5, 2, prefill_energy=energy(90, 14300, 2.4), decode_energy=energy(420, 310, 9.8)),
            measured_case(natural, 178, 31.5, 3),
        ), weights=4_100_000_000, peak_device_bytes=7 * 10**9),
        "orin-gguf": result(ORIN, gguf4, (measured_case(small, 90, 39, 4), hot), weights=4_680_000_000),
        "orin-guess": result(ORIN, gguf8, (measured_case(cap, 210, 52, 5, status="estimated"),), weights=7_510_000_000,
                             status="estimated"),
        "office-gguf8": result(OFFICE, gguf8, (measured_case(cap, 21000, 182, 6),), weights=7_510_000_000),
        "office-gguf4": result(OFFICE, gguf4, (measured_case(cap, 24000, 121, 7), measured_case(natural, 24000, 121, 8)),
                               weights=4_680_000_000),
        "office-onnx": result(OFFICE, onnx, (measured_case(cap, 19000, 55, 9),), weights=4_100_000_000),
    }  # fmt: skip
    for number, (name, run) in enumerate(runs.items()):
        documents[name] = run.model_copy(update={"time": f"2026-05-04T09:{10 + number}:00+00:00"}).to_json()
    for name, what, kl in (("trt", trt, 0.021), ("gguf8", gguf8, 0.0013), ("gguf4", gguf4, 0.034), ("onnx", onnx, 0.02)):
        documents[f"parity-{name}"] = json.dumps(parity(what, kl))
    documents["forecast"] = forecast().to_json()
    nano = ORIN.model_copy(update={"model": "NVIDIA Jetson Orin NX", "device": "jetson-orin-nx-16gb", "cores": 8})
    carried = result(nano, trt, (measured_case(cap, 400, 62, 10),), weights=4_100_000_000, time="2026-05-05T07:00:00+00:00")
    documents["kit"] = kit_record(carried).to_json()
    run = result(OFFICE, onnx, (measured_case(small, 900, 150, 11),), weights=4_100_000_000, time="2026-05-04T10:00:00+00:00")
    other = result(OFFICE, gguf4, (measured_case(small, 950, 121, 12),), weights=4_680_000_000, time="2026-05-04T10:01:00+00:00")
    documents["a-against-b"] = json.dumps(comparison(run, other))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in documents.items():
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(text, encoding="utf-8")
    return paths
