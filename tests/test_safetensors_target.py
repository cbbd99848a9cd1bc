"""The safetensors target: a checkpoint that ``transformers`` takes for one of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from skinedge.bundle import load_target
from skinedge.errors import QuantizeError, TargetError
from skinedge.model.names import EMBEDDING, HEAD
from skinedge.model.tiny import Size, make_model
from skinedge.targets import safetensors as target
from skinedge.targets._contract import ExportOptions, Written
from skinedge.weights import safetensors
from skinedge.weights.cast import FLOATS
from skinedge.weights.checkpoint import Checkpoint, open_checkpoint
from skinedge.weights.merge import lay_out, merge
from skinedge.weights.safetensors import SafetensorsFile
from skinedge.weights.source import tensor
from skinedge.weights.stream import Quiet

INDEX = "model.safetensors.index.json"


def write(checkpoint: Checkpoint, folder: Path, scheme: str = "as-stored", workers: int = 2) -> Written:
    folder.mkdir()
    return target.write(checkpoint, ExportOptions(scheme, workers=workers), folder, Quiet())


def sizes(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_size for p in folder.iterdir()}


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path, tiny_branch: Path, tiny_lora: Path) -> Checkpoint:
    return open_checkpoint(tiny_model, [tiny_lora, tiny_branch])


@pytest.fixture(scope="module")
def merged(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged") / "out"
    write(checkpoint, folder)
    return folder


def test_the_plan_is_what_is_written(checkpoint: Checkpoint, merged: Path) -> None:
    assert target.plan(checkpoint, ExportOptions("as-stored")).files == sizes(merged)
    assert load_target("safetensors").RUNS is False


def test_transformers_misses_nothing(merged: Path, checkpoint: Checkpoint) -> None:
    transformers = pytest.importorskip("transformers")
    _, report = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(merged, output_loading_info=True)
    assert checkpoint.side_branch is not None
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert set(report["unexpected_keys"]) == set(checkpoint.side_branch.source.names())
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
    assert tokenizer.decode(tokenizer("a lesion")["input_ids"]) == "a lesion"


def test_side_branch_has_the_last_shard_to_itself(merged: Path, checkpoint: Checkpoint) -> None:
    assert checkpoint.side_branch is not None
    last = SafetensorsFile(merged / "model-00002-of-00002.safetensors")
    assert last.names() == checkpoint.side_branch.source.names()
    again = open_checkpoint(merged)
    assert again.side_branch is not None
    assert again.side_branch.shape == checkpoint.side_branch.shape
    for name, value in checkpoint.side_branch.weights().items():
        np.testing.assert_array_equal(again.side_branch.weights()[name], value)


def test_index_names_every_tensor(merged: Path) -> None:
    index = json.loads((merged / INDEX).read_text())
    files = {p.name: SafetensorsFile(p) for p in merged.glob("*.safetensors")}
    assert index["weight_map"] == {name: file for file, f in files.items() for name in f.names()}
    assert index["metadata"]["total_size"] == sum(f.spec(n).nbytes for f in files.values() for n in f.names())


def test_small_shards(tiny_model: Path, tmp_path: Path) -> None:
    layout = lay_out(open_checkpoint(tiny_model), max_shard=1_500_000)
    (tmp_path / "out").mkdir()
    digests = merge(layout, tmp_path / "out", workers=1)
    assert len(digests) == len(layout.shards) > 4
    assert next(iter(layout.shards)) == f"model-00001-of-{len(digests):05d}.safetensors"
    assert layout.sizes == sizes(tmp_path / "out")
    for tensors in layout.shards.values():
        assert len(tensors) == 1 or sum(t.spec.nbytes for t in tensors) <= 1_500_000
    same_weights(tmp_path / "out", tiny_model)


def same_weights(a: Path, b: Path) -> None:
    one, other = open_checkpoint(a).weights, open_checkpoint(b).weights
    assert set(one.names()) == set(other.names())
    for name in one.names():
        np.testing.assert_array_equal(one.read(name), other.read(name))


def test_one_file_when_it_fits(tiny_model: Path, tmp_path: Path) -> None:
    write(open_checkpoint(tiny_model), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").glob("model*")] == ["model.safetensors"]
    assert (tmp_path / "out" / "config.json").read_bytes() == (tiny_model / "config.json").read_bytes()
    same_weights(tmp_path / "out", tiny_model)


def test_same_input_same_bytes(checkpoint: Checkpoint, merged: Path, tmp_path: Path) -> None:
    import hashlib

    written = write(checkpoint, tmp_path / "again", workers=1)
    for path in merged.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    for file, digest in written.digests.items():
        assert hashlib.sha256((merged / file).read_bytes()).hexdigest() == digest


def test_spelling_of_the_base_is_kept(tiny_model: Path, tmp_path: Path) -> None:
    from skinedge.model.names import in_memory

    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    for path in model.glob("*.safetensors"):
        file = SafetensorsFile(path)
        tensors = {in_memory(n): tensor(file, n).copy() for n in file.names()}
        del file
        path.unlink()
        safetensors.save(path, tensors)
    (model / INDEX).unlink()
    written = write(open_checkpoint(model), tmp_path / "out")
    assert "model.language_model.norm.weight" in SafetensorsFile(tmp_path / "out" / "model.safetensors").names()
    assert set(written.applied) == set(SafetensorsFile(tmp_path / "out" / "model.safetensors").names())


def test_tied_head_is_not_written_twice(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", Size(tied=True, layers=1, vision_depth=2))
    write(open_checkpoint(model), tmp_path / "out")
    names = SafetensorsFile(tmp_path / "out" / "model.safetensors").names()
    assert EMBEDDING in names
    assert HEAD not in names
    same_weights(tmp_path / "out", model)


@pytest.mark.parametrize("scheme", ["f32", "f16", "bf16"])
def test_cast(checkpoint: Checkpoint, merged: Path, tmp_path: Path, scheme: str) -> None:
    written = write(checkpoint, tmp_path / "out", scheme)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[scheme]
    assert written.applied[HEAD].scheme == scheme
    assert written.applied["logit_bias_scale"].scheme == "f32"  # the side branch is never cast
    before, after = open_checkpoint(merged).weights, open_checkpoint(tmp_path / "out").weights
    for name in before.names():
        assert after.spec(name).dtype == FLOATS[scheme]
        np.testing.assert_array_equal(after.read(name), before.read(name).astype(FLOATS[scheme]))


def test_older_dtype_key_is_kept_true(tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    config["text_config"]["torch_dtype"] = "bfloat16"
    (model / "config.json").write_text(json.dumps(config))
    write(open_checkpoint(model), tmp_path / "out", "f16")
    cast = json.loads((tmp_path / "out" / "config.json").read_text())
    assert cast["torch_dtype"] == cast["text_config"]["torch_dtype"] == "float16"


def test_weight_too_large_for_f16(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", Size(layers=1, vision_depth=2), shards=1)
    path = next(model.glob("*.safetensors"))
    file = SafetensorsFile(path)
    tensors = {n: tensor(file, n).copy() for n in file.names()}
    del file
    tensors["model.layers.0.mlp.up_proj.weight"][300, 4] = 70000
    path.unlink()
    safetensors.save(path, tensors)
    with pytest.raises(QuantizeError, match=r"tensor 'model\.layers\.0\.mlp\.up_proj\.weight' holds 70144, which 16-bit floats"):
        write(open_checkpoint(model), tmp_path / "out", "f16")


def test_it_does_not_run(merged: Path) -> None:
    with pytest.raises(TargetError, match="holds weights for transformers") as e:
        load_target("safetensors").open_session(merged, None, None)  # type: ignore[arg-type]
    assert "skinedge export --target onnx" in e.value.hint
