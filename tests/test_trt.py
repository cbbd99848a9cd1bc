"""TensorRT plans are built from the very graphs ONNX Runtime runs, and the session over them says the same."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import logging
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export, verify
from skinedge.errors import BundleError, MissingDependencyError, PromptError, TargetError, UsageError
from skinedge.manifest import Manifest
from skinedge.model.config import ModelConfig, read_config
from skinedge.model.tiny import Size, make_model, make_side_branch
from skinedge.parity.pictures import make_picture
from skinedge.runtime import _tensorrt, _trt_device
from skinedge.runtime._tensorrt import CLASSIC, RTX, Library, cache_folder, find_library, gpu_problem, reason
from skinedge.runtime.image import ProcessorConfig, smart_size, to_pixels
from skinedge.runtime.ort import OrtSession
from skinedge.runtime.prompt import PromptBuilder, ask
from skinedge.runtime.session import Grid, Pixels, Prompt, Session, combined_bias
from skinedge.runtime.trt import TrtSession
from skinedge.runtime.windows import plan_windows
from skinedge.targets import onnx as onnx_target
from skinedge.targets import trt
from skinedge.targets._contract import ExportOptions, OpenOptions
from skinedge.targets._trt_builder import build_plan
from skinedge.weights.checkpoint import Checkpoint, open_checkpoint
from skinedge.weights.stream import Quiet

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
onnx = pytest.importorskip("onnx")

from fake_trt import FakeCuda, FakeDevice, FakeEngine, fake_tensorrt  # noqa: E402

CONTEXT = 128
FORCED = [300, 17, 999, 5, 77, 1200, 64, 3]


class Counting:
    """Progress that adds up."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.done: dict[str, int] = {}

    def begin(self, what: str, total: int) -> None:
        self.what = what
        self.totals[what], self.done[what] = total, 0

    def advance(self, count: int) -> None:
        self.done[self.what] += count


class Impatient(Quiet):
    """Progress whose user presses Ctrl-C."""

    def advance(self, count: int) -> None:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> AdapterCheckpoint:
    folder = tmp_path_factory.mktemp("trt")
    model = make_model(folder / "model", Size(layers=2, vision_depth=2, vision_full=(1,)))
    return AdapterCheckpoint.find(model, [make_side_branch(folder / "branch", read_config(model))])


@pytest.fixture(scope="module")
def checkpoint(source: AdapterCheckpoint) -> Checkpoint:
    return open_checkpoint(source.path, source.adapters)


@pytest.fixture(scope="module")
def config(checkpoint: Checkpoint) -> ModelConfig:
    return checkpoint.config


@pytest.fixture(scope="module")
def bundle(source: AdapterCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int4 bundle, the default."""
    options = ExportOptions("int4", context=CONTEXT, workers=1)
    return export(source, "trt", options, tmp_path_factory.mktemp("bundle") / "int4").path


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return verify(bundle)


@pytest.fixture
def library() -> Library:
    return Library(RTX, rtx)


class TestWrite:
    def test_every_plan_comes_from_the_graph_beside_it(self, bundle: Path, manifest: Manifest) -> None:
        plans = manifest.details["plans"]
        assert set(plans) == {"decoder.plan", "head.plan", "vision.plan", "adapter.plan"}
        for name, plan in plans.items():
            graph = f"onnx/{name.replace('.plan', '.onnx')}"
            assert {graph, f"{graph}.data"} == set(plan["sources"])
            for path, digest in plan["sources"].items():
                assert digest == hashlib.sha256((bundle / path).read_bytes()).hexdigest()

    def test_manifest_holds_what_the_builder_saw(self, manifest: Manifest) -> None:
        details = manifest.details
        assert (details["library"], details["version"]) == ("tensorrt_rtx", rtx.__version__)
        decoder = details["plans"]["decoder.plan"]
        inputs = {t["name"]: t for t in decoder["inputs"]}
        shape = {"shape": [1, -1, 256], "is_shape_tensor": False}
        assert inputs["inputs_embeds"] == {"name": "inputs_embeds", "dtype": "HALF", **shape}
        assert inputs["past.1.value"]["shape"] == [1, 2, CONTEXT, 64]
        assert inputs["past.1.value"]["dtype"] == "HALF"
        assert {t["name"] for t in decoder["outputs"]} >= {"hidden", "present.0.key", "present.1.value"}
        one, prompt = decoder["profiles"]
        assert one["inputs_embeds"] == [[1, 1, 256]] * 3
        assert prompt["position_ids"] == [[3, 1], [3, CONTEXT], [3, CONTEXT]]
        assert prompt["hidden_index"] == [[1], [1], [64]]
        assert "past.0.key" not in prompt  # its shape does not vary
        (photograph,) = details["plans"]["vision.plan"]["profiles"]
        assert photograph["pixel_values"] == [[4, 1176], [1024, 1176], [5120, 1176]]
        assert photograph["window_gather"] == [[1, 64], [16, 64], [320, 64]]

    @pytest.mark.parametrize("scheme", ["f16", "bf16", "int8", "fp8", "nvfp4", "int4_b128"])
    def test_other_schemes_build(self, checkpoint: Checkpoint, scheme: str, tmp_path: Path) -> None:
        options = ExportOptions(scheme, context=CONTEXT, workers=1)
        written = trt.write(checkpoint, options, tmp_path, Quiet())
        plans = written.details["plans"]
        kind = "BF16" if scheme == "bf16" else "HALF"
        assert next(t for t in plans["decoder.plan"]["inputs"] if t["name"] == "inputs_embeds")["dtype"] == kind
        assert all((tmp_path / name).stat().st_size > 100_000 for name in plans)
        for path, digest in written.digests.items():
            assert digest == hashlib.sha256((tmp_path / path).read_bytes()).hexdigest()

    def test_plan_is_exact_for_graphs_and_close_for_plans(self, bundle: Path, checkpoint: Checkpoint) -> None:
        planned = trt.plan(checkpoint, ExportOptions("int4", context=CONTEXT)).files
        for path, nbytes in planned.items():
            found = (bundle / path).stat().st_size
            assert nbytes == found if path.startswith("onnx/") else found <= nbytes <= 4 * found + (3 << 20)

    def test_progress_reaches_its_total(self, bundle: Path, library: Library, checkpoint: Checkpoint, tmp_path: Path) -> None:
        progress = Counting()
        profiles = trt.decoder_profiles(CONTEXT, quantized=True)
        build_plan(library, bundle / "onnx" / "decoder.onnx", tmp_path / "decoder.plan", profiles, 10_000, progress)
        assert progress.totals == progress.done == {"decoder.plan": 10_000}

    def test_f32_is_refused(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no attention kernel for f32 activations") as e:
            trt.write(checkpoint, ExportOptions("int4", activations="f32"), tmp_path, Quiet())
        assert e.value.hint == "Use --activations f16 or bf16."
        with pytest.raises(UsageError, match="unknown scheme for trt 'f32'"):
            trt.plan(checkpoint, ExportOptions("f32"))

    @pytest.mark.parametrize("context", [0, 40000])
    def test_impossible_context_is_refused(self, checkpoint: Checkpoint, context: int) -> None:
        with pytest.raises(UsageError, match=f"a context of {context} positions: this model holds 1 to 32768"):
            trt.plan(checkpoint, ExportOptions("int4", context=context))


class TestRefusals:
    """Whatever TensorRT refuses, the error names the graph, the node and TensorRT's reason in one sentence."""

    @pytest.fixture
    def adapter(self, bundle: Path, tmp_path: Path) -> Path:
        """A copy of the adapter's graph with its data."""
        for name in ("adapter.onnx", "adapter.onnx.data"):
            (tmp_path / name).write_bytes((bundle / "onnx" / name).read_bytes())
        return tmp_path / "adapter.onnx"

    def build(self, library: Library, graph: Path) -> None:
        build_plan(library, graph, graph.with_suffix(".plan"), [{"P": (4, 64, 128)}], 1, Quiet())

    def spoil(self, graph: Path, operator: str, **changes: object) -> str:
        """Change the first node of ``operator``; its name."""
        model = onnx.load(graph, load_external_data=False)
        node = next(n for n in model.graph.node if n.op_type == operator)
        if "op_type" in changes:
            node.op_type = changes["op_type"]
        if "swap" in changes:
            node.input[0], node.input[1] = node.input[1], node.input[0]
        graph.write_bytes(model.SerializeToString())
        return node.name

    def test_unknown_operator(self, adapter: Path, library: Library) -> None:
        name = self.spoil(adapter, "Tanh", op_type="Frobnicate")
        with pytest.raises(TargetError) as e:
            self.build(library, adapter)
        assert e.value.message.startswith(
            f"TensorRT-RTX {rtx.__version__} cannot build adapter.onnx: node '{name}' (Frobnicate): "
        )
        assert "Plugin not found" in e.value.message
        assert "\n" not in e.value.message
        assert "--target onnx" in e.value.hint

    def test_shapes_that_do_not_fit(self, adapter: Path, library: Library) -> None:
        self.spoil(adapter, "MatMul", swap=True)
        with pytest.raises(TargetError, match=r"node 'MatMul_\d+' \(MatMul\): MatMul_\d+: last dimension .* must match") as e:
            self.build(library, adapter)
        assert "_src" not in e.value.message
        assert "\n" not in e.value.message

    def test_missing_weights(self, adapter: Path, library: Library) -> None:
        (adapter.parent / "adapter.onnx.data").unlink()
        with pytest.raises(TargetError, match=r"cannot build adapter\.onnx: .*in_proj\.weight"):
            self.build(library, adapter)

    def test_not_a_graph(self, library: Library, tmp_path: Path) -> None:
        (tmp_path / "adapter.onnx").write_bytes(b"hello" * 10)
        with pytest.raises(TargetError, match=r"cannot build adapter\.onnx: Network must have at least one output"):
            self.build(library, tmp_path / "adapter.onnx")

    def test_profile_beyond_the_cache(self, bundle: Path, library: Library, tmp_path: Path) -> None:
        """TensorRT builds such a plan with a warning; it would fail at run time."""
        beyond = {"S": (1, CONTEXT, 2 * CONTEXT), "N": (1, 1, 64)}
        with pytest.raises(TargetError, match=r"a profile contradicts itself: .*must be less than or equal to `cache`") as e:
            build_plan(library, bundle / "onnx" / "decoder.onnx", tmp_path / "decoder.plan", [beyond], 1, Quiet())
        assert "_src" not in e.value.message

    def test_profile_out_of_order(self, adapter: Path, library: Library) -> None:
        with pytest.raises(TargetError, match=r"a profile is not valid: .*MIN<=OPT<=MAX"):
            build_plan(library, adapter, adapter.with_suffix(".plan"), [{"P": (4, 200, 128)}], 1, Quiet())

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: a full disk cannot be had for a test")
    def test_full_disk(self, adapter: Path, library: Library) -> None:
        """TensorRT itself reports success when its stream writer fails."""
        with pytest.raises(OSError) as e:  # noqa: PT011  (errno is checked)
            build_plan(library, adapter, Path("/dev/full"), [{"P": (4, 64, 128)}], 1, Quiet())
        assert e.value.errno == errno.ENOSPC

    def test_ctrl_c(self, adapter: Path, library: Library) -> None:
        with pytest.raises(KeyboardInterrupt):
            build_plan(library, adapter, adapter.with_suffix(".plan"), [{"P": (4, 64, 128)}], 1 << 20, Impatient())

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            (
                "ITensor::getDimensions: Error Code 4: API Usage Error (mm_1: last dimension of input0 = 4 must match. "
                "In validate at /_src/optimizer/api/layers/matrixMultiplyLayer.cpp:192)",
                "mm_1: last dimension of input0 = 4 must match",
            ),
            (
                "Invalid Node - scatter_1\nITensor::getDimensions: Error Code 3: API Usage Error (scatter_1: The KV cache tensor "
                "must have a static sequence length dimension. In validate at /_src/optimizer/kVCacheUpdateLayer.cpp:129)",
                "scatter_1: The KV cache tensor must have a static sequence length dimension",
            ),
            (
                "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([myelin_graph.h:1295: attachExceptionMsgToGraph] "
                "MyelinCheckException: decompose_composite_ops.cpp:59: CHECK(ok) failed. Attention was not supported. "
                "In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)",
                "decompose_composite_ops.cpp:59: CHECK(ok) failed. Attention was not supported",
            ),
            (
                "IRuntime::x: Error Code 1: Cuda Runtime (In Y at /_src/z.cpp:25 (cudaError 35: the driver is too old))",
                "the driver is too old",
            ),
            ("[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/x.cpp:250)", ""),
        ],
    )
    def test_reason_is_what_tensorrt_says(self, message: str, expected: str) -> None:
        assert reason(message) == expected


class TestLibrary:
    def test_rtx_without_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_tensorrt, "_driver", lambda: None)
        monkeypatch.setitem(sys.modules, "tensorrt", rtx)
        assert find_library().name == RTX

    def test_classic_where_it_and_a_gpu_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_tensorrt, "_driver", lambda: FakeDriver(0, 1))
        monkeypatch.setitem(sys.modules, "tensorrt", rtx)
        assert find_library().name == CLASSIC
        assert find_library("tensorrt_rtx").name == RTX

    def test_environment_decides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", rtx)
        monkeypatch.setenv("SKINEDGE_TENSORRT", "tensorrt")
        assert find_library().title == f"TensorRT {rtx.__version__}"
        monkeypatch.setenv("SKINEDGE_TENSORRT", "tensort")
        with pytest.raises(UsageError, match="unknown TensorRT library 'tensort'"):
            find_library()

    def test_missing(self, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("tensorrt_rtx_bindings", "tensorrt_rtx"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingDependencyError, match="the trt target needs TensorRT-RTX") as e:
            trt.write(checkpoint, ExportOptions("int4", context=CONTEXT), tmp_path, Quiet())
        assert e.value.hint == "Install it: pip install 'skinedge[trt]'."
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("driver", "problem"),
        [
            (None, "this machine has no NVIDIA driver"),
            ((100, 0), "the NVIDIA driver finds no GPU"),
            ((0, 0), "the NVIDIA driver finds no GPU"),
            ((803, 0), "the NVIDIA driver does not start (cuInit answers 803)"),
            ((0, 2), None),
        ],
    )
    def test_gpu_problem(self, driver: tuple[int, int] | None, problem: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_tensorrt, "_driver", lambda: FakeDriver(*driver) if driver else None)
        assert gpu_problem() == problem

    def test_log_goes_to_python(self, bundle: Path, library: Library, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
        with caplog.at_level(logging.DEBUG, "skinedge.tensorrt"):
            build_plan(library, bundle / "onnx" / "adapter.onnx", tmp_path / "x.plan", [{"P": (4, 64, 128)}], 1, Quiet())
        assert caplog.records

    @pytest.mark.filterwarnings("ignore:.*[Tt]iming cache:DeprecationWarning")
    def test_classic_keeps_a_timing_cache(self, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """TensorRT-RTX takes the calls and does nothing with them, which is enough to see that they are right."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
        classic = Library(CLASSIC, rtx)
        for _ in range(2):
            build_plan(classic, bundle / "onnx" / "adapter.onnx", tmp_path / "x.plan", [{"P": (4, 64, 128)}], 1, Quiet())
        assert (cache_folder() / f"tensorrt-{rtx.__version__}.timing").is_file()

    def test_releases_that_cannot_stream(
        self, bundle: Path, library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        class OldBuilder:
            def __init__(self, log: object) -> None:
                self._builder = rtx.Builder(log)

            def __getattr__(self, name: str) -> object:
                if name == "build_serialized_network_to_stream":
                    raise AttributeError(name)
                return getattr(self._builder, name)

        old = type(sys)("old_tensorrt")
        vars(old).update({**vars(rtx), "Builder": OldBuilder})
        built = build_plan(Library(RTX, old), bundle / "onnx" / "vision.onnx", tmp_path / "x.plan", [VISION], 1, Quiet())
        assert built.nbytes == (tmp_path / "x.plan").stat().st_size
        assert built.sha256 == hashlib.sha256((tmp_path / "x.plan").read_bytes()).hexdigest()
        streamed = build_plan(library, bundle / "onnx" / "vision.onnx", tmp_path / "y.plan", [VISION], 1, Quiet())
        assert streamed.sha256 == built.sha256  # a plan with a single output is the same each time


VISION = {"P": (4, 64, 128), "W": (1, 4, 16)}


class FakeDriver:
    """libcuda, as far as it is asked."""

    def __init__(self, status: int, count: int) -> None:
        self.status, self.count = status, count

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, pointer: object) -> int:
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_int))[0] = self.count
        return 0


class TestProfiles:
    def test_pieces_fit_the_cache(self) -> None:
        for context in (1, 7, 64, 100, 2048, 4096):
            for quantized in (True, False):
                for profile in trt.decoder_profiles(context, quantized=quantized):
                    assert all(low <= usual <= most for low, usual, most in profile.values())
                    assert profile["S"][2] <= min(context, 2048)
                    assert profile["N"][2] <= profile["S"][2]

    def test_float_weights_are_not_stored_twice(self) -> None:
        """Both profiles span the same shapes, and only the first is tuned for one token."""
        one, prompt = trt.decoder_profiles(4096, quantized=False)
        assert one["S"] == (1, 1, 2048)
        assert {n: (r[0], r[2]) for n, r in one.items()} == {n: (r[0], r[2]) for n, r in prompt.items()}

    @pytest.mark.parametrize("max_pixels", [1003520, 100352])
    def test_every_photograph_fits(self, max_pixels: int, config: ModelConfig) -> None:
        processor = ProcessorConfig(max_pixels=max_pixels)
        patches = trt.most_patches(processor)
        windows = trt.most_windows(patches, config.vision)
        draw = random.Random(0)
        sizes = [(draw.randint(1, 200), draw.randint(1, 200)) for _ in range(150)] + [
            (28, 5600),
            (9000, 45),
            (1, 1),
            (4000, 3000),
        ]
        for height, width in sizes:
            if max(height, width) > 200 * min(height, width):
                continue
            high, wide = smart_size(height, width, processor)
            grid = Grid(1, high // 14, wide // 14)
            assert 4 <= grid.patches <= patches
            assert len(plan_windows(grid, config.vision).window_gather) <= windows

    def test_worst_shape_is_reached(self, config: ModelConfig) -> None:
        strip = plan_windows(Grid(1, 2, 2560), config.vision)
        assert len(strip.window_gather) == trt.most_windows(5120, config.vision) == 320


class TestOpen:
    def test_without_a_driver(self, bundle: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_tensorrt, "_driver", lambda: None)
        with pytest.raises(TargetError) as e:
            trt.open_session(bundle, manifest, OpenOptions())
        assert e.value.message == f"the TensorRT plans of {bundle} cannot be opened: this machine has no NVIDIA driver."
        assert e.value.hint == f"Run the ONNX side of the same bundle: skinedge run {bundle} --target onnx."

    def test_on_the_cpu(self, bundle: Path, manifest: Manifest) -> None:
        with pytest.raises(TargetError, match="a plan runs on a GPU only"):
            trt.open_session(bundle, manifest, OpenOptions(device="cpu"))

    def test_without_the_library(self, bundle: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_tensorrt, "_driver", lambda: FakeDriver(0, 1))
        for name in ("tensorrt_rtx_bindings", "tensorrt_rtx"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(TargetError, match=r"needs TensorRT-RTX: Install it: pip install 'skinedge\[trt\]'") as e:
            trt.open_session(bundle, manifest, OpenOptions())
        assert "--target onnx" in e.value.hint

    def test_without_cuda_bindings(self, bundle: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_tensorrt, "_driver", lambda: FakeDriver(0, 1))
        monkeypatch.setitem(sys.modules, "cuda.bindings", None)
        monkeypatch.setitem(sys.modules, "cuda", None)
        with pytest.raises(TargetError, match="running a plan needs cuda-bindings"):
            trt.open_session(bundle, manifest, OpenOptions())

    def test_onnx_side_runs(self, bundle: Path, config: ModelConfig, pixels: list[Pixels], prompts: dict[int, Prompt]) -> None:
        session = OrtSession(trt.onnx_folder(bundle), config, threads=1)
        assert session.context_length == CONTEXT
        image = session.encode_image(pixels[0])
        assert np.isfinite(session.prefill(prompts[1], [image], bias=combined_bias([image]))).all()
        session.close()


@pytest.fixture(scope="module")
def pixels() -> list[Pixels]:
    return [to_pixels(make_picture(*size, seed), ProcessorConfig()) for seed, size in enumerate([(170, 120), (112, 240)])]


@pytest.fixture(scope="module")
def prompts(source: AdapterCheckpoint, config: ModelConfig, pixels: list[Pixels]) -> dict[int, Prompt]:
    """A prompt about no, one or two images."""
    builder = PromptBuilder.from_folder(source.path, config)
    return {n: builder.build(ask("Irregular border, 12 mm?", images=n), [p.grid for p in pixels[:n]]) for n in (0, 1, 2)}


@pytest.fixture(scope="module")
def graphs(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs of a trt bundle, in float32: TensorRT would not take them, and differences show."""
    folder = tmp_path_factory.mktemp("f32") / "onnx"
    folder.mkdir()
    onnx_target.graphs(checkpoint, ExportOptions("f32"), cache_length=CONTEXT).write(folder, Quiet(), 1)
    for name in ("decoder", "head", "vision", "adapter"):
        (folder.parent / f"{name}.plan").write_text(name, encoding="ascii")
    return folder


@pytest.fixture(scope="module")
def onnx_session(graphs: Path, config: ModelConfig) -> Iterator[Session]:
    session = OrtSession(graphs, config, threads=1)
    yield session
    session.close()


def profiles(piece: int, logits: int, *, quantized: bool = True) -> dict[str, tuple]:
    """Profiles of plans that read a prompt in pieces of ``piece`` tokens."""
    one, prompt = trt.decoder_profiles(piece, quantized=quantized)
    photograph = {"P": (4, 64, 5120), "W": (1, 4, 320)}
    plans = {"vision": (photograph,), "adapter": (photograph,), "head": ({"N": (1, 1, logits)},)}
    return {"decoder": (one, {**prompt, "N": (1, 1, logits)}), **plans}


def narrate(session: Session, prompt: Prompt, pixels: list[Pixels], *, every: bool) -> np.ndarray:
    """Logits of the prompt and of a forced continuation."""
    images = [session.encode_image(p) for p in pixels]
    logits = session.prefill(prompt, images, bias=combined_bias(images), all_positions=every)
    return np.concatenate([logits if every else logits[None], np.stack([session.step(t) for t in FORCED])])


class TestSession:
    """The session's own work, on a device that is ONNX Runtime in disguise."""

    @pytest.mark.parametrize("piece", [CONTEXT, 16, 7])
    @pytest.mark.parametrize("keep", [1, 9, 30])
    def test_what_was_read_is_kept(
        self, graphs: Path, config: ModelConfig, onnx_session: Session, prompts, pixels, piece: int, keep: int
    ) -> None:
        session = TrtSession(graphs.parent, config, FakeDevice(graphs, profiles(piece, 5)))
        images = [session.encode_image(pixels[0])]
        whole = session.prefill(prompts[1], images, bias=combined_bias(images))
        session.step(FORCED[0])
        np.testing.assert_allclose(session.prefill(prompts[1], images, bias=combined_bias(images), keep=keep), whole, atol=1e-4)
        theirs = [onnx_session.encode_image(pixels[0])]
        onnx_session.prefill(prompts[1], theirs, bias=combined_bias(theirs))
        np.testing.assert_allclose(session.step(7), onnx_session.step(7), atol=1e-4)
        session.close()

    @pytest.mark.parametrize("images", [0, 1, 2])
    @pytest.mark.parametrize("piece", [CONTEXT, 16, 7])
    @pytest.mark.parametrize("every", [False, True])
    def test_says_what_onnx_runtime_says(
        self, graphs: Path, config: ModelConfig, onnx_session: Session, prompts, pixels, images: int, piece: int, every: bool
    ) -> None:
        session = TrtSession(graphs.parent, config, FakeDevice(graphs, profiles(piece, 5)))
        assert (session.on_gpu, onnx_session.on_gpu) == (True, False)
        for count in (images, 1):  # a second conversation must not see the first
            ours = narrate(session, prompts[count], pixels[:count], every=every)
            theirs = narrate(onnx_session, prompts[count], pixels[:count], every=every)
            assert np.abs(ours - theirs).max() < 2e-5
        session.close()

    def test_half_precision(
        self, source: AdapterCheckpoint, checkpoint: Checkpoint, config, prompts, pixels, tmp_path: Path
    ) -> None:
        folder = tmp_path / "onnx"
        folder.mkdir()
        onnx_target.graphs(checkpoint, ExportOptions("f16"), cache_length=CONTEXT).write(folder, Quiet(), 1)
        (tmp_path / "adapter.plan").touch()
        ours, theirs = (
            TrtSession(tmp_path, config, FakeDevice(folder, profiles(CONTEXT, 64))),
            OrtSession(folder, config, threads=1),
        )
        for session in (ours, theirs):
            assert session.encode_image(pixels[0]).features.dtype == np.float32
        assert np.array_equal(*(narrate(s, prompts[1], pixels[:1], every=False) for s in (ours, theirs)))
        ours.close()
        theirs.close()

    def test_encodes_as_onnx_runtime_does(self, graphs: Path, config: ModelConfig, onnx_session: Session, pixels) -> None:
        device = FakeDevice(graphs, profiles(16, 5))
        session = TrtSession(graphs.parent, config, device)
        held = set(device.memory.blocks)
        ours, theirs = session.encode_image(pixels[1]), onnx_session.encode_image(pixels[1])
        for name in ("features", "bias", "skin"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name))
        assert ours.bias.shape == (config.text.vocab_size,)
        assert set(device.memory.blocks) == held  # nothing of the photograph stays on the device
        assert [p.open for p in device.plans] == [True, True, True, False]  # vision, decoder, head, adapter
        session.close()

    def test_profiles_and_pieces(self, graphs: Path, config: ModelConfig, prompts, pixels) -> None:
        device = FakeDevice(graphs, profiles(16, 5))
        session = TrtSession(graphs.parent, config, device)
        image = session.encode_image(pixels[0])
        count = len(prompts[1].token_ids)
        del device.runs[:]
        session.prefill(prompts[1], [image])
        pieces = [16] * (count // 16) + ([count % 16] if count % 16 else [])
        runs = [(name, tokens) for name, _, tokens in device.runs]
        assert runs == [*(("decoder", n) for n in pieces), ("head", 1)]  # logits of the last piece only
        del device.runs[:]
        session.step(5)
        assert device.runs == [("decoder", 0, 1), ("head", 0, 1)]
        session.close()

    def test_without_a_side_branch(self, graphs: Path, config: ModelConfig, pixels, tmp_path: Path) -> None:
        (tmp_path / "onnx").mkdir()
        shutil.copy(graphs / "embedding.safetensors", tmp_path / "onnx")
        session = TrtSession(tmp_path, config, FakeDevice(graphs, profiles(16, 5)))
        image = session.encode_image(pixels[0])
        assert image.bias is None
        assert image.skin is None
        session.close()

    def test_overflow_of_half_precision_is_an_error(self, graphs: Path, config: ModelConfig, pixels) -> None:
        session = TrtSession(graphs.parent, config, FakeDevice(graphs, profiles(16, 5)))
        wild = Pixels(np.full_like(pixels[0].patches, np.inf), pixels[0].grid, pixels[0].image)
        with pytest.raises(TargetError, match="left the range of 16-bit floats on this photograph") as e:
            session.encode_image(wild)
        assert e.value.hint == "Export it with --activations bf16, or with --overflow and a report of skinedge overflow."
        session.close()

    def test_context_is_a_wall(self, graphs: Path, config: ModelConfig, prompts) -> None:
        count = len(prompts[0].token_ids)
        device = FakeDevice(graphs, profiles(16, 5))
        session = TrtSession(graphs.parent, config, device, context=count + 1)
        session.prefill(prompts[0])
        session.step(1)
        with pytest.raises(PromptError, match=f"the context of {count + 1} tokens is full"):
            session.step(1)
        session.close()
        short = TrtSession(graphs.parent, config, device, context=count - 1)
        with pytest.raises(PromptError, match=f"the prompt has {count} tokens and the context holds {count - 1}"):
            short.prefill(prompts[0])
        short.close()

    def test_close_gives_everything_back(self, graphs: Path, config: ModelConfig, prompts) -> None:
        device = FakeDevice(graphs, profiles(16, 5))
        session = TrtSession(graphs.parent, config, device)
        session.prefill(prompts[0])
        session.close()
        session.close()
        assert device.closed
        assert not device.memory.blocks
        assert not any(p.open for p in device.plans)


class TestCuda:
    """The real device over a CUDA that does nothing until it is waited for and a TensorRT whose kernels are ONNX Runtime's."""

    @pytest.fixture
    def cuda(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCuda:
        cuda = FakeCuda()
        monkeypatch.setattr(_trt_device, "_cuda", lambda: cuda)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
        return cuda

    @pytest.fixture
    def device(self, cuda: FakeCuda, graphs: Path) -> _trt_device.CudaDevice:
        fake = Library(RTX, fake_tensorrt(rtx, cuda, FakeDevice(graphs, profiles(16, 5))))
        return _trt_device.CudaDevice(fake, {f"{n}.plan": n * 8 for n in ("decoder", "head", "vision", "adapter")})

    @pytest.mark.parametrize("images", [0, 2])
    def test_says_what_onnx_runtime_says(
        self, device, cuda: FakeCuda, graphs: Path, config: ModelConfig, onnx_session: Session, prompts, pixels, images: int
    ) -> None:
        session = TrtSession(graphs.parent, config, device)
        ours = narrate(session, prompts[images], pixels[:images], every=True)
        theirs = narrate(onnx_session, prompts[images], pixels[:images], every=True)
        assert np.abs(ours - theirs).max() < 2e-5
        session.close()
        assert not cuda.memory.blocks
        assert cuda.streams == 0

    def test_compiled_kernels_are_kept_outside_the_bundle(self, device, graphs: Path, config: ModelConfig, prompts) -> None:
        session = TrtSession(graphs.parent, config, device)
        session.prefill(prompts[0])
        session.close()
        kept = cache_folder() / f"{'decoder' * 8}-{rtx.__version__}.kernels"
        assert kept.read_bytes() == b"kernels"
        assert sorted(p.suffix for p in graphs.parent.iterdir()) == ["", *[".plan"] * 4]

    def test_out_of_memory(self, device, cuda: FakeCuda, graphs: Path, config: ModelConfig) -> None:
        cuda.limit = 1000
        with pytest.raises(TargetError, match="cudaMalloc failed: out of memory") as e:
            TrtSession(graphs.parent, config, device)
        assert "Close other programs that use the GPU" in e.value.hint

    def test_damaged_plan(self, device, graphs: Path, config: ModelConfig, tmp_path: Path) -> None:
        (tmp_path / "vision.plan").write_bytes(b"%PDF")
        with pytest.raises(TargetError, match=rf"TensorRT-RTX {rtx.__version__} cannot open vision\.plan"):
            TrtSession(tmp_path, config, device)

    def test_missing_plan(self, device, config: ModelConfig, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"vision\.plan is missing"):
            TrtSession(tmp_path, config, device)

    def test_cache_that_is_not_in_place_is_refused(self, device, graphs, config, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FakeEngine, "get_aliased_input_tensor", lambda self, name: None)
        with pytest.raises(TargetError, match=r"'present\.0\.key' is not 'past\.0\.key' updated in place"):
            TrtSession(graphs.parent, config, device)

    @pytest.mark.parametrize(
        ("fake", "real"),
        [
            ("FakeEngine", "ICudaEngine"),
            ("FakeContext", "IExecutionContext"),
            ("FakeCache", "IRuntimeCache"),
            ("FakeConfig", "IRuntimeConfig"),
        ],
    )
    def test_fakes_have_only_what_tensorrt_has(self, fake: str, real: str) -> None:
        import fake_trt

        members = [n for n in vars(getattr(fake_trt, fake)) if not n.startswith("_")]
        assert members
        assert all(hasattr(getattr(rtx, real), n) for n in members)

    def test_real_cuda_bindings(self) -> None:
        """NVIDIA's own module takes our calls; without a driver it says so."""
        runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
        assert all(hasattr(runtime, n) for n in vars(FakeCuda) if n.startswith("cuda"))
        if gpu_problem():
            with pytest.raises(TargetError, match="cudaStreamCreateWithFlags failed: CUDA driver version is insufficient"):
                _trt_device.CudaDevice(Library(RTX, rtx), {})
