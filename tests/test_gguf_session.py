"""The session over llama.cpp says what PyTorch says, and refuses what it cannot open."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.errors import BundleError, PromptError, SkinedgeError, TargetError, UsageError
from skinedge.manifest import read_manifest
from skinedge.model.adapter import run_branch
from skinedge.model.config import ModelConfig, read_config
from skinedge.model.reference import Reference
from skinedge.model.tiny import Size, make_model
from skinedge.parity.metrics import kl_divergence, logit_distance
from skinedge.parity.pictures import make_picture
from skinedge.quantize._ggml import quantize, type_of
from skinedge.runtime import _llamacpp
from skinedge.runtime._gguf_head import head_times
from skinedge.runtime._llamacpp import CONTEXT_DEFAULTS, ContextParams, LlamaCpp, check_defaults
from skinedge.runtime.image import read_processor_config, to_pixels
from skinedge.runtime.llama import CAREFUL, EXACT, LlamaSession
from skinedge.runtime.prompt import PromptBuilder, ask
from skinedge.runtime.session import Pixels, Prompt, Session, combined_bias
from skinedge.targets import gguf as target
from skinedge.targets._contract import ExportOptions, OpenOptions
from skinedge.weights.checkpoint import open_checkpoint
from skinedge.weights.source import F32, tensor

gguf = pytest.importorskip("gguf")

FORCED = [300, 17, 999, 5, 77, 1200, 64, 3, 1500, 42, 800, 9]
SIZES = [(300, 217), (150, 400), (600, 450)]


@pytest.fixture(scope="module")
def bundles(tiny_model: Path, tiny_branch: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    source = AdapterCheckpoint.find(tiny_model, [tiny_branch])
    return {s: export(source, "gguf", ExportOptions(s), folder / s).path for s in ("f32", "f16", "bf16", "q8_0", "q4_k_m")}


@pytest.fixture(scope="module")
def config(tiny_model: Path) -> ModelConfig:
    return read_config(tiny_model)


@pytest.fixture(scope="module")
def reference(tiny_model: Path, tiny_branch: Path) -> Reference:
    return Reference.from_checkpoint(tiny_model, [tiny_branch])


@pytest.fixture(scope="module")
def pixels(tiny_model: Path) -> list[Pixels]:
    processor = read_processor_config(tiny_model)
    return [to_pixels(make_picture(*size, seed), processor) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def prompts(tiny_model: Path, config: ModelConfig, pixels: list[Pixels]) -> dict[int, Prompt]:
    """A prompt about no, one or two images."""
    builder = PromptBuilder.from_folder(tiny_model, config)
    question = "Describe the lesion: border, colour, diameter of 12 mm?"
    return {n: builder.build(ask(question, images=n), [p.grid for p in pixels[:n]]) for n in (0, 1, 2)}


@pytest.fixture
def opened(bundles: dict[str, Path]) -> Iterator[Session]:
    session = open_bundle(bundles["f32"])
    yield session
    session.close()


def open_bundle(folder: Path, **options: object) -> Session:
    return target.open_session(folder, read_manifest(folder), OpenOptions(**{"threads": 1, "context": 1024} | options))


def every_logit(session: Session, prompt: Prompt, pixels: list[Pixels]) -> np.ndarray:
    """Logits of all positions of the prompt and of a forced continuation, each session from its own features."""
    images = [session.encode_image(p) for p in pixels]
    logits = session.prefill(prompt, images, bias=combined_bias(images), all_positions=True)
    return np.concatenate([logits, np.stack([session.step(t) for t in FORCED])])


class TestParity:
    @pytest.mark.parametrize("images", [0, 1, 2])
    @pytest.mark.parametrize(("scheme", "limit"), [("f32", 1e-6), ("f16", 1e-5)])
    def test_divergence_from_pytorch(
        self, bundles: dict[str, Path], reference: Reference, prompts, pixels, images: int, scheme: str, limit: float
    ) -> None:
        session = open_bundle(bundles[scheme])
        theirs = every_logit(reference, prompts[images], pixels[:images])
        ours = every_logit(session, prompts[images], pixels[:images])
        session.close()
        assert kl_divergence(theirs, ours).mean() <= limit
        assert kl_divergence(theirs, ours)[-len(FORCED) :].mean() <= limit / 3

    def test_text_is_exact_to_rounding(self, opened: Session, reference: Reference, prompts) -> None:
        ours, theirs = every_logit(opened, prompts[0], []), every_logit(reference, prompts[0], [])
        assert np.abs(ours - theirs).max() < 5e-5

    def test_features_differ_by_the_gelu_of_llama_cpp_alone(self, opened: Session, reference: Reference, pixels) -> None:
        """Its GELU is the tanh form from a table of 16-bit floats, which is out of our hands: 1e-3 of features of size 3."""
        for p in pixels:
            ours, theirs = opened.encode_image(p).features, reference.encode_image(p).features
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() < 5e-3

    def test_reference_features_give_reference_logits(self, opened: Session, reference: Reference, prompts, pixels) -> None:
        """With PyTorch's own features the language model agrees to rounding: positions and injection are right."""
        images = [reference.encode_image(p) for p in pixels[:2]]
        ours = opened.prefill(prompts[2], images, all_positions=True)
        theirs = reference.prefill(prompts[2], images, all_positions=True)
        assert np.abs(ours - theirs).max() < 5e-5

    def test_flash_attention_is_what_careful_leaves_out(
        self, bundles: dict[str, Path], config: ModelConfig, reference: Reference, prompts
    ) -> None:
        theirs = every_logit(reference, prompts[0], [])
        far = {}
        for name, arithmetic in (("careful", CAREFUL), ("exact", EXACT)):
            files = bundles["f16"] / target.TEXT_FILE, bundles["f16"] / target.VISION_FILE
            session = LlamaSession(*files, config, arithmetic=arithmetic, threads=1, context=256)
            ours = session.prefill(prompts[0], all_positions=True)
            far[name] = kl_divergence(theirs[: len(ours)], ours).mean()
            session.close()
        assert far["exact"] < far["careful"] < 5e-6

    def test_quantized_bundles_stay_near(self, bundles: dict[str, Path], reference: Reference, prompts, pixels) -> None:
        """Random weights are the worst case for few bits: the bounds are loose, the order is not."""
        theirs = every_logit(reference, prompts[1], pixels[:1])
        far = {}
        for scheme in ("bf16", "q8_0", "q4_k_m"):
            session = open_bundle(bundles[scheme])
            far[scheme] = logit_distance(theirs, every_logit(session, prompts[1], pixels[:1]))
            session.close()
        assert far["bf16"].kl_mean < 1e-3 < far["q8_0"].kl_mean < 1e-2 < far["q4_k_m"].kl_mean < 1
        assert far["q8_0"].top1 > 0.9
        assert far["q4_k_m"].top1 > 0.5


class TestSession:
    def test_last_row_is_the_last_of_all(self, opened: Session, prompts, pixels) -> None:
        images = [opened.encode_image(p) for p in pixels[:2]]
        last = opened.prefill(prompts[2], images)
        rows = opened.prefill(prompts[2], images, all_positions=True)
        assert rows.shape == (len(prompts[2].token_ids), opened.vocab_size)
        np.testing.assert_allclose(rows[-1], last, atol=5e-5)

    def test_prefill_forgets(self, opened: Session, prompts, pixels) -> None:
        first = opened.prefill(prompts[0])
        opened.prefill(prompts[1], [opened.encode_image(pixels[0])])
        opened.step(5)
        np.testing.assert_array_equal(opened.prefill(prompts[0]), first)

    def test_bias_is_added_at_every_position(self, opened: Session, prompts) -> None:
        bias = np.linspace(-3, 3, opened.vocab_size, dtype=F32)
        plain = [opened.prefill(prompts[0]), opened.step(7)]
        biased = [opened.prefill(prompts[0], bias=bias), opened.step(7)]
        for a, b in zip(plain, biased, strict=True):
            np.testing.assert_array_equal(a + bias, b)

    def test_image_goes_in_at_its_own_size(self, opened: Session, tiny_model: Path) -> None:
        """llama.cpp would enlarge four tokens to eight, and pad what has another shape."""
        small = to_pixels(make_picture(56, 57, 0), read_processor_config(tiny_model))
        assert opened.encode_image(small).features.shape == (4, 256)

    def test_nothing_is_printed(self, bundles: dict[str, Path], prompts, pixels, capfd: pytest.CaptureFixture[str]) -> None:
        session = open_bundle(bundles["q4_k_m"])
        session.prefill(prompts[1], [session.encode_image(pixels[0])])
        session.close()
        assert capfd.readouterr() == ("", "")

    def test_close_twice_and_after(self, opened: Session, prompts, pixels) -> None:
        opened.close()
        opened.close()
        with pytest.raises(TargetError, match=r"the session is closed. Open the bundle again."):
            opened.step(1)
        with pytest.raises(TargetError, match="the session is closed"):
            opened.encode_image(pixels[0])
        with pytest.raises(TargetError, match="the session is closed"):
            opened.prefill(prompts[0])

    def test_context_is_kept(self, bundles: dict[str, Path], prompts) -> None:
        length = len(prompts[0].token_ids)
        session = open_bundle(bundles["f32"], context=length + 1)
        session.prefill(prompts[0])
        session.step(1)
        with pytest.raises(PromptError, match=f"the context of {length + 1} tokens is full"):
            session.step(1)
        session.close()
        short = open_bundle(bundles["f32"], context=length - 1)
        with pytest.raises(PromptError, match=f"the prompt has {length} tokens and the context holds {length - 1}"):
            short.prefill(prompts[0])
        short.close()

    def test_images_must_be_the_prompts(self, opened: Session, prompts, pixels) -> None:
        with pytest.raises(PromptError, match="expects 1 images and 0 encodings"):
            opened.prefill(prompts[1])

    def test_device(self, bundles: dict[str, Path]) -> None:
        with pytest.raises(UsageError, match=r"unknown device 'tpu'. Known: auto, cpu, cuda."):
            open_bundle(bundles["f32"], device="tpu")

    def test_no_torch_is_imported(self, bundles: dict[str, Path]) -> None:
        code = (
            "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'peft')))\n"
            "from pathlib import Path; from skinedge.manifest import read_manifest; from skinedge.targets import gguf\n"
            "from skinedge.targets._contract import OpenOptions; folder = Path(sys.argv[1])\n"
            "gguf.open_session(folder, read_manifest(folder), OpenOptions(threads=1, context=256)).close()"
        )
        done = subprocess.run([sys.executable, "-c", code, str(bundles["q8_0"])], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


class TestAdapter:
    @pytest.mark.parametrize("scheme", ["f32", "q4_k_m"])
    def test_bias_is_the_files_own_head_times_shift(
        self, bundles: dict[str, Path], tiny_model: Path, tiny_branch: Path, pixels, scheme: str
    ) -> None:
        branch = open_checkpoint(tiny_model, [tiny_branch]).side_branch
        expected = run_branch(branch.shape, branch.weights(), pixels[0].patches)
        session = open_bundle(bundles[scheme])
        seen = session.encode_image(pixels[0])
        session.close()
        head = next(t for t in gguf.GGUFReader(bundles[scheme] / "model.gguf").tensors if t.name == "output.weight")
        np.testing.assert_allclose(seen.bias, gguf.quants.dequantize(head.data, head.tensor_type) @ expected.shift, atol=1e-4)
        np.testing.assert_allclose(seen.skin, expected.skin, atol=1e-5)
        assert np.abs(seen.bias).max() > 0.5

    def test_no_branch_no_bias(self, tiny_model: Path, pixels, tmp_path: Path) -> None:
        bundle = export(AdapterCheckpoint.find(tiny_model), "gguf", ExportOptions("q8_0"), tmp_path / "plain")
        session = open_bundle(bundle.path)
        seen = session.encode_image(pixels[0])
        session.close()
        assert (seen.bias, seen.skin) == (None, None)

    def test_tied_head_is_the_embedding(self, tmp_path: Path) -> None:
        model = make_model(tmp_path / "model", Size(layers=1, tied=True))
        bundle = export(AdapterCheckpoint.find(model), "gguf", ExportOptions("f32"), tmp_path / "tied")
        vector = np.random.default_rng(0).normal(size=256).astype(F32)
        embedding = tensor(open_checkpoint(model).weights, "model.embed_tokens.weight").astype(F32)
        np.testing.assert_allclose(head_times(bundle.path / "model.gguf", vector, 2), embedding @ vector, rtol=1e-5, atol=1e-5)

    def test_threads_do_not_change_the_product(self, bundles: dict[str, Path]) -> None:
        vector = np.random.default_rng(1).normal(size=256).astype(F32)
        path = bundles["q4_k_m"] / "model.gguf"
        np.testing.assert_array_equal(head_times(path, vector, 1), head_times(path, vector, 4))

    def test_vector_of_another_width(self, bundles: dict[str, Path]) -> None:
        with pytest.raises(BundleError, match=r"model.gguf: its head does not take 100 values"):
            head_times(bundles["q8_0"] / "model.gguf", np.zeros(100, F32))

    def test_type_that_is_not_ours(self) -> None:
        with pytest.raises(TargetError, match="ggml type 2 is not one that skinedge writes"):
            type_of(2)


class TestDamage:
    @pytest.mark.parametrize("name", ["model.gguf", "mmproj.gguf"])
    @pytest.mark.parametrize("damage", ["missing", "empty", "text", "header cut", "data cut", "magic"])
    def test_damaged_file_is_an_error_not_a_crash(self, bundles: dict[str, Path], config, tmp_path: Path, name, damage) -> None:
        files = {n: tmp_path / n for n in ("model.gguf", "mmproj.gguf")}
        for n, path in files.items():
            path.write_bytes((bundles["q8_0"] / n).read_bytes())
        whole = files[name].read_bytes()
        broken = {
            "empty": b"",
            "text": b"This is not a model.\n" * 100,
            "header cut": whole[:3000],
            "data cut": whole[: len(whole) * 2 // 3],
            "magic": b"GGML" + whole[4:],
        }
        if damage == "missing":
            files[name].unlink()
        else:
            files[name].write_bytes(broken[damage])
        with pytest.raises(BundleError, match=rf"{name}( is missing| cannot be opened)"):
            LlamaSession(*files.values(), config, threads=1, context=256)

    def test_head_of_a_damaged_file(self, bundles: dict[str, Path], tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="is missing or not a GGUF file"):
            head_times(tmp_path / "none.gguf", np.zeros(256, F32))
        cut = tmp_path / "cut.gguf"
        cut.write_bytes((bundles["q8_0"] / "model.gguf").read_bytes()[:-400_000])
        with pytest.raises(BundleError, match=r"is cut short|not a GGUF file"):
            head_times(cut, np.zeros(256, F32))

    def test_files_of_another_model(self, bundles: dict[str, Path], config, tmp_path: Path) -> None:
        model = make_model(tmp_path / "model", Size(hidden=128, heads=2, layers=1, vocab=1024))
        other = export(AdapterCheckpoint.find(model), "gguf", ExportOptions("f16"), tmp_path / "other").path
        with pytest.raises(BundleError, match=r"has 1024 tokens of 128 values, which is not the manifest's model"):
            LlamaSession(other / "model.gguf", bundles["f16"] / "mmproj.gguf", config, threads=1, context=256)
        with pytest.raises(BundleError, match=r"mmproj.gguf cannot be opened"):
            LlamaSession(bundles["f16"] / "model.gguf", other / "mmproj.gguf", config, threads=1, context=256)

    def test_overflowing_vision_tower(self, tmp_path: Path, config, pixels) -> None:
        """16-bit weights make llama.cpp round activations to 16 bits too; a large one becomes infinite, then NaN."""
        model = make_model(tmp_path / "model", Size(layers=1))
        scale_tensor(model, "visual.blocks.0.mlp.up_proj.weight", 4000)
        scale_tensor(model, "visual.blocks.0.mlp.gate_proj.weight", 100)
        source = AdapterCheckpoint.find(model)
        narrow = open_bundle(export(source, "gguf", ExportOptions("f16"), tmp_path / "narrow").path)
        with pytest.raises(TargetError, match=r"vision tower's features are not finite numbers.*with --vision-scheme bf16"):
            narrow.encode_image(pixels[0])
        narrow.close()
        wide = open_bundle(export(source, "gguf", ExportOptions("f16", vision="bf16"), tmp_path / "wide").path)
        assert np.isfinite(wide.encode_image(pixels[0]).features).all()
        wide.close()


class TestVersion:
    def test_another_layout_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The real library read through the layout of another build (without ``moe_cache_size``)."""

        class Older(ctypes.Structure):
            _fields_ = tuple(f for f in ContextParams._fields_ if f[0] != "moe_cache_size")

        structures = _llamacpp._structures()
        monkeypatch.setattr(_llamacpp, "_structures", lambda: (structures[0], Older, structures[2]))
        with pytest.raises(TargetError, match=r"unknown version: its context parameters have .* Install the one"):
            LlamaCpp()

    @pytest.mark.parametrize("name", CONTEXT_DEFAULTS)
    def test_every_default_is_looked_at(self, name: str) -> None:
        params = ContextParams(**CONTEXT_DEFAULTS)
        check_defaults(params, CONTEXT_DEFAULTS, "context parameters")
        setattr(params, name, not CONTEXT_DEFAULTS[name] if isinstance(CONTEXT_DEFAULTS[name], bool) else 77)
        with pytest.raises(TargetError, match=rf"have {name} = "):
            check_defaults(params, CONTEXT_DEFAULTS, "context parameters")

    def test_every_error_is_skinedges_own(self) -> None:
        assert issubclass(TargetError, SkinedgeError)
        assert quantize(type_of(8), np.ones((1, 32), F32)).shape == (1, 34)


def scale_tensor(model: Path, name: str, factor: float) -> None:
    """Multiply a tensor of a bf16 checkpoint in place."""
    from skinedge.weights.safetensors import SafetensorsFile
    from skinedge.weights.source import BF16

    for path in model.glob("*.safetensors"):
        file = SafetensorsFile(path)
        if name not in file.names():
            continue
        values = (file.read(name).astype(F32) * factor).astype(BF16).tobytes()
        with path.open("r+b") as f:
            f.seek(file._start[name])
            f.write(values)
