"""The calibrated constants of the model of time and memory, each with what it stands for and where it comes from.

Those of a GPU are fitted to published measurements (``python -m benchmarks.planner_error``, which prints the error of each
published figure forecast by constants that saw nothing of its device); the others are measured here or assumed, as their
``why`` says.  The model itself is argued in ``docs/decisions/0016-model-of-time.md``.  This is the one file of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from skinedge.measure.forecast import Accuracy, Constant

Kind = Literal["unified", "gpu", "cpu"]  # a GPU in the system's memory, one with its own, none

GIB = 1 << 30


@dataclass(frozen=True)
class Efficiency:
    """What a class of device makes of its data sheet.

    ``bandwidth`` and ``compute`` are shares of the peak; ``layer_s`` is what each layer costs beyond bytes and products:
    starting kernels, norms, waiting.  ``overlaps`` says whether a stage reads while it computes.
    """

    bandwidth: float
    compute: float
    layer_s: float
    overlaps: bool


GPU = Efficiency(bandwidth=0.97, compute=0.60, layer_s=1.0e-4, overlaps=False)
CPU = Efficiency(bandwidth=0.65, compute=0.75, layer_s=2.0e-5, overlaps=True)
_GPU_WHY = "fitted to the 63 published figures of TensorRT Edge-LLM 0.10 in benchmarks/published (benchmarks/planner_error.py)"
_CPU_WHY = (
    "bandwidth: median over ONNX int4, int4a_b128 and llama.cpp's Q4_K_M of 1.5B on one and two cores (0.52 to 0.82 of the "
    "probed bandwidth, benchmarks/results/decode_speed.json); of 0.5B on one core it is 0.38 to 0.59, and forecasts are up to "
    "67 % too fast (benchmarks/results/planner_here.json).  Compute and time a layer are assumed"
)

# Published rows are all of TensorRT; how the others compare on a GPU.
SPEED = MappingProxyType({"trt": 1.0, "onnx": 0.7, "gguf": 0.63})
_SPEED_WHY = {
    "onnx": "assumed, nowhere measured: it starts every node by itself and keeps attention's scores",
    "gguf": "one published comparison: a 2B model on an Orin Nano Super, 38 tokens a second in llama.cpp and 60 in TensorRT "
    "Edge-LLM (hokwangchoi.com, April 2026)",
}

# The host's part, on one core of any machine: measured on this one, and slower on a Jetson's cores.
PHOTOGRAPH_S_PER_MEGAPIXEL = 0.011
PATCHES_S_PER_TOKEN = 1.6e-5
SAMPLE_S_PER_LOGIT = 3.4e-10
HOST_FLOPS = 1.0e11

# Bytes beyond weights, cache and activations.
RUNTIME = MappingProxyType(
    {("trt", "gpu"): 0.75, ("gguf", "gpu"): 0.6, ("onnx", "gpu"): 0.75, ("gguf", "cpu"): 0.2, ("onnx", "cpu"): 0.2}
)
_RUNTIME_WHY = {
    (
        "trt",
        "gpu",
    ): "Edge-LLM 0.10 on Jetson Orin: reported memory less weights, embedding and cache is 0.9 to 1.1 GiB for Qwen3 0.6B "
    "to 8B, of which up to 0.2 are the prompt's activations",
    ("gguf", "gpu"): "assumed: a CUDA context and llama.cpp's buffers",
    ("onnx", "gpu"): "assumed: what TensorRT takes, of the same CUDA",
    ("gguf", "cpu"): "measured: 0.1 GiB with the embedded model, twice that as a margin",
    ("onnx", "cpu"): "measured: 0.1 GiB with the embedded model, twice that as a margin",
}

# python -m benchmarks.planner_error: REFERENCE section 8, every device left out once.
ACCURACY = Accuracy(median_error=0.0618, worst_error=0.146, rows=11)


def efficiency(kind: Kind) -> Efficiency:
    """The constants of a class of device."""
    return CPU if kind == "cpu" else GPU


def place(kind: Kind) -> str:
    """Where a bundle runs on such a device."""
    return "cpu" if kind == "cpu" else "gpu"


def named() -> dict[str, Constant]:
    """All of them with their justification, for the forecast's document."""
    return dict(_named())


def _named() -> Iterator[tuple[str, Constant]]:
    for name, known, why in (("gpu", GPU, _GPU_WHY), ("cpu", CPU, _CPU_WHY)):
        yield f"{name}.bandwidth", Constant(value=known.bandwidth, unit="share of the peak", why=why)
        yield f"{name}.compute", Constant(value=known.compute, unit="share of the peak", why=why)
        yield f"{name}.layer", Constant(value=known.layer_s, unit="s", why=why)
    for target, why in _SPEED_WHY.items():
        yield f"gpu.{target}.speed", Constant(value=SPEED[target], unit="share of TensorRT's speed", why=why)
    for (target, where), why in _RUNTIME_WHY.items():
        yield f"{where}.{target}.runtime", Constant(value=RUNTIME[target, where], unit="GiB", why=why)
    host = "measured: processor time of one core of the machine this was developed on (AMD EPYC)"
    yield "host.photograph", Constant(value=PHOTOGRAPH_S_PER_MEGAPIXEL, unit="s a megapixel", why=f"{host}, JPEG and resize")
    yield "host.patches", Constant(value=PATCHES_S_PER_TOKEN, unit="s an image token", why=host)
    yield "host.sample", Constant(value=SAMPLE_S_PER_LOGIT, unit="s a logit", why=f"{host}, greedy")
    why = "assumed: a few cores run the side branch beside llama.cpp on a GPU"
    yield "host.flops", Constant(value=HOST_FLOPS, unit="operations a second", why=why)
