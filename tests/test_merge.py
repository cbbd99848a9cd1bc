"""A LoRA merged while it is read, against PEFT's own ``merge_and_unload``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinedge.errors import AdapterError, CheckpointError
from skinedge.model.config import read_config
from skinedge.model.names import EMBEDDING, HEAD, canonical, in_memory
from skinedge.model.tiny import Size, make_lora, make_model
from skinedge.weights import safetensors
from skinedge.weights.checkpoint import Checkpoint, open_checkpoint
from skinedge.weights.lora import LowRank
from skinedge.weights.merge import lay_out, merge
from skinedge.weights.safetensors import SafetensorsFile
from skinedge.weights.source import BF16, F16, F32, Array, row_blocks, tensor

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

# PEFT warns of choices that these tests make on purpose (embeddings saved, adapters stacked).
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*")

LANGUAGE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VISION = ["qkv", "attn.proj", "merger.mlp.0", "merger.mlp.2"]
CASES: dict[str, dict[str, Any]] = {
    "language and vision": {"target_modules": LANGUAGE + VISION},
    "rank 64": {"target_modules": LANGUAGE + VISION, "r": 64, "lora_alpha": 16},
    "rank-stabilised": {"target_modules": LANGUAGE + VISION, "use_rslora": True, "r": 6},
    "patterns": {
        "target_modules": LANGUAGE + VISION,
        "rank_pattern": {"layers.1.self_attn.q_proj": 3, r"blocks\.[02]\.attn\.qkv": 5},
        "alpha_pattern": {"gate_proj": 7, "model.visual.blocks.1.mlp.gate_proj": 9, "layers.0.mlp.up_proj": 1},
    },
    "modules to save": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm", "merger.mlp.0"]},
    "biases of adapted layers": {"target_modules": ["q_proj", "v_proj", "qkv"], "bias": "lora_only"},
    "all biases": {"target_modules": ["q_proj", "attn.proj"], "bias": "all"},
    "embedding and head": {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    "patch embedding": {"target_modules": ["patch_embed.proj", "qkv"]},
    "an orthogonal start": {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"},
}


def load_model(folder: Path) -> Any:
    return transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype="auto").eval()


def train_by_chance(model: Path, folder: Path, seed: int = 0, **config: Any) -> Path:
    """An adapter as PEFT saves it: everything trainable has moved, at random."""
    adapted = peft.get_peft_model(load_model(model), peft.LoraConfig(**({"r": 8, "lora_alpha": 16} | config)))
    torch.manual_seed(seed)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.05
    adapted.save_pretrained(folder)
    return folder


def merged_by_peft(model: Path, *adapters: Path) -> Any:
    adapted = peft.PeftModel.from_pretrained(load_model(model), str(adapters[0]), adapter_name="0")
    for i, path in enumerate(adapters[1:], 1):
        adapted.load_adapter(str(path), adapter_name=str(i))
    return adapted.merge_and_unload(adapter_names=[str(i) for i in range(len(adapters))])


def values(model: Any) -> dict[str, Array]:
    """The tensors of a torch model under their canonical names."""
    bits = {torch.bfloat16: (torch.int16, BF16), torch.float16: (torch.int16, F16), torch.float32: (torch.int32, F32)}
    found = {}
    for name, t in model.state_dict().items():
        as_int, dtype = bits[t.dtype]
        found[canonical(name)] = t.contiguous().view(as_int).numpy().view(dtype)
    return found


def ulps(a: Array, b: Array) -> np.ndarray:
    """Distance in units in the last place: how many representable numbers lie between."""
    return np.abs(_order(a) - _order(b))


def _order(a: Array) -> np.ndarray:
    signed, size = {2: (np.int16, 15), 4: (np.int32, 31)}[a.dtype.itemsize]
    bits = np.ascontiguousarray(a).view(signed).astype(np.int64)
    return np.where(bits < 0, -(bits & ((1 << size) - 1)), bits)


def compare(ours: Checkpoint, theirs: dict[str, Array], label: str) -> int:
    """Print how many elements differ and by how much; return the largest distance."""
    assert set(ours.weights.names()) == set(theirs)
    distances = np.concatenate([ulps(tensor(ours.weights, name), theirs[name]).ravel() for name in theirs])
    print(f"{label}: {np.count_nonzero(distances)} of {len(distances)} elements differ, at most {distances.max()} ulp")
    return int(distances.max())


def written(checkpoint: Checkpoint, folder: Path, **layout: Any) -> Path:
    folder.mkdir()
    merge(lay_out(checkpoint, **layout), folder, workers=2)
    return folder


def read_all(checkpoint: Checkpoint) -> None:
    for name in checkpoint.weights.names():
        for rows in row_blocks(checkpoint.weights.spec(name)):
            checkpoint.weights.read(name, rows)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smaller than ``tiny_model``: PEFT saves, loads and merges it many times."""
    return make_model(tmp_path_factory.mktemp("small") / "model", Size(layers=2, vision_depth=3))


# --- equal to PEFT ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_merge_equals_peft(small_model: Path, tmp_path: Path, case: str) -> None:
    adapter = train_by_chance(small_model, tmp_path / "lora", **CASES[case])
    checkpoint = open_checkpoint(small_model, [adapter])
    model = merged_by_peft(small_model, adapter)
    assert compare(checkpoint, values(model), case) <= 1
    checkpoint.ledger.settle()

    reloaded = load_model(written(checkpoint, tmp_path / "merged"))
    np.testing.assert_allclose(logits(reloaded), logits(model), rtol=0, atol=1e-6)
    assert not np.allclose(logits(model), logits(load_model(small_model)), rtol=0, atol=1e-2)


@pytest.mark.parametrize("dtype", [F16, F32])
def test_merge_equals_peft_in_other_types(tmp_path: Path, dtype: np.dtype) -> None:
    model = make_model(tmp_path / "model", Size(layers=2, vision_depth=2), dtype=dtype)
    adapter = make_lora(tmp_path / "lora", read_config(model))
    assert compare(open_checkpoint(model, [adapter]), values(merged_by_peft(model, adapter)), str(dtype)) <= 1


def test_two_adapters_stack_as_in_peft(small_model: Path, tmp_path: Path) -> None:
    adapters = [
        make_lora(tmp_path / "first", read_config(small_model)),
        train_by_chance(small_model, tmp_path / "second", seed=1, target_modules=["q_proj", "qkv"]),
    ]
    checkpoint = open_checkpoint(small_model, adapters)
    assert compare(checkpoint, values(merged_by_peft(small_model, *adapters)), "two adapters") <= 1
    checkpoint.ledger.settle()


def logits(model: Any) -> np.ndarray:
    ids = torch.arange(300, 340)[None]
    ids[0, 5:29] = model.config.image_token_id
    patches = torch.randn(96, 1176, generator=torch.Generator().manual_seed(0))
    kinds = (ids == model.config.image_token_id).int()
    grid = torch.tensor([[1, 8, 12]])
    with torch.inference_mode():
        out = model.float()(input_ids=ids, pixel_values=patches, image_grid_thw=grid, mm_token_type_ids=kinds)
    result: np.ndarray = out.logits[0].numpy()
    return result


# --- the stream ---------------------------------------------------------------------------------------------------


def test_merging_first_gives_the_same_bits(tiny_model: Path, tiny_lora: Path, tmp_path: Path) -> None:
    adapted = open_checkpoint(tiny_model, [tiny_lora])
    merged = open_checkpoint(written(adapted, tmp_path / "merged", max_shard=3_000_000))
    assert merged.weights.names() == adapted.weights.names()
    for name in adapted.weights.names():
        a, b = tensor(adapted.weights, name), tensor(merged.weights, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_values_do_not_depend_on_the_cut(data: st.DataObject) -> None:
    rows, cols, rank = (data.draw(st.integers(1, n), label=label) for n, label in ((90, "rows"), (70, "cols"), (20, "rank")))
    rng = np.random.default_rng(rows * cols + rank)
    a, b = rng.standard_normal((rank, cols), np.float32), rng.standard_normal((rows, rank), np.float32)
    update, zeros = LowRank(a, b, 0.5, ("a", "b")), np.zeros((rows, cols), F32)
    whole = update.added_to(zeros, slice(None), slice(None))
    top, left = data.draw(st.integers(0, rows - 1), label="top"), data.draw(st.integers(0, cols - 1), label="left")
    bottom = data.draw(st.integers(top + 1, rows), label="bottom")
    right = data.draw(st.integers(left + 1, cols), label="right")
    part = update.added_to(zeros[top:bottom, left:right], slice(top, bottom), slice(left, right))
    np.testing.assert_array_equal(part, whole[top:bottom, left:right])
    np.testing.assert_allclose(whole, 0.5 * (b.astype(np.float64) @ a), rtol=0, atol=1e-5)


def test_adapters_in_either_spelling(small_model: Path, tmp_path: Path) -> None:
    """An adapter trained under transformers 4.49 names its layers, and its patterns, as the released checkpoint does."""
    alpha = {"model.language_model.layers.1.mlp.up_proj": 99.0, "model.visual.blocks.2.attn.qkv": 77.0}
    new = make_lora(tmp_path / "new", read_config(small_model), alpha_pattern=alpha)
    old = make_lora(tmp_path / "old", read_config(small_model), alpha_pattern={canonical(n): v for n, v in alpha.items()})
    edit_weights(old, lambda t: {"base_model.model." + canonical(n.removeprefix("base_model.model.")): v for n, v in t.items()})
    assert "base_model.model.visual.blocks.0.attn.qkv.lora_A.weight" in SafetensorsFile(old / "adapter_model.safetensors").names()
    theirs = values(merged_by_peft(small_model, new))
    assert compare(open_checkpoint(small_model, [new]), theirs, "new names") <= 1
    assert compare(open_checkpoint(small_model, [old]), theirs, "old names") <= 1

    from skinedge.model.reference import Reference

    for folder in (new, old):  # the reference merges with PEFT, whatever the spelling
        model = Reference.from_checkpoint(small_model, [folder]).model
        for name, value in theirs.items():
            np.testing.assert_array_equal(model.state_dict()[in_memory(name)].numpy(), value.astype(np.float32))


@pytest.mark.parametrize("case", ["patterns", "modules to save", "all biases", "embedding and head"])
def test_reference_merges_as_peft_does(small_model: Path, tmp_path: Path, case: str) -> None:
    from skinedge.model.reference import Reference

    adapter = train_by_chance(small_model, tmp_path / "lora", **CASES[case])
    held = Reference.from_checkpoint(small_model, [adapter]).model.state_dict()
    for name, value in values(merged_by_peft(small_model, adapter)).items():
        np.testing.assert_array_equal(held[in_memory(name)].numpy(), value.astype(np.float32))


# --- full accounting ----------------------------------------------------------------------------------------------


def edit_weights(folder: Path, change: Callable[[dict[str, Array]], dict[str, Array]]) -> None:
    path = folder / "adapter_model.safetensors"
    file = SafetensorsFile(path)
    tensors = change({name: tensor(file, name).copy() for name in file.names()})
    del file
    path.unlink()  # not overwritten: the file may still be mapped
    safetensors.save(path, tensors)


def edit_settings(folder: Path, **settings: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.fixture
def lora(tiny_lora: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(tiny_lora, tmp_path / "spoilt"))


def first(tensors: dict[str, Array], part: str) -> str:
    return next(name for name in tensors if part in name)


def test_every_tensor_is_accounted_for(tiny_model: Path, tiny_lora: Path) -> None:
    checkpoint = open_checkpoint(tiny_model, [tiny_lora])
    names = SafetensorsFile(tiny_lora / "adapter_model.safetensors").names()
    assert len(checkpoint.ledger.entered) == len(names) == 2 * len(checkpoint.loras[0].updates)
    assert len(checkpoint.ledger.open_entries()) == len(names)
    read_all(checkpoint)
    assert checkpoint.ledger.open_entries() == ()
    checkpoint.ledger.settle()


def test_inert_tensors_are_named(tiny_model: Path, lora: Path) -> None:
    edit_weights(lora, lambda t: t | {first(t, "qkv.lora_B"): np.zeros_like(t[first(t, "qkv.lora_B")])})
    checkpoint = open_checkpoint(tiny_model, [lora])
    read_all(checkpoint)
    with pytest.raises(AdapterError, match=r"^2 of 100 adapter tensors changed nothing: .*blocks\.0\.attn\.qkv\.lora_A") as e:
        checkpoint.ledger.settle()
    assert "--allow-inert" in e.value.hint


def test_an_unchanged_module_to_save_is_inert(small_model: Path, tmp_path: Path) -> None:
    adapter = train_by_chance(small_model, tmp_path / "lora", target_modules=["q_proj"], modules_to_save=["lm_head"])
    base = tensor(open_checkpoint(small_model).weights, HEAD)
    edit_weights(adapter, lambda t: t | {first(t, "lm_head"): base})
    checkpoint = open_checkpoint(small_model, [adapter])
    read_all(checkpoint)
    with pytest.raises(AdapterError, match=r"^1 of 5 adapter tensors changed nothing: .*lm_head\.weight"):
        checkpoint.ledger.settle()


def test_the_same_adapter_twice_is_refused(tiny_model: Path, tiny_lora: Path) -> None:
    with pytest.raises(AdapterError, match=r"adapter tensor '.*lora_A\.weight' is given twice"):
        open_checkpoint(tiny_model, [tiny_lora, tiny_lora])


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"use_dora": True}, "'use_dora', which cannot be merged block by block: DoRA rescales each output"),
        ({"fan_in_fan_out": True}, "stored transposed"),
        ({"layer_replication": [[0, 4], [2, 4]]}, "adds layers"),
        ({"target_parameters": ["mlp.experts"]}, "bare parameters"),
        ({"trainable_token_indices": [1, 2]}, "single embedding rows"),
        ({"alora_invocation_tokens": [1]}, "invocation tokens"),
        ({"use_qalora": True}, "A matrix is pooled"),
        ({"lora_bias": True}, "B matrix carries a bias"),
        ({"use_bdlora": {"nblocks": 2}}, "block-diagonal"),
        ({"arrow_config": {"top_k": 3}}, "token by token"),
        ({"kasa_config": {"beta": 1}}, "learned diagonal"),
        ({"monteclora_config": {"num_samples": 4}}, "drawn at random"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', a start that also changes the base weights"),
        ({"init_lora_weights": "pissa_niter_16"}, "also changes the base weights"),
        ({"init_lora_weights": "olora"}, "also changes the base weights"),
        ({"init_lora_weights": "corda"}, "also changes the base weights"),
        ({"init_lora_weights": "loftq"}, "also changes the base weights"),
        ({"use_tomorrows_trick": True}, "sets 'use_tomorrows_trick', which this skinedge does not know"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3' and only 'LORA' can be merged"),
        ({"r": 16}, "have rank 8 and adapter_config.json says 16"),
        ({"rank_pattern": {"q_proj": 4}}, r"'model\.layers\.0\.self_attn\.q_proj' have rank 8 and adapter_config.json says 4"),
        ({"lora_alpha": "much"}, "lora_alpha in adapter_config.json is 'much' and must be a number"),
        ({"alpha_pattern": {"q_proj": None}}, r"alpha_pattern\['q_proj'\] in adapter_config.json is None"),
        ({"alpha_pattern": {"(": 1}}, r"'\(' in adapter_config.json is not a pattern"),
        ({"alpha_pattern": [1]}, "alpha_pattern in adapter_config.json must be a table"),
        ({"bias": "lora_only"}, r"says that biases were trained, and 'visual\.blocks\.0\.attn\.qkv\.bias' is not in the file"),
    ],
)
def test_settings_that_cannot_be_merged(tiny_model: Path, lora: Path, setting: dict[str, object], words: str) -> None:
    edit_settings(lora, **setting)
    with pytest.raises(AdapterError, match=words):
        open_checkpoint(tiny_model, [lora])


@pytest.mark.parametrize(
    "case",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"trainable_token_indices": [5, 6]},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_what_peft_writes_for_them_is_refused(small_model: Path, tmp_path: Path, case: dict[str, Any]) -> None:
    adapter = train_by_chance(small_model, tmp_path / "lora", target_modules=["q_proj"], **case)
    with pytest.raises(AdapterError, match=next(iter(case))):
        open_checkpoint(small_model, [adapter])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t | {"base_model.model.lm_head.lora_C.weight": np.ones(2, F32)}, "of a kind skinedge does not know"),
        (lambda t: {n: v for n, v in t.items() if n != first(t, "lora_A")}, "has no counterpart"),
        (lambda t: {n: v for n, v in t.items() if n != first(t, "lora_B")}, "has no counterpart"),
        (lambda t: t | {first(t, "lora_A"): t[first(t, "lora_A")][:4]}, "have ranks 4 and 8"),
        (lambda t: t | {first(t, "lora_A"): t[first(t, "lora_A")] * np.float32(np.nan)}, "not a finite number"),
        (lambda t: {n.replace("q_proj", "x_proj"): v for n, v in t.items()}, r"x_proj\.weight', which the model does not have"),
        (lambda t: {n.replace("visual", "viscera"): v for n, v in t.items()}, "which the model does not have"),
        (lambda t: t | {"base_model.model.lm_head.weight": np.ones((3, 3), F32)}, r"has shape \(3, 3\) and 'lm_head.weight' has"),
        (lambda t: {}, "it holds no tensors"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(
    tiny_model: Path, lora: Path, change: Callable[[dict[str, Array]], dict[str, Array]], words: str
) -> None:
    edit_weights(lora, change)
    with pytest.raises(AdapterError, match=words):
        open_checkpoint(tiny_model, [lora])


def test_adapter_for_another_size(tiny_model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", Size(hidden=128, mrope=(4, 6, 6)))
    adapter = make_lora(tmp_path / "lora", read_config(other))
    with pytest.raises(AdapterError, match=r"is made for a \d+x\d+ weight and '.*' is \d+x\d+") as e:
        open_checkpoint(tiny_model, [adapter])
    assert "another size" in e.value.hint


def test_adapter_for_more_layers(tiny_model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", Size(layers=5))
    adapter = make_lora(tmp_path / "lora", read_config(other))
    with pytest.raises(AdapterError, match=r"belongs to 'model\.layers\.4\..*', which the model does not have"):
        open_checkpoint(tiny_model, [adapter])


@pytest.mark.parametrize("target", [HEAD, EMBEDDING])
def test_tied_weights_cannot_be_adapted_apart(tmp_path: Path, target: str) -> None:
    model = make_model(tmp_path / "model", Size(tied=True, layers=1, vision_depth=2))
    adapter = make_lora(tmp_path / "lora", read_config(model))
    edit_weights(adapter, lambda t: t | {f"base_model.model.{in_memory(target)}": np.ones((2048, 256), F32)})
    with pytest.raises(AdapterError, match=rf"it adapts {target}, and this model ties lm_head to the embedding"):
        open_checkpoint(model, [adapter])


def test_pickled_adapter_is_refused(tiny_model: Path, lora: Path) -> None:
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is missing") as e:
        open_checkpoint(tiny_model, [lora])
    assert "pickle" in e.value.hint


def test_side_branch_inside_a_lora_folder(tiny_model: Path, tiny_branch: Path, lora: Path) -> None:
    """Trained together and saved together: in a file of its own, or through ``modules_to_save``."""
    side = SafetensorsFile(tiny_branch / "adapter.safetensors")
    tensors = {f"base_model.model.{n}": tensor(side, n) for n in side.names()}
    shutil.copy(side.path, lora / "side.safetensors")
    beside = open_checkpoint(tiny_model, [lora])
    (lora / "side.safetensors").unlink()
    edit_weights(lora, lambda t: t | tensors)
    within = open_checkpoint(tiny_model, [lora])
    for checkpoint in (beside, within):
        assert checkpoint.side_branch is not None
        assert checkpoint.side_branch.shape.experts == 8
        assert len(checkpoint.loras[0].updates) == 50


def test_stray_tensors_in_a_lora_folder_are_refused(tiny_model: Path, lora: Path) -> None:
    safetensors.save(lora / "more.safetensors", {"model.norm.weight": np.ones(256, F32)})
    with pytest.raises(AdapterError, match=r"tensor 'model\.norm\.weight' belongs to no adapter skinedge knows"):
        open_checkpoint(tiny_model, [lora])


def test_second_side_branch_is_refused(tiny_model: Path, tiny_branch: Path) -> None:
    with pytest.raises(AdapterError, match="there is already a side branch"):
        open_checkpoint(tiny_model, [tiny_branch, tiny_branch])
