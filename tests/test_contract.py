"""What every target, scheme and device promises (``targets/_contract.py``), over all that are found by name."""

from __future__ import annotations

import inspect
import math
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from skinedge import __version__, registry
from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import check_scheme, export, known_targets, load_target, preflight, verify
from skinedge.devices import HERE, known_devices, read_device
from skinedge.errors import MissingDependencyError, TargetError, UsageError
from skinedge.manifest import MANIFEST_FILE, Manifest
from skinedge.model.config import read_config
from skinedge.model.names import expected_shapes
from skinedge.model.tiny import Size, make_lora, make_model, make_side_branch
from skinedge.runtime._tensorrt import gpu_problem
from skinedge.runtime.pipeline import Ask, open_pipeline
from skinedge.targets._contract import ExportOptions, ExportPlan, Written
from skinedge.weights.checkpoint import open_checkpoint
from skinedge.weights.source import ALL, Array, TensorSource, TensorSpec
from skinedge.weights.stream import Quiet

# As small as the formats allow: K-quants need rows of 256, llama.cpp a period of full attention.
SMALL = Size(
    vocab=512, hidden=256, intermediate=512, layers=1, vision_hidden=64, vision_intermediate=172, vision_depth=2,
    vision_heads=2, vision_full=(1,),
)  # fmt: skip
CONTEXT = 256
# Compiling a plan takes seconds; the other schemes are in tests/test_trt.py.
COMPILED = {"trt": ("int4",)}
PAIRS = [(t, s) for t in known_targets() for s in COMPILED.get(t, load_target(t).SCHEMES)]
# onnxruntime has no bfloat16 arithmetic on a CPU, and plans run on a GPU only.
NEEDS_GPU = {("onnx", "bf16"), ("trt", "int4")}


@dataclass(frozen=True)
class Case:
    """One export."""

    target: str
    scheme: str
    folder: Path
    manifest: Manifest
    plan: ExportPlan
    source: AdapterCheckpoint

    @property
    def options(self) -> ExportOptions:
        return ExportOptions(self.scheme, context=CONTEXT, workers=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> AdapterCheckpoint:
    folder = tmp_path_factory.mktemp("small")
    model = make_model(folder / "model", SMALL)
    config = read_config(model)
    return AdapterCheckpoint.find(model, [make_lora(folder / "lora", config), make_side_branch(folder / "v2", config, experts=2)])


@pytest.fixture(scope="module", params=PAIRS, ids=["-".join(pair) for pair in PAIRS])
def case(request: pytest.FixtureRequest, source: AdapterCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Case:
    target, scheme = request.param
    out = tmp_path_factory.mktemp("contract") / "bundle"
    options = ExportOptions(scheme, context=CONTEXT, workers=1)
    try:
        plan = preflight(open_checkpoint(source.path, source.adapters), target, options, out).plan
        assert not out.exists()
        export(source, target, options, out)
    except MissingDependencyError as e:
        pytest.skip(str(e))
    return Case(target, scheme, out, verify(out), plan, source)


# --- the modules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", known_targets())
def test_a_target_has_its_constants_and_functions(name: str) -> None:
    module = load_target(name)
    assert module.SCHEMES
    assert all(isinstance(s, str) and s == s.lower() for s in module.SCHEMES)
    assert len(set(module.SCHEMES)) == len(module.SCHEMES)
    assert module.DEFAULT_SCHEME in module.SCHEMES
    assert isinstance(module.EXTRA, str)
    assert isinstance(module.RUNS, bool)
    for function, parameters, result in (
        (module.plan, ["checkpoint", "options"], "ExportPlan"),
        (module.write, ["checkpoint", "options", "folder", "progress"], "Written"),
        (module.open_session, ["folder", "manifest", "options"], "Session"),
    ):
        signature = inspect.signature(function)
        assert list(signature.parameters) == parameters
        assert str(signature.return_annotation) == result
        assert function.__doc__


@pytest.mark.parametrize("name", known_targets())
def test_an_extra_is_one_of_the_projects(name: str) -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    extra = load_target(name).EXTRA
    assert extra == "" or extra in project["project"]["optional-dependencies"]


def test_every_scheme_file_is_used_by_a_target() -> None:
    used = {scheme for name in known_targets() for scheme in load_target(name).SCHEMES}
    assert set(registry.names("quantize")) == used - {"as-stored"}


@pytest.mark.parametrize("name", known_targets())
def test_a_scheme_of_another_target_is_refused(name: str) -> None:
    module = load_target(name)
    foreign = sorted({s for other in known_targets() for s in load_target(other).SCHEMES} - set(module.SCHEMES))
    assert foreign
    for scheme in foreign:
        with pytest.raises(UsageError, match=f"{name} cannot store weights as '{scheme}'") as refused:
            check_scheme(name, scheme)
        assert "Add --target " in refused.value.hint


# --- every export -------------------------------------------------------------------------------------------------------


def test_the_plan_is_what_was_written(case: Case) -> None:
    written = {record.path: record.nbytes for record in case.manifest.files}
    assert set(case.plan.files) == set(written)
    for name, nbytes in written.items():
        if name.endswith(".plan"):  # an estimate, says targets/trt.py: the disk must not turn out too small
            assert nbytes < 1.25 * case.plan.files[name] < 4 * nbytes + (16 << 20), name
        else:
            assert case.plan.files[name] == nbytes, name
    assert case.plan.memory > 0


def test_the_manifest_says_what_was_asked_and_what_was_done(case: Case) -> None:
    manifest = case.manifest
    assert (manifest.target, manifest.scheme.asked) == (case.target, case.scheme)
    assert manifest.lineage[0].digest == case.source.digest
    assert [record.kind for record in manifest.lineage] == ["adapter-checkpoint", "merged-weights", "quantized-weights"]
    assert manifest.decoding.bias == "every-step"
    extra = load_target(case.target).EXTRA
    assert manifest.requirements == {"install": f"skinedge[{extra}]=={__version__}" if extra else f"skinedge=={__version__}"}
    assert manifest.prompt.question in manifest.prompt.rendered
    assert manifest.processor["max_pixels"] == 1003520
    assert all(0 < applied.bits <= 32 for applied in manifest.applied.values())
    assert "tokenizer.json" in {record.path for record in manifest.files}


def test_every_weight_is_accounted_for_once(case: Case) -> None:
    """Backbone weights under any name (packed, split, renamed) add up to the model's, and the side branch's to its own."""
    checkpoint = open_checkpoint(case.source.path, case.source.adapters)
    assert checkpoint.side_branch is not None
    branch = {name: checkpoint.side_branch.source.spec(name).size for name in checkpoint.side_branch.source.names()}
    applied = {name: a.weights for name, a in case.manifest.applied.items()}
    assert {name: applied.pop(name) for name in branch} == branch
    assert sum(applied.values()) == sum(math.prod(shape) for shape in expected_shapes(checkpoint.config).values())


def test_every_row_is_read_and_the_bytes_do_not_depend_on_the_threads(case: Case, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(case.source.path, case.source.adapters)
    recorder = Recorder(checkpoint.weights)
    written = load_target(case.target).write(
        replace(checkpoint, weights=recorder), replace(case.options, workers=2), tmp_path, Quiet()
    )
    assert isinstance(written, Written)
    unread = {name: int((~recorder.rows[name]).sum()) for name in expected_shapes(checkpoint.config)}
    assert not any(unread.values()), unread
    digests = {record.path: record.sha256 for record in case.manifest.files}
    for path in files(tmp_path):
        if not path.endswith(".plan"):  # not deterministic, says its manifest
            assert (tmp_path / path).read_bytes() == (case.folder / path).read_bytes(), path
        else:
            assert case.manifest.details["deterministic"] is False
    assert set(files(tmp_path)) <= set(digests)
    assert all(known == digests[path] for path, known in written.digests.items() if not path.endswith(".plan"))


class Recorder:
    """A source that remembers which rows were read."""

    def __init__(self, base: TensorSource) -> None:
        self._base = base
        self.rows: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(0, bool))

    def names(self) -> tuple[str, ...]:
        return self._base.names()

    def spec(self, name: str) -> TensorSpec:
        return self._base.spec(name)

    def read(self, name: str, rows: slice = ALL, cols: slice = ALL) -> Array:
        spec = self._base.spec(name)
        if len(self.rows[name]) == 0:
            self.rows[name] = np.zeros(spec.shape[0], bool)
        width = spec.shape[1] if len(spec.shape) > 1 else 1
        if len(range(width)[cols]) == width or len(spec.shape) == 1:
            self.rows[name][rows] = True
        return self._base.read(name, rows, cols)


def files(folder: Path) -> Iterator[str]:
    return (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_it_answers_a_question_without_a_photograph(case: Case) -> None:
    request = Ask(question="What is a macule?", overrides={"max_new_tokens": 3})
    if not load_target(case.target).RUNS:
        with pytest.raises(TargetError, match="skinedge runs none of them itself"), open_pipeline(case.folder, threads=1):
            pass
        return
    if (case.target, case.scheme) in NEEDS_GPU and gpu_problem():
        with pytest.raises(TargetError) as refused, open_pipeline(case.folder, threads=1) as pipeline:
            pipeline.run(request)
        assert refused.value.hint
        return
    with open_pipeline(case.folder, threads=1) as pipeline:
        answer = pipeline.run(request)
    assert len(answer.transcript.token_ids) == 3 or answer.transcript.finish_reason == "eos"
    assert answer.transcript.biased is False
    assert answer.bundle_digest == case.manifest.digest


def test_a_plan_has_an_onnx_side_that_runs_here(case: Case) -> None:
    if case.target != "trt":
        with pytest.raises(UsageError, match="has no side 'trt'"), open_pipeline(case.folder, side="trt"):
            pass
        return
    with open_pipeline(case.folder, side="onnx", threads=1) as pipeline:
        assert pipeline.run(Ask(question="Why?", overrides={"max_new_tokens": 2})).transcript.token_ids


def test_the_folder_holds_nothing_else(case: Case) -> None:
    assert set(files(case.folder)) == {record.path for record in case.manifest.files} | {MANIFEST_FILE}


def test_options_that_a_target_has_not_are_refused(source: AdapterCheckpoint, tmp_path: Path) -> None:
    wrong = [
        ("gguf", ExportOptions("q8_0", activations="f16"), "llama.cpp chooses the activations"),
        ("gguf", ExportOptions("q8_0", vision="q4_k_m"), "the vision tower cannot be stored as q4_k_m"),
        ("trt", ExportOptions("f16", activations="f32"), "no attention kernel for f32"),
        ("trt", ExportOptions("int4", vision="q8_0"), "unknown vision scheme for onnx 'q8_0'"),
        ("onnx", ExportOptions("int4", vision="q8_0"), "unknown vision scheme for onnx 'q8_0'"),
        # What was asked would not be what was stored.
        ("onnx", ExportOptions("f32", activations="f16"), "f32 weights would be stored as f16"),
        ("onnx", ExportOptions("int4", vision="f16"), "f16 weights would be stored as f32"),
        ("trt", ExportOptions("bf16", activations="f16"), "bf16 weights would be stored as f16"),
        ("safetensors", ExportOptions("f16", vision="f32"), "has one scheme and no activations"),
    ]
    assert {target for target, _, _ in wrong} == set(known_targets())
    for target, options, words in wrong:
        with pytest.raises(UsageError, match=words):
            export(source, target, options, tmp_path / target)
        assert list(tmp_path.iterdir()) == []


# --- devices ------------------------------------------------------------------------------------------------------------


FIGURES = ("memory_gb", "system_gb", "bandwidth_gb_s", "cores", "compute_tflops")


@pytest.mark.parametrize("name", known_devices())
def test_a_device_is_whole(name: str) -> None:
    device = read_device(name)
    assert name == name.lower()
    assert device.title
    assert device.kind in ("unified", "gpu", "cpu")
    assert check_scheme(device.target, device.scheme) == device.scheme
    assert device.activations in (None, "f32", "f16", "bf16")
    assert device.target in device.targets
    assert set(device.targets) <= {t for t in known_targets() if load_target(t).RUNS}
    assert ("trt" in device.targets) == (device.kind != "cpu" and "no trt" not in device.sources.get("targets", ""))
    if name == HERE:
        assert device.memory_gb is device.system_gb is device.bandwidth_gb_s is None
        return
    assert device.memory_gb is not None
    assert device.system_gb is not None
    assert 0 < device.system_gb < device.memory_gb
    assert device.peak.bandwidth > 1e10
    assert device.available == round((device.memory_gb - device.system_gb) * 2**30)
    assert set(device.compute_tflops) <= {"f32", "f16", "bf16", "int8", "fp8", "fp4"}
    assert (device.kind == "cpu") == (device.cores is not None)
    # Fewer bits are never slower, and 16-bit types are alike.
    speeds = [device.compute_tflops[k] for k in ("f32", "f16", "fp8", "fp4") if k in device.compute_tflops]
    assert speeds == sorted(speeds)
    assert device.compute_tflops.get("f16") == device.compute_tflops.get("bf16")


@pytest.mark.parametrize("name", known_devices())
def test_a_device_file_says_nothing_that_is_not_read_and_where_each_figure_is_from(name: str) -> None:
    text = (Path(registry.__file__).parent / "devices" / f"{name}.toml").read_text(encoding="utf-8")
    raw = tomllib.loads(text)
    assert set(raw) <= {"title", "kind", "targets", "export", "sources", *FIGURES}
    assert set(raw["export"]) <= {"target", "scheme", "activations"}
    assert set(raw["sources"]) - {"targets"} == (set(FIGURES) if name == HERE else set(raw) & set(FIGURES))
    assert all(len(source) > 10 for source in raw["sources"].values())


def test_a_gpu_that_tensorrt_rtx_knows_no_plan_for() -> None:
    """The library itself is asked; whoever drops trt from a device that it knows, or the other way round, is told here."""
    from skinedge.runtime._tensorrt import RTX, find_library

    try:
        known = find_library(RTX).module.ComputeCapability.__members__
    except MissingDependencyError:
        pytest.skip("TensorRT-RTX is not installed")
    cards = {"rtx-3060-12gb": "SM86", "rtx-4090": "SM89", "rtx-5090": "SM120", "dgx-spark": "SM121", "h100-sxm-80gb": "SM90"}
    for name, sm in cards.items():
        assert ("trt" in read_device(name).targets) == (sm in known), name


def test_the_devices_that_people_ask_about_are_there() -> None:
    wanted = {
        "jetson-orin-nano-8gb", "jetson-orin-nano-8gb-super", "jetson-orin-nx-16gb", "jetson-agx-orin-64gb", "jetson-agx-thor",
        "dgx-spark", "rtx-3060-12gb", "rtx-4060-8gb", "rtx-4090", "rtx-5090", "h100-sxm-80gb", "workstation-ddr4-3200",
        "workstation-ddr5-5600", HERE,
    }  # fmt: skip
    assert wanted <= set(known_devices())


def test_an_export_for_a_device_is_accepted_by_its_target(source: AdapterCheckpoint) -> None:
    checkpoint = open_checkpoint(source.path, source.adapters)
    for device in map(read_device, known_devices()):
        options = ExportOptions(device.scheme, device.activations, context=CONTEXT)
        assert load_target(device.target).plan(checkpoint, options).nbytes > 0, device.name
