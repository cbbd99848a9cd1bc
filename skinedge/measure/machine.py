"""The machine that is measured on, as a record.  No name of a host or a user is taken."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys as python
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Literal

from skinedge.measure.jetson_text import parse_jetpack, parse_jetson_clocks, parse_l4t, parse_nvpmodel
from skinedge.measure.result import MachineRecord
from skinedge.measure.telemetry import Reading, Source, merged
from skinedge.measure.telemetry_host import PROC, SYS, HostSource, RaplSource, words
from skinedge.measure.telemetry_jetson import is_jetson, jetson_sources
from skinedge.measure.telemetry_nvml import NvmlSource, nvml_source

_LIBRARIES = (
    "numpy", "onnxruntime", "onnxruntime-gpu", "xllamacpp", "llama-cpp-python", "tensorrt", "tensorrt-rtx-cu13-libs",
    "cuda-bindings", "nvidia-ml-py",
)  # fmt: skip


def open_sources() -> tuple[HostSource, list[Source]]:
    """Everything here that can be read; the first of the list is the host, which is told what process to watch."""
    host = HostSource()
    found: list[Source] = [host, *jetson_sources()]
    rapl, gpu = RaplSource(), nvml_source()
    return host, [*found, *([gpu] if gpu else []), *([rapl] if rapl.present else [])]


def describe(sources: Sequence[Source], device: str | None = None, sys: Path = SYS, proc: Path = PROC) -> MachineRecord:
    """What this machine is.

    Args:
        sources: of ``open_sources``; read once, for clocks and temperatures at the start.
        device: what ``skinedge devices`` calls it, if somebody says so.
        sys: where ``/sys`` is.
        proc: where ``/proc`` is.
    """
    import psutil

    jetson = is_jetson(sys)
    now = merged([s.read() for s in sources], 0.0)
    gpu = next((s.about() for s in sources if isinstance(s, NvmlSource)), {})
    pinned = parse_jetson_clocks(_said("jetson_clocks", "--show")) if jetson else {}
    versions = {"python": platform.python_version(), **library_versions(_LIBRARIES)}
    return MachineRecord(
        model=_model(sys),
        device=device,
        processor=_processor(proc),
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        memory_bytes=int(psutil.virtual_memory().total),
        system=_system(),
        gpu=gpu.get("gpu"),
        l4t=parse_l4t(words(Path("/etc/nv_tegra_release")) or "") if jetson else None,
        jetpack=parse_jetpack(_said("dpkg-query", "-s", "nvidia-jetpack")) if jetson else None,
        power_mode=parse_nvpmodel(_said("nvpmodel", "-q")) if jetson else None,
        power_source=_power_source(),
        governor=words(sys / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        clocks_mhz={**now.clocks_mhz, **{f"{n} at most": c.high for n, c in pinned.items() if c.pinned}},
        temperatures_c={**_temperatures(), **now.temperatures_c},
        versions={**versions, **({"driver": gpu["driver"]} if "driver" in gpu else {})},
    )


def describe_here() -> MachineRecord:
    """This machine now: every source is opened, read once, and closed."""
    with ExitStack() as stack:
        return describe([stack.enter_context(closing(source)) for source in open_sources()[1]])


def power_source_of(reading: Reading, used_gpu: bool) -> str | None:
    """Whose watts stand for a run: the whole module's on a Jetson, the GPU's where one was used, else the processor's."""
    order = ("ina3221", "tegrastats", "nvml" if used_gpu else "rapl")
    return next((name for name in order if name in reading.watts), None)


def library_versions(libraries: Sequence[str]) -> dict[str, str]:
    """The versions of those that are installed, by the names of their packages."""
    found = {}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _model(sys: Path) -> str:
    """What the board calls itself."""
    board = words(sys / "firmware/devicetree/base/model") or words(sys / "class/dmi/id/product_name")
    return board or f"{platform.system()} {platform.machine()}"


def _processor(proc: Path) -> str:
    for line in (words(proc / "cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def _system() -> str:
    name = f"{platform.system()} {platform.release()}"
    if python.platform.startswith("linux"):
        try:
            return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {name}"
        except (OSError, KeyError):
            return name
    return name


def _power_source() -> Literal["mains", "battery"] | None:
    import psutil

    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return None if battery is None or battery.power_plugged is None else "mains" if battery.power_plugged else "battery"


def _temperatures() -> dict[str, float]:
    import psutil

    found = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    return {f"{chip} {t.label}".strip(): float(t.current) for chip, sensors in found.items() for t in sensors}


def _said(*command: str) -> str:
    """What a program prints; nothing if it is not there, fails, or takes too long."""
    if not shutil.which(command[0]):
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
