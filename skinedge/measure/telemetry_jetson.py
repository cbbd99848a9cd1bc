"""A Jetson's rails, clocks and throttling: INA monitors and counters in sysfs, or ``tegrastats`` where they cannot be read."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from skinedge.measure.jetson_text import Tegrastats, parse_tegrastats, total_mw
from skinedge.measure.telemetry import Reading
from skinedge.measure.telemetry_host import SYS, number, numbered, words

_STALE = 3  # seconds after which what tegrastats said last is no longer now


class InaSource:
    """What sysfs tells: thermal alerts, over-current counters, the GPU's clock, and watts where the rails can be read.

    Rails are those of the INA3221 (and Thor's INA238) from hwmon, or from L4T 32's iio; milliwatts by rail.
    """

    name = "ina3221"

    def __init__(self, sys: Path = SYS) -> None:
        self._hwmon = [p for p in sorted(sys.glob("class/hwmon/hwmon*")) if (words(p / "name") or "").startswith("ina")]
        self._iio = sorted(sys.glob("bus/i2c/drivers/ina3221x/*/iio:device*"))
        self._sys = sys
        self._events = self._over_current()

    def rails(self) -> dict[str, float]:
        """Milliwatts by rail; unnamed and unused channels are left out."""
        return {name: mw for name, mw in self._channels() if name and name != "NC" and "sum of shunt" not in name}

    def read(self) -> Reading:
        """See ``Source.read``."""
        total = total_mw(self.rails())
        over = [name for name, count in self._over_current().items() if count > self._events.get(name, count)]
        alerts = _alerts(self._sys)
        clocks = _clocks(self._sys)
        return Reading(
            watts={} if total is None else {self.name: total / 1e3},
            clocks_mhz=clocks,
            throttle=(*(f"over-current {name}" for name in over), *alerts),
            sees_gpu=True,
        )

    def close(self) -> None:
        """Nothing to let go of."""

    def _channels(self) -> Iterator[tuple[str, float]]:
        for chip in self._hwmon:
            for label in sorted(chip.glob("in[0-9]_label")):
                channel = label.name[2]
                volts, amperes = number(chip / f"in{channel}_input"), number(chip / f"curr{channel}_input")
                if volts is not None and amperes is not None:
                    yield words(label) or "", volts * amperes / 1e3  # mV, mA
            single = number(chip / "power1_input")
            if single is not None:  # an INA238 has one channel, in microwatts
                yield words(chip / "label") or "VIN", single / 1e3
        for chip in self._iio:
            for name, value in numbered(chip, "in_power[0-9]_input"):
                yield words(chip / f"rail_name_{name[8]}") or "", value

    def _over_current(self) -> dict[str, float]:
        """How often each limit was hit since the machine started."""
        chips = sorted(self._sys.glob("class/hwmon/hwmon*"))
        return {name.removesuffix("_event_cnt"): v for chip in chips for name, v in numbered(chip, "oc*_event_cnt")}


class TegrastatsSource:
    """The last line of ``tegrastats`` (which needs no root, but shows less without)."""

    name = "tegrastats"

    def __init__(self, command: tuple[str, ...] = ("tegrastats", "--interval", "100")) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
        )
        self._last: tuple[float, Tegrastats] | None = None
        self._thread = threading.Thread(target=self._follow, name="tegrastats", daemon=True)
        self._thread.start()

    def read(self) -> Reading:
        """See ``Source.read``."""
        import time

        if self._last is None or time.perf_counter() - self._last[0] > _STALE:
            return Reading()
        return as_reading(self._last[1])

    def close(self) -> None:
        """End the program."""
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        if self._process.stdout:
            self._process.stdout.close()

    def _follow(self) -> None:
        import time

        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last = (time.perf_counter(), parse_tegrastats(line))


def as_reading(line: Tegrastats) -> Reading:
    """What a line of ``tegrastats`` says, in the words of all sources."""
    total = total_mw(line.rails_mw)
    cores = [core[1] for core in line.cpus if core]
    clocks = {"gpu": max(line.gpu_mhz, default=None), "memory": line.emc_mhz, "cpu": max(cores, default=None)}
    return Reading(
        watts={} if total is None else {TegrastatsSource.name: total / 1e3},
        clocks_mhz={name: float(mhz) for name, mhz in clocks.items() if mhz},
        temperatures_c=line.temperatures_c,
        swap_bytes=None if line.swap_mb is None else line.swap_mb[0] << 20,
        device_bytes=None if line.ram_mb is None else line.ram_mb[0] << 20,  # the GPU has no memory of its own
    )


def is_jetson(sys: Path = SYS) -> bool:
    """Whether this is one."""
    return "tegra" in (words(sys / "firmware" / "devicetree" / "base" / "compatible") or "")


def jetson_sources(sys: Path = SYS) -> list[InaSource | TegrastatsSource]:
    """What sysfs says, and what tegrastats adds."""
    if not is_jetson(sys):
        return []
    return [InaSource(sys), *([TegrastatsSource()] if shutil.which("tegrastats") else [])]


def _alerts(sys: Path) -> tuple[str, ...]:
    """Thermal alerts that slow a part down just now (cooling devices named ``gpu-throttle-alert`` and the like)."""
    devices = sorted(sys.glob("class/thermal/cooling_device*"))
    named = ((words(d / "type") or "", number(d / "cur_state")) for d in devices)
    return tuple(name for name, state in named if "throttle-alert" in name and state)


def _clocks(sys: Path) -> dict[str, float]:
    """MHz of the GPU, from devfreq."""
    for device in sorted(sys.glob("class/devfreq/*")):
        hertz = number(device / "cur_freq")
        if hertz is not None and any(part in device.name for part in ("gpu", "gv11b", "ga10b", "gb10b")):
            return {"gpu": hertz / 1e6}
    return {}
