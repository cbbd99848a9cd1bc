"""The model of time: a stage takes as long as its bytes, its products and its layers.

``seconds = bytes / (bandwidth x e_b) + sum_type flops / (peak of the type x e_c) + layers x t_layer``

On a GPU the parts are added; on a CPU the smaller of the first two hides behind the larger.  Which of the two describes what
is published and measured is in ``docs/decisions/0016-model-of-time.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skinedge.devices.constants import Efficiency
from skinedge.measure.forecast import Resource


@dataclass(frozen=True)
class Work:
    """What a stage has to do: bytes read from memory, floating-point operations by type, layers passed."""

    nbytes: float
    flops: Mapping[str, float]
    layers: float


@dataclass(frozen=True)
class Peak:
    """A data sheet: bytes a second, and floating-point operations a second by type (dense)."""

    bandwidth: float
    flops: Mapping[str, float]


@dataclass(frozen=True)
class Duration:
    """Seconds of a stage, by what is waited for."""

    parts: Mapping[Resource, float]

    @property
    def seconds(self) -> float:
        """All parts."""
        return sum(self.parts.values())

    @property
    def bound(self) -> Resource:
        """What most of the time is spent waiting for."""
        return max(self.parts, key=lambda resource: self.parts[resource])

    def __add__(self, other: Duration) -> Duration:
        return Duration({resource: self.parts[resource] + other.parts[resource] for resource in self.parts})

    def __mul__(self, times: float) -> Duration:
        return Duration({resource: times * part for resource, part in self.parts.items()})


NOTHING = Duration({"memory bandwidth": 0.0, "compute": 0.0, "overhead": 0.0})


def duration(work: Work, peak: Peak, known: Efficiency) -> Duration:
    """How long a stage takes.

    Raises:
        KeyError: the device does not compute in a type of the work's.
    """
    reading = work.nbytes / (peak.bandwidth * known.bandwidth)
    products = sum(flops / (peak.flops[kind] * known.compute) for kind, flops in work.flops.items())
    if known.overlaps:
        reading, products = (0.0, products) if products > reading else (reading, 0.0)
    return Duration({"memory bandwidth": reading, "compute": products, "overhead": work.layers * known.layer_s})
