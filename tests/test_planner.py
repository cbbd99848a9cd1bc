"""A forecast adds up, refuses what does not fit, and is as close to published figures as it says."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import typed
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import planner_error
from skinedge.bundle import load_target
from skinedge.devices import HERE, here, known_devices, read_device
from skinedge.devices.constants import ACCURACY, CPU, GIB, GPU, Efficiency, Kind, named
from skinedge.devices.footprint import ShapeSource, _llama_name, activations_of, footprint
from skinedge.devices.picture import svg
from skinedge.devices.planner import forecast, one_of_each, refuse_if_none_fits
from skinedge.devices.shape import NAMED, find_shape
from skinedge.devices.timing import Peak, Work, duration
from skinedge.devices.work import Case, cache_bytes, memory, side_branch, step, tower
from skinedge.embedded import embedded_checkpoint
from skinedge.errors import CheckpointError, TargetError, UsageError
from skinedge.measure.forecast import Forecast, ForecastRow, Workload, read_forecast
from skinedge.targets._contract import ExportOptions
from skinedge.weights.checkpoint import Checkpoint, open_checkpoint

SEVEN = NAMED["skingpt-r1-7b"]
ASKED = Workload(megapixels=12, image_tokens=1280, text_tokens=64, output_tokens=768, context=4096)
PLACES: list[tuple[str, Kind]] = [("onnx", "cpu"), ("onnx", "gpu"), ("trt", "unified"), ("gguf", "cpu")]
SCHEMES = [(target, scheme, kind) for target, kind in PLACES for scheme in load_target(target).SCHEMES]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    source = embedded_checkpoint()
    return open_checkpoint(source.path, source.adapters)


@pytest.fixture(scope="module")
def found() -> Forecast:
    return forecast(SEVEN, [read_device(name) for name in known_devices() if name != HERE], ASKED)


# --- bytes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "scheme", "kind"), SCHEMES)
def test_the_forecasts_bytes_are_the_exports(target: str, scheme: str, kind: Kind, checkpoint: Checkpoint) -> None:
    """Files also hold headers and padding, and GGUF the embedding's table: never less, and little more."""
    pytest.importorskip("gguf" if target == "gguf" else "onnx_ir")
    assert checkpoint.side_branch
    weights = footprint(checkpoint.config, checkpoint.side_branch.shape, target, scheme, kind)
    activations = None if target == "gguf" else activations_of(target, scheme, kind)
    files = load_target(target).plan(checkpoint, ExportOptions(scheme, activations)).files
    if target == "gguf":
        known = {"mmproj.gguf": weights.vision, "adapter.onnx.data": weights.adapter}
        assert weights.decoder + weights.head < files["model.gguf"]
    else:
        parts = {"decoder": weights.decoder, "head": weights.head, "vision": weights.vision, "adapter": weights.adapter}
        known = {f"{'onnx/' if target == 'trt' else ''}{name}.onnx.data": nbytes for name, nbytes in parts.items()}
    for name, nbytes in known.items():
        assert 0 <= files[name] - nbytes < 80_000, name


@pytest.mark.parametrize("scheme", load_target("gguf").SCHEMES)
@pytest.mark.parametrize("shape", ["qwen2.5-vl-7b", "qwen2.5-vl-3b"])
def test_types_of_gguf_do_not_depend_on_who_names_the_tensors(shape: str, scheme: str) -> None:
    pytest.importorskip("gguf")
    from skinedge.targets._gguf_tensors import text_tensors, vision_tensors
    from skinedge.targets.gguf import _mix

    config, mix = NAMED[shape].config, _mix(scheme)
    ours, theirs = text_tensors(config, mix, names=_llama_name), text_tensors(config, mix)
    assert [(t.source, t.kind) for t in ours] == [(t.source, t.kind) for t in theirs]
    plain = vision_tensors(config, "f16", names=lambda name: name)
    assert [(t.source, t.kind) for t in plain] == [(t.source, t.kind) for t in vision_tensors(config, "f16")]


@pytest.mark.parametrize(("target", "scheme", "billions"), [("trt", "bf16", 14.14), ("gguf", "q8_0", 7.51)])
def test_bytes_a_token_of_the_7b_are_the_references(target: str, scheme: str, billions: float) -> None:
    """REFERENCE section 6."""
    assert footprint(SEVEN.config, None, target, scheme, "gpu").step / 1e9 == pytest.approx(billions, rel=0.01)


def test_a_token_reads_no_embedding() -> None:
    """The reference's 4.68 GB of Q4_K_M are the whole file; 0.31 of them are the table, of which a token needs one row."""
    from skinedge.targets._gguf_tensors import text_tensors
    from skinedge.targets.gguf import _mix

    whole = {t.source: t.nbytes for t in text_tensors(SEVEN.config, _mix("q4_k_m"), names=_llama_name)}
    assert sum(whole.values()) / 1e9 == pytest.approx(4.68, rel=0.002)
    step = footprint(SEVEN.config, None, "gguf", "q4_k_m", "gpu").step
    assert step == sum(whole.values()) - whole["model.embed_tokens.weight"]


def test_a_position_of_the_7bs_cache_is_the_references() -> None:
    assert cache_bytes(SEVEN.config.text, 2) == 57_344


def test_the_7b_has_the_published_number_of_weights() -> None:
    planned = SEVEN.planned
    assert 2 * (planned.text_parameters + planned.vision_parameters) / 1e9 == pytest.approx(16.6, abs=0.1)  # its shards, bf16
    assert planned.vision_parameters / 1e6 == pytest.approx(676, abs=2)


def test_shapes_have_no_values() -> None:
    source = ShapeSource({"w": (4, 4)})
    assert source.names() == ("w",)
    with pytest.raises(RuntimeError, match="'w' has a shape and no values"):
        source.read("w")


# --- the work of one answer -----------------------------------------------------------------------------------------------


def case(target: str, scheme: str, kind: Kind, load: Workload = ASKED) -> Case:
    return Case(SEVEN, target, scheme, kind, load, footprint(SEVEN.config, SEVEN.branch, target, scheme, kind))


def test_attention_without_flash_grows_with_the_square() -> None:
    small, large = ASKED.model_copy(update={"image_tokens": 640}), ASKED
    for target, square in (("onnx", True), ("gguf", False)):
        scheme = load_target(target).DEFAULT_SCHEME
        half, whole = (memory(case(target, scheme, "cpu", load), 0).vision for load in (small, large))
        assert (whole / half > 3) == square


def test_a_plan_holds_the_largest_photograph_whatever_the_photograph() -> None:
    small = ASKED.model_copy(update={"image_tokens": 64})
    assert memory(case("trt", "int4", "gpu", small), 0).vision == memory(case("trt", "int4", "gpu"), 0).vision
    assert memory(case("gguf", "q4_k_m", "gpu", small), 0).vision < memory(case("gguf", "q4_k_m", "gpu"), 0).vision


def test_a_longer_context_takes_memory_and_a_plans_every_token_time() -> None:
    longer = ASKED.model_copy(update={"context": 8192})
    for target, every_step in (("trt", True), ("gguf", False)):
        scheme = load_target(target).DEFAULT_SCHEME
        short, long = case(target, scheme, "gpu"), case(target, scheme, "gpu", longer)
        assert memory(long, 0).cache == 2 * memory(short, 0).cache
        assert (step(long).nbytes > step(short).nbytes) == every_step


def test_onnx_runtime_holds_two_caches_while_one_grows() -> None:
    one = cache_bytes(SEVEN.config.text, 4)
    assert memory(case("onnx", "int4", "cpu"), 0).cache == (4096 + 4096 - 256) * one


def test_f16_on_a_cpu_is_read_as_f32() -> None:
    assert (
        footprint(SEVEN.config, None, "onnx", "f16", "cpu").step == 2 * footprint(SEVEN.config, None, "onnx", "f16", "gpu").step
    )


def test_without_a_photograph_nothing_is_seen() -> None:
    blind = ASKED.model_copy(update={"image_tokens": 0})
    assert tower(case("trt", "int4", "gpu", blind)).flops == {}
    row = forecast(SEVEN, [read_device("rtx-4090")], blind, target="trt", scheme="int4").rows[0]
    assert row.time
    assert row.time.image_encode_ms == row.time.preprocess_ms == 0


def test_operations_of_the_side_branch_are_its_matrices() -> None:
    assert SEVEN.branch
    one_patch = 1176 * 1024 + 4 * 8 * (2 * 1024 * 64)
    assert side_branch(SEVEN.branch, 100) == 2 * 100 * one_patch
    assert side_branch(None, 100) == 0


# --- the model of time ----------------------------------------------------------------------------------------------------


def test_a_gpus_parts_are_added_and_a_cpus_hide_behind_each_other() -> None:
    work, peak = Work(100.0, {"f16": 50.0}, 3), Peak(10.0, {"f16": 10.0})
    known = Efficiency(0.5, 0.25, 1.0, overlaps=False)
    assert duration(work, peak, known).parts == {"memory bandwidth": 20.0, "compute": 20.0, "overhead": 3.0}
    assert duration(work, peak, replace(known, overlaps=True)).seconds == 23.0
    assert duration(Work(0, {"f16": 50.0}, 0), peak, replace(known, overlaps=True)).bound == "compute"


@given(st.floats(1, 1e12), st.floats(0, 1e15), st.integers(0, 200), st.booleans())
def test_nothing_is_faster_than_its_bandwidth_or_its_compute(nbytes: float, flops: float, layers: int, overlaps: bool) -> None:
    peak, known = Peak(1e11, {"f16": 1e13}), replace(GPU, overlaps=overlaps)
    seconds = duration(Work(nbytes, {"f16": flops}, layers), peak, known).seconds
    assert seconds >= max(nbytes / 1e11, flops / 1e13) - 1e-12


def test_the_errors_on_published_figures_are_what_a_forecast_says(capsys: pytest.CaptureFixture[str]) -> None:
    """REFERENCE section 8, each device left out once: at most 20 % at the median, and the very numbers that are printed."""
    figures = [figure for figure in planner_error.read_figures() if figure.reference]
    devices = {name: read_device(name) for name in {f.device for f in figures}}
    table = planner_error.report(figures, devices, "reference")
    errors = table["leave_one_device_out"]["all"]
    assert errors["figures"] == ACCURACY.rows == 11
    assert errors["median"] == pytest.approx(ACCURACY.median_error, abs=0.005)
    assert errors["worst"] == pytest.approx(ACCURACY.worst_error, abs=0.005)
    assert errors["median"] <= 0.20
    assert "jetson-agx-orin-64gb" in capsys.readouterr().out


def test_the_constants_are_those_that_the_published_table_gives() -> None:
    figures = planner_error.read_figures()
    devices = {name: read_device(name) for name in {f.device for f in figures}}
    fitted = planner_error.fit(figures, devices)
    assert GPU.bandwidth == pytest.approx(fitted.bandwidth, rel=0.02)
    assert GPU.compute == pytest.approx(fitted.compute, rel=0.02)
    assert GPU.layer_s == pytest.approx(fitted.layer_s, rel=0.05)


def test_no_published_speed_is_above_its_ceiling() -> None:
    """Whatever was assumed of heads and power modes: nobody reads faster than the memory."""
    for figure in planner_error.read_figures():
        peak = read_device(figure.device).peak
        assert figure.ms / 1e3 > figure.work.nbytes / peak.bandwidth, figure


def test_every_constant_says_what_it_is_and_why() -> None:
    for name, constant in named().items():
        assert constant.value > 0, name
        assert constant.unit, name
        assert len(constant.why) > 20, name
    assert named()["cpu.bandwidth"].value == CPU.bandwidth


# --- a forecast -----------------------------------------------------------------------------------------------------------


def test_every_row_adds_up_and_says_that_it_is_estimated(found: Forecast) -> None:
    assert len(found.rows) > 200
    for row in found.rows:
        assert row.status == "estimated"
        assert (row.memory.needed <= row.memory.available) or row.verdict != "fits"
        if row.time:
            t = row.time
            assert t.ttft_ms == pytest.approx(t.preprocess_ms + t.image_encode_ms + t.prefill_ms + t.sample_ms)
            assert t.e2e_ms == pytest.approx(t.ttft_ms + 767 * t.tpot_ms)
            assert t.decode_tok_s == pytest.approx(1e3 / t.tpot_ms)
            assert t.decode_tok_s < t.ceiling_tok_s, (row.device, row.scheme)


def test_the_fastest_comes_first_and_what_does_not_fit_last(found: Forecast) -> None:
    times = [row.time.e2e_ms if row.time else None for row in found.rows]
    fitting = [t for t in times if t is not None]
    assert times[: len(fitting)] == sorted(fitting)
    assert set(times[len(fitting) :]) == {None}


def test_types_that_a_device_has_not_do_not_run_there(found: Forecast) -> None:
    verdicts = {(row.device, row.scheme): row for row in found.rows if row.target == "trt"}
    assert verdicts["jetson-agx-orin-64gb", "nvfp4"].reason == "it does not compute in fp4."
    assert verdicts["rtx-4090", "fp8"].verdict == "fits"
    assert verdicts["jetson-agx-thor", "nvfp4"].verdict == "fits"
    cpu = [row for row in found.rows if row.device == "workstation-ddr5-5600" and row.scheme == "bf16" and row.target == "onnx"]
    assert cpu[0].verdict == "does not run"


def test_a_device_is_shown_with_what_would_be_exported_for_it(found: Forecast) -> None:
    choices = {name: read_device(name) for name in known_devices() if name != HERE}
    rows = one_of_each(found, choices)
    assert {row.device for row in rows} == set(choices)
    for row in rows:
        assert (row.target, row.scheme) == (choices[row.device].target, choices[row.device].scheme)
        assert row.activations == (choices[row.device].activations or "f16")


def test_more_bandwidth_more_tokens(found: Forecast) -> None:
    speeds = {row.device: row.time.decode_tok_s for row in found.rows if row.time and (row.target, row.scheme) == ("trt", "int4")}
    order = [
        "jetson-orin-nano-8gb",
        "jetson-orin-nano-8gb-super",
        "jetson-agx-orin-64gb",
        "rtx-4090",
        "rtx-5090",
    ]
    assert [speeds[name] for name in order] == sorted(speeds[name] for name in order)


def test_this_machine_is_measured_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "look", lambda: here.Here(32 * GIB, 24 * GIB, 4, 40e9, 500e9))
    device = read_device(HERE)
    measured = device.measured()
    assert device.bandwidth_gb_s is None
    assert (measured.memory_gb, measured.system_gb, measured.bandwidth_gb_s, measured.cores) == (32, 8, 40, 4)
    assert measured.measured() is measured
    rows = forecast(SEVEN, [device], ASKED).rows
    assert {row.target for row in rows} == {"gguf", "onnx"}
    assert all(row.memory.available == 24 * GIB for row in rows)


def test_this_machine_has_a_speed() -> None:
    assert here.usable_cores() >= 1
    assert here.product_speed(1) > 1e8


# --- which model ----------------------------------------------------------------------------------------------------------


def test_a_config_alone_answers_as_the_checkpoint_does(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        shutil.copyfile(tiny_model / name, tmp_path / name)
    load = Workload(megapixels=1, image_tokens=64, text_tokens=16, output_tokens=32, context=256)
    shapes = [find_shape(str(place)) for place in (tiny_model, tmp_path, tmp_path / "config.json")]
    assert [shape.source for shape in shapes] == ["weights", "config", "config"]
    tables = [forecast(shape, [read_device("rtx-4090")], load).rows for shape in shapes]
    assert tables[0] == tables[1] == tables[2]


def test_the_side_branch_of_a_checkpoint_counts(tiny_model: Path, tiny_branch: Path) -> None:
    assert find_shape(str(tiny_model)).branch is None
    assert find_shape(str(tiny_model), (tiny_branch,)).branch


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown model shape 'skingpt'.*Did you mean 'skingpt-r1-7b'"):
        find_shape("skingpt")
    with pytest.raises(UsageError, match="no such folder"):
        find_shape(str(tmp_path / "models" / "none"))
    with pytest.raises(CheckpointError, match=r"config.json is missing"):
        find_shape(str(tmp_path))


# --- the command ----------------------------------------------------------------------------------------------------------


def test_the_command_shows_every_device_once() -> None:
    done = typed("plan")
    assert done.code == 0, done.err
    assert "Every figure is estimated." in done.out
    assert f"median error {100 * ACCURACY.median_error:.0f} %" in done.out
    for name in known_devices():
        assert (sum(line.startswith(f"{name} ") for line in done.out.splitlines()) == 1) == (name != HERE)


@pytest.mark.parametrize("device", ["jetson-orin-nano-8gb", "jetson-orin-nano-8gb-super", "rtx-4060-8gb"])
def test_the_7b_in_bf16_is_refused_on_8_gb_with_what_would_fit(device: str) -> None:
    done = typed("plan", "skingpt-r1-7b", "--device", device, "--scheme", "bf16")
    assert done.code == 1
    assert f"bf16 on {read_device(device).title}: it needs 15." in done.err
    assert "What would fit there: trt int4_b128 (5." in done.err
    assert done.out == ""


def test_what_would_fit_on_this_machine_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def look() -> here.Here:
        looked.append(1)
        return here.Here(16 * GIB, 12 * GIB, 4, 40e9, 500e9)

    monkeypatch.setattr(here, "look", look)
    done = typed("plan", "--device", HERE, "--scheme", "f32")
    assert done.code == 1
    assert re.search(r"What would fit there: \w+ \w+ \([5-9]\.", done.err), done.err
    assert looked == [1], "it takes seconds"


def test_building_an_engine_on_a_jetson_takes_more_than_running_it() -> None:
    command = ("plan", "--device", "jetson-orin-nano-8gb-super", "-t", "trt", "-s", "int4")
    assert "takes more memory than running them: 8.2 GiB were measured" in typed(*command).out
    assert "engines" not in typed("plan", "--device", "rtx-4090").out


def test_a_device_on_which_nothing_fits_names_a_larger_one(monkeypatch: pytest.MonkeyPatch) -> None:
    done = typed("plan", "--device", "jetson-orin-nano-8gb", "--context", "65536")
    assert done.code == 1
    assert "The smallest device that would: NVIDIA" in done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "orin"], "unknown device 'orin'"),
        (["--device", "workstation-ddr4-3200", "-t", "trt"], "does not run trt"),
        (["--device", "rtx-4090", "-t", "gguf", "-s", "int4"], "gguf cannot store weights as 'int4'"),
        (["--device", "workstation-ddr4-3200", "-s", "nvfp4"], "does not run a target with nvfp4"),
        (["-t", "safetensors"], "unknown target that runs by itself 'safetensors'"),
        (["-s", "q9"], "unknown scheme 'q9'"),
        (["--output", "4000"], "1344 tokens of prompt and 4000 of answer do not fit a context of 4096"),
        (["--context", "999999"], "this model holds 128000"),
        (["--adapter", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_what_cannot_be_meant_is_explained(options: list[str], words: str) -> None:
    done = typed("plan", *options)
    assert done.code == 2
    assert words in done.err
    assert done.out == ""


def test_json_is_the_document_itself(tmp_path: Path) -> None:
    done = typed("plan", "--device", "rtx-4090", "--out", tmp_path / "f.json", "--json")
    assert done.code == 0
    written = read_forecast(tmp_path / "f.json")
    assert Forecast.model_validate_json(json.dumps(done.json)) == written
    assert written.status == "estimated"
    assert {row.device for row in written.rows} == {"rtx-4090"}


def test_files_are_written_once(tmp_path: Path) -> None:
    (tmp_path / "p.svg").write_text("mine", encoding="utf-8")
    done = typed("plan", "--out", tmp_path / "f.json", "--picture", tmp_path / "p.svg")
    assert done.code == 1
    assert "p.svg exists already" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["p.svg"]


def test_the_picture_is_plain_svg_that_says_it_is_estimated(found: Forecast) -> None:
    rows = found.rows[:3] + found.rows[-1:]
    text = svg(found.model_copy(update={"model": found.model.model_copy(update={"name": "<a & b>"})}), rows)
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = " ".join(e.text or "" for e in root.iter())
    assert "(estimated)" in words
    assert "<a & b>" in words
    assert f"{rows[-1].verdict}: {rows[-1].reason}" in words
    assert not [e for e in root.iter() if e.tag.endswith(("script", "image", "a"))]
    bars = [e for e in root.iter() if e.tag.endswith("rect") and len(e)]
    assert len(bars) == 4 * 3
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


# --- the document ---------------------------------------------------------------------------------------------------------


def broken(found: Forecast, change: Callable[[dict[str, object]], None], path: Path) -> Path:
    raw = json.loads(found.to_json())
    change(raw)
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path


def test_a_file_that_is_no_forecast_is_refused(found: Forecast, tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    with pytest.raises(UsageError, match="cannot be read"):
        read_forecast(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match="is not JSON"):
        read_forecast(path)
    for change in (lambda raw: raw.update(kind="result"), lambda raw: raw.update(schema_version=2)):
        with pytest.raises(UsageError, match="is no forecast of schema version 1"):
            read_forecast(broken(found, change, path))
    with pytest.raises(UsageError, match="status"):
        read_forecast(broken(found, lambda raw: raw.update(status="measured"), path))
    with pytest.raises(UsageError, match=r"rows.0"):
        read_forecast(broken(found, lambda raw: raw["rows"][0].update(status="measured"), path))  # type: ignore[index]


def test_a_row_without_times_says_why(found: Forecast) -> None:
    row = found.rows[0].model_dump()
    with pytest.raises(ValueError, match="a row that fits has no times"):
        ForecastRow.model_validate({**row, "time": None})
    with pytest.raises(ValueError, match="says why it does not fit or run"):
        ForecastRow.model_validate({**row, "reason": "no"})


def test_devices_are_listed_with_their_types() -> None:
    done = typed("devices")
    assert done.code == 0
    assert "this-machine" in done.out
    assert "measured" in done.out
    assert "fp4" in done.out
    assert typed("devices", "--json").json[HERE]["bandwidth_gb_s"] is None


def test_what_fits_is_not_refused(found: Forecast) -> None:
    device = read_device("jetson-orin-nano-8gb")
    refuse_if_none_fits(forecast(SEVEN, [device], ASKED, target="trt", scheme="int4"), lambda: found, device)
    with pytest.raises(TargetError, match="skingpt-r1-7b as trt f16"):
        refuse_if_none_fits(forecast(SEVEN, [device], ASKED, target="trt", scheme="f16"), lambda: found, device)
