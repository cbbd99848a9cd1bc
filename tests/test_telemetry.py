"""Sources over files and libraries that are none, what ends a run, and energy from samples of power."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from skinedge.measure.energy import joules, phase_energy
from skinedge.measure.machine import describe, power_source_of
from skinedge.measure.telemetry import Reading, Sampler, disturbance, merged
from skinedge.measure.telemetry_host import HostSource, RaplSource
from skinedge.measure.telemetry_jetson import InaSource, TegrastatsSource, is_jetson, jetson_sources
from skinedge.measure.telemetry_nvml import NvmlSource, nvml_source


def write(root: Path, files: dict[str, object]) -> Path:
    for name, value in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{value}\n")
    return root


# --- sources ------------------------------------------------------------------------------------------------------------


def test_the_host_tells_the_busy_cores_clock_and_a_processs_memory(tmp_path: Path) -> None:
    cpu = "devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
    write(tmp_path, {cpu.format(0): 1200000, cpu.format(1): 3400000})
    proc = write(tmp_path / "proc", {"7/status": "Name:\tx\nVmRSS:\t 2048 kB\nRssAnon:\t 512 kB\nRssShmem:\t 256 kB"})
    found = HostSource(7, tmp_path, proc).read()
    assert found.clocks_mhz == {"cpu": 3400.0}
    assert (found.resident, found.private) == (2048 << 10, 768 << 10)
    gone = HostSource(8, tmp_path, proc).read()
    assert (gone.resident, gone.private) == (None, None)
    assert found.swap_bytes == psutil.swap_memory().used


def test_a_core_that_was_slowed_by_heat_since_the_start(tmp_path: Path) -> None:
    counter = "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    source = HostSource(sys=write(tmp_path, {counter: 4}))
    assert source.read().throttle == ()
    write(tmp_path, {counter: 5})
    assert source.read().throttle == ("CPU too hot",)


def test_rapl_gives_power_between_two_readings_and_none_where_the_counter_went_round(tmp_path: Path) -> None:
    counter = "class/powercap/intel-rapl:0/energy_uj"
    write(tmp_path, {counter: 1_000_000, "class/powercap/intel-rapl:0:0/energy_uj": 7})
    source = RaplSource(tmp_path)
    assert source.present
    assert source.read().watts == {}
    time.sleep(0.02)
    write(tmp_path, {counter: 3_000_000})
    assert 0 < source.read().watts["rapl"] <= 2 / 0.02  # 2 J in 20 ms at least
    write(tmp_path, {counter: 10})
    assert source.read().watts == {}
    assert not RaplSource(tmp_path / "nothing").present


HWMON = "class/hwmon/hwmon4/"


def test_the_rails_of_an_orin_nano_in_sysfs(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            HWMON + "name": "ina3221", HWMON + "in1_label": "VDD_IN", HWMON + "in1_input": 5000, HWMON + "curr1_input": 1900,
            HWMON + "in2_label": "VDD_CPU_GPU_CV", HWMON + "in2_input": 4990, HWMON + "curr2_input": 800,
            HWMON + "in3_label": "NC", HWMON + "in3_input": 0, HWMON + "curr3_input": 0,
            HWMON + "in7_label": "sum of shunt voltages", HWMON + "in7_input": 44, HWMON + "curr7_input": 3,
        },
    )  # fmt: skip
    source = InaSource(tmp_path)
    assert source.rails() == {"VDD_IN": 9500.0, "VDD_CPU_GPU_CV": 3992.0}
    assert source.read().watts == {"ina3221": 9.5}


def test_the_rails_of_an_agx_orin_add_up_and_a_thor_has_one_for_all(tmp_path: Path) -> None:
    rail = {"name": "ina3221", "in1_label": "VDD_GPU_SOC", "in1_input": 19000, "curr1_input": 500, "in2_label": "VDD_CPU_CV"}
    rail |= {"in2_input": 19000, "curr2_input": 100}
    agx = write(tmp_path / "agx", {HWMON + k: v for k, v in rail.items()})
    assert InaSource(agx).read().watts["ina3221"] == pytest.approx(9.5 + 1.9)
    thor = write(tmp_path / "thor", {HWMON + k: v for k, v in rail.items()})
    write(thor, {"class/hwmon/hwmon5/name": "ina238", "class/hwmon/hwmon5/power1_input": 22_000_000})
    assert InaSource(thor).read().watts["ina3221"] == 22.0


def test_the_rails_of_l4t_32(tmp_path: Path) -> None:
    chip = "bus/i2c/drivers/ina3221x/6-0040/iio:device0/"
    write(tmp_path, {chip + "rail_name_0": "POM_5V_IN", chip + "in_power0_input": 2133, chip + "rail_name_1": "POM_5V_GPU"})
    assert InaSource(tmp_path).rails() == {"POM_5V_IN": 2133.0}


def test_a_jetson_that_holds_itself_back(tmp_path: Path) -> None:
    event, alert = HWMON + "oc3_event_cnt", "class/thermal/cooling_device2/"
    write(tmp_path, {event: 9, alert + "type": "gpu-throttle-alert", alert + "cur_state": 0})
    write(tmp_path, {"class/devfreq/17000000.gpu/cur_freq": 612000000})
    source = InaSource(tmp_path)
    assert (source.read().throttle, source.read().clocks_mhz) == ((), {"gpu": 612.0})
    write(tmp_path, {event: 10, alert + "cur_state": 1})
    assert source.read().throttle == ("over-current oc3", "gpu-throttle-alert")


def test_a_jetson_whose_rails_cannot_be_read_is_watched_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: None)
    assert jetson_sources(tmp_path) == []
    alert = "class/thermal/cooling_device0/"
    write(tmp_path, {"firmware/devicetree/base/compatible": "nvidia,p3737-0000+p3701-0005nvidia,tegra234"})
    write(tmp_path, {alert + "type": "cpu-throttle-alert", alert + "cur_state": 1})
    (source,) = jetson_sources(tmp_path)
    assert (source.read().watts, source.read().throttle) == ({}, ("cpu-throttle-alert",))


def test_no_files_no_numbers(tmp_path: Path) -> None:
    assert InaSource(tmp_path).read() == Reading(sees_gpu=True)
    assert not is_jetson(tmp_path)
    write(
        tmp_path,
        {HWMON + "name": "ina3221", HWMON + "in1_label": "VDD_IN", HWMON + "in1_input": "oops", HWMON + "curr1_input": 1},
    )
    assert InaSource(tmp_path).rails() == {}


def test_tegrastats_is_followed_and_ended() -> None:
    line = "RAM 3/9MB (lfb 1x4MB) SWAP 5/9MB CPU [1%@1510] GR3D_FREQ 9%@[611] tj@50.5C VDD_IN 9411mW/8967mW"
    source = TegrastatsSource((sys.executable, "-uc", f"import time; print('junk'); print({line!r}); time.sleep(60)"))
    try:
        found = Reading()
        for _ in range(400):
            found = source.read()
            if found.watts:
                break
            time.sleep(0.05)
        assert found.watts == {"tegrastats": 9.411}
        assert found.clocks_mhz == {"gpu": 611.0, "cpu": 1510.0}
        assert (found.swap_bytes, found.device_bytes) == (5 << 20, 3 << 20)
        assert found.temperatures_c == {"tj": 50.5}
    finally:
        source.close()
    assert source._process.poll() is not None


class FakeNvml(SimpleNamespace):
    """As much of NVML as is asked; what a GPU does not have raises, as NVML does."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_FI_DEV_POWER_INSTANT = 1, 2, 0, 186

    def __init__(self, reasons: int = 0, power: int | None = 41500) -> None:
        super().__init__()
        self.reasons, self.power, self.open, self.asked = reasons, power, True, ""
        self.memory: int | None = 3 << 30
        self.instant: int | None = None

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None:
        self.open = False

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        self.asked = f"index {index}"
        return "gpu"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked = uuid
        return "gpu"

    def nvmlDeviceGetPowerUsage(self, gpu: str) -> int:
        if self.power is None:
            raise RuntimeError("Not Supported")
        return self.power

    def nvmlDeviceGetFieldValues(self, gpu: str, fields: list[int]) -> list[SimpleNamespace]:
        assert fields == [self.NVML_FI_DEV_POWER_INSTANT]
        missing = self.instant is None
        return [SimpleNamespace(nvmlReturn=3 if missing else 0, value=SimpleNamespace(uiVal=0 if missing else self.instant))]

    def nvmlDeviceGetMemoryInfo(self, gpu: str) -> SimpleNamespace:
        if self.memory is None:
            raise RuntimeError("Not Supported")
        return SimpleNamespace(used=self.memory)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(usedGpuMemory=4 << 30), SimpleNamespace(usedGpuMemory=1 << 30)]

    def nvmlDeviceGetTemperature(self, gpu: str, sensor: int) -> int:
        return 64

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: str) -> int:
        return self.reasons

    def nvmlDeviceGetClockInfo(self, gpu: str, kind: int) -> int:
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetName(self, gpu: str) -> bytes:
        return b"NVIDIA Fake"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


def test_a_gpu_tells_what_it_has(nvml: FakeNvml) -> None:
    source = NvmlSource()
    found = source.read()
    assert found.watts == {"nvml": 41.5}
    assert found.clocks_mhz == {"gpu": 1980.0, "gpu memory": 2619.0}
    assert found.device_bytes == 3 << 30
    assert source.about() == {"gpu": "NVIDIA Fake", "driver": "580.1"}
    nvml.instant = 97000
    assert source.read().watts == {"nvml": 97.0}, "now, not the mean of a second"
    nvml.instant = nvml.power = None
    assert source.read().watts == {}
    nvml.memory = None
    assert source.read().device_bytes == 5 << 30, "of its processes"
    source.close()
    assert not nvml.open


@pytest.mark.parametrize(
    ("reasons", "said"),
    [(0, ()), (0x4, ()), (0x1, ()), (0x60, ("GPU software thermal slowdown", "GPU hardware thermal slowdown"))],
)
def test_only_what_protects_a_gpu_is_throttling(nvml: FakeNvml, reasons: int, said: tuple[str, ...]) -> None:
    nvml.reasons = reasons
    found = NvmlSource().read()
    assert (found.throttle, found.sees_gpu) == (said, True)


def test_a_driver_that_does_not_tell_of_throttling(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FakeNvml, "nvmlDeviceGetCurrentClocksThrottleReasons")
    found = NvmlSource().read()
    assert (found.throttle, found.sees_gpu) == ((), False)
    assert merged([found, Reading(sees_gpu=True)], 0.0).sees_gpu


@pytest.mark.parametrize(("visible", "asked"), [(None, "index 0"), ("2,3", "index 2"), ("GPU-abc", "GPU-abc"), ("", "index 0")])
def test_the_gpu_is_the_one_that_cuda_takes(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, visible: str | None, asked: str
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    NvmlSource()
    assert nvml.asked == asked


def test_no_library_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml_source() is None


# --- what ends a run ----------------------------------------------------------------------------------------------------


def readings(**columns: list[object]) -> list[Reading]:
    return [
        Reading(time=i / 10, **dict(zip(columns, row, strict=True))) for i, row in enumerate(zip(*columns.values(), strict=True))
    ]


def test_throttling_ends_a_run() -> None:
    assert disturbance(readings(throttle=[(), ("GPU power brake",), ()])) == "the machine throttled itself: GPU power brake"


def test_swap_that_grows_ends_a_run_and_swap_that_is_there_does_not() -> None:
    assert disturbance(readings(swap_bytes=[5 << 30, 5 << 30, (5 << 30) + 4096])) is None
    said = disturbance(readings(swap_bytes=[5 << 30, (5 << 30) + (40 << 20), 5 << 30]))
    assert said == "the machine began to swap: 40 MiB more than at the start"


@pytest.mark.parametrize(("last", "said"), [(1910, None), (1880, "the gpu clock dropped from 2000 to 1880 MHz, by 6 %")])
def test_a_clock_may_drop_by_five_percent(last: int, said: str | None) -> None:
    clocks = readings(clocks_mhz=[{"gpu": 300.0}] * 10 + [{"gpu": 2000.0}] * 12 + [{"gpu": float(last)}] * 12)
    assert disturbance(clocks) is None, "an idle clock says nothing"
    assert disturbance(clocks, warm=clocks[10:]) == said
    assert disturbance(clocks, warm=clocks[10:29]) is None, "less than two seconds"


def test_a_clock_that_drops_from_one_case_or_process_to_the_next() -> None:
    """Neither is long enough to show it, and what the clock does between them does not count."""
    clock = {"gpu": 0.0}
    source = SimpleNamespace(read=lambda: Reading(clocks_mhz=dict(clock)))
    warm: list[Reading] = []

    def run(sampler: Sampler, mhz: float) -> str | None:
        sampler.settle()
        clock["gpu"] = mhz
        for _ in range(10):
            sampler.read()
        sampler.unsettle()
        clock["gpu"] = 300.0
        sampler.read()
        return sampler.problem()

    first = Sampler([source])
    assert [run(first, mhz) for mhz in (2000, 1950, 1890)] == [None, None, "the gpu clock dropped from 2000 to 1890 MHz, by 6 %"]
    assert [run(Sampler([source], warm=warm), mhz) is None for mhz in (2000, 1950, 1890)] == [True, True, False]
    assert len(warm) == 30


class Failing:
    name = "failing"

    def read(self) -> Reading:
        raise OSError("the driver went away")

    def close(self) -> None: ...


class Counting:
    name = "counting"

    def __init__(self) -> None:
        self.count = 0

    def read(self) -> Reading:
        self.count += 1
        return Reading(watts={self.name: float(self.count)}, swap_bytes=self.count << 20)

    def close(self) -> None: ...


def test_a_source_that_fails_is_left_out_and_the_others_are_read() -> None:
    with Sampler([Failing(), Counting()], interval=0.01) as sampler:
        time.sleep(0.1)
    assert len(sampler.readings) >= 3
    assert [r.watts["counting"] for r in sampler.readings] == [float(i + 1) for i in range(len(sampler.readings))]
    assert [r.time for r in sampler.readings] == sorted(r.time for r in sampler.readings)
    assert str(sampler.problem()).startswith("the machine began to swap")


def test_of_two_that_say_the_same_the_first_counts() -> None:
    found = merged(
        [Reading(clocks_mhz={"gpu": 1.0}, swap_bytes=0), Reading(clocks_mhz={"gpu": 2.0, "cpu": 3.0}, swap_bytes=9)], 4.0
    )
    assert (found.clocks_mhz, found.swap_bytes, found.time) == ({"gpu": 1.0, "cpu": 3.0}, 0, 4.0)


# --- energy -------------------------------------------------------------------------------------------------------------


def test_energy_is_the_integral_of_power_interpolated_at_the_ends() -> None:
    samples = [(t / 10, 10.0 + t) for t in range(21)]  # from 10 W at 0 s to 30 W at 2 s
    assert joules(samples, (0.0, 2.0)) == pytest.approx(40)
    assert joules(samples, (0.53, 1.27)) == pytest.approx(0.74 * (10 + 10 * 0.9))
    assert joules(samples, (0.501, 0.502)) == pytest.approx(0.001 * (10 + 10 * 0.5015))


def test_energy_of_a_window_that_nobody_watched_is_unknown() -> None:
    samples = [(0.0, 5.0), (0.1, 5.0), (2.0, 5.0)]
    assert joules(samples, (0.0, 0.1)) == pytest.approx(0.5)
    assert joules(samples, (0.05, 1.0)) is None, "a gap"
    assert joules(samples, (1.9, 2.1)) is None, "past the end"
    assert joules([], (0.0, 1.0)) is None


def test_prefill_and_decode_apart_gross_and_above_rest() -> None:
    power = readings(watts=[{"nvml": 100.0 if (i // 10) % 2 == 0 else 60.0} for i in range(61)])
    prefill = phase_energy(power, "nvml", [(0.0, 0.9), (2.0, 2.9), (4.0, 4.9)], 300, 20.0)
    assert prefill is not None
    assert (prefill.gross_j, prefill.net_j) == (pytest.approx(270), pytest.approx(270 - 20 * 2.7))
    assert (prefill.tokens, prefill.source) == (300, "nvml")
    short = [(i / 10, i / 10 + 0.1) for i in range(50)]
    assert phase_energy(power, "nvml", short, 300, 20.0) is None, "fifty that are too short to say anything"
    assert phase_energy(power, "nvml", [(0.0, 2.0), (2.0, 2.4)], 300, 20.0) is None, "one of them is"
    assert phase_energy(power, "nvml", [(0.0, 2.0), (5.0, 9.0)], 300, 20.0) is None, "not watched to the end"
    assert phase_energy(power, "rapl", [(0.0, 2.0)], 300, 20.0) is None


def test_whose_watts_stand_for_a_run() -> None:
    everything = Reading(watts={"nvml": 1, "rapl": 2})
    assert power_source_of(everything, used_gpu=True) == "nvml"
    assert power_source_of(everything, used_gpu=False) == "rapl"
    assert power_source_of(Reading(watts={"tegrastats": 1, "ina3221": 2, "nvml": 3}), used_gpu=True) == "ina3221"
    assert power_source_of(Reading(watts={"rapl": 2}), used_gpu=True) is None


def test_the_machine_describes_itself_and_names_nobody(tmp_path: Path, nvml: FakeNvml) -> None:
    sysfs = write(
        tmp_path, {"class/dmi/id/product_name": "Board 5", "devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance"}
    )
    proc = write(tmp_path / "proc", {"cpuinfo": "processor : 0\nmodel name\t: Chip 9\n"})
    found = describe([NvmlSource()], "rtx-4090", sysfs, proc)
    assert (found.model, found.processor, found.governor, found.device) == ("Board 5", "Chip 9", "performance", "rtx-4090")
    assert (found.gpu, found.versions["driver"]) == ("NVIDIA Fake", "580.1")
    assert (found.l4t, found.power_mode) == (None, None)
    assert found.cores >= 1
    import getpass
    import platform

    text = found.model_dump_json()
    assert all(name not in text for name in (platform.node(), getpass.getuser()) if len(name) > 3)
