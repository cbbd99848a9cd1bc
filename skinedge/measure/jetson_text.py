"""What a Jetson says of itself, as text: ``tegrastats``, ``nvpmodel``, ``jetson_clocks``, the L4T release.

Pure functions.  Boards and releases write differently (``tests/test_jetson_text.py`` holds the shapes); whatever is not
understood is left out, and no number comes out that is not in the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from skinedge.measure.result import PowerMode

# Rails that carry the whole module: Orin Nano and NX, AGX Thor, and boards up to Xavier.  Elsewhere the rails add up to it.
TOTALS = ("VDD_IN", "VIN", "POM_5V_IN")
_OFF_C = -256.0  # a sensor whose part is powered down

# ASCII digits only, and no more than a counter can have.  A number counts only where what follows shows that it is whole.
_NUMBER = r"[0-9]{1,9}"
_RAM = re.compile(rf"\bRAM ({_NUMBER})/({_NUMBER})MB(?![0-9A-Za-z])")
_SWAP = re.compile(rf"\bSWAP ({_NUMBER})/({_NUMBER})MB(?![0-9A-Za-z])")
_CPU = re.compile(r"\bCPU \[([^\[\]]*)\]")
_CORE = re.compile(rf"({_NUMBER})%@({_NUMBER})")
_EMC = re.compile(rf"\bEMC_FREQ ({_NUMBER})%(?:@({_NUMBER})(?=\s))?")
_GPU_LOAD = re.compile(rf"\bGR3D_FREQ ({_NUMBER})%")
_GPU_CLOCKS = re.compile(rf"\bGR3D_FREQ (?:{_NUMBER}%)?@(?:\[({_NUMBER}(?:,{_NUMBER})*)\]|({_NUMBER})(?=\s))")
_HEAT = re.compile(rf"(?<!\S)([A-Za-z][\w-]*)@(-?{_NUMBER}(?:\.{_NUMBER})?)C(?=[/\s]|$)", re.ASCII)
_RAIL = re.compile(rf"(?<!\S)([A-Z][A-Z0-9_]*) (-?{_NUMBER})mW(?:/-?{_NUMBER}mW)+(?=\s|$)")
_OLD_RAIL = re.compile(rf"(?<!\S)(POM_[A-Z0-9_]+) (-?{_NUMBER})/-?{_NUMBER}(?=\s|$)")


@dataclass(frozen=True)
class Tegrastats:
    """One line of ``tegrastats``: what it says now, not its averages.

    ``cpus`` has a pair of load in percent and MHz for each core, ``None`` for one that is off; ``rails_mw`` may be
    negative near nothing.  What the line does not say is ``None`` or missing.
    """

    ram_mb: tuple[int, int] | None = None  # used, all
    swap_mb: tuple[int, int] | None = None
    cpus: tuple[tuple[int, int] | None, ...] = ()
    emc_percent: int | None = None
    emc_mhz: int | None = None
    gpu_percent: int | None = None
    gpu_mhz: tuple[int, ...] = ()
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    rails_mw: Mapping[str, int] = field(default_factory=dict)


def parse_tegrastats(line: str) -> Tegrastats:
    """A line of ``tegrastats``, of any board or release; a line that is none gives an empty one."""
    emc, load, clocks, cpu = (pattern.search(line) for pattern in (_EMC, _GPU_LOAD, _GPU_CLOCKS, _CPU))
    heat = {name: float(value) for name, value in _HEAT.findall(line)}
    rails = {name: int(value) for name, value in (*_RAIL.findall(line), *_OLD_RAIL.findall(line))}
    return Tegrastats(
        ram_mb=_pair(_RAM.search(line)),
        swap_mb=_pair(_SWAP.search(line)),
        cpus=_cores(cpu[1]) if cpu else (),
        emc_percent=int(emc[1]) if emc else None,
        emc_mhz=int(emc[2]) if emc and emc[2] else None,
        gpu_percent=int(load[1]) if load else None,
        gpu_mhz=tuple(map(int, (clocks[1] or clocks[2]).split(","))) if clocks else (),
        temperatures_c={name: value for name, value in heat.items() if value > _OFF_C},
        rails_mw={name: value for name, value in rails.items() if name != "NC"},
    )


def _pair(match: re.Match[str] | None) -> tuple[int, int] | None:
    return (int(match[1]), int(match[2])) if match else None


def _cores(text: str) -> tuple[tuple[int, int] | None, ...]:
    """``19%@729,off`` core by core; nothing at all if one of them is written in another way."""
    cores = [(core, _CORE.fullmatch(core)) for core in text.split(",")]
    if not all(match or core == "off" for core, match in cores):
        return ()
    return tuple((int(match[1]), int(match[2])) if match else None for _, match in cores)


def total_mw(rails: Mapping[str, float]) -> float | None:
    """What the module draws: the rail that carries all of it, else the sum of the rails; ``None`` of none."""
    for name in TOTALS:
        if name in rails:
            return rails[name]
    return sum(rails.values()) if rails else None


def parse_nvpmodel(text: str) -> PowerMode | None:
    """The power mode that ``nvpmodel -q`` prints, and the id on the next line."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        _, found, name = line.partition("NV Power Mode:")
        if found and name.strip():
            following = lines[number + 1].strip() if number + 1 < len(lines) else ""
            return PowerMode(name=name.strip(), id=int(following) if re.fullmatch(_NUMBER, following) else None)
    return None


@dataclass(frozen=True)
class Clock:
    """A clock's range and value in MHz."""

    low: float
    high: float
    now: float

    @property
    def pinned(self) -> bool:
        """Whether it cannot change."""
        return self.low == self.high


_HERTZ = r"([0-9]{1,15})"
_CLOCK = re.compile(rf"^(cpu{_NUMBER}|GPU|EMC)(?::| ).*?MinFreq={_HERTZ} MaxFreq={_HERTZ} CurrentFreq={_HERTZ}(?![0-9])")


def parse_jetson_clocks(text: str) -> dict[str, Clock]:
    """What ``jetson_clocks --show`` says of cores that are on, the GPU and the memory; nothing without its root rights."""
    found = {}
    for line in text.splitlines():
        match = _CLOCK.match(line.strip())
        if match and "Online=0" not in line:
            scale = 1e-3 if match[1].startswith("cpu") else 1e-6  # kHz of cores, Hz of the others
            found[match[1]] = Clock(*(round(int(v) * scale, 6) for v in match.groups()[1:]))
    return found


_L4T = re.compile(rf"# R({_NUMBER}) \(release\), REVISION: ({_NUMBER}(?:\.{_NUMBER})*)(?=[,\s]|$)")


def parse_l4t(text: str) -> str | None:
    """``36.4.3`` of ``/etc/nv_tegra_release``."""
    match = _L4T.search(text)
    return f"{match[1]}.{match[2]}" if match else None


_JETPACK = re.compile(r"^Version: ([0-9][\w.+~-]*)\s*$", re.MULTILINE | re.ASCII)


def parse_jetpack(text: str) -> str | None:
    """``6.2.1+b38`` of ``dpkg-query -s nvidia-jetpack``."""
    match = _JETPACK.search(text)
    return match[1] if match else None
