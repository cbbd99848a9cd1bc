"""What the machine does while a model runs: sources that are read ten times a second, and what ends a run.

A source reads what its library or files say and leaves out what they do not.  ``Sampler`` reads all of them in a thread of the
watching process, so that the one that computes is left alone.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

INTERVAL = 0.1  # seconds; NVML's counters are refreshed about as often
MOST_CLOCK_DROP = 0.05
MOST_SWAP_GROWTH = 1 << 20  # a page or two may come from elsewhere
WINDOW = 10  # readings whose median stands for a clock


@dataclass(frozen=True)
class Reading:
    """What one or all sources say at a time (``perf_counter``).

    ``watts`` is by source; ``throttle`` the reasons why the machine holds itself back now, and ``sees_gpu`` whether a GPU's
    would be among them; ``device_bytes`` the memory in use on the GPU; ``resident`` and ``private`` the watched process's.
    """

    time: float = 0.0
    watts: Mapping[str, float] = field(default_factory=dict)
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    throttle: tuple[str, ...] = ()
    sees_gpu: bool = False
    swap_bytes: int | None = None
    device_bytes: int | None = None
    resident: int | None = None
    private: int | None = None


class Source(Protocol):
    """Something to read."""

    name: str

    def read(self) -> Reading:
        """What it says now."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def merged(readings: Sequence[Reading], now: float) -> Reading:
    """One of several at the same time; where two say the same thing the first one counts."""

    def first(name: str) -> int | None:
        return next((v for v in (getattr(r, name) for r in readings) if v is not None), None)

    backwards = readings[::-1]
    return Reading(
        time=now,
        watts={k: v for r in backwards for k, v in r.watts.items()},
        clocks_mhz={k: v for r in backwards for k, v in r.clocks_mhz.items()},
        temperatures_c={k: v for r in backwards for k, v in r.temperatures_c.items()},
        throttle=tuple(dict.fromkeys(t for r in readings for t in r.throttle)),
        sees_gpu=any(r.sees_gpu for r in readings),
        swap_bytes=first("swap_bytes"),
        device_bytes=first("device_bytes"),
        resident=first("resident"),
        private=first("private"),
    )


class Sampler:
    """Reads sources in a thread for the length of a block, and says at any time what has disturbed the run.

    Args:
        sources: they are not closed.
        interval: seconds between readings.
        warm: readings of a warm machine so far, by which its clocks are judged, if there was a process before; it grows.
    """

    def __init__(self, sources: Sequence[Source], interval: float = INTERVAL, warm: list[Reading] | None = None) -> None:
        self._sources, self._interval = sources, interval
        self.readings: list[Reading] = []
        self.warm = [] if warm is None else warm
        self._settled = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def __enter__(self) -> Sampler:
        self.read()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self.read()

    def read(self) -> None:
        """One reading of all sources; a source that fails is left out of it."""
        parts, settled = [], self._settled
        for source in self._sources:
            with suppress(Exception):  # a driver that goes away must not end a measurement: what it would say is missing
                parts.append(source.read())
        self.readings.append(merged(parts, time.perf_counter()))
        if settled and self._settled:
            self.warm.append(self.readings[-1])

    def settle(self) -> None:
        """From now on the clocks are those of a machine that is warm and at work: none of them may drop."""
        self._settled = True

    def unsettle(self) -> None:
        """Clocks may do what they like."""
        self._settled = False

    def problem(self) -> str | None:
        """What has disturbed the run so far."""
        return disturbance(self.readings, self.warm)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self.read()


def disturbance(readings: Sequence[Reading], warm: Sequence[Reading] = ()) -> str | None:
    """Why a run with these readings is not valid: throttling, a clock that dropped by more than 5 %, or swapping.

    Args:
        readings: in order of time.
        warm: those by which clocks are judged: of all counted runs, whatever lay between them.
    """
    throttled = list(dict.fromkeys(reason for r in readings for reason in r.throttle))
    if throttled:
        return f"the machine throttled itself: {', '.join(throttled)}"
    swap = [r.swap_bytes for r in readings if r.swap_bytes is not None]
    if swap and max(swap) - swap[0] > MOST_SWAP_GROWTH:
        return f"the machine began to swap: {(max(swap) - swap[0]) / 2**20:.0f} MiB more than at the start"
    return clock_drop(warm)


def clock_drop(readings: Sequence[Reading]) -> str | None:
    """The first clock whose last readings lie more than 5 % below its first ones (medians of a second each)."""
    for name in dict.fromkeys(name for r in readings for name in r.clocks_mhz):
        values = [r.clocks_mhz[name] for r in readings if name in r.clocks_mhz]
        if len(values) < 2 * WINDOW:
            continue
        before, now = statistics.median(values[:WINDOW]), statistics.median(values[-WINDOW:])
        if now < (1 - MOST_CLOCK_DROP) * before:
            return f"the {name} clock dropped from {before:.0f} to {now:.0f} MHz, by {100 * (1 - now / before):.0f} %"
    return None
