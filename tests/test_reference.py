"""The PyTorch reference: its plumbing is proven against the untouched model, its side branch against numpy."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skinedge.errors import AdapterError, CheckpointError, MissingDependencyError, PromptError, UsageError
from skinedge.model.adapter import run_branch
from skinedge.model.config import ModelConfig, read_config
from skinedge.model.names import EMBEDDING, HEAD, in_memory
from skinedge.model.tiny import Size, make_model, make_side_branch
from skinedge.runtime.prompt import mrope_positions
from skinedge.runtime.session import Float32, Grid, ImageEncoding, Pixels, Prompt, combined_bias
from skinedge.weights import safetensors
from skinedge.weights.checkpoint import open_checkpoint
from skinedge.weights.safetensors import SafetensorsFile
from skinedge.weights.source import tensor

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from skinedge.model.reference import Reference, SideBranchModule  # noqa: E402

STEPS = 24
GRIDS = (Grid(1, 20, 12), Grid(1, 8, 34))
SCALE = "logit_bias_scale"


@pytest.fixture(scope="module")
def config(tiny_model: Path) -> ModelConfig:
    return read_config(tiny_model)


@pytest.fixture(scope="module")
def reference(tiny_model: Path, tiny_branch: Path) -> Reference:
    return Reference.from_checkpoint(tiny_model, [tiny_branch], threads=1)


@pytest.fixture(scope="module")
def pixels() -> list[Pixels]:
    return [random_pixels(grid, seed) for seed, grid in enumerate(GRIDS)]


def random_pixels(grid: Grid, seed: int) -> Pixels:
    patches = np.random.default_rng(seed).standard_normal((grid.patches, 1176), np.float32)
    return Pixels(patches, grid, np.zeros((grid.height * 14, grid.width * 14, 3), np.uint8))


def random_prompt(config: ModelConfig, grids: tuple[Grid, ...], seed: int = 3) -> Prompt:
    rng = np.random.default_rng(seed)
    pieces = [rng.integers(100, 400, 9)]
    for grid in grids:
        pieces += [np.full(grid.patches // 4, config.image_token_id), rng.integers(100, 400, 7)]
    ids = np.concatenate(pieces)
    positions, after = mrope_positions(ids, grids, config.image_token_id, 2)
    return Prompt("", ids, positions, after, grids)


def greedy(reference: Reference, prompt: Prompt, images: list[ImageEncoding], bias: Float32 | None, steps: int) -> list[int]:
    tokens = [int(reference.prefill(prompt, images, bias=bias).argmax())]
    while len(tokens) < steps:
        tokens.append(int(reference.step(tokens[-1]).argmax()))
    return tokens


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Path:
    """Rewrite every shard (and the index) of a copied checkpoint through ``change``."""
    weight_map = {}
    for path in sorted(folder.glob("*.safetensors")):
        file = SafetensorsFile(path)
        tensors = change({name: tensor(file, name).copy() for name in file.names()})
        del file
        safetensors.save(path, tensors, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, path.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def copy_of(model: Path, place: Path) -> Path:
    return Path(shutil.copytree(model, place / "model"))


# --- the plumbing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2])
def test_prefill_equals_the_untouched_model(reference: Reference, config: ModelConfig, pixels: list[Pixels], count: int) -> None:
    prompt = random_prompt(config, GRIDS[:count])
    images = [reference.encode_image(p) for p in pixels[:count]]
    ours = reference.prefill(prompt, images, all_positions=True)
    theirs = reference.end_to_end_logits(pixels[:count], prompt)
    assert ours.shape == (len(prompt.token_ids), config.text.vocab_size)
    assert np.abs(ours).max() > 1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_the_last_position_alone_is_the_last_of_all(reference: Reference, config: ModelConfig, pixels: list[Pixels]) -> None:
    prompt, images = random_prompt(config, GRIDS[:1]), [reference.encode_image(pixels[0])]
    everything = reference.prefill(prompt, images, all_positions=True)
    np.testing.assert_allclose(reference.prefill(prompt, images), everything[-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_steps_equal_transformers_generate(reference: Reference, config: ModelConfig, pixels: list[Pixels], count: int) -> None:
    prompt = random_prompt(config, GRIDS[:count])
    images = [reference.encode_image(p) for p in pixels[:count]]
    made = reference.model.generate(
        **reference.inputs(pixels[:count], prompt), do_sample=False, max_new_tokens=STEPS, min_new_tokens=STEPS, eos_token_id=None
    )
    theirs = made[0, len(prompt.token_ids) :].tolist()
    assert len(theirs) == STEPS
    assert greedy(reference, prompt, images, None, STEPS) == theirs


def test_a_step_equals_a_longer_prefill(reference: Reference, config: ModelConfig, pixels: list[Pixels]) -> None:
    prompt, images = random_prompt(config, GRIDS[:1]), [reference.encode_image(pixels[0])]
    reference.prefill(prompt, images)
    stepped = reference.step(123)
    ids = np.append(prompt.token_ids, 123)
    positions, after = mrope_positions(ids, prompt.grids, config.image_token_id, 2)
    longer = reference.prefill(Prompt("", ids, positions, after, prompt.grids), images)
    np.testing.assert_allclose(stepped, longer, rtol=0, atol=2e-5)


def test_sdpa_and_eager_attention_agree(tiny_model: Path, config: ModelConfig, pixels: list[Pixels]) -> None:
    prompt = random_prompt(config, GRIDS[:1])
    other = Reference.from_checkpoint(tiny_model)
    sdpa = other.end_to_end_logits(pixels[:1], prompt)
    other.model.set_attn_implementation("eager")
    np.testing.assert_allclose(other.end_to_end_logits(pixels[:1], prompt), sdpa, rtol=0, atol=2e-5)


# --- the side branch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experts", [0, 1, 8])
def test_torch_branch_equals_numpy(tiny_model: Path, config: ModelConfig, tmp_path: Path, experts: int) -> None:
    folder = make_side_branch(tmp_path / "branch", config, experts=experts)
    branch = open_checkpoint(tiny_model, [folder]).side_branch
    assert branch is not None
    weights = branch.weights()
    module = SideBranchModule(branch.shape)
    module.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()}, strict=True)
    patches = random_pixels(Grid(1, 10, 14), 5).patches
    with torch.inference_mode():
        theirs = module(torch.from_numpy(patches))
    ours = run_branch(branch.shape, weights, patches)
    for a, b in ((theirs.shift, ours.shift), (theirs.skin, ours.skin), (theirs.embedding, ours.embedding)):
        assert np.abs(a.numpy() - b).max() <= 1e-6 * np.abs(b).max()


def test_bias_is_the_head_applied_to_the_shift(reference: Reference, tiny_model: Path, tiny_branch: Path) -> None:
    pixels = random_pixels(GRIDS[0], 0)
    encoded = reference.encode_image(pixels)
    checkpoint = open_checkpoint(tiny_model, [tiny_branch])
    assert checkpoint.side_branch is not None
    said = run_branch(checkpoint.side_branch.shape, checkpoint.side_branch.weights(), pixels.patches)
    head = tensor(checkpoint.weights, HEAD).astype(np.float32)
    np.testing.assert_allclose(encoded.bias, head @ said.shift, rtol=0, atol=1e-5)
    np.testing.assert_allclose(encoded.skin, said.skin, rtol=0, atol=1e-6)


def test_bias_is_added_at_every_position(reference: Reference, config: ModelConfig, pixels: list[Pixels]) -> None:
    prompt, images = random_prompt(config, GRIDS[:1]), [reference.encode_image(pixels[0])]
    bias = combined_bias(images)
    assert bias is not None
    without = reference.prefill(prompt, images, all_positions=True), reference.step(77)
    with_bias = reference.prefill(prompt, images, bias=bias, all_positions=True), reference.step(77)
    for off, on in zip(without, with_bias, strict=True):
        np.testing.assert_allclose(on, off + bias, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(reference.prefill(prompt, images, all_positions=True), without[0])  # and forgotten


def test_bias_changes_the_narrative(reference: Reference, config: ModelConfig, pixels: list[Pixels]) -> None:
    prompt, images = random_prompt(config, GRIDS[:1]), [reference.encode_image(pixels[0])]
    off, on = (greedy(reference, prompt, images, bias, STEPS) for bias in (None, combined_bias(images)))
    assert off != on


# --- loading ------------------------------------------------------------------------------------------------------


def test_both_spellings_say_the_same(
    reference: Reference, tiny_model: Path, tiny_branch: Path, config: ModelConfig, pixels: list[Pixels], tmp_path: Path
) -> None:
    renamed = rewrite(copy_of(tiny_model, tmp_path), lambda shard: {in_memory(n): t for n, t in shard.items()})
    assert "model.language_model.norm.weight" in (renamed / "model.safetensors.index.json").read_text()
    prompt = random_prompt(config, GRIDS[:1])
    other = Reference.from_checkpoint(renamed, [tiny_branch])
    np.testing.assert_array_equal(other.end_to_end_logits(pixels[:1], prompt), reference.end_to_end_logits(pixels[:1], prompt))


@pytest.mark.parametrize("prefix", ["", "model."])
def test_released_layout(
    reference: Reference, tiny_model: Path, tiny_branch: Path, pixels: list[Pixels], tmp_path: Path, prefix: str
) -> None:
    released = with_branch(copy_of(tiny_model, tmp_path), tiny_branch, prefix)
    ours, theirs = reference.encode_image(pixels[0]), Reference.from_checkpoint(released).encode_image(pixels[0])
    np.testing.assert_array_equal(ours.features, theirs.features)
    np.testing.assert_array_equal(ours.bias, theirs.bias)


def with_branch(model: Path, branch: Path, prefix: str = "") -> Path:
    """Put the side branch into the last shard, as the authors released it."""
    file = SafetensorsFile(branch / "adapter.safetensors")
    extra = {prefix + name: tensor(file, name) for name in file.names()}
    return rewrite(model, lambda shard: shard | extra if HEAD in shard else shard)


def test_same_logits_as_from_pretrained(
    reference: Reference, tiny_model: Path, config: ModelConfig, pixels: list[Pixels]
) -> None:
    import transformers

    model, report = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tiny_model, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values())
    prompt = random_prompt(config, GRIDS[:1])
    theirs = Reference(model, None).end_to_end_logits(pixels[:1], prompt)
    np.testing.assert_array_equal(theirs, reference.end_to_end_logits(pixels[:1], prompt))


@pytest.mark.parametrize("copied", [False, True])
def test_tied_head(tmp_path: Path, copied: bool) -> None:
    """A tied head is the embedding, whether or not the checkpoint holds a second copy of it."""
    model = make_model(tmp_path / "model", Size(tied=True, layers=1, vision_depth=2))
    if copied:
        rewrite(model, lambda shard: shard | ({HEAD: shard[EMBEDDING]} if EMBEDDING in shard else {}))
    reference, config = Reference.from_checkpoint(model), read_config(model)
    assert reference.model.lm_head.weight is reference.model.get_input_embeddings().weight
    prompt = random_prompt(config, ())
    assert np.abs(reference.prefill(prompt)).max() > 1


def test_no_parameter_is_left_as_initialised(reference: Reference, tiny_model: Path) -> None:
    checkpoint = open_checkpoint(tiny_model)
    stored = {in_memory(name) for name in checkpoint.weights.names()}
    held = reference.model.state_dict()
    assert set(held) == stored
    for name in checkpoint.weights.names():
        np.testing.assert_array_equal(held[in_memory(name)].numpy(), tensor(checkpoint.weights, name).astype(np.float32))


def test_missing_tensor_is_named(tiny_model: Path, tmp_path: Path) -> None:
    gone = "model.layers.2.mlp.up_proj.weight"
    broken = rewrite(copy_of(tiny_model, tmp_path), lambda shard: {n: t for n, t in shard.items() if n != gone})
    with pytest.raises(CheckpointError, match=rf"tensor '{gone}' is missing"):
        Reference.from_checkpoint(broken)


def test_unexpected_tensor_is_named(tiny_model: Path, tmp_path: Path) -> None:
    broken = rewrite(copy_of(tiny_model, tmp_path), lambda shard: shard | {f"model.extra.{len(shard)}": np.zeros(3, np.float32)})
    with pytest.raises(CheckpointError, match=r"tensor 'model\.extra\.\d+' is unexpected"):
        Reference.from_checkpoint(broken)


def test_misshapen_tensor_is_named(tiny_model: Path, tmp_path: Path) -> None:
    broken = rewrite(copy_of(tiny_model, tmp_path), lambda shard: {n: t[:-1] if n == EMBEDDING else t for n, t in shard.items()})
    with pytest.raises(
        CheckpointError, match=rf"tensor '{EMBEDDING}' has shape \(2047, 256\) where config.json implies \(2048, 256\)"
    ):
        Reference.from_checkpoint(broken)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: {n: v for n, v in t.items() if "in_proj" not in n},
            r"adapter tensor 'distill_head.in_proj.weight' is missing",
        ),
        (lambda t: {n: v for n, v in t.items() if n != SCALE}, rf"adapter tensor '{SCALE}' is missing"),
        (
            lambda t: t | {"text_bias.4.weight": np.zeros((2, 2), np.float32)},
            r"adapter tensor 'text_bias.4.weight' is unexpected",
        ),
        (
            lambda t: t | {"distill_head.adapters.9.net.0.bias": np.zeros(2, np.float32)},
            r"adapter tensor '.*' is (missing|unexpected)",
        ),
        (
            lambda t: t | {"text_bias.2.weight": t["text_bias.2.weight"][:-2]},
            r"adapter tensor 'text_bias.2.weight' has shape \(254, 16\) where this model needs \(256, 16\)",
        ),
        (lambda t: t | {SCALE: np.array(1, np.int32)}, rf"tensor '{SCALE}' holds int32"),
    ],
)
def test_faulty_side_branch_is_named(
    tiny_model: Path,
    tiny_branch: Path,
    tmp_path: Path,
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
    words: str,
) -> None:
    file = SafetensorsFile(tiny_branch / "adapter.safetensors")
    safetensors.save(tmp_path / "side.safetensors", change({n: tensor(file, n) for n in file.names()}))
    with pytest.raises((AdapterError, CheckpointError), match=words):
        Reference.from_checkpoint(tiny_model, [tmp_path / "side.safetensors"])


# --- refusals -----------------------------------------------------------------------------------------------------


def test_prompt_with_other_images_is_refused(reference: Reference, config: ModelConfig, pixels: list[Pixels]) -> None:
    image = reference.encode_image(pixels[1])
    with pytest.raises(PromptError, match="their sizes differ"):
        reference.prefill(random_prompt(config, GRIDS[:1]), [image])


def test_unknown_type_is_refused(tiny_model: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown type 'f8'.*Known: f32, f16, bf16"):
        Reference.from_checkpoint(tiny_model, dtype="f8")


@pytest.mark.parametrize("library", ["peft", "transformers"])
def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "skinedge.model.reference")
    with pytest.raises(MissingDependencyError, match=f"needs {library}, which is not installed") as e:
        importlib.import_module("skinedge.model.reference")
    assert "skinedge[train]" in e.value.hint


def test_close_twice_is_harmless(tiny_model: Path) -> None:
    reference = Reference.from_checkpoint(tiny_model)
    reference.close()
    reference.close()
    assert not hasattr(reference, "model")
