"""Batched answers are those of the runtime, one by one; verdicts and reports say what they should."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from skinedge.errors import SkinedgeError, UsageError
from skinedge.runtime.generate import GenerateOptions, generate
from skinedge.runtime.prompt import Message, PromptBuilder, ask
from skinedge.synthderm.findings import draw_case
from skinedge.synthderm.narrative import narrate
from train.diagnose import answer, app, read_answers, write_answers
from train.errors import DataError
from train.held_out import HeldOut, Verdict, judge, read_held_out, summarise

QUESTIONS = ("What is this?", "Describe the lesion and name the most likely diagnosis.")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[HeldOut, ...]:
    """Pictures of two sizes, two questions, and one case of two pictures."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(5)
    made = []
    for number in range(8):
        path = folder / f"{number}.png"
        side = (112, 168)[number % 2]
        Image.fromarray(rng.integers(0, 256, (112, side, 3), dtype=np.uint8)).save(path)
        pictures = (path, folder / "0.png") if number == 6 else (path,)
        messages = ask(QUESTIONS[number % 3 == 0], images=len(pictures))
        made.append(HeldOut(str(number), messages, pictures, "melanoma", number % 3, None))
    return tuple(made)


def _one_by_one(model: Path, adapters: list[Path], records: tuple[HeldOut, ...], options: GenerateOptions) -> list[str]:
    from skinedge.model.config import read_config
    from skinedge.model.reference import Reference
    from skinedge.runtime.image import load_photograph, read_processor_config, to_pixels

    session = Reference.from_checkpoint(model, adapters, threads=1)
    builder, processor = PromptBuilder.from_folder(model, read_config(model)), read_processor_config(model)
    texts = []
    for record in records:
        images = [session.encode_image(to_pixels(load_photograph(p), processor)) for p in record.images]
        prompt = builder.build(record.messages, [i.grid for i in images])
        generation = generate(session, builder, prompt, images, options)
        texts.append("".join(token.text for token in generation))
    return texts


@pytest.mark.parametrize("bias", ["every-step", "off"])
def test_many_at_once_answer_as_one_by_one(
    tiny_model: Path, tiny_branch: Path, tiny_lora: Path, records: tuple[HeldOut, ...], bias: str
) -> None:
    adapters = [tiny_lora, tiny_branch]
    options = GenerateOptions(max_new_tokens=12, bias=bias)  # type: ignore[arg-type]
    expected = _one_by_one(tiny_model, adapters, records, options)
    assert answer(tiny_model, adapters, records, max_new_tokens=12, batch=3, bias=options.bias, threads=1) == expected
    assert len(set(expected)) > 4  # they depend on what is asked


def test_an_answer_ends_where_the_model_ends_it(tiny_model: Path, records: tuple[HeldOut, ...], tmp_path: Path) -> None:
    from skinedge.model.config import read_config

    builder = PromptBuilder.from_folder(tiny_model, read_config(tiny_model))
    endless = answer(tiny_model, [], records, max_new_tokens=12, threads=1)
    # Let tokens that some answers hold be end tokens, so that rows leave their batch at different times.
    ids = builder.build((Message("user", endless[0]),), add_generation_prompt=False).token_ids
    usual = builder.build((Message("user", ""),), add_generation_prompt=False).token_ids
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    settings = json.loads((model / "generation_config.json").read_text())
    settings["eos_token_id"] += sorted(set(ids.tolist()) - set(usual.tolist()))
    (model / "generation_config.json").write_text(json.dumps(settings))
    expected = _one_by_one(model, [], records, GenerateOptions(max_new_tokens=12))
    found = answer(model, [], records, max_new_tokens=12, threads=1)
    assert found == expected
    assert found != endless


def test_one_question_for_all(tiny_model: Path, records: tuple[HeldOut, ...]) -> None:
    asked = tuple(replace(r, messages=ask("Is it a nevus?", images=len(r.images))) for r in records)
    expected = answer(tiny_model, [], asked, max_new_tokens=6, threads=1)
    assert answer(tiny_model, [], records, question="Is it a nevus?", max_new_tokens=6, threads=1) == expected
    assert answer(tiny_model, [], records, max_new_tokens=6, threads=1) != expected


def test_logits_that_are_no_numbers_are_an_error(
    tiny_model: Path, tiny_branch: Path, records: tuple[HeldOut, ...], tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(tiny_branch / "adapter.safetensors")
    save_file(tensors | {"logit_bias_scale": np.array(np.nan, np.float32)}, tmp_path / "adapter.safetensors")
    with pytest.raises(SkinedgeError, match="something else than a number for a logit"):
        answer(tiny_model, [tmp_path], records[:1], max_new_tokens=2, threads=1)


CASE = draw_case(3, diagnosis="psoriasis", fitzpatrick=5)
HELD_OUT = HeldOut("a", (Message("user", "?"),), (), "psoriasis", 2, dict(CASE.findings.items()))


def _narrative(diagnosis: str) -> str:
    return narrate(CASE.findings, diagnosis, ["vitiligo"], np.random.default_rng(0))


def test_a_true_narrative_gets_full_marks() -> None:
    report = summarise([judge(HELD_OUT, _narrative("psoriasis"))])
    assert report.accuracy.value == report.structure.value == 1
    whole = report.all_findings
    assert whole is not None
    assert (whole.precision, whole.recall, whole.possible) == (1, 1, 8)


@pytest.mark.parametrize(
    ("text", "correct", "well_formed"),
    [
        ("<think>a</think><answer>Psoriasis.</answer>", True, True),
        ("<think>a</think>\n<answer> psoriasis </answer>\n", True, True),
        ("<answer>psoriasis</answer>", True, False),
        ("<think>a</think><answer>plaque psoriasis</answer>", False, True),
        ("<think>psoriasis</think><answer></answer>", False, False),
        ("<think>a</think> The answer is psoriasis", False, False),
        ("<think>a</think><answer>vitiligo</answer><answer>psoriasis</answer>", True, False),
        ("<think></think><answer>psoriasis</answer>", True, False),
        ("", False, False),
    ],
)
def test_what_counts_as_right_and_as_well_formed(text: str, correct: bool, well_formed: bool) -> None:
    verdict = judge(HELD_OUT, text)
    assert (verdict.correct, verdict.well_formed) == (correct, well_formed)


def test_a_report_counts_groups_findings_and_confusions() -> None:
    wrong_surface = _narrative("vitiligo").replace("silvery", "fine dry", 1)
    verdicts = [
        judge(HELD_OUT, _narrative("psoriasis")),
        judge(HELD_OUT, "nothing"),
        judge(replace(HELD_OUT, skin=0), _narrative("melanoma")),
        judge(replace(HELD_OUT, diagnosis="vitiligo", skin=0), wrong_surface),
        judge(replace(HELD_OUT, skin=-100), _narrative("psoriasis")),
    ]
    report = summarise(verdicts)
    assert (report.accuracy.successes, report.accuracy.n) == (3, 5)
    assert {name: (s.successes, s.n) for name, s in report.groups.items()} == {"I-II": (1, 2), "V-VI": (1, 2)}
    assert report.worst_gap == pytest.approx(0.1)
    assert report.structure.successes == 4
    assert report.confusion["psoriasis"] == {"psoriasis": 2, "vitiligo": 0, "other": 2}
    assert report.commonest.successes == 4
    colour = report.findings["colour"]
    assert (colour.right, colour.claimed, colour.possible, colour.commonest) == (4, 4, 5, 5)
    assert json.loads(json.dumps(report.to_json()))["by_finding"]["colour"]["recall"] == 0.8


def test_where_nothing_is_claimed_there_is_no_precision() -> None:
    whole = summarise([judge(HELD_OUT, "")]).all_findings
    assert whole is not None
    assert whole.precision is None
    assert whole.recall == 0


def _record(folder: Path, **extra: object) -> Path:
    Image.new("RGB", (56, 56)).save(folder / "a.png")
    record: dict[str, object] = {
        "id": "a", "images": ["a.png"], "skin_labels": 2,
        "messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": _narrative("psoriasis")}],
    }  # fmt: skip
    (folder / "records.jsonl").write_text(json.dumps(record | extra) + "\n")
    return folder / "records.jsonl"


def test_the_diagnosis_is_the_records_own_or_its_narratives(tmp_path: Path) -> None:
    assert read_held_out(_record(tmp_path))[0].diagnosis == "psoriasis"
    assert read_held_out(_record(tmp_path, diagnosis="eczema"))[0].diagnosis == "eczema"


def test_what_is_asked_ends_before_the_narrative(tmp_path: Path) -> None:
    record = read_held_out(_record(tmp_path, findings=asdict(CASE.findings)))[0]
    assert [m.role for m in record.messages] == ["user"]
    assert record.findings == asdict(CASE.findings)


def test_a_record_that_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    silent = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "I do not know."}]
    with pytest.raises(DataError, match=r"records.jsonl, line 1: it says no diagnosis"):
        read_held_out(_record(tmp_path, messages=silent))
    with pytest.raises(DataError, match=r"line 1: 'findings' must have exactly the keys arrangement"):
        read_held_out(_record(tmp_path, findings={"colour": "red"}))
    with pytest.raises(UsageError, match=r"unknown colour in .*line 1 'rde'") as caught:
        read_held_out(_record(tmp_path, findings=asdict(CASE.findings) | {"colour": "rde"}))
    assert "'red'" in caught.value.hint


def test_answers_come_back_as_they_were_written(tmp_path: Path) -> None:
    texts = ["line\nbreak", "\u2028 separators \x85 too", "<answer>é</answer>"]
    verdicts: list[Verdict] = [judge(replace(HELD_OUT, id=str(i)), text) for i, text in enumerate(texts)]
    write_answers(tmp_path / "answers.jsonl", verdicts)
    assert list(read_answers(tmp_path / "answers.jsonl").values()) == texts


def test_the_command_prints_and_keeps(tiny_model: Path, tmp_path: Path) -> None:
    data = _record(tmp_path, findings=asdict(CASE.findings))
    arguments = ["--model", str(tiny_model), "--data", str(data), "--max-new-tokens", "4", "--quiet"]
    shown = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out.jsonl")], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "accuracy   0.0 % [0.0, 79.3] of 1" in shown.stdout
    assert "skin V-VI" in shown.stdout
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert told["accuracy"] == {"value": 0.0, "low": 0.0, "high": pytest.approx(0.7935, abs=1e-4), "right": 0, "n": 1}
    kept = json.loads((tmp_path / "out.jsonl").read_text())
    assert kept["id"] == "a"
    assert kept["text"]
    assert kept["diagnosis"] == "psoriasis"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "nowhere: there is no such folder"),
        (["--bias", "of"], "unknown bias 'of'"),
        (["--precision", "f23"], "unknown precision 'f23'"),
    ],
)
def test_what_cannot_be_meant_is_refused(tiny_model: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    common = ["--model", str(tiny_model), "--data", str(_record(tmp_path))]
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(app, [*common, *arguments], catch_exceptions=False)


def test_an_answers_file_is_not_overwritten(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("precious")
    arguments = ["--model", str(tiny_model), "--data", str(_record(tmp_path)), "--out", str(tmp_path / "out.jsonl")]
    with pytest.raises(SkinedgeError, match="exists already"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
