"""A scheme for every matrix under a budget: the choice, the plan's file, the measured damage, the command."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import typed
from hypothesis import given, settings
from hypothesis import strategies as st

from skinedge.calibration.budget import BudgetPlan, Choice, Entry, Group, choose, parse_size, scaled
from skinedge.errors import UsageError
from skinedge.synthderm.dataset import write_dataset

sizes = st.integers(1, 50)
damages = st.floats(0, 10, allow_nan=False)
groups = st.lists(st.lists(st.tuples(sizes, damages), min_size=1, max_size=4), min_size=1, max_size=4).map(
    lambda many: [Group(f"g{i}", (f"w{i}",), tuple(Choice(f"s{k}", *c) for k, c in enumerate(one))) for i, one in enumerate(many)]
)


@settings(deadline=None, max_examples=200)
@given(groups, st.integers(0, 200))
def test_the_choice_fits_and_no_larger_step_would_have_been_better_spent(many: list[Group], budget: int) -> None:
    smallest = sum(min(c.nbytes for c in g.choices) for g in many)
    if smallest > budget:
        with pytest.raises(UsageError, match="the budget leaves"):
            choose(many, budget)
        return
    chosen = choose(many, budget)
    assert sum(e.nbytes for e in chosen) <= budget
    # Never worse than every matrix in its smallest scheme, and never worse than the best uniform place in the lists.
    least = [min(g.choices, key=lambda c: (c.nbytes, c.damage)).damage for g in many]
    assert sum(e.damage for e in chosen) <= sum(least) + 1e-9
    best = min(
        sum(c.damage for c in combination)
        for combination in itertools.product(*(g.choices for g in many))
        if sum(c.nbytes for c in combination) <= budget
    )
    gap = max((max(c.damage for c in g.choices) - min(c.damage for c in g.choices) for g in many), default=0)
    assert sum(e.damage for e in chosen) <= best + gap + 1e-9, "a greedy choice on hulls is off by one matrix at most"


def test_bits_go_where_they_save_most() -> None:
    cheap = Group("cheap", ("a",), (Choice("few", 10, 1.0), Choice("many", 20, 0.9)))
    dear = Group("dear", ("b",), (Choice("few", 10, 1.0), Choice("middle", 14, 0.99), Choice("many", 20, 0.0)))
    assert [e.scheme for e in choose([cheap, dear], 30)] == ["few", "many"], "middle is on no hull: it is passed over"
    assert [e.scheme for e in choose([cheap, dear], 40)] == ["many", "many"]
    assert [e.scheme for e in choose([cheap, dear], 29)] == ["few", "few"]


def test_other_schemes_follow_from_the_one_that_was_measured() -> None:
    found = scaled(Choice("q4", 10, 0.5), {"q4": 2.0, "q6": 0.2}, {"q4": 10, "q6": 16})
    assert found == (Choice("q4", 10, 0.5), Choice("q6", 16, pytest.approx(0.05)))


@pytest.mark.parametrize("text", ["", "many", "-3GiB", "4.2XB", "4,2GiB", "1e9"])
def test_a_budget_that_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=f"'{text}' is not a size"):
        parse_size(text)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = BudgetPlan("gguf", "q4_k_m", 99, 10, "m", "d", (Entry("w", ("w",), "q6_k", 50, 0.25, 0.5),))
    (tmp_path / "plan.json").write_text(plan.to_json())
    assert BudgetPlan.read(tmp_path / "plan.json") == plan
    assert plan.mix == {"w": "q6_k"}
    with pytest.raises(UsageError, match="made for another model"):
        plan.check("other", "d", "gguf")


values = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
tables = st.dictionaries(st.sampled_from(["schema_version", "entries", "target", "x"]), values, max_size=4)


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=40) | values.map(json.dumps) | tables.map(json.dumps))
def test_a_file_that_is_no_plan_is_refused(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("plan") / "plan.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="is not a plan of skinedge"):
        BudgetPlan.read(file)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn narratives and a calibration of the embedded model on them."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("budget")
    write_dataset(folder / "data", 6, 77, quiet=True, workers=1)
    done = typed("calibrate", "--data", folder / "data" / "records.jsonl", "--out", folder / "cal", "--quiet", "--threads", "1")
    assert done.code == 0, done.err
    return folder


def test_a_plan_from_end_to_end(measured: Path, tmp_path: Path) -> None:
    """Measured, chosen, replayed by export, and the bundle is as large as the plan says."""
    pytest.importorskip("xllamacpp")
    ask = ("--calibration", measured / "cal", "--data", measured / "data" / "records.jsonl", "--limit", "1", "--threads", "1")
    plan = tmp_path / "plan.json"
    done = typed("quantize", "--budget", "9.2MiB", *ask, "--kind", "q4_k", "--kind", "q8_0", "--out", plan, "--json")
    assert done.code == 0, done.err
    assert set(done.json["schemes"].values()) == {"q4_k", "q8_0"}
    assert done.json["nbytes"] <= 9.2 * 1024**2
    exported = typed("export", "--plan", plan, "--calibration", measured / "cal", "--out", tmp_path / "bundle")
    assert exported.code == 0, exported.err
    manifest = json.loads((tmp_path / "bundle" / "skinedge.json").read_text(encoding="utf-8"))
    assert manifest["applied"]["blk.0.attn_q.weight"]["scheme"] == done.json["schemes"]["model.layers.0.self_attn.q_proj.weight"]
    written = sum(f["nbytes"] for f in manifest["files"])
    assert written == pytest.approx(done.json["nbytes"], rel=0.02)
    without = typed("export", "--plan", plan, "--out", tmp_path / "other")
    assert without.code == 2
    assert "was measured with a calibration, and none is given." in without.err


def test_a_dry_run_says_what_fits_and_measures_nothing(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr("skinedge.calibration.damage.measure", None)
    ask = ("quantize", "--calibration", measured / "cal", "--data", measured / "data" / "records.jsonl", "--dry-run")
    ask += ("--out", tmp_path / "plan.json")
    said = typed(*ask, "--budget", "9.2MiB", "--json").json
    assert said["fixed"] < said["smallest"] < said["budget"] < said["largest"]
    assert (said["written"], said["schemes"][0]) == (False, "iq4_xs")
    shown = typed(*ask, "--budget", "100MB", "--kind", "q8_0")
    assert "matrices, each in one of q8_0;" in shown.out
    assert "Nothing was measured or written." in shown.out
    refused = typed(*[word for word in ask if word != "--dry-run"], "--budget", "1MiB")
    assert refused.code == 2
    assert "with every matrix in its smallest scheme the weights take" in refused.err
    assert "Raise --budget by " in refused.err
    assert list(tmp_path.iterdir()) == []


def test_damage_is_that_of_the_whole_model(measured: Path) -> None:
    """A zeroed matrix walks on through the rest of the stream as it does through transformers' own model."""
    torch = pytest.importorskip("torch")
    from skinedge.artifacts import AdapterCheckpoint
    from skinedge.calibration.damage import measure
    from skinedge.calibration.planning import asked_of
    from skinedge.calibration.samples import read_conversations
    from skinedge.embedded import BASE
    from skinedge.model.reference import Reference
    from skinedge.weights.checkpoint import open_checkpoint
    from skinedge.weights.stream import Quiet

    source = AdapterCheckpoint.find(BASE, [])
    asked = asked_of(source, read_conversations(measured / "data" / "records.jsonl", limit=1), quiet=True)
    name = "model.layers.1.mlp.down_proj.weight"
    checkpoint = open_checkpoint(BASE)

    def nothing(which: str) -> np.ndarray:
        return np.zeros(checkpoint.weights.spec(which).shape, np.float32)

    found = measure(checkpoint, asked, {name: (name,)}, nothing, Quiet())[name]
    sample, where = asked[0].sample, asked[0].positions()
    pixels = [load() for load in sample.pixels]
    inputs = {
        "input_ids": torch.from_numpy(sample.token_ids)[None],
        "position_ids": torch.from_numpy(sample.positions)[:, None],
        "pixel_values": torch.from_numpy(np.concatenate([p.patches for p in pixels])),
        "image_grid_thw": torch.tensor([[g.frames, g.height, g.width] for g in sample.grids]),
    }
    model = Reference.from_checkpoint(BASE, dtype="f32").model
    with torch.inference_mode():
        clean = model(**inputs).logits[0, where].log_softmax(-1)
        model.model.language_model.layers[1].mlp.down_proj.weight.zero_()
        other = model(**inputs).logits[0, where].log_softmax(-1)
    kl = float((clean.exp() * (clean - other)).sum(-1).mean())
    assert kl > 1e-3
    assert found.kl == pytest.approx(kl, rel=1e-3)
    assert found.changed == pytest.approx(float((clean.argmax(-1) != other.argmax(-1)).float().mean()), abs=0.02)
    assert 0 < asked[0].answer < 12
