"""The machines that kits are made for: what their wheels are tagged, and what a requirement's marker is answered there."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from skinedge.devices import Device
from skinedge.registry import check

# Ubuntu 22.04 (JetPack 6) has glibc 2.35, 24.04 (JetPack 7) 2.39, Debian 12 2.36.
_GLIBC = 35
# JetPack 7 is Ubuntu 24.04.
JETSON_PYTHON = "3.12"
_AARCH64 = ("jetson-", "dgx-spark")
_NVIDIA = ("jetson-", "dgx-", "rtx-", "h100-")


@dataclass(frozen=True)
class Platform:
    """An operating system on a processor; ``machine`` is what Python calls the latter."""

    name: str
    system: str
    machine: str
    tags: tuple[str, ...]

    def environment(self, python: str) -> dict[str, str]:
        """Answers to markers (PEP 508) under ``python``, as ``packaging`` wants them."""
        windows = self.system == "Windows"
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{python}.0",
            "os_name": "nt" if windows else "posix",
            "platform_machine": "AMD64" if windows else self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": self.system,
            "platform_version": "",
            "python_full_version": f"{python}.0",
            "python_version": python,
            "sys_platform": "win32" if windows else "linux",
        }


def _linux(machine: str) -> tuple[str, ...]:
    """Newest first: pip takes a tag literally and does not know that an older one will do."""
    legacy = ("manylinux2014", *(("manylinux2010", "manylinux1") if machine == "x86_64" else ()), "linux")
    return (*(f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC, 4, -1)), *(f"{tag}_{machine}" for tag in legacy))


PLATFORMS = {
    p.name: p
    for p in (
        Platform("linux-aarch64", "Linux", "aarch64", _linux("aarch64")),
        Platform("linux-x86-64", "Linux", "x86_64", _linux("x86_64")),
        Platform("windows-x86-64", "Windows", "x86_64", ("win_amd64",)),
    )
}


def platform_of(device: str, name: str | None) -> Platform:
    """The platform called ``name``, or the one that ``device`` has.

    Raises:
        UsageError: there is no such platform; the known ones are listed.
    """
    if name is not None:
        return PLATFORMS[check("platform", name, tuple(PLATFORMS))]
    if device == "this-machine":
        machine = platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
        return platform_of(device, f"{platform.system().lower()}-{machine.replace('_', '-')}")
    return PLATFORMS["linux-aarch64" if device.startswith(_AARCH64) else "linux-x86-64"]


def is_jetson(device: Device) -> bool:
    """Whether TensorRT comes with the system and its engines are built there."""
    return device.name.startswith("jetson-")


def has_nvidia_gpu(device: Device) -> bool:
    """Whether its GPU is NVIDIA's."""
    return device.name.startswith(_NVIDIA)
