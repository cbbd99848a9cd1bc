"""Twelve planted faults, each named by its stage; what is not wrong is not named; --bisect finds the block."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.parity_faults import BY_NAME, LAYER, Around, Fault, change_weight, compare_planted, expert_zeroed
from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.errors import NotFiniteError
from skinedge.manifest import read_manifest
from skinedge.model.reference import Reference
from skinedge.parity.bands import Rounding, roundings
from skinedge.parity.bisect import Given, blocks, first_bad, why_blind
from skinedge.parity.compare import Comparison, compare_opened, print_stages
from skinedge.parity.pictures import make_picture
from skinedge.parity.reference_inputs import ReferenceInputs
from skinedge.parity.stages import worst_of, worst_rounding
from skinedge.runtime.image import load_photograph
from skinedge.runtime.pipeline import Pipeline, open_pipeline
from skinedge.runtime.prompt import DEFAULT_QUESTION
from skinedge.runtime.session import Float32, Session
from skinedge.targets._contract import ExportOptions
from skinedge.weights.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def reference(source: AdapterCheckpoint) -> Iterator[Reference]:
    reference = Reference.from_checkpoint(source.path, source.adapters, threads=1)
    yield reference
    reference.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number, size in enumerate([(150, 90), (45, 31)]):  # the second has fewer pixels than the processor lets pass
        paths.append(folder / f"{number}.png")
        make_picture(*size, seed=number).save(paths[-1])
    return paths


def test_there_are_twelve() -> None:
    assert len(BY_NAME) == 12


@pytest.mark.parametrize("name", BY_NAME)
def test_a_planted_fault_is_named_by_its_stage(
    name: str, bundles: dict[str, Path], source: AdapterCheckpoint, reference: Reference, pictures: list[Path]
) -> None:
    fault = BY_NAME[name]
    result = compare_planted(fault, bundles[fault.scheme], source, reference, pictures, steps=4)
    assert result.first_bad == fault.stage
    if fault.stage == "weights":
        assert result.stages[-1].where in (LAYER.replace("gate_up", "gate"), LAYER.replace("gate_up", "up"))


@pytest.mark.parametrize("scheme", ["f32", "int4"])
def test_a_sound_bundle_has_no_bad_stage(
    scheme: str, bundles: dict[str, Path], source: AdapterCheckpoint, reference: Reference, pictures: list[Path]
) -> None:
    with open_pipeline(bundles[scheme], threads=1) as pipeline:
        result = compare_opened(pipeline, source, reference, pictures, folder=bundles[scheme], steps=4, bisect=True)
    assert result.first_bad is None
    assert [s.name for s in result.stages] == [
        "pixels", "tokens", "weights", "features", "bias", "prefill", "steps", "narrative", "answer",
    ]  # fmt: skip
    assert result.blocks == ()
    assert result.stages[2].measured["share"] == pytest.approx(0 if scheme == "f32" else 1 / 2, abs=1e-3)


@pytest.mark.parametrize("scheme", ["f32", "int4"])
def test_an_expert_that_is_gone_is_found_in_every_scheme(
    scheme: str, bundles: dict[str, Path], source: AdapterCheckpoint, reference: Reference, pictures: list[Path]
) -> None:
    fault = Fault("", "", "bias", expert_zeroed(1, 0))
    last = compare_planted(fault, bundles[scheme], source, reference, pictures, steps=2).stages[-1]
    assert (last.name, last.verdict) == ("bias", "FAIL")
    assert last.where is not None
    assert last.where.startswith("adapter.distill_head.adapters.1.down")


class Overflowing(Around):
    """A session whose logits are no numbers: from a prefill on, or from the first step."""

    def __init__(self, session: Session, where: str, *, raises: bool) -> None:
        super().__init__(session)
        self._where, self._raises = where, raises

    def _broken(self, logits: Float32) -> Float32:
        if self._raises:
            raise NotFiniteError("the logits are not finite numbers: 16-bit floats overflowed.")
        return np.full_like(logits, np.nan)

    def prefill(self, *given: Any, **more: Any) -> Float32:
        logits = super().prefill(*given, **more)
        return self._broken(logits) if self._where == "prefill" else logits

    def step(self, token: int) -> Float32:
        logits = super().step(token)
        return self._broken(logits) if self._where == "steps" else logits


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("stage", ["prefill", "steps"])
def test_numbers_that_overflow_are_named_by_their_stage(
    stage: str, raises: bool, bundles: dict[str, Path], source: AdapterCheckpoint, reference: Reference, pictures: list[Path]
) -> None:
    def wrap(pipeline: Pipeline) -> Pipeline:
        pipeline.session = Overflowing(pipeline.session, stage, raises=raises)
        return pipeline

    result = compare_planted(Fault("", "", stage, wrap=wrap), bundles["int4"], source, reference, pictures, steps=2)
    assert result.first_bad == stage
    assert result.to_json()["first_bad_stage"] == stage


def test_what_is_no_number_is_the_worst() -> None:
    roundings = [Rounding("a", "int4", 0.1, 0.1), Rounding("b", "int4", math.nan, 0.1), Rounding("c", "int4", 9.0, 0.1)]
    assert worst_rounding(roundings).name == "b"
    assert worst_of([{"kl": 0.1}, {"kl": math.nan}, {"kl": 0.2}])["kl"] != worst_of([{"kl": 0.2}])["kl"]


def test_scales_transposed_in_a_gguf_are_found_too(source: AdapterCheckpoint, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    folder = export(source, "gguf", ExportOptions("q8_0", context=1024), tmp_path / "q8_0").path
    manifest, checkpoint = read_manifest(folder), open_checkpoint(source.path, source.adapters)
    assert max(r.share for r in roundings(folder, manifest, checkpoint)) <= 1
    tensor = next(t for t in gguf.GGUFReader(folder / "model.gguf").tensors if t.name == "blk.1.ffn_up.weight")
    data = np.memmap(folder / "model.gguf", np.uint8, "r+")
    where = slice(int(tensor.data_offset), int(tensor.data_offset) + int(tensor.n_bytes))
    rows = data[where].reshape(-1, 34).copy()  # a block of 32: its scale in f16, then its values
    blocks_in_row = int(tensor.shape[0]) // 32
    rows[:, :2] = rows[:, :2].reshape(-1, blocks_in_row, 2).transpose(1, 0, 2).reshape(-1, 2)
    data[where] = rows.reshape(-1)
    data.flush()
    bad = [r for r in roundings(folder, manifest, checkpoint) if r.share > 1]
    assert [r.name for r in bad] == ["model.layers.1.mlp.up_proj.weight"]


def given(reference: Reference, source: AdapterCheckpoint, pictures: list[Path]) -> list[Given]:
    inputs, cases = ReferenceInputs(source.path, reference), []
    for path in pictures:
        pixels = inputs.pixels(load_photograph(path))
        prompt = inputs.prompt(DEFAULT_QUESTION, [pixels.grid])
        cases.append(Given(pixels, prompt, reference.encode_image(pixels)))
    return cases


@pytest.mark.parametrize(
    ("stage", "graph", "weight", "block"),
    [
        ("features", "vision", "visual.blocks.2.mlp.down_proj.weight", "visual.blocks.2"),
        ("features", "vision", "visual.patch_embed.proj.weight", "visual.patch_embed.proj"),
        ("bias", "adapter", "adapter.distill_head.adapters.1.up.weight", "distill_head.adapters.1"),
        ("prefill", "decoder", "model.layers.2.self_attn.o_proj.weight", "model.layers.2"),
        ("steps", "decoder", "model.layers.3.mlp.down_proj.weight", "model.layers.3"),
    ],
)
def test_the_first_bad_block_is_named(
    stage: str,
    graph: str,
    weight: str,
    block: str,
    bundles: dict[str, Path],
    source: AdapterCheckpoint,
    reference: Reference,
    pictures: list[Path],
    tmp_path: Path,
) -> None:
    manifest, cases = read_manifest(bundles["f32"]), given(reference, source, pictures)
    sound = blocks(bundles["f32"], manifest, stage, reference, cases)
    assert first_bad(sound) is None
    assert max(b.error for b in sound) < 5e-6
    copy = Path(shutil.copytree(bundles["f32"], tmp_path / "copy"))
    change_weight(copy / f"{graph}.onnx", weight, lambda values: values * np.float32(1.01))
    before = {p: p.read_bytes() for p in copy.rglob("*.onnx*")}
    bad = first_bad(blocks(copy, manifest, stage, reference, cases))
    assert bad is not None
    assert bad.name == block
    assert {p: p.read_bytes() for p in copy.rglob("*.onnx*")} == before


def test_the_comparison_names_the_block(
    bundles: dict[str, Path],
    source: AdapterCheckpoint,
    reference: Reference,
    pictures: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def planted(fault: Fault) -> Comparison:
        return compare_planted(fault, bundles["f32"], source, reference, pictures, steps=2, bisect=True)

    result = planted(BY_NAME["mRoPE sections swapped"])
    assert result.bad_block == "model.layers.0"
    print_stages(result)
    assert "inside it, 'model.layers.0' is the first that is out of tolerance." in capsys.readouterr().out
    assert planted(Fault("", "", "bias", expert_zeroed(2, 0))).bad_block == "distill_head.adapters.2"
    result = planted(BY_NAME["KV cache off by one"])
    assert result.bad_block is None
    print_stages(result)
    assert (
        "no block inside it is: the fault is in what comes after the last block, or around the graphs." in capsys.readouterr().out
    )


def test_where_layers_are_not_shown_it_says_so() -> None:
    assert why_blind("gguf", "f32", "prefill").startswith("llama.cpp does not give out what its layers make")
    assert "--target onnx" in why_blind("trt", "f16", "prefill")
    assert why_blind("onnx", "f32", "pixels") == "stage 'pixels' has no blocks inside."
    assert "int4" in why_blind("onnx", "int4", "steps")
