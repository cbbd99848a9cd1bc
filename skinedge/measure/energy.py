"""Energy from samples of power."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from skinedge.measure.result import EnergyRecord
from skinedge.measure.telemetry import Reading

# Of each window: power is refreshed about every 100 ms, so what is read at either end may belong to the phase before.  Of five
# refreshes that is a fifth; of one it would be all, and as many such windows as one likes do not make it less.
LEAST_SECONDS = 0.5
MOST_GAP = 1.0  # seconds between two samples across which power may be interpolated

Window = tuple[float, float]


def joules(samples: Sequence[tuple[float, float]], window: Window) -> float | None:
    """The integral of power over a window, trapezoid by trapezoid, interpolated at its ends.

    Args:
        samples: time in seconds and watts, in order of time.
        window: from and to.

    Returns:
        ``None`` where the samples do not span the window, or have a gap in it.
    """
    begin, end = window
    times = np.array([t for t, _ in samples])
    if not len(times) or times[0] > begin or times[-1] < end or end <= begin:
        return None
    first, last = int(np.searchsorted(times, begin, "right")) - 1, int(np.searchsorted(times, end, "left"))
    if np.diff(times[first : last + 1]).max(initial=0) > MOST_GAP:
        return None
    inside = times[(times > begin) & (times < end)]
    at = np.concatenate([[begin], inside, [end]])
    watts = np.interp(at, times, [w for _, w in samples])
    return float(np.sum(np.diff(at) * (watts[1:] + watts[:-1]) / 2))


def phase_energy(
    readings: Sequence[Reading], source: str, windows: Sequence[Window], tokens: int, idle_w: float
) -> EnergyRecord | None:
    """What a phase took over all runs: gross, and without what the machine draws when it does nothing.

    Args:
        readings: of the whole session.
        source: whose watts.
        windows: when the phase ran.
        tokens: read or written in all of them.
        idle_w: watts at rest.

    Returns:
        ``None`` where a window is not covered, or is too short to say anything.
    """
    samples = [(r.time, r.watts[source]) for r in readings if source in r.watts]
    each = [joules(samples, window) for window in windows]
    known = [j for j in each if j is not None]
    lengths = [end - begin for begin, end in windows]
    seconds, gross = sum(lengths), sum(known)
    if not known or len(known) < len(each) or min(lengths) < LEAST_SECONDS or tokens < 1 or gross < 0:
        return None
    return EnergyRecord(gross_j=gross, net_j=gross - idle_w * seconds, tokens=tokens, seconds=seconds, source=source)


def idle_watts(readings: Sequence[Reading], source: str) -> float | None:
    """The median of a source's watts."""
    watts = [r.watts[source] for r in readings if source in r.watts]
    return statistics.median(watts) if watts else None
