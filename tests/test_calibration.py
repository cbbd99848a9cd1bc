"""Calibration: what the layers are given, layer by layer as in the whole model; its data, its files, overflow."""

from __future__ import annotations

import contextlib
import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from command_line import typed
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skinedge.artifacts import AdapterCheckpoint
from skinedge.calibration import imatrix
from skinedge.calibration.layers import LayerStream
from skinedge.calibration.overflow import survey
from skinedge.calibration.overflow_report import LIMITS, OverflowReport, Reach
from skinedge.calibration.passes import calibrate
from skinedge.calibration.plan import layer_shapes
from skinedge.calibration.run import Prepared, prepare
from skinedge.calibration.samples import data_digest, read_conversations
from skinedge.calibration.statistics import Calibration, CalibrationRecord, LinearInputs, write
from skinedge.calibration.triggers import TRIGGERS, trigger, trigger_samples
from skinedge.describe import describe_reaches
from skinedge.errors import CalibrationError, SkinedgeError, UsageError
from skinedge.model.config import read_config
from skinedge.model.names import HEAD, canonical
from skinedge.model.tiny import Size, make_model
from skinedge.parity.pictures import make_picture
from skinedge.runtime.session import Prompt
from skinedge.weights.safetensors import SafetensorsFile, save
from skinedge.weights.stream import Quiet

pytest.importorskip("torch")
pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

SIZES = [(150, 120), (95, 201), (60, 60)]  # grids that are filled by no whole number of windows
QUESTION, NARRATIVE = "<image>What is this?", "An asymmetric lesion with several shades of brown. The answer is nevus."
BLOCK = 64


def record(*images: str, content: str = QUESTION, **more: object) -> dict[str, object]:
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": NARRATIVE}]
    return {"messages": messages, "images": list(images), **more}


def write_records(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records with one photograph each, and a last one with two."""
    folder = tmp_path_factory.mktemp("data")
    for number, (width, height) in enumerate(SIZES):
        make_picture(width, height, number).save(folder / f"{number}.png")
    records = [record(f"{n}.png") for n in range(len(SIZES))] + [record("0.png", "1.png", content=f"<image>{QUESTION}")]
    return write_records(folder / "records.jsonl", *records)


@pytest.fixture(scope="module")
def prepared(tiny_model: Path, tiny_lora: Path, data: Path) -> Prepared:
    return prepare(AdapterCheckpoint.find(tiny_model, [tiny_lora]), data, block=BLOCK)


@pytest.fixture(scope="module")
def measured(prepared: Prepared) -> dict[str, LinearInputs]:
    return dict(calibrate(prepared.checkpoint, prepared.samples, block=BLOCK))


@pytest.fixture(scope="module")
def calibration(tiny_model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes."""
    out = tmp_path_factory.mktemp("calibration") / "out"
    result = typed(
        "calibrate", "--model", tiny_model, "--data", data, "--out", out, "--second-moments", "--block", "64", "--quiet"
    )
    assert result.code == 0, result.err
    return out


class Whole:
    """The whole model of transformers, and what its linear layers were given and gave."""

    def __init__(self, prepared: Prepared) -> None:
        from skinedge.model.reference import Reference

        self.inputs: dict[str, list[npt.NDArray[np.float64]]] = {}
        self.outputs: dict[str, float] = {}
        self.hidden: list[npt.NDArray[np.float32]] = []
        reference = Reference.from_checkpoint(prepared.checkpoint.folder, prepared.checkpoint.adapters, threads=1)
        for name, module in reference.model.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(self._hook(f"{canonical(name)}.weight"))
        for s in prepared.samples:
            inputs = reference.inputs([load() for load in s.pixels], Prompt("", s.token_ids, s.positions, 0, s.grids))
            with torch.inference_mode():
                last = reference.model.model(**inputs, use_cache=False).last_hidden_state
                reference.model.lm_head(last)
            self.hidden.append(last[0].numpy())

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(_: object, x: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
            self.inputs.setdefault(name, []).append(x[0].reshape(-1, x[0].shape[-1]).double().numpy())
            self.outputs[name] = max(self.outputs.get(name, 0), float(y.abs().max()))

        return hook


@pytest.fixture(scope="module")
def whole(prepared: Prepared) -> Whole:
    return Whole(prepared)


def test_hidden_states_after_the_last_layer_are_those_of_the_whole_model(prepared: Prepared, whole: Whole) -> None:
    stream = LayerStream(prepared.checkpoint, prepared.samples, logits=False, progress=Quiet())
    for stage in stream.stages():
        stage.run()
    for mine, truth in zip(stream.hidden, whole.hidden, strict=True):
        np.testing.assert_allclose(mine.numpy(), truth, atol=2e-5)


def test_statistics_are_those_of_hooks_on_the_whole_model(
    prepared: Prepared, measured: dict[str, LinearInputs], whole: Whole
) -> None:
    assert set(measured) == {*whole.inputs, "visual.patch_embed.proj.weight"}
    for name, blocks in whole.inputs.items():
        x, mine = np.concatenate(blocks), measured[name]
        assert mine.rows == len(x) == prepared.plan.rows[name]
        np.testing.assert_allclose(mine.mean_square, np.square(x).mean(0), rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(mine.peak, np.abs(x).max(0), rtol=1e-4, atol=1e-4, err_msg=name)
        assert mine.second_moment is not None
        width = mine.second_moment.shape[-1]
        for number, moment in enumerate(mine.second_moment):
            part = x[:, number * width : (number + 1) * width]
            np.testing.assert_allclose(moment, part.T @ part / len(x), rtol=1e-3, atol=1e-4, err_msg=name)


def test_patch_statistics_are_those_of_the_pixels(prepared: Prepared, measured: dict[str, LinearInputs]) -> None:
    rows = np.concatenate([load().patches for s in prepared.samples for load in s.pixels])
    mine = measured["visual.patch_embed.proj.weight"]
    assert mine.rows == len(rows)
    np.testing.assert_allclose(mine.peak, np.abs(rows).max(0))
    np.testing.assert_allclose(mine.mean_square, np.square(rows).mean(0), rtol=1e-5)


def test_a_layer_is_gone_before_the_next_one_is_read(prepared: Prepared) -> None:
    stream = LayerStream(prepared.checkpoint, prepared.samples[:1], logits=False, progress=Quiet())
    weights: list[weakref.ref[torch.Tensor]] = []
    for stage in stream.stages():
        assert not any(w() is not None for w in weights), "weights of an earlier layer are still in memory"
        stage.run()
        weights += [weakref.ref(p) for p in list(stage.module.parameters())[:1]]
        del stage
    assert len(weights) > 8


def test_the_folder_holds_what_the_pass_measured(tiny_model: Path, data: Path, calibration: Path, whole: Whole) -> None:
    opened, config = Calibration.open(calibration), read_config(tiny_model)
    assert opened.names() == tuple(sorted(s.name for s in layer_shapes(config, pictures=True)))
    assert opened.record.model == AdapterCheckpoint.find(tiny_model).digest
    assert opened.record.data == data_digest(read_conversations(data))
    assert (opened.record.records, opened.record.images) == (4, 5)
    assert opened.record.rows[HEAD] == opened.record.tokens == sum(len(h) for h in whole.hidden)
    for name in opened.names():
        found = opened.inputs(name)
        assert found is not None
        assert found.second_moment is not None
        diagonal = np.einsum("nii->ni", found.second_moment).ravel()
        np.testing.assert_allclose(diagonal, found.mean_square, rtol=1e-4, atol=1e-7)
        assert (found.peak**2 >= found.mean_square * (1 - 1e-5)).all()
    assert opened.inputs("model.embed_tokens.weight") is None


@pytest.mark.parametrize(
    ("width", "most", "block"), [(896, 1024, 896), (4864, 1216, 1216), (18944, 1024, 512), (3420, 1024, 855)]
)
def test_blocks_divide_a_layer_and_cut_no_group(width: int, most: int, block: int) -> None:
    from skinedge.calibration.plan import _block

    assert _block(width, most) == block


def test_a_tied_head_is_calibrated_too(tmp_path: Path, data: Path) -> None:
    model = make_model(tmp_path / "model", Size(layers=1, vision_depth=2, tied=True))
    ready = prepare(AdapterCheckpoint.find(model), data, limit=1)
    assert HEAD in dict(calibrate(ready.checkpoint, ready.samples))


def test_a_folder_of_photographs_and_narratives_is_read(tmp_path: Path, tiny_model: Path) -> None:
    for name in ("b", "a"):
        make_picture(60, 60, 0).save(tmp_path / f"{name}.JPG", "JPEG")
        (tmp_path / f"{name}.txt").write_text(f"Narrative {name}.", encoding="utf-8")
    (tmp_path / "notes.md").write_text("not a record", encoding="utf-8")
    conversations = read_conversations(tmp_path)
    assert [c.images[0].name for c in conversations] == ["a.JPG", "b.JPG"]
    assert conversations[0].messages[-1].content == "Narrative a."
    ready = prepare(AdapterCheckpoint.find(tiny_model), tmp_path, limit=1)
    assert (len(ready.samples), ready.plan.images) == (1, 1)


def test_words_alone_are_refused_unless_meant(tmp_path: Path, tiny_model: Path, data: Path) -> None:
    path = write_records(tmp_path / "words.jsonl", record(content="What is this?"))
    with pytest.raises(UsageError, match=r"words.jsonl, line 1: no photograph.*--text-only"):
        read_conversations(path)
    for file in (path, data):
        ready = prepare(AdapterCheckpoint.find(tiny_model), file, text_only=True)
        measured = dict(calibrate(ready.checkpoint, ready.samples))
        assert set(measured) == {s.name for s in layer_shapes(ready.checkpoint.config, pictures=False)}
        assert ready.plan.images == 0


RECORDS = {
    "missing image": (record("none.png"), r"line 1: its image none.png is missing. It was looked for in"),
    "no place": (record("0.png", content="What?"), r"line 1: it has 0 places <image> and 1 images"),
    "no narrative": (
        {"messages": [{"role": "user", "content": QUESTION}], "images": ["0.png"]},
        r"line 1: there is no narrative",
    ),
    "no messages": ({"images": ["0.png"]}, r"line 1: 'messages' is missing"),
    "role": ({"messages": [{"role": "doctor", "content": ""}]}, r"line 1: 'doctor' is no role"),
    "no text": ({"messages": [{"role": "user", "content": 3}]}, r"line 1: a message must have"),
    "images": ({**record(), "images": 3}, r"line 1: 'images' is no list"),
    "a list": ([], r"line 1: not a JSON object"),
    "truncated": (record("cut.png"), r"line 1: cut.png is damaged or cut short"),
    "special": (record("0.png", content=f"{QUESTION}<|im_end|>"), r"line 1: the user's text holds the special token"),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_bad_record_is_named_with_its_line(kind: str, tmp_path: Path, tiny_model: Path) -> None:
    value, words = RECORDS[kind]
    make_picture(60, 60, 0).save(tmp_path / "0.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:-900])
    with pytest.raises(CalibrationError, match=words):
        prepare(AdapterCheckpoint.find(tiny_model), write_records(tmp_path / "records.jsonl", value))


def test_other_bad_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no conversations"):
        read_conversations(tmp_path)
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(CalibrationError, match=r"1.png: its narrative 1.txt is missing"):
        read_conversations(tmp_path)
    (tmp_path / "1.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"1.txt: the narrative is empty"):
        read_conversations(tmp_path)
    (tmp_path / "1.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match=r"1.txt: not UTF-8"):
        read_conversations(tmp_path)
    with pytest.raises(UsageError, match=r"none.jsonl cannot be read"):
        read_conversations(tmp_path / "none.jsonl")
    (tmp_path / "x.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"line 1: not JSON"):
        read_conversations(tmp_path / "x.jsonl")


def test_a_dry_run_says_what_it_would_write_and_writes_nothing(tmp_path: Path, data: Path) -> None:
    result = typed("calibrate", "--data", data, "--out", tmp_path / "out", "--dry-run", "--json", "--limit", "2")
    assert result.json["records"] == result.json["images"] == 2
    assert not result.json["written"]
    assert list(tmp_path.iterdir()) == []
    assert result.json["nbytes"] > 0


def test_the_command_announces_the_bytes_that_it_writes(calibration: Path, tiny_model: Path, data: Path, tmp_path: Path) -> None:
    said = typed(
        "calibrate", "--model", tiny_model, "--data", data, "--out", tmp_path / "x", "--dry-run", "--json", "--second-moments",
        "--block", "64",
    ).json  # fmt: skip
    file = SafetensorsFile(calibration / "calibration.safetensors")
    assert said["nbytes"] == sum(file.spec(name).nbytes for name in file.names())


def test_a_taken_folder_and_missing_data_are_refused_first(tmp_path: Path, data: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    assert "is not empty" in typed("calibrate", "--data", data, "--out", tmp_path / "out").err
    assert "no such file" in typed("calibrate", "--data", tmp_path / "none", "--out", tmp_path / "new").err


def test_a_calibration_of_another_model_is_refused_at_export(calibration: Path, tmp_path: Path) -> None:
    result = typed("export", "--calibration", calibration, "--out", tmp_path / "out")
    assert result.code == 1
    assert "was made of another checkpoint" in result.err
    assert not (tmp_path / "out").exists()


def test_an_unknown_rounding_and_a_folder_that_is_no_calibration(tmp_path: Path) -> None:
    assert "gptq" in typed("export", "--rounding", "gtpq", "--out", tmp_path / "out").err
    result = typed("export", "--calibration", tmp_path, "--out", tmp_path / "out")
    assert (result.code, "is not a calibration" in result.err) == (2, True)


def test_llama_cpp_reads_back_the_imatrix_that_the_command_writes(calibration: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "imatrix.gguf"
    assert typed("imatrix", calibration, "--out", out, "--model", tiny_model).code == 0
    reader = gguf.GGUFReader(out)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    opened = Calibration.open(calibration)
    assert fields["general.type"] == "imatrix"
    assert fields["imatrix.chunk_count"] == opened.record.records
    assert fields["imatrix.chunk_size"] * opened.record.records <= opened.record.tokens
    assert len(fields["imatrix.datasets"]) == 1
    tensors = {t.name: t.data for t in reader.tensors}
    assert {"blk.0.attn_q.weight.in_sum2", "blk.3.ffn_down.weight.counts", "output.weight.in_sum2"} <= set(tensors)
    down = opened.inputs("model.layers.3.mlp.down_proj.weight")
    assert down is not None
    sums, counts = tensors["blk.3.ffn_down.weight.in_sum2"], tensors["blk.3.ffn_down.weight.counts"]
    assert (sums.shape, counts.shape) == ((1, 768), (1, 1))
    np.testing.assert_allclose(sums[0] / counts[0], down.mean_square, rtol=1e-6)


def test_an_imatrix_comes_back_as_a_calibration(calibration: Path, tiny_model: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "imatrix.gguf", tmp_path / "back"
    typed("imatrix", calibration, "--out", file, "--model", tiny_model)
    assert typed("imatrix", file, "--out", folder, "--model", tiny_model).code == 0
    before, after = Calibration.open(calibration), Calibration.open(folder)
    assert set(after.names()) == {name for name in before.names() if not name.startswith("visual.")}
    for name in after.names():
        old, new = before.inputs(name), after.inputs(name)
        assert old is not None
        assert new is not None
        np.testing.assert_allclose(new.mean_square, old.mean_square, rtol=1e-6)
        assert np.isnan(new.peak).all()
        assert new.rows == old.rows
    other = make_model(tmp_path / "model", Size(hidden=128, intermediate=64, layers=1, heads=2, vision_depth=2))
    assert "is no matrix of this model" in typed("imatrix", file, "--out", tmp_path / "other", "--model", other).err


def dat(entries: dict[str, tuple[int, list[float]]]) -> bytes:
    """llama.cpp's older layout."""
    parts = [np.int32(len(entries)).tobytes()]
    for name, (calls, values) in entries.items():
        parts += [np.int32(len(name)).tobytes(), name.encode(), np.array([calls, len(values)], np.int32).tobytes()]
        parts.append(np.array(values, np.float32).tobytes())
    return b"".join([*parts, np.int32(7).tobytes(), np.int32(4).tobytes(), b"text"])


def test_the_older_layout_is_read(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(dat({"blk.0.attn_q.weight": (4, [8.0, 2.0]), "output.weight": (1, [3.0])}))
    found = imatrix.read_imatrix(path)
    np.testing.assert_array_equal(found["blk.0.attn_q.weight"].mean_square, [2.0, 0.5])
    assert found["blk.0.attn_q.weight"].rows == 4
    for values in ([-1.0], [float("nan")], []):
        path.write_bytes(dat({"output.weight": (1, values)}))
        with pytest.raises(CalibrationError, match=r"'output.weight' holds a value that is no mean of squares"):
            imatrix.read_imatrix(path)


@pytest.fixture(scope="module")
def imatrix_bytes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A valid file of the smallest model, and a place to write damaged ones."""
    folder = tmp_path_factory.mktemp("imatrix")
    config = read_config(make_model(folder / "model", Size(hidden=128, intermediate=64, layers=1, heads=2, vision_depth=2)))
    shapes = layer_shapes(config, pictures=False)
    layers = {s.name: LinearInputs(5, np.full(s.width, 2, np.float32), np.zeros(s.width, np.float32)) for s in shapes}
    write(folder / "made", CalibrationRecord("", "", 1, 0, 5, dict.fromkeys(layers, 5)), layers.items())
    imatrix.write_imatrix(folder / "imatrix.gguf", Calibration.open(folder / "made"), config)
    return folder / "damaged", (folder / "imatrix.gguf").read_bytes()


def test_every_shortened_imatrix_is_refused(imatrix_bytes: tuple[Path, bytes]) -> None:
    path, data = imatrix_bytes
    path.write_bytes(data)
    assert len(imatrix.read_imatrix(path)) == 8
    for length in [*range(0, 200, 7), *range(200, len(data) - 32, 211)]:
        path.write_bytes(data[:length])
        with pytest.raises(CalibrationError, match=r"is no importance matrix of llama.cpp, or is damaged"):
            imatrix.read_imatrix(path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_an_imatrix_with_any_bytes_changed_is_read_or_refused_in_one_sentence(
    imatrix_bytes: tuple[Path, bytes], data: st.DataObject
) -> None:
    path, good = imatrix_bytes
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(bad), 1200) - 1))
        bad[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(bad))
    with contextlib.suppress(CalibrationError):
        found = imatrix.read_imatrix(path)
        assert all(np.isfinite(x.mean_square).all() and x.rows >= 1 for x in found.values())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"GGUF\x03\0\0\0", b"GGUF", b"\x01\0\0\0\x02\0\0\0"]))
def test_garbage_is_refused_as_an_imatrix(imatrix_bytes: tuple[Path, bytes], garbage: bytes, head: bytes) -> None:
    path, _ = imatrix_bytes
    path.write_bytes(head + garbage)
    with pytest.raises(SkinedgeError):
        imatrix.read_imatrix(path)


def test_the_survey_finds_the_peaks_of_the_whole_model(prepared: Prepared, whole: Whole) -> None:
    reaches = survey(prepared.checkpoint, {str(i): s for i, s in enumerate(prepared.samples)})
    found = {(r.layer, r.place): r for r in reaches}
    for name, blocks in whole.inputs.items():
        assert found[name, "input"].peak == pytest.approx(max(np.abs(b).max() for b in blocks), rel=1e-4)
        assert found[name, "output"].peak == pytest.approx(whole.outputs[name], rel=1e-4)
    assert {"visual.blocks.3", "model.layers.0"} <= {r.layer for r in reaches if r.place == "residual"}
    assert found["visual.blocks.0", "residual"].picture in {"0", "1", "2", "3"}


def test_a_layer_that_leaves_half_precision_is_named(tmp_path: Path, data: Path) -> None:
    """One matrix of the vision tower is made as large as those that overflow in the field."""
    model = make_model(tmp_path / "model", shards=1)
    path = next(model.glob("*.safetensors"))
    file = SafetensorsFile(path)
    arrays = {n: np.array(file.read(n)).reshape(file.spec(n).shape) for n in file.names()}
    name = next(n for n in arrays if n.endswith("visual.blocks.1.mlp.down_proj.weight"))
    arrays[name] = (arrays[name].astype(np.float32) * 1e6).astype(arrays[name].dtype)
    del file
    save(path, arrays)
    ready = prepare(AdapterCheckpoint.find(model), data, limit=1)
    report = OverflowReport("", 1.0, ("0",), survey(ready.checkpoint, {"0": ready.samples[0]}))
    found = {reach.layer for reach in report.offending("f16")}
    assert {"visual.blocks.1.mlp.down_proj.weight", "visual.blocks.1"} <= found
    assert "visual.blocks.0.mlp.down_proj.weight" not in found
    assert not any(layer.startswith("model.") for layer in found)


def test_the_embedded_model_stays_in_the_range_of_half_precision() -> None:
    result = typed("overflow", "--json").json
    assert result["offending"] == []
    assert {r["picture"] for r in result["reaches"]} <= set(TRIGGERS)
    assert min(r["headroom_f16"] for r in result["reaches"]) > 1


def test_the_table_names_what_overflows_and_what_comes_closest(capsys: pytest.CaptureFixture[str]) -> None:
    reaches = [Reach("a", "input", 70000.0, "x"), Reach("b", "output", 500.0, "x"), Reach("c", "input", 1.0, "x")]
    describe_reaches(reaches, "f16", 1.0, 2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["a", "b"]
    assert "must stay in higher precision" in lines[2]
    assert lines[4] == "1 layers have a headroom below 1 in f16."


def test_headroom_and_who_offends() -> None:
    a, b, c = Reach("a", "input", 70000.0, "x"), Reach("b", "output", 500.0, "x"), Reach("c", "input", 0.0, "x")
    report = OverflowReport("", 1.0, ("x",), (a, b, c))
    assert report.offending("f16") == (a,)
    assert report.offending("fp8") == (a, b)
    assert replace(report, margin=200).offending("f16") == (a, b)
    assert report.offending("bf16") == ()
    assert LIMITS["f16"] == np.finfo(np.float16).max


def test_the_checkerboard_is_the_one_that_is_known_to_overflow(tiny_model: Path) -> None:
    from skinedge.calibration.samples import SampleMaker

    board = np.asarray(trigger("checkerboard-56"))
    assert board.shape == (1800, 1350, 3)
    assert (board[0, :56] == 0).all()
    assert (board[0, 56:112] == 255).all()
    assert (board[56, :56] == 255).all()
    samples = trigger_samples(SampleMaker(tiny_model, read_config(tiny_model)))
    assert tuple(samples) == TRIGGERS
    assert Image.fromarray(board).size == (1350, 1800)
