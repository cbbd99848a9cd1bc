"""What the operating system says: swap, the processor's clock and throttling, the memory of the watched process, RAPL.

Everything but swap is Linux's own; elsewhere it is left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from skinedge.measure.telemetry import Reading

SYS = Path("/sys")
PROC = Path("/proc")


class HostSource:
    """Swap, the clock of the fastest core, thermal throttling, and one process's memory.

    Args:
        pid: the process to watch; can be set later.
        sys: where ``/sys`` is.
        proc: where ``/proc`` is.
    """

    name = "host"

    def __init__(self, pid: int | None = None, sys: Path = SYS, proc: Path = PROC) -> None:
        self.pid = pid
        self._sys, self._proc = sys, proc
        self._throttled = self._throttle_count()

    def read(self) -> Reading:
        """See ``Source.read``."""
        import psutil

        clock = self._clock()
        resident, private = self._memory()
        return Reading(
            clocks_mhz={} if clock is None else {"cpu": clock},
            throttle=("CPU too hot",) if self._throttle_count() > self._throttled else (),
            swap_bytes=int(psutil.swap_memory().used),
            resident=resident,
            private=private,
        )

    def close(self) -> None:
        """Nothing to let go of."""

    def _clock(self) -> float | None:
        """MHz of the fastest core: the busy one, wherever the system has put it."""
        folders = self._sys.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
        found = [v / 1e3 for v in map(number, folders) if v is not None]
        return max(found, default=None)

    def _throttle_count(self) -> float:
        """How often Intel's cores have been slowed by heat since the machine started."""
        counts = self._sys.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count")
        return sum(v for v in map(number, counts) if v is not None)

    def _memory(self) -> tuple[int | None, int | None]:
        """Resident bytes, and those of them that are no page of a mapped file."""
        found = {} if self.pid is None else process_bytes(self._proc / str(self.pid))
        if "VmRSS" not in found:
            return None, None
        return found["VmRSS"], found.get("RssAnon", 0) + found.get("RssShmem", 0)


class RaplSource:
    """The processor packages' power, from the energy they have counted (``intel-rapl``, AMD's too; often for root only)."""

    name = "rapl"

    def __init__(self, sys: Path = SYS) -> None:
        self._packages = sorted(sys.glob("class/powercap/intel-rapl:[0-9]*"))
        self._packages = [p for p in self._packages if p.name.count(":") == 1 and number(p / "energy_uj") is not None]
        self._last: tuple[float, dict[str, float]] | None = None

    @property
    def present(self) -> bool:
        """Whether there is any."""
        return bool(self._packages)

    def read(self) -> Reading:
        """Mean power since the last reading; nothing at the first, and none where a counter went round."""
        now = time.perf_counter()
        counts = {p.name: v for p in self._packages if (v := number(p / "energy_uj")) is not None}
        last, self._last = self._last, (now, counts)
        if last is None or last[1].keys() != counts.keys() or any(counts[n] < last[1][n] for n in counts):
            return Reading()
        return Reading(watts={self.name: sum(counts[n] - last[1][n] for n in counts) / 1e6 / (now - last[0])})

    def close(self) -> None:
        """Nothing to let go of."""


def process_bytes(folder: Path) -> dict[str, int]:
    """The sizes in a process's ``status``, by their names there (``VmRSS``, ``VmHWM``); nothing if it is gone."""
    try:
        lines = (folder / "status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    sizes = ((key, rest.split()) for key, _, rest in (line.partition(":") for line in lines) if rest.endswith(" kB"))
    return {key: int(value) << 10 for key, (value, _) in sizes}


def number(path: Path) -> float | None:
    """What a file of the kernel's says, if it can be read and is a number."""
    with suppress(OSError, ValueError):
        return float(path.read_text(encoding="ascii").strip())
    return None


def words(path: Path) -> str | None:
    """The text of a small file, without zeros and blanks at its end; ``None`` if it cannot be read or is empty."""
    with suppress(OSError):
        return path.read_bytes().decode(errors="replace").replace("\0", "").strip() or None
    return None


def numbered(folder: Path, pattern: str) -> Iterator[tuple[str, float]]:
    """Name and number of each file that holds one."""
    for path in sorted(folder.glob(pattern)):
        value = number(path)
        if value is not None:
            yield path.name, value
