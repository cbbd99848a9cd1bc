"""GGUF files: byte for byte llama.cpp's own, exactly as large as planned, the same every time."""

import hashlib
import importlib.util
import json
import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from skinedge.calibration.statistics import Calibration
from skinedge.errors import CalibrationError, MissingDependencyError, QuantizeError, TargetError, UsageError
from skinedge.model.config import ModelConfig, TextConfig, VisionConfig
from skinedge.model.tiny import Size, make_model
from skinedge.quantize import _ggml
from skinedge.quantize._ggml import TYPES, dequantize, quantize, symbol
from skinedge.targets import gguf as target
from skinedge.targets._contract import ExportOptions, Written
from skinedge.targets._gguf_tensors import text_tensors
from skinedge.weights.checkpoint import open_checkpoint
from skinedge.weights.source import BF16, F32
from skinedge.weights.stream import Quiet

gguf = pytest.importorskip("gguf")
ROOT = Path(__file__).parents[1]
PINS = json.loads((ROOT / "tests" / "pins" / "gguf_digests.json").read_text(encoding="utf-8"))


def load_peer():
    spec = importlib.util.spec_from_file_location("gguf_upstream", ROOT / "benchmarks" / "peers" / "gguf_upstream.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


peer = load_peer()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf-models")
    return {name: make_model(folder / name, size) for name, size in peer.MODELS.items()}


def export(model: Path, folder: Path, scheme: str, *, vision: str | None = None, adapters=(), workers: int = 2) -> Written:
    folder.mkdir()
    return target.write(open_checkpoint(model, adapters), ExportOptions(scheme, vision=vision, workers=workers), folder, Quiet())


def fields(path: Path) -> dict[str, object]:
    return {k: f.contents() for k, f in gguf.GGUFReader(path).fields.items()}


class TestUpstream:
    """The pins hold what the real tools made (benchmarks/peers/gguf_upstream.py)."""

    pytestmark = pytest.mark.skipif(
        platform.machine() not in ("x86_64", "AMD64"), reason="the pins are from x86-64; other CPUs fuse multiply and add"
    )

    @pytest.mark.parametrize("name", peer.MODELS)
    @pytest.mark.parametrize("scheme", target.SCHEMES)
    def test_tensors_are_upstreams(self, models: dict[str, Path], tmp_path: Path, name: str, scheme: str) -> None:
        pin = PINS.get(peer.digest_of_weights(open_checkpoint(models[name])))
        assert pin, f"the weights of '{name}' changed: run benchmarks/peers/gguf_upstream.py again"
        vision = scheme if scheme in target.VISION_SCHEMES else None
        export(models[name], tmp_path / "out", scheme, vision=vision)
        assert peer.digest_of_tensors(tmp_path / "out" / "model.gguf") == pin["model.gguf"][scheme]
        if vision:
            assert peer.digest_of_tensors(tmp_path / "out" / "mmproj.gguf") == pin["mmproj.gguf"][scheme]

    @pytest.mark.parametrize("name", peer.MODELS)
    @pytest.mark.parametrize("scheme", ["q5_k_m", "q4_k_m", "iq4_xs"])
    def test_importances_are_upstreams(self, models: dict[str, Path], tmp_path: Path, name: str, scheme: str) -> None:
        pin = PINS[peer.digest_of_weights(open_checkpoint(models[name]))]
        calibration = peer.random_calibration(models[name], tmp_path / "calibration")
        peer.ours(models[name], tmp_path / "out", scheme, None, calibration)
        assert peer.digest_of_tensors(tmp_path / "out" / "model.gguf") == pin["model.gguf"][scheme + peer.WEIGHED]

    def test_digest_sees_one_flipped_bit(self, models: dict[str, Path], tmp_path: Path) -> None:
        export(models["square"], tmp_path / "out", "q8_0")
        path = tmp_path / "out" / "model.gguf"
        before = peer.digest_of_tensors(path)
        with path.open("r+b") as f:
            f.seek(-100, 2)
            byte = f.read(1)[0]
            f.seek(-100, 2)
            f.write(bytes([byte ^ 1]))
        assert peer.digest_of_tensors(path) != before


class TestFiles:
    @pytest.mark.parametrize("scheme", target.SCHEMES)
    def test_plan_is_exact_and_digests_are_true(self, tiny_model: Path, tmp_path: Path, scheme: str) -> None:
        plan = target.plan(open_checkpoint(tiny_model), ExportOptions(scheme))
        written = export(tiny_model, tmp_path / "out", scheme)
        sizes = {p.name: p.stat().st_size for p in (tmp_path / "out").iterdir()}
        assert sizes == dict(plan.files)
        assert written.digests == {n: hashlib.sha256((tmp_path / "out" / n).read_bytes()).hexdigest() for n in sizes}

    def test_same_bytes_from_another_folder_with_other_workers(self, tiny_model: Path, tmp_path: Path) -> None:
        shutil.copytree(tiny_model, tmp_path / "elsewhere")
        one = export(tiny_model, tmp_path / "one", "q4_k_m", workers=1)
        two = export(tmp_path / "elsewhere", tmp_path / "two", "q4_k_m", workers=3)
        assert one == two

    def test_a_lora_is_merged_and_accounted_for(self, tiny_model: Path, tiny_lora: Path, tmp_path: Path) -> None:
        checkpoint = open_checkpoint(tiny_model, [tiny_lora])
        (tmp_path / "out").mkdir()
        target.write(checkpoint, ExportOptions("f16"), tmp_path / "out", Quiet())
        checkpoint.ledger.settle()
        export(tiny_model, tmp_path / "plain", "f16")
        merged, plain = (peer.tensors_of(tmp_path / f / "model.gguf") for f in ("out", "plain"))
        assert {n for n in plain if merged[n] != plain[n]} == {n for n in plain if ".attn_" in n or ".ffn_" in n} - {
            n for n in plain if n.endswith(".bias") or "_norm." in n
        }

    def test_applied_counts_every_weight(self, tiny_model: Path, tiny_branch: Path, tmp_path: Path) -> None:
        checkpoint = open_checkpoint(tiny_model, [tiny_branch])
        written = export(tiny_model, tmp_path / "out", "q4_k_m", adapters=[tiny_branch])
        backbone = sum(checkpoint.weights.spec(n).size for n in checkpoint.weights.names())
        branch = sum(checkpoint.side_branch.source.spec(n).size for n in checkpoint.side_branch.source.names())
        assert sum(a.weights for a in written.applied.values()) == backbone + branch
        assert (written.applied["output.weight"].scheme, written.applied["output.weight"].bits) == ("q6_k", 6.5625)
        assert (tmp_path / "out" / "adapter.onnx").is_file()

    def test_metadata(self, tiny_model: Path, tmp_path: Path) -> None:
        export(tiny_model, tmp_path / "out", "q4_k_m")
        text, vision = fields(tmp_path / "out" / "model.gguf"), fields(tmp_path / "out" / "mmproj.gguf")
        tokens, kinds = text["tokenizer.ggml.tokens"], text["tokenizer.ggml.token_type"]
        tokenizer = json.loads((tiny_model / "tokenizer.json").read_text(encoding="utf-8"))
        assert (text["general.architecture"], text["general.file_type"], text["tokenizer.ggml.pre"]) == ("qwen2vl", 15, "qwen2")
        assert text["qwen2vl.rope.dimension_sections"] == [8, 12, 12, 0]
        assert len(tokens) == len(kinds) == 2048
        assert [kinds[tokens.index(t)] for t in ("<|im_end|>", "<think>", "a", "[PAD2047]")] == [
            gguf.TokenType.CONTROL,
            gguf.TokenType.USER_DEFINED,
            gguf.TokenType.NORMAL,
            gguf.TokenType.UNUSED,
        ]
        assert text["tokenizer.ggml.merges"] == [" ".join(m) for m in tokenizer["model"]["merges"]]
        assert tokens[text["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"
        assert text["tokenizer.chat_template"] == (tiny_model / "chat_template.jinja").read_text(encoding="utf-8")
        assert (vision["clip.projector_type"], vision["clip.vision.n_wa_pattern"]) == ("qwen2.5vl_merger", 2)
        assert vision["clip.vision.image_mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])

    def test_a_vision_tower_of_two_blocks(self, tmp_path: Path) -> None:
        """The library's names count the merger's layers among the blocks; the 7B-shaped test model has two."""
        model = make_model(tmp_path / "model", Size(layers=1, vision_depth=2))
        export(model, tmp_path / "out", "f16")
        assert {"mm.0.weight", "mm.2.weight"} <= peer.tensors_of(tmp_path / "out" / "mmproj.gguf").keys()

    def test_size_of_the_7b(self) -> None:
        """The published Q4_K_M of Qwen2.5-VL-7B has 4.68 GB and the Q8_0 8.10 GB."""
        text = TextConfig(152064, 3584, 18944, 28, 28, 4, 128, 1e-6, 1e6, (16, 24, 24), 128000, False)
        vision = VisionConfig(32, 1280, 3420, 16, 3584, 3, 14, 2, 2, 112, (7, 15, 23, 31))
        config = ModelConfig(text, vision, 151655, (151645,))
        sizes = {s: sum(t.nbytes for t in text_tensors(config, target._mix(s))) for s in ("q4_k_m", "q8_0")}
        assert sizes == {"q4_k_m": pytest.approx(4.68e9, rel=2e-3), "q8_0": pytest.approx(8.1e9, rel=2e-3)}


class TestVisionSchemes:
    @pytest.mark.parametrize(("scheme", "stored"), [("f32", "F32"), ("f16", "F16"), ("bf16", "BF16"), ("q4_k_m", "F16")])
    def test_default(self, tiny_model: Path, tmp_path: Path, scheme: str, stored: str) -> None:
        export(tiny_model, tmp_path / "out", scheme)
        assert peer.tensors_of(tmp_path / "out" / "mmproj.gguf")["v.blk.0.attn_q.weight"][0] == stored

    def test_q8_0_where_the_width_allows(self, tiny_model: Path, tmp_path: Path) -> None:
        export(tiny_model, tmp_path / "out", "q4_k_m", vision="q8_0")
        kinds = {n: t[0] for n, t in peer.tensors_of(tmp_path / "out" / "mmproj.gguf").items()}
        assert (kinds["v.blk.0.ffn_up.weight"], kinds["v.blk.0.ffn_down.weight"]) == ("Q8_0", "F16")

    def test_four_bits_are_refused(self, tiny_model: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"vision tower cannot be stored as q4_k_m.*Choose one of f32, f16, bf16, q8_0"):
            export(tiny_model, tmp_path / "out", "q4_k_m", vision="q4_k_m")
        assert not list((tmp_path / "out").iterdir())

    def test_unknown_scheme_is_guessed(self, tiny_model: Path) -> None:
        with pytest.raises(UsageError, match="unknown vision scheme of gguf 'q8'"):
            target.plan(open_checkpoint(tiny_model), ExportOptions("f16", vision="q8"))
        with pytest.raises(UsageError, match=r"unknown scheme of gguf 'q4_k'.*Did you mean 'q4_k_m'"):
            target.plan(open_checkpoint(tiny_model), ExportOptions("q4_k"))

    def test_activations_are_not_to_be_chosen(self, tiny_model: Path) -> None:
        with pytest.raises(UsageError, match=r"llama.cpp chooses the activations"):
            target.plan(open_checkpoint(tiny_model), ExportOptions("f16", activations="f16"))


class TestCalibration:
    @pytest.fixture
    def calibration(self, tiny_model: Path, tmp_path: Path) -> Calibration:
        return peer.random_calibration(tiny_model, tmp_path / "calibration")

    def written(self, model: Path, folder: Path, options: ExportOptions) -> tuple[Written, dict[str, tuple]]:
        folder.mkdir()
        written = target.write(open_checkpoint(model), options, folder, Quiet())
        return written, peer.tensors_of(folder / "model.gguf")

    def test_every_weighed_matrix_changes_and_the_embedding_does_not(
        self, tiny_model: Path, calibration: Calibration, tmp_path: Path
    ) -> None:
        _, plain = self.written(tiny_model, tmp_path / "plain", ExportOptions("q4_k_m"))
        done, weighed = self.written(tiny_model, tmp_path / "weighed", ExportOptions("q4_k_m", calibration=calibration))
        matrices = {n for n, (kind, _, _) in plain.items() if kind.startswith("Q")}
        assert {n for n in plain if plain[n] != weighed[n]} == matrices - {"token_embd.weight"}
        assert done.details["importances"] == calibration.record.data

    def test_nearest_leaves_the_calibration_aside(self, tiny_model: Path, calibration: Calibration, tmp_path: Path) -> None:
        _, plain = self.written(tiny_model, tmp_path / "plain", ExportOptions("iq4_xs"))
        asked = ExportOptions("iq4_xs", calibration=calibration, rounding="nearest")
        done, nearest = self.written(tiny_model, tmp_path / "nearest", asked)
        assert (nearest, "importances" in done.details) == (plain, False)

    def test_weighed_errors_are_smaller(self) -> None:
        rng = np.random.default_rng(0)
        rows, importance = rng.normal(size=(64, 512)).astype(F32), np.exp(2 * rng.normal(size=512)).astype(F32)
        for kind in (TYPES["q4_k"], TYPES["iq4_xs"]):
            plain, weighed = (dequantize(kind, quantize(kind, rows, i)) for i in (None, importance))
            errors = [float(((back - rows) ** 2 * importance).sum()) for back in (plain, weighed)]
            assert errors[1] < 0.8 * errors[0]

    def test_importances_of_another_width(self, tiny_model: Path, tmp_path: Path) -> None:
        other = make_model(tmp_path / "other", Size(hidden=512, heads=8, layers=1))
        calibration = peer.random_calibration(other, tmp_path / "c")
        with pytest.raises(CalibrationError, match=r"has 512 inputs of 'model.*' and the weight has 256. It was made of another"):
            self.written(tiny_model, tmp_path / "out", ExportOptions("q4_k_m", calibration=calibration))
        with pytest.raises(ValueError, match=r"\(3,\) importances of 256 columns"):
            quantize(TYPES["q4_k"], np.zeros((1, 256), F32), np.ones(3, F32))

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ({"rounding": "gptq"}, "ggml rounds weights itself, and not by 'gptq'"),
            ({"rounding": "scale"}, "there is no calibration. Add --calibration DIR"),
            ({"mix": {"model.layers.0.mlp.up_proj.wieght": "q6_k"}}, r"unknown matrix of the language model.*Did you mean"),
            ({"mix": {"visual.blocks.0.attn.qkv.weight": "q6_k"}}, r"unknown matrix of the language model 'visual"),
            ({"mix": {"lm_head.weight": "q6_k_m"}}, r"unknown ggml type 'q6_k_m'.*Did you mean 'q6_k'"),
        ],
    )
    def test_what_ggml_has_not_is_refused(self, tiny_model: Path, asked: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            target.plan(open_checkpoint(tiny_model), ExportOptions("q4_k_m", **asked))

    def test_a_mix_is_planned_and_accounted_for(self, tiny_model: Path, tmp_path: Path) -> None:
        asked = ExportOptions("q4_k_m", mix={"lm_head.weight": "f16", "model.layers.1.mlp.up_proj.weight": "q8_0"})
        done, _ = self.written(tiny_model, tmp_path / "out", asked)
        assert (done.applied["output.weight"].scheme, done.applied["blk.1.ffn_up.weight"].scheme) == ("f16", "q8_0")
        sizes = {p.name: p.stat().st_size for p in (tmp_path / "out").iterdir()}
        assert sizes == dict(target.plan(open_checkpoint(tiny_model), asked).files)


class TestRefusals:
    @pytest.mark.parametrize("scheme", ["f16", "q4_k_m"])
    def test_weight_beyond_half_precision(self, tmp_path: Path, scheme: str) -> None:
        model = make_model(tmp_path / "model", Size(layers=1), dtype=F32, shards=1)
        patch_tensor(model, "model.layers.0.mlp.up_proj.weight", 1e6)
        with pytest.raises(QuantizeError, match=r"tensor 'model.layers.0.mlp.up_proj.weight' holds 1e\+06"):
            export(model, tmp_path / "out", scheme)
        assert export(model, tmp_path / "wide", "bf16", vision="bf16").digests

    def test_another_pre_tokenizer(self, tmp_path: Path) -> None:
        model = make_model(tmp_path / "model", Size(layers=1))
        settings = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
        settings["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+"
        (model / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
        with pytest.raises(TargetError, match=r"llama.cpp would split it by Qwen2's rule"):
            target.plan(open_checkpoint(model), ExportOptions("f16"))

    def test_token_number_beyond_the_vocabulary(self, tmp_path: Path) -> None:
        model = make_model(tmp_path / "model", Size(layers=1))
        settings = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
        settings["added_tokens"][-1]["id"] = 5000
        (model / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
        with pytest.raises(TargetError, match="has number 5000 and the model knows 2048"):
            target.plan(open_checkpoint(model), ExportOptions("f16"))

    @pytest.mark.parametrize("full", [(0, 3), (1, 2)])
    def test_vision_tower_llama_cpp_has_not(self, tmp_path: Path, full: tuple[int, ...]) -> None:
        model = make_model(tmp_path / "model", Size(layers=1, vision_full=full))
        with pytest.raises(TargetError, match=r"llama.cpp has no vision tower with window 112.*--target onnx"):
            target.plan(open_checkpoint(model), ExportOptions("f16"))

    def test_missing_libraries(self, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _ggml.libraries.cache_clear()
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(MissingDependencyError, match=r"needs llama.cpp. Install it: pip install 'skinedge\[gguf\]'"):
            _ggml.libraries()
        monkeypatch.undo()
        monkeypatch.setitem(sys.modules, "gguf", None)
        with pytest.raises(MissingDependencyError, match=r"needs the gguf library. Install it: pip install 'skinedge\[gguf\]'"):
            target.plan(open_checkpoint(tiny_model), ExportOptions("f16"))


def patch_tensor(model: Path, name: str, value: float) -> None:
    """Overwrite the first element of a float32 tensor in a one-shard checkpoint."""
    from skinedge.weights.safetensors import SafetensorsFile

    path = next(model.glob("*.safetensors"))
    start = SafetensorsFile(path)._start[name]
    with path.open("r+b") as f:
        f.seek(start)
        f.write(np.float32(value).tobytes())


class TestGgml:
    """The symbols of the shared object are not a promised API: their signatures and sizes are checked here."""

    @pytest.mark.parametrize("kind", TYPES.values(), ids=lambda k: k.name)
    def test_sizes_are_those_of_the_gguf_library(self, kind: _ggml.GgmlType) -> None:
        official = gguf.GGMLQuantizationType(kind.code)
        assert (official.name.lower(), gguf.GGML_QUANT_SIZES[official]) == (kind.name, (kind.block, kind.block_bytes))

    @pytest.mark.parametrize("kind", [k for k in TYPES.values() if k.quantized], ids=lambda k: k.name)
    def test_round_trip(self, kind: _ggml.GgmlType) -> None:
        rows = np.random.default_rng(0).normal(size=(6, 512)).astype(F32)
        packed = quantize(kind, rows)
        assert packed.shape == (6, kind.row_bytes(512))
        back = dequantize(kind, packed)
        np.testing.assert_array_equal(back, gguf.quants.dequantize(packed, gguf.GGMLQuantizationType(kind.code)))
        assert np.abs(back - rows).max() < 2 ** (5 - kind.bits)
        np.testing.assert_array_equal(quantize(kind, rows[2:4]), packed[2:4])

    @pytest.mark.parametrize(("name", "dtype"), [("f32", F32), ("f16", np.float16), ("bf16", BF16)])
    def test_plain_types(self, name: str, dtype: np.dtype) -> None:
        rows = np.linspace(-2, 2, 64).reshape(4, 16).astype(dtype)
        np.testing.assert_array_equal(dequantize(TYPES[name], rows.view(np.uint8)), rows.astype(F32))

    def test_missing_symbol_is_named(self) -> None:
        with pytest.raises(TargetError, match=r"installed llama.cpp has no function 'ggml_no_such_thing'"):
            symbol("ggml_no_such_thing", None)

    def test_other_block_sizes_are_refused(self) -> None:
        with pytest.raises(TargetError, match=r"the installed ggml describes q8_0 as .* of another version"):
            dequantize(_ggml.GgmlType("q8_0", 8, 32, 36), np.zeros((1, 36), np.uint8))
