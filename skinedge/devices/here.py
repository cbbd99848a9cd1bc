"""The machine at hand as a device: what its memory and its cores give, measured."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

_SIDE = 1024
_REPEATS = 8


@dataclass(frozen=True)
class Here:
    """Bytes of memory in all and free now; physical cores; bytes and float32 operations a second on all of them."""

    memory: int
    available: int
    cores: int
    bandwidth: float
    flops: float


def look() -> Here:
    """Measure; a busy machine gives less."""
    import psutil

    from skinedge.measure.bandwidth import probe

    memory = psutil.virtual_memory()
    cores = usable_cores()
    return Here(memory.total, memory.available, cores, probe(cores), product_speed(cores))


def usable_cores() -> int:
    """Physical cores, at most as many as this process may use."""
    import psutil

    process = psutil.Process()
    allowed = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def product_speed(threads: int) -> float:
    """Float32 operations a second of a matrix product on so many threads, the best of a few."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    a = np.full((_SIDE, _SIDE), 0.5, np.float32)
    best = 0.0
    with threadpool_limits(threads):
        for _ in range(_REPEATS):
            begin = time.perf_counter()
            a @ a
            best = max(best, 2 * _SIDE**3 / (time.perf_counter() - begin))
    return best
