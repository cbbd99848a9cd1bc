"""The portable graphs: standard operators, any size, and the numbers of PyTorch."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.errors import TargetError
from skinedge.graph.model import build_graphs
from skinedge.graph.precision import Precision
from skinedge.model.adapter import run_branch
from skinedge.model.config import read_config
from skinedge.model.names import HEAD
from skinedge.model.tiny import Size, make_model, make_side_branch
from skinedge.parity.metrics import logit_distance
from skinedge.parity.pictures import make_picture
from skinedge.registry import names
from skinedge.runtime.image import read_processor_config, to_pixels
from skinedge.runtime.ort import CACHE_STEP, CUDA, OrtSession, _load_cuda, open_graph
from skinedge.runtime.prompt import Message, PromptBuilder, ask
from skinedge.runtime.session import combined_bias
from skinedge.runtime.windows import plan_windows
from skinedge.targets._contract import ExportOptions
from skinedge.weights.checkpoint import open_checkpoint

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ONNX_SCHEMES = ("f32", "f16", "bf16", "int8", "int4")


@pytest.fixture(scope="module")
def source(tiny_model: Path, tiny_branch: Path, tiny_lora: Path) -> AdapterCheckpoint:
    return AdapterCheckpoint.find(tiny_model, [tiny_lora, tiny_branch])


@pytest.fixture(scope="module")
def f32_bundle(source: AdapterCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(source, "onnx", ExportOptions("f32"), tmp_path_factory.mktemp("onnx") / "f32").path


def session_of(bundle: Path) -> OrtSession:
    return OrtSession(bundle, read_config(bundle), threads=1)


@pytest.mark.parametrize("scheme", ONNX_SCHEMES)
def test_graphs_are_standard_and_check_clean(source: AdapterCheckpoint, scheme: str, tmp_path: Path) -> None:
    bundle = export(source, "onnx", ExportOptions(scheme), tmp_path / "b").path
    for name in ("decoder", "head", "vision", "adapter"):
        onnx.checker.check_model(str(bundle / f"{name}.onnx"), full_check=True)
        model = onnx.load(str(bundle / f"{name}.onnx"), load_external_data=False)
        assert {n.domain for n in model.graph.node} == {""}, "an operator outside the standard"
        assert all(i.data_location == onnx.TensorProto.EXTERNAL for i in model.graph.initializer if len(i.raw_data) > 4096)


def test_the_largest_matrices_are_stored_once(f32_bundle: Path, source: AdapterCheckpoint) -> None:
    """The head serves the decoder and the adapter; the embedding is a table in the checkpoint's own type."""
    config = read_config(source.path).text
    matrix = config.vocab_size * config.hidden_size
    sizes = {p.name: p.stat().st_size for p in f32_bundle.iterdir()}
    assert matrix * 4 <= sizes["head.onnx.data"] < matrix * 4 + 64
    assert matrix * 2 <= sizes["embedding.safetensors"] < matrix * 2 + 256
    for name in ("decoder", "adapter"):
        model = onnx.load(str(f32_bundle / f"{name}.onnx"), load_external_data=False)
        assert not any(config.vocab_size in i.dims for i in model.graph.initializer), name


def test_same_input_same_bytes(source: AdapterCheckpoint, f32_bundle: Path, tmp_path: Path) -> None:
    again = export(source, "onnx", ExportOptions("f32", workers=1), tmp_path / "again")
    assert (again.path / "skinedge.json").read_bytes() == (f32_bundle / "skinedge.json").read_bytes()


def test_layout_is_known_before_a_weight_is_read(source: AdapterCheckpoint, f32_bundle: Path) -> None:
    checkpoint = open_checkpoint(source.path, source.adapters)
    graphs = build_graphs(checkpoint, scheme="f32", head_scheme="f32", vision_scheme="f32", precision=Precision("f32"))
    assert graphs.sizes == {name: (f32_bundle / name).stat().st_size for name in graphs.sizes}
    assert {p.name for p in f32_bundle.glob("*.onnx*")} < set(graphs.sizes)
    assert not any(t.startswith("base_model") for t in checkpoint.ledger.proved), "planning read the weights"


@pytest.mark.parametrize(("scheme", "kl"), [("f32", 1e-9), ("f16", 1e-4), ("int8", 0.3), ("int4", 6.0)])
def test_logits_follow_pytorch(source: AdapterCheckpoint, scheme: str, kl: float, tmp_path: Path) -> None:
    """Two images, text between them, bias on; prefill and steps past the first growth of the cache."""
    reference_module = pytest.importorskip("skinedge.model.reference")
    bundle = export(source, "onnx", ExportOptions(scheme), tmp_path / "b").path
    session, config = session_of(bundle), read_config(bundle)
    reference = reference_module.Reference.from_checkpoint(source.path, source.adapters)
    pixels = [to_pixels(make_picture(w, h, 3), read_processor_config(bundle)) for w, h in ((224, 168), (150, 330))]
    prompt = PromptBuilder.from_folder(bundle, config).build(ask("Compare the two.", images=2), [p.grid for p in pixels])
    results = []
    for model in (reference, session):
        images = [model.encode_image(p) for p in pixels]
        rows = [model.prefill(prompt, images, bias=combined_bias(images), all_positions=True)]
        results.append((images, rows))
    for token in range(7, 7 + CACHE_STEP - len(prompt.token_ids) % CACHE_STEP + 3):
        for model, (_, rows) in zip((reference, session), results, strict=True):
            rows.append(model.step(token)[None])
    truth, ours = (np.concatenate(rows) for _, rows in results)
    distance = logit_distance(truth, ours)
    assert distance.kl_mean < kl
    if scheme == "f32":
        assert distance.max_abs < 5e-5
        for a, b in zip(results[0][0], results[1][0], strict=True):
            assert np.abs(a.features - b.features).max() < 5e-5
            assert a.bias is not None
            assert b.bias is not None
            assert np.abs(a.bias - b.bias).max() < 5e-5
    reference.close()
    session.close()


def widen(folder: Path, out: Path) -> None:
    """The same graphs with every bfloat16 made float32: the CPU has no bfloat16 kernels."""
    shutil.copytree(folder, out)
    for path in out.glob("*.onnx"):
        model = onnx.load(str(path))
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.BFLOAT16:
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
        for value in (*model.graph.input, *model.graph.output):
            if value.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16:
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        for attribute in (a for n in model.graph.node if n.op_type == "Cast" for a in n.attribute):
            if attribute.i == onnx.TensorProto.BFLOAT16:
                attribute.i = onnx.TensorProto.FLOAT
        onnx.save(model, str(path))


@pytest.mark.parametrize("scheme", ["bf16", "int4"])
def test_bf16_graph_is_right_once_widened(source: AdapterCheckpoint, scheme: str, tmp_path: Path) -> None:
    bundle = export(source, "onnx", ExportOptions(scheme, activations="bf16"), tmp_path / "b").path
    with pytest.raises(TargetError, match=r"cannot compute here .* bf16 graphs need a GPU"):
        session_of(bundle)
    plain = export(source, "onnx", ExportOptions("f32" if scheme == "bf16" else scheme), tmp_path / "f").path
    widen(bundle, tmp_path / "wide")
    prompt = PromptBuilder.from_folder(bundle, read_config(bundle)).build([Message("user", "What is a macule?")])
    truth, ours = (session_of(folder).prefill(prompt, all_positions=True) for folder in (plain, tmp_path / "wide"))
    # Merged weights are bf16 already; int4 and int8 scales are rounded to 8 bits of significand.
    assert logit_distance(truth, ours).kl_mean < (1e-9 if scheme == "bf16" else 0.05)


def test_text_only_prompt(f32_bundle: Path, source: AdapterCheckpoint) -> None:
    reference_module = pytest.importorskip("skinedge.model.reference")
    session = session_of(f32_bundle)
    reference = reference_module.Reference.from_checkpoint(source.path, source.adapters)
    prompt = PromptBuilder.from_folder(f32_bundle, read_config(f32_bundle)).build([Message("user", "What is a macule?")])
    truth = reference.prefill(prompt, all_positions=True)
    assert np.abs(truth - session.prefill(prompt, all_positions=True)).max() < 5e-5
    assert np.array_equal(session.prefill(prompt), session.prefill(prompt)), "a second prefill must forget the first"


@pytest.mark.parametrize("experts", [0, 8])
def test_adapter_graph_is_the_paper_arithmetic(experts: int, tiny_model: Path, tmp_path: Path) -> None:
    branch = make_side_branch(tmp_path / "branch", read_config(tiny_model), experts=experts, seed=5)
    source = AdapterCheckpoint.find(tiny_model, [branch])
    bundle = export(source, "onnx", ExportOptions("f32"), tmp_path / "b").path
    side = open_checkpoint(tiny_model, [branch]).side_branch
    assert side is not None
    pixels = to_pixels(make_picture(300, 200, 1), read_processor_config(bundle))
    expected = run_branch(side.shape, side.weights(), pixels.patches)
    encoding = session_of(bundle).encode_image(pixels)
    head = open_checkpoint(tiny_model).weights.read(HEAD).astype(np.float32)
    assert encoding.bias is not None
    assert encoding.skin is not None
    assert np.abs(encoding.bias - head @ expected.shift).max() < 5e-5
    assert np.abs(encoding.skin - expected.skin).max() < 1e-6
    assert np.abs(encoding.bias).max() > 0.5, "a bias this small would hide a fault"


def test_model_without_side_branch_has_no_bias(tiny_model: Path, tmp_path: Path) -> None:
    bundle = export(AdapterCheckpoint.find(tiny_model), "onnx", ExportOptions("f32"), tmp_path / "b").path
    assert not (bundle / "adapter.onnx").exists()
    encoding = session_of(bundle).encode_image(to_pixels(make_picture(112, 112, 0), read_processor_config(bundle)))
    assert encoding.bias is None


def test_tied_head(tmp_path: Path) -> None:
    model = make_model(tmp_path / "tied", Size(tied=True), shards=1)
    bundle = export(AdapterCheckpoint.find(model), "onnx", ExportOptions("f32"), tmp_path / "b").path
    prompt = PromptBuilder.from_folder(bundle, read_config(bundle)).build([Message("user", "Describe.")])
    reference_module = pytest.importorskip("skinedge.model.reference")
    reference = reference_module.Reference.from_checkpoint(model)
    assert np.abs(reference.prefill(prompt) - session_of(bundle).prefill(prompt)).max() < 5e-5


@pytest.mark.parametrize("size", [(28, 28), (112, 112), (140, 84), (28, 504), (308, 252)])
def test_window_plan_is_a_permutation(size: tuple[int, int], tiny_model: Path) -> None:
    config = read_config(tiny_model).vision
    grid = to_pixels(make_picture(*size, 0), read_processor_config(tiny_model)).grid
    plan = plan_windows(grid, config)
    assert plan.window_mask.sum() == grid.patches
    assert sorted(plan.window_gather[plan.window_mask]) == list(range(grid.patches))
    assert np.array_equal(plan.window_gather.ravel()[plan.window_scatter], np.arange(grid.patches))
    assert plan.window_mask.any(1).all(), "a window without a patch would make a row of NaN"


def test_every_scheme_file_says_whom_it_serves() -> None:
    from importlib import import_module

    for name in names("quantize"):
        module = import_module(f"skinedge.quantize.{name}")
        assert set(module.TARGETS) <= {"onnx", "trt", "gguf", "safetensors"}, name
        assert module.__doc__, name


@pytest.fixture
def cuda_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """onnxruntime-gpu where its libraries are missing: it lists CUDA, prints what it misses, and computes on the CPU."""
    asked = Counter[str]()

    def preload() -> None:
        asked["preload"] += 1
        print("Failed to load libcudnn.so.9")

    def opened(path: str, options: object, providers: list[str]) -> SimpleNamespace:
        asked.update(providers)
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    fake = {"get_available_providers": lambda: [CUDA, "CPUExecutionProvider"], "preload_dlls": preload}
    for name, value in {**fake, "InferenceSession": opened}.items():
        monkeypatch.setattr(onnxruntime, name, value)
    _load_cuda.cache_clear()
    yield asked
    _load_cuda.cache_clear()


def test_cuda_that_was_asked_for_is_not_replaced_by_the_cpu(
    cuda_that_does_not_load: Counter[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.onnx").touch()
    with pytest.raises(TargetError, match="onnxruntime cannot load CUDA here: a driver, CUDA's libraries or cuDNN") as e:
        open_graph(tmp_path / "x.onnx", 1, "cuda")
    assert "pip install 'skinedge[onnx-gpu]'" in e.value.hint
    assert open_graph(tmp_path / "x.onnx", 1, "auto").get_providers() == ["CPUExecutionProvider"]
    assert cuda_that_does_not_load == {"preload": 1, CUDA: 2, "CPUExecutionProvider": 2}, "looked for once"
    open_graph(tmp_path / "x.onnx", 1, "cpu")
    assert cuda_that_does_not_load[CUDA] == 2
    assert capsys.readouterr().out == "", "standard output is for answers"
