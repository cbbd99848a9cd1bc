"""What the NVIDIA driver says of a GPU (``nvidia-ml-py``, loaded only here)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any

from skinedge.measure.telemetry import Reading

# nvml.h, nvmlClocksEventReasons: those by which a GPU protects itself.  A power cap (0x4) is how a GPU works at full load:
# it ends a run only where it lowers a clock.
THROTTLING: Mapping[int, str] = {
    0x08: "GPU hardware slowdown",
    0x20: "GPU software thermal slowdown",
    0x40: "GPU hardware thermal slowdown",
    0x80: "GPU power brake",
}


class NvmlSource:
    """Power, clocks, temperature, throttling and memory of one GPU.

    Raises:
        ImportError: nvidia-ml-py is not installed.
        Exception: NVML's own, where there is no driver or no GPU.
    """

    name = "nvml"

    def __init__(self) -> None:
        import pynvml

        self._nvml: ModuleType = pynvml
        pynvml.nvmlInit()
        self._gpu: Any = _visible(pynvml)

    def read(self) -> Reading:
        """See ``Source.read``."""
        n, gpu = self._nvml, self._gpu
        power = _asked(self._instant_power)
        if power is None:
            power = _asked(lambda: n.nvmlDeviceGetPowerUsage(gpu))
        memory = _asked(lambda: n.nvmlDeviceGetMemoryInfo(gpu).used)
        if memory is None:  # a GPU in the system's memory (DGX Spark) has that of each process only
            memory = _asked(lambda: sum(p.usedGpuMemory for p in n.nvmlDeviceGetComputeRunningProcesses(gpu)))
        heat = _asked(lambda: n.nvmlDeviceGetTemperature(gpu, n.NVML_TEMPERATURE_GPU))
        reasons = _asked(lambda: n.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))
        kinds = {"gpu": n.NVML_CLOCK_SM, "gpu memory": n.NVML_CLOCK_MEM}
        clocks = {name: _asked(partial(n.nvmlDeviceGetClockInfo, gpu, kind)) for name, kind in kinds.items()}
        return Reading(
            watts={} if power is None else {self.name: power / 1e3},
            clocks_mhz={name: float(mhz) for name, mhz in clocks.items() if mhz is not None},
            temperatures_c={} if heat is None else {"gpu": float(heat)},
            throttle=tuple(why for bit, why in THROTTLING.items() if int(reasons or 0) & bit),
            sees_gpu=reasons is not None,
            device_bytes=None if memory is None else int(memory),
        )

    def _instant_power(self) -> int | None:
        """Milliwatts now: from Ampere on ``nvmlDeviceGetPowerUsage`` is the mean of a second, which blurs the phases."""
        (field,) = self._nvml.nvmlDeviceGetFieldValues(self._gpu, [self._nvml.NVML_FI_DEV_POWER_INSTANT])
        return int(field.value.uiVal) if field.nvmlReturn == 0 else None

    def about(self) -> dict[str, str]:
        """The GPU's name and the driver's version."""
        n = self._nvml
        found = {"gpu": _asked(lambda: n.nvmlDeviceGetName(self._gpu)), "driver": _asked(n.nvmlSystemGetDriverVersion)}
        return {k: v.decode() if isinstance(v, bytes) else str(v) for k, v in found.items() if v}

    def close(self) -> None:
        """Let go of the driver."""
        with suppress(Exception):
            self._nvml.nvmlShutdown()


def nvml_source() -> NvmlSource | None:
    """The GPU, if there are nvidia-ml-py, a driver and a GPU."""
    try:
        return NvmlSource()
    except Exception:  # NVML has a class for every way of not being there
        return None


def _visible(nvml: ModuleType) -> Any:
    """The GPU that CUDA would take first: NVML itself knows nothing of ``CUDA_VISIBLE_DEVICES``."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.startswith("GPU-"):
        return nvml.nvmlDeviceGetHandleByUUID(first)
    return nvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)


def _asked(question: Callable[[], Any]) -> Any:
    """The driver's answer; ``None`` where this GPU has none (NVML raises)."""
    with suppress(Exception):
        return question()
    return None
