"""The judge against an endpoint made for the test: what it is sent, what is kept, what counts, and what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import Result, typed
from PIL import Image
from served import Handler, serving

from skinedge.evaluation.judge_file import blinded, read_written, to_repeat
from skinedge.evaluation.scores import DIMENSIONS

pytest.importorskip("httpx2")

FIVES = json.dumps(dict.fromkeys(DIMENSIONS, 5))
Answers = Callable[[int, dict[str, Any]], str]


class Served:
    """A running endpoint: its address, and the bodies of what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.models: dict[str, Any] = {"data": [{"id": "tiny", "created": 1, "owned_by": "us"}]}


@contextmanager
def served(answers: Answers, finish: str = "stop") -> Iterator[Served]:
    """An endpoint whose n-th answer is ``answers(n, body)``."""
    lock, place = threading.Lock(), Served()

    class Model(Handler):
        def do_GET(self) -> None:
            self.reply(200, json.dumps({**place.models, "seconds": len(place.asked)}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.sent())
            with lock:
                place.asked.append(body)
                text = answers(len(place.asked) - 1, body)
            choice = {"message": {"content": text}, "finish_reason": finish}
            self.reply(200, json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}).encode())

    with serving(Model) as place.url:
        yield place


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Twenty cases by two arms, each with a reference and a picture of its own."""
    lines = []
    for n in range(20):
        Image.new("RGB", (40, 30), (200, 9 * n, 100)).save(tmp_path / f"{n}.png")
        for arm in ("original", "export"):
            text = f"<think>case {n} as the {'first' if arm == 'original' else 'second'} saw it</think><answer>nevus</answer>"
            lines.append({"id": str(n), "arm": arm, "text": text, "image": f"{n}.png", "reference": f"truth {n} {{$x}}"})
    file = tmp_path / "narratives.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def judge(file: Path, url: str, *more: str, out: str = "scores.json") -> Result:
    words = ["judge", file, "--endpoint", url, "--model", "tiny", "--out", file.parent / out, "--retries", "0", "--json"]
    return typed(*words, *more)


def error(result: Result) -> str:
    """The error's sentence and its hint."""
    return f"{result.json['error']} {result.json['hint']}"


def by_arm(_: int, body: dict[str, Any]) -> str:
    """Fives for the one, a four in Safety for the other."""
    text = body["messages"][1]["content"]
    return f"Fine. {FIVES}" if "first" in text else "Less so. " + FIVES.replace('"Safety": 5', '"Safety": 4')


def test_two_arms_against_references(file: Path) -> None:
    with served(by_arm) as place:
        result = judge(file, place.url, "--repeat-share", "0.25")
        assert result.code == 0, result.err
        assert len(place.asked) == 50
        asked = [body["messages"][1]["content"] for body in place.asked]
    found = result.json
    assert (found["narratives"], found["cases"]) == (40, 20)
    assert (found["invalid"], found["judged_again"], found["margin"]) == (0, 10, 0.1)
    assert found["means"]["original"]["Safety"] == 5
    assert found["means"]["export"]["Safety"] == 4
    apart = found["differences"]["Safety"]
    assert (apart["pairs"], apart["mean"]) == (20, 1.0)  # the second arm by name, original, less the first, export
    assert found["differences"]["Accuracy"]["mean"] == 0
    assert all("truth" in text and "{$x}" in text for text in asked)
    assert not any("original" in text or "export" in text for text in asked), "whose narrative it is was told"
    assert all(isinstance(text, str) for text in asked), "the reference-based form sends no picture"
    whole = json.loads((file.parent / "scores.json").read_text(encoding="utf-8"))
    assert len(whole["judgements"]) == 40
    assert whole["judgements"][0]["answer"].startswith(("Fine.", "Less so."))
    assert whole["seed"] == 0


def test_the_order_of_the_arms_is_drawn_by_case_and_recorded(file: Path) -> None:
    read = read_written(file)
    first = [w.arm for w in blinded(read.written, 7)][::2]
    assert {"original", "export"} == set(first)
    assert [w.one.id for w in blinded(read.written, 7)][::2] == [str(n) for n in range(20)]
    backwards = [w.arm for w in blinded(read.written[::-1], 7)][::2]
    assert first == backwards[::-1], "the order depends on the seed and the case, not on the file"
    assert first != [w.arm for w in blinded(read.written, 8)][::2]
    with served(by_arm) as place:
        judge(file, place.url, "--seed", "7")
    whole = json.loads((file.parent / "scores.json").read_text(encoding="utf-8"))
    assert [one["arm"] for one in whole["judgements"]][::2] == first


def test_reference_free_shows_the_picture_and_no_reference(file: Path) -> None:
    with served(lambda n, body: FIVES) as place:
        assert judge(file, place.url, "--reference-free").code == 0
        parts = [body["messages"][1]["content"] for body in place.asked]
    assert all(part[0]["image_url"]["url"].startswith("data:image/jpeg;base64,") for part in parts)
    assert not any("truth" in part[1]["text"] for part in parts)
    kept = (file.parent / "scores.json.journal.jsonl").read_text(encoding="utf-8")
    assert "base64" not in kept


def test_the_judges_own_noise_stands_beside_the_margin(file: Path) -> None:
    def moody(n: int, body: dict[str, Any]) -> str:
        return FIVES.replace('"Accuracy": 5', f'"Accuracy": {3 + body["seed"] * (len(body["messages"][1]["content"]) % 2)}')

    with served(moody) as place:
        found = judge(file, place.url, "--repeat-share", "1").json
    noise = found["noise"]
    assert found["judged_again"] == noise["Safety"]["pairs"] == 40
    assert (noise["Safety"]["sd"], noise["Safety"]["inside_margin"]) == (0, True)
    assert noise["Accuracy"]["sd"] > 0.4
    assert noise["Accuracy"]["half_width_95"] == pytest.approx(1.96 * noise["Accuracy"]["sd"] / 20**0.5, rel=1e-3)
    assert noise["Accuracy"]["inside_margin"] is False


@pytest.mark.parametrize(
    ("answer", "finish", "reason"),
    [
        ("Very good, 5 of 5.", "stop", "no JSON object after the reasoning"),
        (FIVES.replace("5", "9", 1), "stop", "Accuracy is not a number from 0 to 5"),
        (f'{{"mine": "see below" "scores": {FIVES}}}', "stop", "no JSON object after the reasoning"),
        (f'{{"example": {FIVES}', "stop", "no JSON object after the reasoning"),
        (FIVES[:40], "length", "cut short after 2 tokens"),
        (FIVES, "content_filter", "refused: content filter"),
    ],
)
def test_invalid_answers_are_counted_and_not_repaired(file: Path, answer: str, finish: str, reason: str) -> None:
    with served(lambda n, body: answer, finish) as place:
        result = judge(file, place.url)
        assert len(place.asked) == 44, "nothing is asked for again"
    assert result.code == 1
    assert result.json["invalid"] == 40
    assert result.json["invalid_reasons"] == {reason: 40}
    assert result.json["means"]["export"]["Safety"] is None
    assert "no answer held six scores" in result.err


def test_a_stopped_run_goes_on_without_asking_twice(file: Path) -> None:
    with served(lambda n, body: "unread" if n < 7 else FIVES) as place:
        dry = judge(file, place.url, "--dry-run").json
        assert dry == {"judgements": 44, "of_them_again": 4, "same_questions": 0, "requests": 44}
        assert place.asked == []
        assert judge(file, place.url).code == 0
        journal = file.parent / "scores.json.journal.jsonl"
        lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
        journal.write_text("".join(lines[:21]), encoding="utf-8")  # who answers, and 20 answers
        (file.parent / "scores.json").unlink()
        assert judge(file, place.url, "--dry-run").json["requests"] == 24
        before = len(place.asked)
        assert judge(file, place.url).code == 0
        assert len(place.asked) == before + 24


def test_the_same_narrative_in_both_arms_is_asked_about_once(file: Path) -> None:
    file.write_text(file.read_text(encoding="utf-8").replace("second", "first"), encoding="utf-8")
    with served(lambda n, body: FIVES) as place:
        assert judge(file, place.url, "--repeat-share", "0").code == 0
        assert len(place.asked) == 20


def test_who_judged_is_recorded_and_another_by_that_name_does_not_go_on(file: Path) -> None:
    with served(by_arm) as place:
        who = judge(file, place.url).json["judge"]
        assert who["model"] == "tiny"
        assert who["says"] == {"id": "tiny", "owned_by": "us"}, "what changes by the hour is no identity"
        assert len(who["digest"]) == len(who["served"]) == 64
        place.models = {"data": [{"id": "tiny", "owned_by": "them"}]}
        result = judge(file, place.url, "--journal", str(file.parent / "scores.json.journal.jsonl"), out="new.json")
    assert result.code == 1
    assert "the journal's answers are of another model that is called tiny, too." in error(result)
    assert not (file.parent / "new.json").exists()


def test_the_digest_changes_with_settings_and_words(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skinedge.evaluation import judge_prompts
    from skinedge.evaluation.judge import JudgeSettings

    digests = {JudgeSettings("m", form).digest for form in judge_prompts.FORMS}
    digests.add(JudgeSettings("m", "free", temperature=0.5).digest)
    monkeypatch.setattr(judge_prompts, "SYSTEM", "Be kind.")
    digests.add(JudgeSettings("m", "free").digest)
    assert len(digests) == 4


def test_patient_data_stays_here_unless_allowed(file: Path) -> None:
    result = judge(file, "http://judge.example.org/v1")
    assert result.code == 2
    assert "judge.example.org is another machine, and photographs and narratives are patient data." in error(result)
    assert "--allow-remote" in error(result)
    assert not list(file.parent.glob("*journal*"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "narratives.jsonl, line 1: the line cannot be used"),
        ("{", "narratives.jsonl, line 1: it is not JSON."),
        ('{"id": "1"}', "narratives.jsonl, line 1: text cannot be used (field required)."),
        ('{"id": 1, "text": "a"}', "line 1: id cannot be used (input should be a valid string)."),
        ("", "has no narratives."),
        ('{"id": "1", "text": "a"}\n{"id": "1", "text": "b"}', "lines 1 and 2: both are case '1'."),
        ('{"id": "1", "text": "a"}', "1 has no reference. Give one, or judge by the photographs: --reference-free."),
        ('{"id": "1", "text": "a", "reference": " "}', "1 has no reference."),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_judged(file: Path, line: str, said: str) -> None:
    file.write_text(line, encoding="utf-8")
    result = judge(file, "http://127.0.0.1:9/v1")
    assert result.code in (1, 2)
    assert said in error(result)
    assert not (file.parent / "scores.json").exists()


def test_a_missing_photograph_is_named(file: Path) -> None:
    (file.parent / "3.png").unlink()
    result = judge(file, "http://127.0.0.1:9/v1", "--reference-free")
    assert result.code == 2
    assert "3.png is missing." in error(result)


def test_a_taken_place_is_refused_before_anything_is_asked(file: Path) -> None:
    (file.parent / "scores.json").write_text("mine", encoding="utf-8")
    assert judge(file, "http://127.0.0.1:9/v1").code == 1
    assert (file.parent / "scores.json").read_text(encoding="utf-8") == "mine"


def test_a_server_that_is_not_there(file: Path) -> None:
    result = judge(file, "http://127.0.0.1:9/v1")
    assert result.code == 1
    assert "http://127.0.0.1:9/v1 cannot be reached" in error(result)
    assert not list(file.parent.glob("*journal*")), "an empty journal stays nowhere"


def test_what_is_repeated_is_drawn_by_the_seed(file: Path) -> None:
    written = read_written(file).written
    some = to_repeat(written, 0.1, 0)
    assert len(some) == 4
    assert some == to_repeat(written, 0.1, 0)
    assert some != to_repeat(written, 0.1, 1)
    assert to_repeat(written, 0, 0) == []


def test_the_table_for_people(file: Path) -> None:
    with served(by_arm) as place:
        words = ["judge", file, "--endpoint", place.url, "--model", "tiny", "--out", file.parent / "s.json"]
        result = typed(*words)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    safety = next(line for line in lines if line.strip().startswith("Safety"))
    assert safety.split() == ["Safety", "4.00", "5.00", "+1.00", "±0.00", "±0.00"]
    assert "the margin is ±0.10" in result.out
