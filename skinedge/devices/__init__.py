"""What is known of each device, one TOML file each; the file name is the device's name."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from skinedge.registry import check, names

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Device:
    """One device.  ``memory_gb`` and ``bandwidth_gb_s`` are decimal gigabytes, as vendors give them.

    ``target``, ``scheme`` and ``activations`` are what ``skinedge export --device`` chooses for it.
    """

    name: str
    title: str
    memory_gb: float
    bandwidth_gb_s: float
    target: str
    scheme: str
    activations: str | None
    source: str


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
    return Device(
        name=name,
        title=raw["title"],
        memory_gb=float(raw["memory_gb"]),
        bandwidth_gb_s=float(raw["bandwidth_gb_s"]),
        target=export["target"],
        scheme=export["scheme"],
        activations=export.get("activations"),
        source=raw["source"],
    )
