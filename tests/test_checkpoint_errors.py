"""Bad checkpoints: each is named for what it is, and nothing but a ``CheckpointError`` ever comes out."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from skinedge.errors import CheckpointError
from skinedge.model.names import EMBEDDING, HEAD, in_memory
from skinedge.model.tiny import Size, make_model
from skinedge.weights import safetensors
from skinedge.weights.checkpoint import open_checkpoint
from skinedge.weights.safetensors import SafetensorsFile
from skinedge.weights.source import BF16, F32, row_blocks, tensor

SMALL = Size(vocab=512, hidden=64, intermediate=96, layers=1, heads=2, kv_heads=1, mrope=(4, 6, 6), vision_hidden=32,
             vision_intermediate=42, vision_depth=2, vision_heads=2)  # fmt: skip
INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("good") / "model", SMALL)


@pytest.fixture
def model(good: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(good, tmp_path / "model"))


def edit_json(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def edit_tensors(path: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    file = SafetensorsFile(path)
    tensors = change({n: tensor(file, n).copy() for n in file.names()})
    del file
    path.unlink()
    safetensors.save(path, tensors)


def expect(model: Path, words: str, hint: str = "") -> None:
    with pytest.raises(CheckpointError, match=words) as e:
        open_checkpoint(model)
    assert hint in e.value.hint


# --- the folder ---------------------------------------------------------------------------------------------------


def test_the_good_one_opens(good: Path) -> None:
    assert len(open_checkpoint(good).weights.names()) == 45


def test_no_folder(tmp_path: Path) -> None:
    expect(tmp_path / "nowhere", r"nowhere.config\.json is missing", "Point --model at the checkpoint's folder")


def test_no_such_adapter(good: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: no such folder or file"):
        open_checkpoint(good, [tmp_path / "nowhere"])


def test_missing_shard(model: Path) -> None:
    (model / SECOND).unlink()
    expect(model, rf"{SECOND} is missing: {INDEX} lists 2 shards", "Copy the missing shard")


def test_pickle_only(model: Path) -> None:
    for path in (*model.glob("*.safetensors"), model / INDEX):
        path.unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    expect(model, r"pytorch_model\.bin is a pickle file, which can run code when it is opened", "safe_serialization=True")


def test_no_weights_at_all(model: Path) -> None:
    for path in (*model.glob("*.safetensors"), model / INDEX):
        path.unlink()
    expect(model, r"there is no \.safetensors file in it")


def test_loose_shards_without_an_index(model: Path, good: Path) -> None:
    (model / INDEX).unlink()
    assert open_checkpoint(model).weights.names() == open_checkpoint(good).weights.names()


def test_a_folder_of_links_opens(good: Path, tmp_path: Path) -> None:
    """The Hugging Face cache is made of links into another folder."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    try:
        for path in good.iterdir():
            (snapshot / path.name).symlink_to(path)
    except OSError:
        pytest.skip("this system lets us make no links")
    assert open_checkpoint(snapshot).weights.names() == open_checkpoint(good).weights.names()


# --- the index ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["../elsewhere.safetensors", "/etc/passwd", "..\\x.safetensors", "C:\\x.safetensors", "a/b"])
def test_index_that_points_outside(model: Path, place: str) -> None:
    edit_json(model / INDEX, lambda raw: {"weight_map": dict.fromkeys(raw["weight_map"], place)})
    expect(model, "lies outside the folder")


@pytest.mark.parametrize("weight_map", [None, [], {}, "x", {"a": 1}, {"a": ["b"]}, {"a": None}])
def test_index_that_is_no_table(model: Path, weight_map: object) -> None:
    edit_json(model / INDEX, lambda raw: {"weight_map": weight_map})
    expect(model, r"its 'weight_map' is not a table of tensors and shards")


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00"])
def test_index_that_is_no_json(model: Path, text: str) -> None:
    (model / INDEX).write_text(text)
    expect(model, "not JSON|not a JSON object")


def test_index_that_lists_a_tensor_that_is_not_there(model: Path) -> None:
    edit_json(model / INDEX, lambda raw: {"weight_map": raw["weight_map"] | {"model.ghost": FIRST}})
    expect(model, rf"{FIRST}: tensor 'model\.ghost' is listed in {INDEX} and not there")


def test_duplicate_tensor_in_two_shards(model: Path) -> None:
    edit_tensors(model / SECOND, lambda t: t | {EMBEDDING: np.zeros((512, 64), BF16)})
    expect(model, rf"{SECOND}: tensor '{EMBEDDING}' is also in {FIRST}")


# --- the tensors --------------------------------------------------------------------------------------------------


def test_one_tensor_in_two_spellings(model: Path) -> None:
    edit_tensors(model / FIRST, lambda t: t | {in_memory(EMBEDDING): t[EMBEDDING]})
    expect(model, rf"tensors '{EMBEDDING}' and '{in_memory(EMBEDDING)}' are the same tensor in two spellings")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weight_that_is_no_number(model: Path, value: float) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors["model.norm.weight"][7] = value
        tensors[HEAD][33, 5] = value
        return tensors

    edit_tensors(model / SECOND, spoil)
    weights = open_checkpoint(model).weights
    with pytest.raises(CheckpointError, match=rf"tensor 'model\.norm\.weight' holds {value} at row 7, column 0"):
        weights.read("model.norm.weight")
    weights.read(HEAD, slice(0, 32))
    with pytest.raises(CheckpointError, match=rf"tensor '{HEAD}' holds {value} at row 33, column 5"):
        weights.read(HEAD, slice(32, 64), slice(4, 8))


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.float64, np.bool_])
def test_weight_of_another_type(model: Path, dtype: type) -> None:
    edit_tensors(model / SECOND, lambda t: t | {"model.norm.weight": np.zeros(64, dtype)})
    expect(model, rf"tensor 'model\.norm\.weight' holds {np.dtype(dtype)}, and skinedge starts from 16- or 32-bit floats")


@pytest.mark.parametrize("shape", [(63,), (64, 1), (), (0,)])
def test_misshapen_tensor(model: Path, shape: tuple[int, ...]) -> None:
    edit_tensors(model / SECOND, lambda t: t | {"model.norm.weight": np.zeros(shape, F32)})
    expect(model, r"tensor 'model\.norm\.weight' has shape \(.*\) where config\.json implies \(64,\)")


def test_tied_model_with_an_untied_head(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", Size(**{**vars(SMALL), "tied": True}), shards=1)
    edit_tensors(next(model.glob("*.safetensors")), lambda t: t | {HEAD: t[EMBEDDING] + np.array(1, BF16)})
    (model / INDEX).unlink()
    expect(model, "config.json ties lm_head to the embedding and the two differ")


def test_tied_model_with_only_a_head(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", Size(**{**vars(SMALL), "tied": True}), shards=1)
    edit_tensors(next(model.glob("*.safetensors")), lambda t: {HEAD if n == EMBEDDING else n: v for n, v in t.items()})
    (model / INDEX).unlink()
    expect(model, rf"tensor '{EMBEDDING}' is missing")


# --- the configuration --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c | {"model_type": "llava"}, "model_type is 'llava' and skinedge exports 'qwen2_5_vl'"),
        (lambda c: c | {"quantization_config": {"quant_method": "awq"}}, r"already quantized \(awq\)"),
        (lambda c: c | {"vision_config": None}, "a setting has an impossible value"),
        (lambda c: {k: v for k, v in c.items() if k != "image_token_id"}, "the setting 'image_token_id' is missing"),
        (lambda c: c | {"text_config": c["text_config"] | {"hidden_size": "big"}}, "a setting has an impossible value"),
        (lambda c: c | {"text_config": c["text_config"] | {"head_dim": None, "num_attention_heads": 0}}, "impossible value"),
        (lambda c: c | {"text_config": c["text_config"] | {"hidden_act": "gelu"}}, "hidden_act is 'gelu'"),
        (lambda c: c | {"text_config": c["text_config"] | {"use_sliding_window": True}}, "use_sliding_window is True"),
        (lambda c: c | {"text_config": c["text_config"] | {"num_hidden_layers": 2}}, r"tensor 'model\.layers\.1\..*' is missing"),
        (lambda c: c | {"text_config": c["text_config"] | {"num_hidden_layers": 0}}, r"'model\.layers\.0\..*' is unexpected"),
    ],
)  # fmt: skip
def test_configuration(model: Path, change: Callable[[dict[str, Any]], dict[str, Any]], words: str) -> None:
    edit_json(model / "config.json", change)
    expect(model, words)


# --- the bytes of a shard -----------------------------------------------------------------------------------------


def entry(dtype: str = "F32", shape: object = (2, 2), offsets: object = (0, 16)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def write(path: Path, header: object, data: int = 16, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(data))
    return path


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1, -4096])
def test_truncated_shard(model: Path, keep: int) -> None:
    data = (model / FIRST).read_bytes()
    (model / FIRST).write_bytes(data[:keep])
    expect(model, rf"{FIRST}: not a usable safetensors file", "Copy it again")


def test_trailing_bytes(model: Path) -> None:
    with (model / FIRST).open("ab") as f:
        f.write(b"\0")
    expect(model, r"its tensors cover \d+ bytes and the file holds \d+")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": entry(offsets=(0, 12))}, r"tensor 'a' needs 16 bytes and its offsets give \[0, 12\]"),
        ({"a": entry(offsets=(16, 0))}, r"its offsets give \[16, 0\]"),
        ({"a": entry(offsets=(8, 24))}, "tensor 'a' ends at byte 24 and the file holds 16; it is cut short"),
        ({"a": entry(shape=(1 << 40, 1 << 40), offsets=(0, 16))}, r"tensor 'a' needs \d+ bytes"),
        ({"a": entry(shape=[1 << 62] * 64)}, r"tensor 'a' needs \d+ bytes"),
        ({"a": entry(shape=[1] * 65)}, "negative, fractional or impossible"),
        ({"a": entry(shape=(1 << 64, 0), offsets=(0, 0))}, "negative, fractional or impossible"),
        ({"a": entry(shape=(-2, -2))}, "negative, fractional or impossible"),
        ({"a": entry(shape=(2.0, 2))}, "negative, fractional or impossible"),
        ({"a": entry(shape=(True, 4))}, "negative, fractional or impossible"),
        ({"a": entry(offsets=(-16, 0))}, "negative, fractional or impossible"),
        ({"a": entry(shape=None)}, "the header entry of tensor 'a' is malformed"),
        ({"a": entry(shape="22")}, "malformed"),
        ({"a": entry(offsets=(0, 8, 16))}, "malformed"),
        ({"a": {"dtype": "F32"}}, "malformed"),
        ({"a": 5}, "malformed"),
        ({"a": entry("F32", (2,), (0, 8)), "b": entry("F32", (2,), (4, 12))}, "tensor 'b' starts at byte 4 where 8 was due"),
        ({"a": entry("F32", (2,), (0, 8)), "b": entry("F32", (1,), (12, 16))}, "tensor 'b' starts at byte 12 where 8 was due"),
        ({"a": entry("F32", (2,), (0, 8))}, "its tensors cover 8 bytes and the file holds 16"),
        ({"a": entry("Q4_0")}, "tensor 'a' has type Q4_0, which skinedge does not read"),
        ({"__metadata__": 3, "a": entry()}, "its metadata is not a table of texts"),
        ({"__metadata__": {"x": 3}, "a": entry()}, "its metadata is not a table of texts"),
        ([1], "its header is not a JSON object"),
        (b'{"a": 1, "a": 2}', "its header is not JSON of distinct names"),
        (b"[" * 100_000, "its header is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "its header is not JSON"),
        (b"\xff\xfe", "its header is not JSON"),
        (b"", "its header is not JSON"),
    ],
)
def test_header_that_lies(tmp_path: Path, header: object, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        SafetensorsFile(write(tmp_path / "x.safetensors", header))


@pytest.mark.parametrize("length", [17, 1 << 31, (1 << 64) - 1])
def test_header_length_that_lies(tmp_path: Path, length: int) -> None:
    with pytest.raises(CheckpointError, match=rf"its header claims {length} bytes and the file holds 16"):
        SafetensorsFile(write(tmp_path / "x.safetensors", b"", length=length))


def test_folder_called_safetensors(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"it cannot be read|not a usable"):
        SafetensorsFile(tmp_path / "x.safetensors")


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3, 4)])
def test_every_shape_is_read_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    value = np.arange(np.prod(shape, dtype=int), dtype=F32).reshape(shape)
    safetensors.save(tmp_path / "x.safetensors", {"odd": np.zeros(3, np.uint8), "a": value})  # "a" lies at an odd offset
    np.testing.assert_array_equal(tensor(SafetensorsFile(tmp_path / "x.safetensors"), "a"), value)


NUMBERS = (
    st.integers(-3, 70) | st.sampled_from([1 << 31, 1 << 63, 1 << 64, 10**30]) | st.floats() | st.none() | st.text(max_size=2)
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F8_E4M3", "BOOL", "x"]) | NUMBERS,
        "shape": st.lists(NUMBERS, max_size=4) | NUMBERS,
        "data_offsets": st.lists(NUMBERS, max_size=3) | NUMBERS,
        "more": NUMBERS,
    },
)
HEADERS = st.dictionaries(st.sampled_from(["a", "b", "__metadata__", ""]), ENTRIES | NUMBERS, max_size=3)


@given(header=HEADERS, data=st.integers(0, 40))
@example(header={}, data=0)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_header_crashes_the_reader(tmp_path: Path, header: dict[str, object], data: int) -> None:
    """Either every tensor can be read, or a ``CheckpointError`` says why not."""
    try:
        file = SafetensorsFile(write(tmp_path / "x.safetensors", header, data))
    except CheckpointError:
        return
    assert sum(tensor(file, name).nbytes for name in file.names()) == data


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_byte_crashes_the_reader(tmp_path: Path, data: st.DataObject) -> None:
    tensors = {"model.a": np.ones((3, 4), F32), "b": np.zeros(5, BF16)}
    path = tmp_path / "x.safetensors"
    path.unlink(missing_ok=True)
    safetensors.save(path, tensors, {"format": "pt"})
    content = bytearray(path.read_bytes())
    header = len(content) - sum(t.nbytes for t in tensors.values())
    for _ in range(data.draw(st.integers(1, 3), label="flips")):
        content[data.draw(st.integers(0, header - 1), label="place")] = data.draw(st.integers(0, 255), label="byte")
    path.unlink()
    path.write_bytes(content)
    try:
        file = SafetensorsFile(path)
    except CheckpointError:
        return
    assert sum(tensor(file, name).nbytes for name in file.names()) == len(content) - header


@given(weights=st.dictionaries(st.text(max_size=8), st.text(max_size=8) | NUMBERS, max_size=3))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_index_crashes_the_reader(good: Path, tmp_path: Path, weights: dict[str, object]) -> None:
    shutil.copyfile(good / "config.json", tmp_path / "config.json")
    shutil.copyfile(good / "generation_config.json", tmp_path / "generation_config.json")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)


def test_reading_in_blocks_is_reading_at_once(good: Path) -> None:
    source = open_checkpoint(good).weights
    for name in source.names():
        spec = source.spec(name)
        blocks = [source.read(name, rows) for rows in row_blocks(spec, block_bytes=4096)]
        np.testing.assert_array_equal(np.concatenate(blocks), source.read(name))
