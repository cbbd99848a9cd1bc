"""What this machine can do, and what to install for the rest."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing looked for."""

    name: str
    ok: bool
    found: str
    hint: str


# what it is for -> (distributions of which one is enough, the extra that brings it)
_LIBRARIES = {
    "write and run ONNX": (("onnxruntime", "onnxruntime-gpu"), "onnx"),
    "build graphs": (("onnx-ir",), "onnx"),
    "write and run GGUF": (("xllamacpp", "llama-cpp-python"), "gguf"),
    "quantize Q4_K in compiled loops": (("numba",), "fast"),
    "build TensorRT-RTX plans": (("tensorrt-rtx-cu13-bindings", "tensorrt_rtx_cu13_bindings"), "trt"),
    "build TensorRT plans here": (("tensorrt",), "trt-device"),
    "compare with PyTorch": (("torch",), "train"),
    "the reference model": (("transformers",), "train"),
}


def examine() -> list[Finding]:
    """Look at the machine, the libraries and the GPU; nothing is imported or started."""
    import psutil

    memory = psutil.virtual_memory()
    here = [
        Finding("python", sys.version_info >= (3, 11), platform.python_version(), ""),
        Finding("machine", True, f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores", ""),
        Finding("memory", True, f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free", ""),
    ]
    return here + [_library(name, *wanted) for name, wanted in _LIBRARIES.items()] + [_gpu()]


def _library(name: str, distributions: tuple[str, ...], extra: str) -> Finding:
    for distribution in distributions:
        try:
            return Finding(name, True, f"{distribution} {importlib.metadata.version(distribution)}", "")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding(name, False, "not installed", f"pip install 'skinedge[{extra}]'")


def _gpu() -> Finding:
    """Ask the NVIDIA driver, if there is one, how many devices it sees."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return Finding("NVIDIA GPU", False, "no driver", "plans can be built here and run where there is one")
    count = ctypes.c_int(0)
    ready = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return Finding("NVIDIA GPU", ready and count.value > 0, f"{count.value} found", "")
