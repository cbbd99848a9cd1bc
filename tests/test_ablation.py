"""The ablation driver: its plan, its bookkeeping, its tests, and one small run from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import conftest
import pytest
from PIL import Image
from typer.testing import CliRunner

from skinedge.errors import OutputError, UsageError
from skinedge.synthderm.dataset import write_dataset
from skinedge.synthderm.findings import DIAGNOSES
from train.ablation import app
from train.ablation_plan import Counts, Speed, plan, show
from train.ablation_report import Comparison, draw, markdown, paired_test
from train.ablation_sets import PAD_QUESTION, check_apart, pad_ufes_20, synthderm
from train.arms import Ablation, Answers, Arm, Benchmark, Outcome, Place, SynthDerm, Trial, read_ablation
from train.data import read_records
from train.errors import DataError
from train.held_out import Verdict
from train.recipe import RECIPES, parse_override, read_recipe

SIDE_BRANCH = {
    "adapter.width": 16, "adapter.bottleneck": 8, "teacher.spec": "", "train.steps": 2, "train.batch": 4, "train.accumulation": 1,
}  # fmt: skip
SMALL = Arm("small", "small side branch", "side_branch_v1", SIDE_BRANCH, "base")
TWO = Ablation((Arm("base"), SMALL), Answers(4, 8), SynthDerm(12, 1, 6, 2), {})


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Twelve pictures to train on and six held out."""
    folder = tmp_path_factory.mktemp("synthderm")
    files = (write_dataset(folder / name, count, seed, workers=1) for name, count, seed in (("a", 12, 1), ("b", 6, 2)))
    return Benchmark("synthderm", *files)


def test_the_shipped_ablation_is_the_papers() -> None:
    what = read_ablation(RECIPES / "ablation.toml")
    recipes = {arm.name: read_recipe(arm.recipe, arm.changes(what, "synthderm")) for arm in what.arms if arm.recipe}
    against = {arm.name: arm.against for arm in what.arms}
    assert against == {"base": "", "dermcot": "base", "visual": "base", "both": "dermcot", "lora": "both"}
    weights = {name: (r.loss.ce > 0, r.loss.cosine > 0) for name, r in recipes.items() if name != "lora"}
    assert weights == {"dermcot": (True, False), "visual": (False, True), "both": (True, True)}
    assert recipes["lora"].adapter.kind == "lora"
    # These arms differ in the weights of their losses and in nothing else.
    same = {json.dumps(replace(r, loss=recipes["both"].loss).tables()) for name, r in recipes.items() if name != "lora"}
    assert len(same) == 1
    assert what.synthderm.test >= 600
    assert what.synthderm.test % (6 * len(DIAGNOSES)) == 0  # skin groups in equal share


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("arms = 1", "unknown section in .* 'arms'", "'arm'"),
        ("[answers]\nbatches = 3\n[[arm]]\nname = 'base'", "unknown key in .* 'batches'", "'batch'"),
        ("[answers]\nbatch = 'x'\n[[arm]]\nname = 'base'", "batch is 'x' and must be a whole number", ""),
        ("[answers]\nprecision = 'bf61'\n[[arm]]\nname = 'base'", "unknown precision in .* 'bf61'", "'bf16'"),
        ("[[arm]]\nname = 'a'\n[[arm]]\nname = 'a'", "each with a name of its own", ""),
        ("[[arm]]\ntitle = 'a'", "an arm has no name", ""),
        ("[[arm]]\nname = 'base'\nagainst = 'lora'\n[[arm]]\nname = 'lora'", "unknown arm before 'base' in .* 'lora'", ""),
        ("[benchmark.pad]\n[[arm]]\nname = 'base'", "unknown benchmark in .* 'pad'", "'pad_ufes_20'"),
        ("[answers", "not TOML", ""),
        ("", "it must have arms", ""),
    ],
)
def test_what_an_ablation_cannot_say(tmp_path: Path, text: str, message: str, hint: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_ablation(tmp_path / "a.toml")
    assert hint in caught.value.hint


def test_an_ablation_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such ablation"):
        read_ablation(tmp_path / "a.toml")


def test_an_arms_folder_is_that_of_all_its_result_depends_on(tiny_model: Path, halves: Benchmark, tmp_path: Path) -> None:
    place = Place(tiny_model, tmp_path)
    trial = Trial(SMALL, halves, TWO, place)
    assert Trial(SMALL, halves, TWO, replace(place, threads=1, quiet=True)).folder == trial.folder
    assert Trial(replace(SMALL, set={**SIDE_BRANCH, "train.save_every": 1}), halves, TWO, place).folder == trial.folder
    others = [
        Trial(replace(SMALL, set={**SIDE_BRANCH, "train.steps": 3}), halves, TWO, place),
        Trial(SMALL, halves, TWO, place, seed=7),
        Trial(SMALL, replace(halves, train=halves.test), TWO, place),
        Trial(SMALL, halves, replace(TWO, changes={"synthderm": {"optim.lr": 1.0}}), place),
    ]
    assert len({trial.folder, *(other.folder for other in others)}) == 5
    longer = Trial(SMALL, halves, replace(TWO, answers=Answers(5, 8)), place)
    assert longer.folder == trial.folder
    assert longer.answers_file != trial.answers_file


def test_the_command_trains_the_arms_own_recipe(tiny_model: Path, halves: Benchmark, tmp_path: Path) -> None:
    what = replace(TWO, changes={"synthderm": {"optim.lr": 0.5}})
    trial = Trial(SMALL, halves, what, Place(tiny_model, tmp_path, threads=1), seed=3)
    words = trial.command()
    overrides = dict(parse_override(words[i + 1]) for i, word in enumerate(words) if word == "--set")
    assert read_recipe(words[words.index("--recipe") + 1], overrides) == trial.recipe
    assert trial.recipe is not None
    assert (trial.recipe.optim.lr, trial.recipe.train.seed, trial.recipe.adapter.kind) == (0.5, 3, "side-branch")
    assert words[words.index("--data") + 1] == str(halves.train)


def test_an_arm_that_stopped_on_the_way_is_not_trained(tiny_model: Path, halves: Benchmark, tmp_path: Path) -> None:
    trial = Trial(SMALL, halves, TWO, Place(tiny_model, tmp_path))
    assert not trial.trained
    (trial.adapter / "checkpoints").mkdir(parents=True)
    (trial.adapter / "adapter.safetensors").touch()
    assert not trial.trained
    (trial.adapter / "checkpoints").rmdir()
    assert trial.trained
    assert Trial(TWO.arms[0], halves, TWO, Place(tiny_model, tmp_path)).trained


def _outcome(name: str, right: str, against: str = "") -> Outcome:
    verdicts = tuple(
        Verdict(str(i), "", "nevus", "nevus" if r == "1" else None, i % 3, False, None, {}) for i, r in enumerate(right)
    )
    return Outcome(Arm(name, f"the {name}", against=against), verdicts)


def test_a_paired_test_counts_who_alone_is_right() -> None:
    found = paired_test(_outcome("base", "1100000000"), _outcome("cot", "1011111110"))
    assert (found.arm, found.against, found.only_arm, found.only_other) == ("cot", "base", 7, 1)
    assert found.p == pytest.approx(2 * 9 / 2**8)
    assert found.difference.mean == pytest.approx(0.6)
    assert 0 < found.difference.interval.low < 0.6 < found.difference.interval.high <= 1


def test_the_report_says_what_was_measured_and_what_failed(tiny_model: Path, halves: Benchmark, tmp_path: Path) -> None:
    outcomes = (
        _outcome("base", "100000000"),
        _outcome("cot", "111111000", "base"),
        Outcome(Arm("lora", against="cot"), failure="training ended with exit code 1."),
    )
    comparison = Comparison(halves, outcomes, Place(tiny_model, tmp_path), "d")
    told = json.loads(json.dumps(comparison.to_json()))
    assert [arm["status"] for arm in told["arms"]] == ["measured", "measured", "failed: training ended with exit code 1."]
    assert [(t["arm"], t["against"], t["only_arm_right"]) for t in told["tests"]] == [("cot", "base", 5)]
    text = markdown(comparison, "plot.png")
    assert "| the base | 11.1 % [2.0, 43.5] |" in text
    assert "| the cot | the base | +55.6 [" in text
    assert "lora failed: training ended with exit code 1." in text
    assert "Underpowered skin groups: I-II (3), III-IV (3), V-VI (3)." in text
    (tmp_path / "plot.png").write_bytes(draw(comparison))
    with Image.open(tmp_path / "plot.png") as picture:
        assert min(picture.size) > 300


def test_a_photograph_cannot_be_on_both_sides(halves: Benchmark) -> None:
    check_apart(halves)
    with pytest.raises(DataError, match=r"records.jsonl, line 1: the photograph 0000000.png is also that of 'synth-2-0000000'"):
        check_apart(replace(halves, train=halves.test))


def test_synthderm_is_drawn_once_or_given(halves: Benchmark, tmp_path: Path) -> None:
    first = synthderm(tmp_path, TWO.synthderm, None, None, quiet=True)
    assert (first.train_digest, first.test_digest) == (halves.train_digest, halves.test_digest)
    before = first.train.stat().st_mtime_ns
    assert synthderm(tmp_path, TWO.synthderm, None, None, quiet=True).train.stat().st_mtime_ns == before
    assert synthderm(tmp_path, TWO.synthderm, halves.train, halves.test).train == halves.train
    with pytest.raises(UsageError, match="records are given for one half only"):
        synthderm(tmp_path, TWO.synthderm, halves.train, None)


def test_pad_ufes_20_keeps_its_split_and_invents_nothing(tmp_path: Path) -> None:
    folder = conftest.SHARED_DATA / "pad-ufes-20"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: no PAD-UFES-20 on this machine")
    benchmark = pad_ufes_20(tmp_path, folder)
    train, val = (read_records([file]) for file in (benchmark.train, benchmark.test))
    assert (len(train), len(val)) == (414, 68)
    assert {m.content for r in train for m in r.messages if m.role == "assistant"} == {
        f"<answer>{name}</answer>" for name in (
            "basal cell carcinoma", "melanocytic nevus", "seborrheic keratosis", "actinic keratosis", "melanoma",
            "squamous cell carcinoma",
        )
    }  # fmt: skip
    assert all(PAD_QUESTION in str(r.messages[0].content) for r in train)
    assert all(path.is_relative_to(folder.resolve()) for r in (*train, *val) for path in r.images)
    check_apart(benchmark)
    before = benchmark.train.stat().st_mtime_ns
    assert pad_ufes_20(tmp_path, folder).train.stat().st_mtime_ns == before
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["train.jsonl", "val.jsonl"]


RECIPE = """
[answers]
max_new_tokens = 4
batch = 8
[synthderm]
train = 12
test = 6
[[arm]]
name = "base"
[[arm]]
name = "broken"
recipe = "side_branch_v1"
against = "base"
set = {{ {broken}, {small} }}
[[arm]]
name = "small"
recipe = "side_branch_v1"
against = "base"
set = {{ {small} }}
"""
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> Run:
    """The command on a small ablation one arm of which cannot be trained."""
    small = ", ".join(f'"{key}" = {json.dumps(value)}' for key, value in SIDE_BRANCH.items())
    (tmp_path / "a.toml").write_text(RECIPE.format(small=small, broken='"optim.lr" = 1e30'))
    common = [
        "--base", str(tiny_model), "--recipe", str(tmp_path / "a.toml"), "--work", str(tmp_path / "work"),
        "--out", str(tmp_path / "results"), "--benchmark", "synthderm", "--threads", "1", "--quiet",
    ]  # fmt: skip

    def invoke(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, [*common, *arguments], catch_exceptions=False)
        return result.exit_code, result.stdout

    return invoke


@pytest.mark.slow
def test_one_arm_that_dies_takes_no_other_with_it_and_what_is_done_is_kept(tiny_model: Path, run: Run, tmp_path: Path) -> None:
    code, told = run("--json")
    assert code == 1
    result = json.loads(told)["benchmarks"][0]
    status = {arm["name"]: arm["status"] for arm in result["arms"]}
    assert status["base"] == status["small"] == "measured"
    assert status["broken"].startswith("failed: training ended with exit code 1")
    assert result["failed"] == ["broken"]
    assert [t["arm"] for t in result["tests"]] == ["small"]
    assert json.loads((tmp_path / "results" / "ablation_synthderm.json").read_text()) == result
    assert {p.suffix for p in (tmp_path / "results").iterdir()} == {".json", ".md", ".png"}

    with pytest.raises(OutputError, match="exists already"):
        run()
    what, place = read_ablation(tmp_path / "a.toml"), Place(tiny_model, tmp_path / "work", quiet=True)
    again = Trial(what.arms[2], synthderm(place.work, what.synthderm, None, None), what, place)
    before = {path: path.stat().st_mtime_ns for path in again.folder.rglob("*")}
    found = again.run()
    assert not found.failure
    assert found.train_seconds > 0
    assert {path: path.stat().st_mtime_ns for path in again.folder.rglob("*")} == before


def test_a_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    code, told = run("--dry-run", "--json")
    assert code == 0
    plan = json.loads(told)["plan"][0]
    assert (plan["benchmark"], plan["train"], plan["test"]) == ("synthderm", 12, 6)
    assert [(arm["name"], arm["steps"]) for arm in plan["arms"]] == [("base", 0), ("broken", 2), ("small", 2)]
    assert all(arm["guessed_seconds"] > 0 for arm in plan["arms"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.toml"]


def test_a_plan_guesses_from_what_was_timed(capsys: pytest.CaptureFixture[str]) -> None:
    lora = Arm("lora", "LoRA", "lora", {"train.epochs": 2, "train.batch": 16, "train.accumulation": 1}, "small")
    twice = replace(SMALL, name="twice")
    what = replace(TWO, arms=(*TWO.arms, twice, lora), answers=Answers())
    planned = plan("synthderm", what, Counts(160, 100), Speed(forward=1.0, token=0.01), None)
    base, small, again, largest = (p.seconds for p in planned)
    assert base == 100 * 120 * 0.01
    assert small - again == pytest.approx(160)  # the cache is made once
    assert largest - base > 2 * 160  # every epoch goes through the whole model
    assert [p.steps for p in planned] == [0, 2, 2, 20]
    show("synthderm", planned, Counts(160, 100))
    shown = capsys.readouterr().out
    assert "synthderm: 160 records to train on, 100 held out" in shown
    assert 'teacher.spec = ""' in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "nowhere"], "nowhere: there is no such folder"),
        (["--benchmark", "synthdrem"], "unknown benchmark 'synthdrem'"),
        (["--device", "cpus"], "unknown device 'cpus'"),
    ],
)
def test_what_cannot_be_meant_is_refused(run: Run, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(*arguments)
