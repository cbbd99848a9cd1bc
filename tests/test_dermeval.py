"""The evaluator: its readings, its judge, one step of each stage of training, its files, and the scorer."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import typed
from PIL import Image
from torch import Tensor

from skinedge.embedded import BASE
from skinedge.errors import CheckpointError, OutputError, UsageError
from skinedge.evaluation.damage import FORMS, Damage, damage
from skinedge.evaluation.dermeval import EMBEDDED, DermEval, critique, read_judge, write_judge
from skinedge.evaluation.dermeval_model import LEVELS, Judge, Seen, Shape, expected, flaw_names, look, part, settled
from skinedge.evaluation.dermeval_reading import VALUES, Reader, fill, page_of
from skinedge.evaluation.scorer import Scorable
from skinedge.evaluation.scores import DIMENSIONS
from skinedge.model.config import read_config
from skinedge.model.reference import Reference
from skinedge.runtime.image import read_processor_config
from skinedge.runtime.session import Grid
from skinedge.synthderm.findings import VOCABULARY, draw_cases
from skinedge.synthderm.pages import textbook
from skinedge.synthderm.picture import render
from skinedge.weights.checkpoint import checkpoint_digest
from train.dermeval_data import Samples, Watched, decode_plainly, see, watch
from train.dermeval_fit import (
    Reinforce,
    Stage,
    reinforce,
    score_all,
    supervised,
    thinned,
    truth_of,
    two_nearest,
    without_pictures,
)  # fmt: skip
from train.dermeval_sets import HELD_OUT, Sizes, Workshop, load_watched, save_watched

SMALL = Shape(256, width=16, layers=1, heads=2, pooled=8, ways=1)
GRID = Grid(1, 12, 12)


@pytest.fixture(scope="module")
def model() -> Reference:
    return Reference.from_checkpoint(BASE)


@pytest.fixture(scope="module")
def watched(model: Reference) -> Watched:
    """Sixteen samples of four pictures, some of them without."""
    config = read_config(BASE)
    cases = draw_cases(4, 5)
    reader = Reader(BASE, config)
    looks = see(cases, model.model, reader, config, read_processor_config(BASE), quiet=True)
    drawn = Samples(cases, GRID, textbook(), reader).draw_all(4, np.random.default_rng(0), blind=0.3)
    return watch(model.model, drawn, looks, 4, quiet=True)


@pytest.fixture
def judge() -> Judge:
    torch.manual_seed(0)
    return Judge(SMALL)


def flat(judge: Judge) -> Tensor:
    return torch.cat([p.detach().flatten() for p in judge.parameters()])


def wide(seen: Seen) -> Seen:
    return Seen(*(x.float() if x.dtype == torch.bfloat16 else x for x in (getattr(seen, f.name) for f in fields(seen))))


def test_the_judge_gives_six_distributions_and_every_flaw(judge: Judge, watched: Watched) -> None:
    for seen in watched.batches:
        judged = judge(wide(seen))
        assert judged.scores.shape == (len(seen.told), len(DIMENSIONS), len(LEVELS))
        assert judged.flaws.shape == (len(seen.told), len(flaw_names()))
        assert bool(((expected(judged.scores) >= 0) & (expected(judged.scores) <= 5)).all())


def test_neighbours_in_a_batch_change_nothing(judge: Judge, watched: Watched) -> None:
    supervised(judge, watched, Stage(1, 1e-2))
    judge.eval()
    seen = wide(watched.batches[0])
    together = judge(seen).scores
    for row in range(len(seen.told)):
        alone = part(seen, torch.tensor([row]))
        length, page = int(alone.told.sum()), int(alone.written.sum())
        cut = replace(
            alone, states=alone.states[:, :length], words=alone.words[:, :length], surprise=alone.surprise[:, :length],
            told=alone.told[:, :length], page=alone.page[:, :page], written=alone.written[:, :page],
            about=alone.about[:, :page], agreement=alone.agreement[:, :page],
        )  # fmt: skip
        torch.testing.assert_close(judge(cut).scores[0], together[row], atol=1e-4, rtol=1e-4)


def test_both_ways_to_read_give_the_same(model: Reference) -> None:
    reader = Reader(BASE, read_config(BASE))
    readings = [reader.read(text, (), None) for text in ("There is a ring.", "The colour is red and the border is sharp.")]
    plain, own = look(model.model, fill(readings), None, decode_plainly), look(model.model, fill(readings), None)
    for a, b in zip(plain, own, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)
    assert own[3].sum(1).tolist() == [len(r.ids) - r.start for r in readings]


def test_what_is_not_on_the_picture_surprises_the_model(model: Reference) -> None:
    """The colour's word is less likely where the picture shows another colour."""
    config, reader = read_config(BASE), Reader(BASE, read_config(BASE))
    cases = [c for c in draw_cases(36, 5) if c.findings.colour in ("red", "white")][:10]
    looks = see(cases, model.model, reader, config, read_processor_config(BASE), quiet=True)
    told = {c: f"<think>\nObservation: There is a single lesion. The colour is {c}." for c in ("red", "white")}
    true = [c.findings.colour for c in cases]
    false = ["white" if colour == "red" else "red" for colour in true]
    readings = [reader.read(told[colour], (GRID,), None) for colour in (*true, *false)]
    surprise = look(model.model, fill(readings), torch.cat([looks.features, looks.features]))[2]
    likely = surprise[..., 0].sum(1).reshape(2, -1)
    assert float((likely[0] > likely[1]).float().mean()) >= 0.9

    # Asked for all clauses at once, the model believes what it believes when it reads one after the other.
    red, white = (VALUES.index(("colour", colour)) for colour in ("red", "white"))
    ratio = (looks.beliefs[:, red] / looks.beliefs[:, white]).log()
    told = {c: f"<think>\nObservation: There is a single lesion. The colour is {c}." for c in ("red", "white")}
    each, whole = [], torch.ones(len(cases), dtype=torch.bool)
    for colour in ("red", "white"):
        read = [reader.read(told[colour], (GRID,), None)] * len(cases)
        noticed = look(model.model, fill(read), looks.features)[2]
        said = noticed[:, :-2, 0]  # without the end of the turn: nobody stops after two clauses, so it is always cut off
        whole &= said.min(1).values > -4  # a colour that is out of the question is cut off, too
        each.append(4 * said.sum(1))
    assert int(whole.sum()) >= 4
    torch.testing.assert_close((each[0] - each[1])[whole], ratio[whole], atol=1e-2, rtol=1e-3)
    assert bool(((each[0] - each[1]).abs() <= ratio.abs() + 1e-2).all())  # what is cut off only ever takes from the difference
    owner = [i for i, (finding, _) in enumerate(VALUES) if finding == "colour"]
    torch.testing.assert_close(looks.beliefs[:, owner].sum(1), torch.ones(len(cases)))


def test_scores_are_shared_between_the_two_nearest_levels() -> None:
    scores = torch.tensor([[0.0, 5.0, 1.25, 3.5, 4.75, 0.1]])
    shared = two_nearest(scores)
    torch.testing.assert_close(shared @ torch.tensor(LEVELS), scores)
    assert int((shared > 0).sum(-1).max()) == 2


def test_scores_come_in_quarters_and_distributions_that_hardly_differ_have_the_same() -> None:
    near = (two_nearest(torch.tensor([[4.99, 5.0, 1.24, 3.5, 0.01, 0.0]])) + 1e-9).log()
    assert settled(near).tolist() == [[5.0, 5.0, 1.25, 3.5, 0.0, 0.0]]


def test_hidden_tokens_are_drawn_anew_and_nothing_else_is_touched(watched: Watched) -> None:
    seen, chance = wide(watched.batches[0]), torch.Generator().manual_seed(0)
    assert thinned(seen, 0.0, chance) is seen
    first, second = thinned(seen, 0.1, chance), thinned(seen, 0.1, chance)
    assert not torch.equal(first.told, second.told)
    assert not bool((first.told & ~seen.told).any())
    hidden = 1 - first.told.sum().item() / seen.told.sum().item()
    assert 0.03 < hidden < 0.2
    bare = ((first.states == 0).all(-1) & seen.told).sum().item() / seen.told.sum().item()
    assert 0.25 < bare < 0.55
    assert first.words is seen.words
    assert first.page is seen.page


def test_training_towards_true_scores_comes_nearer_and_is_repeated_to_the_bit(watched: Watched) -> None:
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        judge = Judge(SMALL)
        before = np.abs(score_all(judge, watched) - truth_of(watched)).mean()
        supervised(judge, watched, Stage(12, 1e-2))
        after = np.abs(score_all(judge, watched) - truth_of(watched)).mean()
        assert after < 0.7 * before
        ends.append(flat(judge))
    assert torch.equal(*ends)


@pytest.mark.parametrize("exact", [False, True])
def test_reinforce_alone_comes_nearer(judge: Judge, watched: Watched, exact: bool) -> None:
    before = np.abs(score_all(judge, watched) - truth_of(watched)).mean()
    reinforce(judge, watched, Stage(12, 1e-2), Reinforce(exact=exact))
    assert np.abs(score_all(judge, watched) - truth_of(watched)).mean() < 0.8 * before


def test_one_step_changes_every_weight_that_is_used(judge: Judge, watched: Watched) -> None:
    one = replace(watched, batches=watched.batches[:1], scores=watched.scores[:1], flaws=watched.flaws[:1])
    before = {name: p.detach().clone() for name, p in judge.named_parameters()}
    seen: list[float] = []
    supervised(judge, one, Stage(2, 1e-2, parts=1, warmup=0), lambda _, row: seen.append(row["loss"]))
    assert [name for name, p in judge.named_parameters() if torch.equal(p, before[name])] == []
    assert len(seen) == 2
    assert np.isfinite(seen).all()


def test_without_pictures_the_judge_has_none_to_look_at(judge: Judge, watched: Watched) -> None:
    assert all(b.picture.shape[1] == 0 for b in without_pictures(watched).batches)
    assert score_all(judge, without_pictures(watched)).shape == truth_of(watched).shape


def test_what_was_read_is_kept_as_it_is(watched: Watched, tmp_path: Path) -> None:
    save_watched(watched, tmp_path / "kept.safetensors")
    again = load_watched(tmp_path / "kept.safetensors")
    assert again.order == watched.order
    for a, b in zip(again.batches, watched.batches, strict=True):
        assert all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Seen))


def test_held_out_diagnoses_and_forms_are_in_no_training_text(tmp_path: Path) -> None:
    shop = Workshop(BASE, Sizes(pictures=24, each=2, tests=24), tmp_path / "work", quiet=True)
    cases = [c for c in draw_cases(24, shop.sizes.seed) if c.diagnosis not in HELD_OUT]
    book = {name: page for name, page in textbook().items() if name not in HELD_OUT}
    drawn = Samples(cases, shop.grid, book, shop.reader).draw_all(4, np.random.default_rng(0))
    assert len(drawn) == 4 * len(cases)
    for sample in drawn:
        assert not any(name in sample.made.text + sample.made.answer.name for name in HELD_OUT)
        assert {d.form for d in sample.made.done} <= {FORMS[0]}
    with pytest.raises(UsageError, match="holds sets of another model, size or seed"):
        Workshop(BASE, Sizes(pictures=36), tmp_path / "work", quiet=True)


def test_files_come_back_and_damage_is_named(judge: Judge, tmp_path: Path) -> None:
    write_judge(tmp_path / "out", judge, "abc", "# Card\n", {"n": 1})
    again, about = read_judge(tmp_path / "out", "abc")
    for name, tensor in judge.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor.half().float())
    assert about["figures"] == {"n": 1}
    with pytest.raises(OutputError, match="out"):
        write_judge(tmp_path / "out", judge, "abc", "", {})
    with pytest.raises(CheckpointError, match="was trained on another model"):
        read_judge(tmp_path / "out", "abd")
    with pytest.raises(CheckpointError, match=r"holds no judge\.safetensors. Give a folder"):
        read_judge(tmp_path, "abc")
    file = tmp_path / "out" / "judge.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match=r"is not what dermeval\.json describes"):
        read_judge(tmp_path / "out", "abc")
    (tmp_path / "out" / "dermeval.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_judge(tmp_path / "out", "abc")


def test_a_critique_names_what_is_likelier_than_not() -> None:
    likely = dict.fromkeys(flaw_names(), 0.1)
    assert critique(list(likely.values())) == "no flaw found"
    likely |= {"invented colour": 0.9, "invented border": 0.6, "advice 1": 0.9, "advice 2": 0.7}
    assert critique(list(likely.values())) == "invented: colour, border; advice: 2"
    assert list(flaw_names())[:4] == [f"{f} {next(iter(VOCABULARY))}" for f in ("unexplained", "invented", "dropped", "vague")]


def test_a_page_is_found_by_the_answer() -> None:
    page = page_of("<answer>Psoriasis.</answer>", textbook())
    assert page is not None
    assert page.text().startswith("psoriasis: arrangement single or scattered; colour red or pink;")
    assert page_of("<answer>gout</answer>", textbook()) is page_of("psoriasis", textbook()) is None


@pytest.fixture
def weights(judge: Judge, watched: Watched, tmp_path: Path) -> Path:
    supervised(judge, watched, Stage(2, 1e-2))
    write_judge(tmp_path / "weights", judge, checkpoint_digest(BASE), "", {})
    return tmp_path / "weights"


def test_the_scorer_scores_what_can_be_read_and_says_why_not(weights: Path, tmp_path: Path) -> None:
    picture = tmp_path / "lesion.png"
    Image.fromarray(render(draw_cases(1, 3)[0])).save(picture)
    Image.fromarray(render(draw_cases(1, 3)[0], 112)).save(tmp_path / "small.png")
    text = "<think>\nObservation: The colour is red.\n</think>\n<answer>psoriasis</answer>"
    asked = [
        Scorable("whole", text, picture), Scorable("none", text), Scorable("empty", "  ", picture),
        Scorable("special", "a <|im_end|> b", picture), Scorable("small", text, tmp_path / "small.png"),
        Scorable("lost", text, tmp_path / "lost.png"), Scorable("twice", text, picture),
    ]  # fmt: skip
    scorer = DermEval(weights, batch=2)
    assert scorer.needs() == {"image"}
    found = {s.id: s for s in scorer.score(asked)}
    assert set(found) == {a.id for a in asked}
    assert [i for i, s in found.items() if s.scores is None] == [i for i, s in found.items() if s.invalid]
    assert {i for i, s in found.items() if s.invalid} == {"none", "special", "lost"}
    assert found["none"].invalid == "there is no picture to judge it by."
    assert "im_end" in found["special"].invalid
    assert set((found["empty"].scores or {}).values()) == {0.0}
    assert found["whole"].scores == pytest.approx(found["twice"].scores)
    for scored in found.values():
        if scored.scores is not None:
            assert tuple(scored.scores) == DIMENSIONS
            assert all(0 <= v <= 5 for v in scored.scores.values())


def test_without_pictures_it_needs_none_and_says_so(weights: Path) -> None:
    with_picture, without = DermEval(weights), DermEval(weights, picture=False)
    assert without.needs() == frozenset()
    (scored,) = without.score([Scorable("a", "The colour is red.")])
    assert scored.scores is not None
    assert with_picture.identity()["weights"] == without.identity()["weights"]
    assert with_picture.identity() != without.identity()
    assert DermEval(weights, book={}).identity()["pages"] != with_picture.identity()["pages"]
    with pytest.raises(UsageError, match="0 narratives at once is no batch"):
        DermEval(weights, batch=0)


def test_the_shipped_evaluator_tells_sound_from_damaged(tmp_path: Path) -> None:
    """Offline, by the weights that come with skinedge, on pictures that it never saw; of three kinds at their worst."""
    about = json.loads((EMBEDDED / "dermeval.json").read_text())
    assert (EMBEDDED / "judge.safetensors").stat().st_size < 3 << 20
    assert about["model"] == checkpoint_digest(BASE)
    book = textbook()
    asked = []
    for n, case in enumerate(draw_cases(4, 977)):
        picture = tmp_path / f"{n}.png"
        Image.fromarray(render(case)).save(picture)
        others = [page for name, page in book.items() if name != case.diagnosis]
        for name, done in {"sound": [], "bad": [Damage("advice", 3), Damage("invented", 4), Damage("contradiction", 3)]}.items():
            made = damage(case.findings, book[case.diagnosis], others, done, np.random.default_rng(n))
            asked.append(Scorable(f"{n} {name}", made.text, picture))
    found = {s.id: s.scores or {} for s in DermEval().score(asked)}
    for n in range(4):
        sound, bad = found[f"{n} sound"], found[f"{n} bad"]
        for name in ("Safety", "Medical Groundedness"):
            assert sound[name] > bad[name] + 1
        assert sum(sound.values()) > sum(bad.values()) + 6


def test_the_judge_command_judges_offline_by_the_shipped_weights(tmp_path: Path) -> None:
    case = draw_cases(1, 978)[0]
    Image.fromarray(render(case)).save(tmp_path / "a.png")
    others = [page for name, page in textbook().items() if name != case.diagnosis]
    lines = []
    for arm, done in (("export", [Damage("advice", 3)]), ("original", [])):
        made = damage(case.findings, textbook()[case.diagnosis], others, done, np.random.default_rng(0))
        lines.append({"id": "a", "arm": arm, "text": made.text, "image": "a.png"})
    lines.append({"id": "b", "arm": "original", "text": "There is a ring."})
    file, out = tmp_path / "narratives.jsonl", tmp_path / "scores.json"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["judge", file, "--judge", "dermeval", "--out", out, "--json"]
    assert typed(*words, "--dry-run").json["judgements"] == 3
    found = typed(*words).json
    assert found["judge"]["scorer"] == "dermeval"
    assert found["invalid_reasons"] == {"there is no picture to judge it by.": 1}
    assert found["differences"]["Safety"]["mean"] > 1
    assert len(json.loads(out.read_text())["judgements"]) == 3
    refused = typed(*words, "--endpoint", "http://127.0.0.1:9/v1")
    assert (refused.code, refused.json["error"]) == (2, "DermEval needs no endpoint.")
    refused = typed("judge", file, "--out", tmp_path / "other.json", "--json")
    assert (refused.code, refused.json["error"]) == (2, "a judge is a model at an endpoint.")
    assert "--judge dermeval" in refused.json["hint"]
    assert typed(*words[:2], "--judge", "dermevl", *words[4:]).json["error"] == "unknown judge 'dermevl'."
