"""Whatever is wrong with the weights, every command that reads them ends in one sentence and leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import typed
from test_disk import disk

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import known_targets, load_target
from skinedge.calibration.plan import layer_shapes
from skinedge.calibration.statistics import (
    STATISTICS_FILE,
    Calibration,
    CalibrationRecord,
    LinearInputs,
    write,
    write_layers,
)
from skinedge.errors import CalibrationError, CheckpointError
from skinedge.model.config import read_config
from skinedge.model.tiny import Size, make_lora, make_model
from skinedge.parity.pictures import make_picture
from skinedge.staging import staged_file
from skinedge.weights.safetensors import SafetensorsFile, save
from skinedge.weights.source import F32, Array

pytest.importorskip("onnx_ir")
pytest.importorskip("gguf")

SMALL = Size(
    vocab=512, hidden=256, intermediate=512, layers=2, vision_hidden=64, vision_intermediate=172, vision_depth=2,
    vision_heads=2, vision_full=(1,),
)  # fmt: skip
# In the last rows of a matrix in the middle: much has been written when it is met.
SPOILT = "model.layers.1.mlp.up_proj.weight"
KNOWN = "model.layers.1.mlp.down_proj.weight"  # its inputs are those of no other matrix


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("good") / "model", SMALL, shards=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One photograph with its narrative."""
    folder = tmp_path_factory.mktemp("data")
    make_picture(120, 90, 0).save(folder / "1.png")
    (folder / "1.txt").write_text("A waxy plaque. The answer is nevus.", encoding="utf-8")
    return folder


def arrays_of(path: Path) -> dict[str, Array]:
    file = SafetensorsFile(path)
    return {name: np.array(file.read(name)).reshape(file.spec(name).shape) for name in file.names()}


def edited(folder: Path, change: Callable[[dict[str, Array]], None]) -> None:
    (path,) = folder.glob("*.safetensors")
    arrays = arrays_of(path)
    change(arrays)
    path.unlink()
    save(path, arrays)


def nan(model: Path, lora: Path) -> str:
    def change(arrays: dict[str, Array]) -> None:
        arrays[SPOILT][-3, 5] = np.nan

    edited(model, change)
    return f"tensor '{SPOILT}' holds nan at row 509, column 5: it is not a finite number."


def nan_in_the_vision_tower(model: Path, lora: Path) -> str:
    def change(arrays: dict[str, Array]) -> None:
        arrays["visual.blocks.1.attn.qkv.weight"][0, 0] = np.inf

    edited(model, change)
    return "tensor 'visual.blocks.1.attn.qkv.weight' holds inf at row 0, column 0: it is not a finite number."


def unknown_dtype(model: Path, lora: Path) -> str:
    edited(model, lambda arrays: arrays.update({SPOILT: arrays[SPOILT].astype(np.int8)}))
    return f"tensor '{SPOILT}' holds int8, and skinedge starts from 16- or 32-bit floats."


def truncated(model: Path, lora: Path) -> str:
    (path,) = model.glob("*.safetensors")
    with path.open("r+b") as f:
        f.truncate(path.stat().st_size - 1000)
    return f"{path.name}: not a usable safetensors file"


def misshapen_lora(model: Path, lora: Path) -> str:
    other = make_model(model.parent / "other", Size(**{**vars(SMALL), "intermediate": 768}), shards=1)
    shutil.rmtree(lora)
    make_lora(lora, read_config(other))
    shutil.rmtree(other)
    return "is made for a 768x256 weight and 'model.layers.0.mlp.gate_proj.weight' is 512x256."


def nan_in_the_lora(model: Path, lora: Path) -> str:
    def change(arrays: dict[str, Array]) -> None:
        arrays[next(n for n in arrays if n.endswith("layers.1.mlp.up_proj.lora_B.weight"))][3, 1] = np.nan

    edited(lora, change)
    return "up_proj.lora_B.weight' has a value that is not a finite number."


FAULTS = [nan, nan_in_the_vision_tower, unknown_dtype, truncated, misshapen_lora, nan_in_the_lora]


def statistics(folder: Path, model: Path, lora: Path, *, moments: bool = False) -> Path:
    """A calibration of this very checkpoint, of made-up inputs."""
    rng, layers = np.random.default_rng(0), {}
    for shape in layer_shapes(read_config(model), pictures=True, block=64 if moments else None):
        square = np.exp(rng.normal(size=shape.width)).astype(F32)
        moment = np.stack([np.diag(part) for part in square.reshape(-1, shape.block)]) if shape.block else None
        layers[shape.name] = LinearInputs(100, square, np.sqrt(square) * 3, moment)
    digest = AdapterCheckpoint.find(model, [lora]).digest
    write(folder, CalibrationRecord(digest, "1" * 64, 1, 1, 100, dict.fromkeys(layers, 100)), layers.items())
    return folder


# What each command is given beyond the model; {c} is a calibration with second moments, {d} photographs.
COMMANDS = {
    **{f"export-{t}": f"export -t {t} --context 256 -s {load_target(t).DEFAULT_SCHEME}" for t in known_targets()},
    "export-int4-nearest": "export -t onnx -s int4 --rounding nearest",
    "export-int4-scale": "export -t onnx -s int4 --calibration {c} --rounding scale",
    "export-int4-gptq": "export -t onnx -s int4a_b64 --calibration {c} --rounding gptq",
    "export-int8": "export -t onnx -s int8",
    "export-fp8": "export -t trt -s fp8 --context 256",
    "export-nvfp4": "export -t trt -s nvfp4 --context 256",
    "export-q4_k-importances": "export -t gguf -s q4_k_m --calibration {c}",
    "export-iq4_xs": "export -t gguf -s iq4_xs",
    "export-f16": "export -t safetensors -s f16",
    "merge": "merge",
    "calibrate": "calibrate --data {d} --second-moments --quiet",
    "quantize": "quantize --budget 20MB --calibration {c} --data {d}",
    "overflow": "overflow",
}
NEEDS_TORCH = ("calibrate", "quantize", "overflow")
# What is seen when the checkpoint is opened is seen by all alike; a survey looks at large pictures before it meets a weight.
USUAL = (*NEEDS_TORCH, "merge", *(f"export-{t}" for t in known_targets()))
LATE = (nan, nan_in_the_vision_tower)
CASES = [(f, c) for f in FAULTS for c in COMMANDS if (f is nan or c in USUAL) and not (f in LATE and c == "overflow")]


@pytest.mark.parametrize(("fault", "command"), CASES, ids=[f"{f.__name__}-{c}" for f, c in CASES])
def test_one_sentence_and_nothing_half_written(
    fault: Callable[[Path, Path], str], command: str, good: Path, data: Path, tmp_path: Path
) -> None:
    if command in NEEDS_TORCH:
        pytest.importorskip("transformers")
    model, lora, work = tmp_path / "in" / "model", tmp_path / "in" / "lora", tmp_path / "out"
    work.mkdir()
    shutil.copytree(good, model)
    make_lora(lora, read_config(model))
    said = fault(model, lora)
    calibration = statistics(tmp_path / "in" / "calibration", model, lora, moments=True) if "{c}" in COMMANDS[command] else None
    words = COMMANDS[command].format(c=calibration, d=data).split()
    done = typed(*words, "--model", model, "--adapter", lora, "--out", work / "made")
    assert done.code == 1, done
    assert done.err.count("error: ") == 1
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.err.split(said)[1].strip(), "there is no hint"
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize(
    "words", ["export -t onnx -s int4 --rounding scale", "export -t onnx -s int4", "export -t gguf -s q4_k_m", "imatrix"]
)
def test_statistics_that_cannot_be(value: float, words: str, good: Path, tmp_path: Path) -> None:
    """NaN importances would make every scale of a block NaN, and negative ones turn the search round."""
    lora, work = make_lora(tmp_path / "lora", read_config(good)), tmp_path / "out"
    folder = statistics(tmp_path / "calibration", good, lora, moments="scale" not in words)
    edited(folder, lambda arrays: arrays[f"{KNOWN}.mean_square"].__setitem__(7, value))
    work.mkdir()
    if words == "imatrix":
        done = typed("imatrix", folder, "--model", good, "--adapter", lora, "--out", work / "made")
    else:
        done = typed(*words.split(), "--model", good, "--adapter", lora, "--calibration", folder, "--out", work / "made")
    assert done.code == 1
    assert f"{folder / STATISTICS_FILE}: what it says of '{KNOWN}' is no mean of squares. Calibrate again." in " ".join(
        done.err.split()
    )
    assert list(work.iterdir()) == []


def test_second_moments_that_cannot_be(good: Path, tmp_path: Path) -> None:
    lora = make_lora(tmp_path / "lora", read_config(good))
    folder = statistics(tmp_path / "calibration", good, lora, moments=True)
    edited(folder, lambda arrays: arrays[f"{KNOWN}.second_moment"].__setitem__((0, 1, 1), np.nan))
    with pytest.raises(CheckpointError, match="is no mean of squares"):
        Calibration.open(folder).inputs(KNOWN)


def test_a_model_that_overflows_float32_is_not_calibrated(tmp_path: Path) -> None:
    shapes = layer_shapes(read_config(make_model(tmp_path / "model", SMALL, shards=1)), pictures=True)[:1]
    bad = LinearInputs(1, np.full(shapes[0].width, np.inf, F32), np.ones(shapes[0].width, F32))
    with pytest.raises(CalibrationError, match=rf"what '{shapes[0].name}' is given is not finite on these records"):
        write_layers(tmp_path, CalibrationRecord("m", "d", 1, 1, 1, {}), shapes, [(shapes[0].name, bad)])


def test_a_calibration_for_which_the_disk_is_too_small(good: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with disk(tmp_path / "disk", 64 << 10) as folder:
        done = typed("calibrate", "--model", good, "--data", data, "--second-moments", "--quiet", "--out", folder / "deep" / "c")
        assert done.code == 1
        assert f"error: {folder / 'deep' / 'c'} could not be written: the disk ran full." in done.err
        assert "Free some space or choose another disk with --out." in done.err
        assert list(folder.iterdir()) == []


def test_a_file_that_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    left, alive = tmp_path / ".plan.json.partial-4194999", tmp_path / ".plan.json.partial-1"
    for path in (left, alive):
        path.write_bytes(b"{")
    with staged_file(tmp_path / "plan.json") as f:
        f.write(b"{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".plan.json.partial-1", "plan.json"]
