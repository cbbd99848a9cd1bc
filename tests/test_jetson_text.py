"""A Jetson's own words, in every shape that boards and releases write them, and in shapes that none does."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinedge.measure.jetson_text import (
    Clock,
    Tegrastats,
    parse_jetpack,
    parse_jetson_clocks,
    parse_l4t,
    parse_nvpmodel,
    parse_tegrastats,
    total_mw,
)
from skinedge.measure.result import PowerMode

NANO = (
    "11-05-2025 10:14:02 RAM 3127/7620MB (lfb 2x4MB) SWAP 17/3810MB (cached 0MB) CPU [41%@1510,38%@1510,off,off,2%@729,0%@729] "
    "EMC_FREQ 31%@2133 GR3D_FREQ 97%@[611] NVDEC off NVJPG off OFA off APE 200 cpu@51.718C soc2@50.906C soc0@50.75C "
    "gpu@53.031C tj@53.031C soc1@51.312C VDD_IN 9411mW/8967mW VDD_CPU_GPU_CV 3660mW/3312mW VDD_SOC 2104mW/2071mW"
)
AGX = (
    "RAM 12004/62829MB (lfb 41x4MB) SWAP 0/31414MB (cached 0MB) CPU [7%@2188,off,3%@729] EMC_FREQ 14%@3199 "
    "GR3D_FREQ 88%@[1290,1285] cpu@55.5C/55.25C tboard@41C gpu@52.906C/52.5C VDD_GPU_SOC 11208mW/10890mW/11300mW "
    "VDD_CPU_CV 2001mW/1990mW/2100mW VIN_SYS_5V0 4836mW/4820mW/4900mW NC 0mW/0mW NC 0mW/0mW VDDQ_VDD2_1V8AO 900mW/890mW/950mW"
)
THOR = (
    "RAM 9000/125772MB (lfb 3x4MB) CPU [0%@972] GR3D_FREQ @[1575,1575,1575] tj@48.5C VDD_GPU -392mW/-392mW "
    "VDD_CPU_SOC_MSS 3924mW/3924mW VIN_SYS_5V0 4600mW/4600mW VIN 21950mW/21950mW"
)
OLD = (
    "RAM 1500/3956MB (lfb 1x512kB) CPU [10%@921,5%@921,off,off] EMC_FREQ 0% GR3D_FREQ 35% PLL@31C CPU@34.5C PMIC@50C "
    "GPU@-256C AO@39C thermal@34C POM_5V_IN 2133/2089 POM_5V_GPU 0/0 POM_5V_CPU 451/410"
)


def test_an_orin_nano() -> None:
    found = parse_tegrastats(NANO)
    assert found.ram_mb == (3127, 7620)
    assert found.swap_mb == (17, 3810)
    assert found.cpus == ((41, 1510), (38, 1510), None, None, (2, 729), (0, 729))
    assert (found.emc_percent, found.emc_mhz) == (31, 2133)
    assert (found.gpu_percent, found.gpu_mhz) == (97, (611,))
    assert found.temperatures_c["tj"] == 53.031
    assert found.rails_mw == {"VDD_IN": 9411, "VDD_CPU_GPU_CV": 3660, "VDD_SOC": 2104}
    assert total_mw(found.rails_mw) == 9411


def test_an_agx_orin_whose_rails_add_up() -> None:
    found = parse_tegrastats(AGX)
    assert found.gpu_mhz == (1290, 1285)
    assert found.temperatures_c == {"cpu": 55.5, "tboard": 41.0, "gpu": 52.906}
    assert found.rails_mw == {"VDD_GPU_SOC": 11208, "VDD_CPU_CV": 2001, "VIN_SYS_5V0": 4836, "VDDQ_VDD2_1V8AO": 900}
    assert total_mw(found.rails_mw) == 11208 + 2001 + 4836 + 900


def test_a_thor_with_a_rail_below_nothing() -> None:
    found = parse_tegrastats(THOR)
    assert (found.gpu_percent, found.gpu_mhz) == (None, (1575, 1575, 1575))
    assert found.rails_mw["VDD_GPU"] == -392
    assert total_mw(found.rails_mw) == 21950


def test_an_old_board_without_units_and_with_a_sensor_that_is_off() -> None:
    found = parse_tegrastats(OLD)
    assert (found.gpu_percent, found.gpu_mhz) == (35, ())
    assert (found.emc_percent, found.emc_mhz) == (0, None)
    assert found.swap_mb is None
    assert "GPU" not in found.temperatures_c
    assert found.temperatures_c["CPU"] == 34.5
    assert total_mw(found.rails_mw) == 2133


@pytest.mark.parametrize(
    ("text", "percent", "mhz"),
    [
        ("GR3D_FREQ 0%@[305]", 0, (305,)),
        ("GR3D_FREQ 12%@[1300,1300]", 12, (1300, 1300)),
        ("GR3D_FREQ 35%", 35, ()),
        ("GR3D_FREQ 35%@921", 35, (921,)),
        ("GR3D_FREQ @[1000,1000,1000]", None, (1000, 1000, 1000)),
        ("GR3D_FREQ", None, ()),
        ("GR3D_FREQ 12%@[1300,13", 12, ()),
    ],
)
def test_the_gpus_clock_in_every_shape(text: str, percent: int | None, mhz: tuple[int, ...]) -> None:
    found = parse_tegrastats(f"RAM 1/2MB (lfb 1x512kB) {text} NVDEC off\n")
    assert (found.gpu_percent, found.gpu_mhz) == (percent, mhz)


@pytest.mark.parametrize("text", ["", "\n", "tegrastats: command not found", "RAM", "RAM x/yMB CPU [] GR3D_FREQ %", "RAM 1/2GB"])
def test_what_is_no_line_of_it_says_nothing(text: str) -> None:
    assert parse_tegrastats(text) == Tegrastats()


def test_a_core_in_an_unknown_shape_leaves_all_cores_out() -> None:
    assert parse_tegrastats("CPU [3%@729,asleep]").cpus == ()
    assert parse_tegrastats("CPU [off,off]").cpus == (None, None)


def numbers(found: Tegrastats) -> list[float]:
    pairs = [*(found.ram_mb or ()), *(found.swap_mb or ()), *(n for core in found.cpus if core for n in core)]
    single = [n for n in (found.emc_percent, found.emc_mhz, found.gpu_percent) if n is not None]
    return [*pairs, *single, *found.gpu_mhz, *found.temperatures_c.values(), *found.rails_mw.values()]


PIECES = st.sampled_from(
    [
        *re.split(r"(?<=[ ,/@\[\]])", NANO + " " + AGX + " " + THOR + " " + OLD),
        "\0",
        "٣",
        "-",
        "9" * 400,
        "mW/",
        "C",
        "NC 7mW/7mW ",
        "1e9",
    ]
)
GARBAGE = st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join), st.binary().map(lambda b: b.decode("latin-1")))


@settings(max_examples=300, deadline=None)
@given(GARBAGE)
def test_garbage_neither_crashes_it_nor_becomes_a_number(text: str) -> None:
    written = {float(n) for n in re.findall(r"-?[0-9]+(?:\.[0-9]+)?", text)} | {float(n) for n in re.findall(r"[0-9]+", text)}
    for number in numbers(parse_tegrastats(text)):
        assert float(number) in written
    mode = parse_nvpmodel(text)
    if mode is not None:
        assert mode.name in text
        assert mode.id is None or str(mode.id) in re.sub(r"\b0+(?=[0-9])", "", text)
    release, pack = parse_l4t(text), parse_jetpack(text)
    assert release is None or all(part in text for part in release.split("."))
    assert pack is None or pack in text
    for clock in parse_jetson_clocks(text).values():
        assert all(any(v * scale in written for scale in (1e3, 1e6)) for v in (clock.low, clock.high, clock.now))


@pytest.mark.parametrize("line", [NANO, AGX, THOR, OLD], ids=["nano", "agx", "thor", "old"])
def test_a_line_that_is_cut_short_keeps_only_whole_values(line: str) -> None:
    whole = parse_tegrastats(line + "\n")
    for length in range(len(line)):
        part = parse_tegrastats(line[:length])
        assert set(part.rails_mw.items()) <= set(whole.rails_mw.items())
        assert set(part.temperatures_c.items()) <= set(whole.temperatures_c.items())
        assert part.gpu_mhz in ((), whole.gpu_mhz)
        assert part.cpus in ((), whole.cpus)
        for name in ("ram_mb", "swap_mb", "emc_percent", "emc_mhz", "gpu_percent"):
            assert getattr(part, name) in (None, getattr(whole, name)), line[:length]


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN_SUPER\n2\n", PowerMode(name="MAXN_SUPER", id=2)),
        ("NVPM VERB: Current mode: NV Power Mode: 25W\n1\nNVPM VERB: PARAM", PowerMode(name="25W", id=1)),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_15W_2CORE\n", PowerMode(name="MODE_15W_2CORE")),
        ("NV Power Mode: 30W\nunknown", PowerMode(name="30W")),
        ("NV Power Mode:", None),
        ("nvpmodel: permission denied", None),
    ],
)
def test_power_modes_whose_ids_mean_what_the_board_says(text: str, mode: PowerMode | None) -> None:
    assert parse_nvpmodel(text) == mode


def test_clocks_that_are_pinned_and_that_are_not() -> None:
    found = parse_jetson_clocks(
        "SOC family:tegra234  Machine:NVIDIA Jetson AGX Orin Developer Kit\n"
        "Online CPUs: 0-1\n"
        "cpu0: Online=1 Governor=schedutil MinFreq=729600 MaxFreq=2201600 CurrentFreq=1190400 IdleStates: WFI=1 c7=1 \n"
        "cpu1: Online=0 Governor=schedutil MinFreq=729600 MaxFreq=2201600 CurrentFreq=729600 IdleStates: WFI=1 c7=1 \n"
        "GPU MinFreq=1300500000 MaxFreq=1300500000 CurrentFreq=1300500000\n"
        "EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=3199000000 FreqOverride=0\n"
        "FAN Dynamic Speed control=nvfancontrol hwmon3_pwm1=58\nNV Power Mode: MAXN\n"
    )
    assert found == {
        "cpu0": Clock(729.6, 2201.6, 1190.4),
        "GPU": Clock(1300.5, 1300.5, 1300.5),
        "EMC": Clock(204, 3199, 3199),
    }
    assert [name for name, clock in found.items() if clock.pinned] == ["GPU"]
    assert parse_jetson_clocks("Error: Run this script(/usr/bin/jetson_clocks) as a root user") == {}


def test_releases() -> None:
    text = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025"
    assert parse_l4t(text) == "36.4.3"
    assert parse_l4t("# R32 (release), REVISION: 7.1") == "32.7.1"
    assert parse_l4t("no Tegra") is None
    assert parse_jetpack("Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 6.2.1+b38\n") == "6.2.1+b38"
    assert parse_jetpack("dpkg-query: package 'nvidia-jetpack' is not installed") is None
