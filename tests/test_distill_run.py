"""Runs: resumed they are what they would have been; what goes wrong leaves the last checkpoint usable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from distill_setup import Features, files, job, losses, run, typed, words, write_records

pytest.importorskip("torch")
from skinedge.artifacts import AdapterCheckpoint
from skinedge.errors import AdapterError, OutputError, UsageError
from skinedge.model.reference import Reference
from train.errors import TrainingError

ADAPTERS = {
    "v1": {"adapter__experts": 0},
    "v2": {},
    "whitened": {"adapter__components": 12, "adapter__turn": True},
    "lora": {"adapter__kind": "lora", "adapter__dropout": 0.1},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("data") / "set")


class Stop(Exception):
    """Ends a run at a step as an accident would."""


def stopped_at(step: int, made: object) -> None:
    """Train until the update of ``step`` (from 0) is about to be made."""
    from train.loop import Trainer

    before = Trainer._check_norm

    def check(self: Trainer, at: int, norm: float) -> None:
        if at == step:
            raise Stop
        before(self, at, norm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_check_norm", check)
        with pytest.raises(Stop):
            made.train()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_resumed_run_is_the_uninterrupted_one(kind: str, tiny_model: Path, data: Path, tmp_path: Path) -> None:
    changes = {**ADAPTERS[kind], "train__save_every": 2, "train__accumulation": 2, "train__batch": 2, "train__steps": 5}
    run(tiny_model, data, tmp_path / "whole", **changes)
    for step in (1, 3, 4):
        stopped_at(step, job(tiny_model, data, tmp_path / "cut", **changes))
    run(tiny_model, data, tmp_path / "cut", **changes)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_finished_run_opens_and_exports_with_every_tensor_alive(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir")
    from skinedge.bundle import export, verify
    from skinedge.targets._contract import ExportOptions

    for name, changes in ADAPTERS.items():
        out = tmp_path / name
        run(tiny_model, data, out, teacher=None if name == "lora" else Features(), **changes)
        reference = Reference.from_checkpoint(tiny_model, [out], threads=1)
        assert (reference.branch is None) == (name == "lora")
        export(AdapterCheckpoint.find(tiny_model, [out]), "onnx", ExportOptions("f32"), tmp_path / f"{name}-bundle")
        verify(tmp_path / f"{name}-bundle")


def test_a_finished_folder_holds_a_card_without_places_or_patients(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(tiny_model, data, out, teacher=Features())
    assert set(files(out)) == {"adapter.safetensors", "README.md", "recipe.toml", "curves.png", "run.json"}
    written = "".join((out / name).read_text(encoding="utf-8") for name in ("README.md", "recipe.toml", "run.json"))
    assert str(tmp_path) not in written
    assert "case-" not in written
    card = (out / "README.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in card for name in ("ce", "cosine", "balance", "skin", "model", "data"))
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any((out / "log" / "tensorboard").iterdir())
    with pytest.raises(OutputError, match="this run is finished"):
        run(tiny_model, data, out, teacher=Features())


def test_another_run_in_the_folder_is_refused_with_the_difference(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stopped_at(4, job(tiny_model, data, out))
    with pytest.raises(TrainingError, match=r"holds a run with another optim.lr \(0.01 where this one has 0.02\)"):
        run(tiny_model, data, out, optim__lr=0.02)
    with pytest.raises(TrainingError, match="holds a run with another data"):
        run(tiny_model, write_records(tmp_path / "set", 5), out)
    with pytest.raises(TrainingError, match=r"holds a run with another adapter\.\w+"):
        run(tiny_model, data, out, adapter__kind="lora")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(OutputError, match="exists and is not empty"):
        run(tiny_model, data, tmp_path / "full")
    assert run(tiny_model, data, out).step == 6


def test_only_the_last_two_checkpoints_are_kept_and_each_is_an_adapter(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    stopped_at(5, job(tiny_model, data, tmp_path / "out", train__save_every=1))
    found = sorted((tmp_path / "out" / "checkpoints").iterdir())
    assert [p.name for p in found] == ["step-00000004", "step-00000005"]
    for folder in found:
        assert Reference.from_checkpoint(tiny_model, [folder], threads=1).branch is not None


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_checkpoint(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(TrainingError) as caught:
        run(tiny_model, data, out, optim__lr=1e30, optim__warmup=0.0, train__save_every=1, train__steps=9)
    assert "step 2: the ce loss is" in caught.value.message
    assert "(records case-" in caught.value.message
    assert "--lr" in caught.value.hint
    assert "The checkpoint of step 1 is kept" in caught.value.hint
    Reference.from_checkpoint(tiny_model, [out / "checkpoints" / "step-00000001"], threads=1)


def test_a_teacher_of_another_width_than_the_side_branch_to_go_on_from(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    run(tiny_model, data, tmp_path / "first", teacher=Features())
    start = str(tmp_path / "first")
    with pytest.raises(AdapterError, match="out_proj gives 6 values and the teacher's features have 7"):
        run(tiny_model, data, tmp_path / "second", teacher=Features(7), adapter__start=start)
    run(tiny_model, data, tmp_path / "third", teacher=Features(), adapter__start=start)
    first, third = losses(tmp_path / "first"), losses(tmp_path / "third")
    assert third[0]["ce"] < first[0]["ce"], "it goes on where the first one ended"


def test_what_is_missing_is_asked_for(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no model"):
        run(Path(), data, tmp_path / "out", model__folder="")
    with pytest.raises(UsageError, match="there are no records"):
        run(tiny_model, data, tmp_path / "out", data__files=[])
    with pytest.raises(UsageError, match="nothing that a vision teacher"):
        run(tiny_model, data, tmp_path / "out", adapter__kind="lora", teacher__spec="x")
    with pytest.raises(UsageError, match="adapts nothing"):
        run(tiny_model, data, tmp_path / "out", adapter__kind="lora", adapter__language=[], adapter__vision=[])
    assert not (tmp_path / "out").exists()


def test_bf16_follows_f32(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    for precision in ("f32", "bf16"):
        run(tiny_model, data, tmp_path / precision, train__precision=precision)
    for f32, bf16 in zip(losses(tmp_path / "f32"), losses(tmp_path / "bf16"), strict=True):
        assert bf16["ce"] == pytest.approx(f32["ce"], rel=0.02)


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    done = typed(words(tiny_model, data, tmp_path / "out", "--dry-run", "--json"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["steps"], found["step_records"], found["records"]) == (6, 4, 12)
    assert found["parameters"] == sum(p.numel() for p in job(tiny_model, data, tmp_path / "x").student().module.parameters())
    assert list(tmp_path.iterdir()) == []
    real = run(tiny_model, data, tmp_path / "out")
    assert real.steps == found["steps"]
    written = sum(p.stat().st_size for p in (tmp_path / "out.cache").glob("shard-*"))
    assert found["cache"] == pytest.approx(written, rel=0.05)


def test_a_mistake_on_the_command_line_is_one_line(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    done = typed(words(tiny_model, data, tmp_path / "out", "--set", "optim.lrr=1"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "error: unknown key in [optim] of --set 'lrr'."
    assert "Did you mean 'lr'?" in done.stderr
