"""What is known of each device, one TOML file each; the file name is the device's name.

A figure stands beside its source in the same file (``[sources]``); what was assumed, derived or not looked up says so there,
and so does why a GPU runs no plan.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from skinedge.devices.constants import GIB, Kind
from skinedge.devices.timing import Peak
from skinedge.registry import check, names

_FOLDER = Path(__file__).parent
HERE = "this-machine"


@dataclass(frozen=True)
class Device:
    """One device.

    ``memory_gb`` is its memory in gigabytes of 2^30 bytes, as memory is sold; ``system_gb`` what the system keeps of it;
    ``bandwidth_gb_s`` decimal, as data sheets give it.  ``compute_tflops`` are dense products by type with 32-bit sums;
    ``cores`` are given for CPUs.  ``target``, ``scheme`` and ``activations`` are what ``skinedge export --device`` chooses
    for it; ``targets`` all that run there.  ``None`` and an empty mapping stand for what is measured when it is asked for
    (``skinedge.devices.here``).
    """

    name: str
    title: str
    kind: Kind
    memory_gb: float | None
    system_gb: float | None
    bandwidth_gb_s: float | None
    cores: int | None
    targets: tuple[str, ...]
    compute_tflops: Mapping[str, float]
    target: str
    scheme: str
    activations: str | None
    sources: Mapping[str, str]

    @property
    def available(self) -> int:
        """Bytes of memory for a model."""
        assert self.memory_gb is not None, "measure it first"
        return round(((self.memory_gb) - (self.system_gb or 0)) * GIB)

    @property
    def peak(self) -> Peak:
        """Bandwidth and compute in base units."""
        assert self.bandwidth_gb_s is not None, "measure it first"
        return Peak(self.bandwidth_gb_s * 1e9, {kind: 1e12 * value for kind, value in self.compute_tflops.items()})

    def measured(self) -> Device:
        """The same with what is measured on the machine at hand filled in; takes a few seconds where there is any."""
        if self.name != HERE or self.bandwidth_gb_s is not None:
            return self
        from skinedge.devices.here import look

        here = look()
        return replace(
            self,
            memory_gb=here.memory / GIB,
            system_gb=(here.memory - here.available) / GIB,
            bandwidth_gb_s=here.bandwidth / 1e9,
            cores=here.cores,
            compute_tflops={"f32": here.flops / 1e12},
        )


def known_devices() -> tuple[str, ...]:
    """Names of all devices."""
    return names("devices", ".toml")


def read_device(name: str) -> Device:
    """The device ``name``.

    Raises:
        UsageError: there is none; the known ones are listed.
    """
    check("device", name, known_devices())
    raw = tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    export = raw["export"]

    def number(key: str) -> float | None:
        return float(raw[key]) if key in raw else None

    return Device(
        name=name,
        title=raw["title"],
        kind=cast(Kind, raw["kind"]),
        memory_gb=number("memory_gb"),
        system_gb=number("system_gb"),
        bandwidth_gb_s=number("bandwidth_gb_s"),
        cores=raw.get("cores"),
        targets=tuple(raw["targets"]),
        compute_tflops={kind: float(value) for kind, value in raw.get("compute_tflops", {}).items()},
        target=export["target"],
        scheme=export["scheme"],
        activations=export.get("activations"),
        sources=raw["sources"],
    )
