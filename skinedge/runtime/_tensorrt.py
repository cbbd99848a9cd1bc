"""TensorRT, whichever is installed: which library, what it says, and whether there is a GPU for it.

TensorRT-RTX builds plans on any machine and runs them on desktop GPUs from Ampere on; classic TensorRT
(a Jetson's) builds on the device it runs on.  Both have one Python API under two import names.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import logging
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from skinedge import registry
from skinedge.errors import MissingDependencyError

LOGGER = logging.getLogger("skinedge.tensorrt")
CHOICE = "SKINEDGE_TENSORRT"  # environment: a name below, for those who have both libraries

RTX, CLASSIC = "tensorrt_rtx", "tensorrt"
# The wheel of the bindings alone has another import name than the one that collects everything.
_IMPORT_NAMES = {RTX: ("tensorrt_rtx_bindings", "tensorrt_rtx"), CLASSIC: ("tensorrt",)}
_TITLES = {RTX: "TensorRT-RTX", CLASSIC: "TensorRT"}
_EXTRAS = {RTX: "trt", CLASSIC: "trt-device"}

_CUDA_ERROR_NO_DEVICE = 100


@dataclass(frozen=True)
class Library:
    """One of the two libraries, imported."""

    name: str
    module: ModuleType

    @property
    def version(self) -> str:
        """Its version, ``"1.7.1.116"``."""
        return str(self.module.__version__)

    @property
    def title(self) -> str:
        """Name and version for a message."""
        return f"{_TITLES[self.name]} {self.version}"

    @property
    def log(self) -> Log:
        """The one log of this library: TensorRT keeps the first it is given for the whole process."""
        return _log(self.module)


def find_library(wanted: str | None = None) -> Library:
    """The library to build with: classic TensorRT where it and a GPU are there, TensorRT-RTX otherwise.

    Args:
        wanted: ``"tensorrt_rtx"`` or ``"tensorrt"``, as is the environment variable ``SKINEDGE_TENSORRT``.

    Raises:
        MissingDependencyError: it is not installed.
        UsageError: ``wanted`` is neither.
    """
    wanted = wanted or os.environ.get(CHOICE)
    if wanted:
        name = registry.check("TensorRT library", wanted, (RTX, CLASSIC))
    else:
        name = CLASSIC if gpu_problem() is None and _module(CLASSIC) else RTX
    module = _module(name)
    if module is None:
        raise MissingDependencyError(
            f"the trt target needs {_TITLES[name]}.", hint=f"Install it: pip install 'skinedge[{_EXTRAS[name]}]'."
        )
    return Library(name, module)


def _module(name: str) -> ModuleType | None:
    for import_name in _IMPORT_NAMES[name]:
        try:
            return importlib.import_module(import_name)
        except ModuleNotFoundError as e:
            if e.name != import_name:
                raise
    return None


class Log:
    """What TensorRT says, passed on to Python's ``logging``; errors are kept for the exception to come."""

    def __init__(self, trt: ModuleType) -> None:
        self.sink = _sink(trt, self)  # what TensorRT's constructors take
        self._errors: list[str] = []
        self._warnings: list[str] = []

    def clear(self) -> None:
        """Forget what was said."""
        self._errors.clear()
        self._warnings.clear()

    def take(self, severity: Any, message: str) -> None:
        """One message; ``severity`` is TensorRT's own."""
        if severity.name in ("INTERNAL_ERROR", "ERROR"):
            self._errors.append(message)
        elif severity.name == "WARNING":
            self._warnings.append(message)
        # Errors are raised, not logged twice; the reminder about int64 comes once per input of every graph.
        loud = severity.name == "WARNING" and "Int64 binding" not in message
        LOGGER.log(logging.WARNING if loud else logging.DEBUG, "%s", message)

    def reason(self) -> str:
        """The first error that says something, without TensorRT's source locations."""
        return next((r for r in map(reason, self._errors) if r), "it gives no reason")

    def warning(self, words: str) -> str | None:
        """The first warning that contains ``words``."""
        return next((w for w in self._warnings if words in w), None)


@functools.cache
def _log(trt: ModuleType) -> Log:
    return Log(trt)


def _sink(trt: Any, log: Log) -> object:
    class Sink(trt.ILogger):  # type: ignore[misc]  # a class of a library that is imported by name
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.take(severity, message)

    return Sink()


def reason(message: str) -> str:
    """What a message of TensorRT says, as the middle of a sentence; empty if it says nothing of its own.

    TensorRT wraps ``mm_1: last dimension must match.`` in ``ITensor::getDimensions: Error Code 4: API Usage
    Error (... In validate at /_src/...)`` and, on a machine without a driver, adds a complaint about CUDA to
    every error.
    """
    for line in message.splitlines():
        if "catchCudaError" in line or line.startswith("Invalid Node"):
            continue
        inner = re.search(r"Error Code \d+: [^(]*\((.*)", line)
        text = re.split(r"(?:^|\s+)In [\w():]+ at /", inner[1] if inner else line)[0]
        text = re.sub(r"^(\[[^\]]*\] )?(MyelinCheckException: )?(Assertion failed: )?", "", text).strip().rstrip(".)")
        cuda = re.search(r"cudaError \d+: ([^()]+)", line)
        if text:
            return text
        if cuda:
            return cuda[1]
    return ""


def gpu_problem() -> str | None:
    """Why no NVIDIA GPU can be used here, as a clause, or ``None`` if one can.

    Asks the driver alone: TensorRT's runtime must not be touched on a machine without one.
    """
    driver = _driver()
    if driver is None:
        return "this machine has no NVIDIA driver"
    status = driver.cuInit(0)
    count = ctypes.c_int()
    if status == 0:
        driver.cuDeviceGetCount(ctypes.byref(count))
    if status == _CUDA_ERROR_NO_DEVICE or (status == 0 and count.value == 0):
        return "the NVIDIA driver finds no GPU"
    return f"the NVIDIA driver does not start (cuInit answers {status})" if status else None


def _driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def cache_folder() -> Path:
    """Where files that only save time are kept, outside every bundle: the user's own cache."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    else:
        base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "skinedge" / "tensorrt"


def save_cache(path: Path, data: bytes | memoryview) -> None:
    """Replace a cache file in one step; a cache that cannot be saved costs time, not the result."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_bytes(data)
        part.replace(path)
    except OSError as e:
        LOGGER.warning("the cache %s cannot be saved: %s", path, e)
