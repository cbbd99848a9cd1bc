"""A model through a benchmark: resumed, failed, judged, summed up and put beside another."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_copies import COPIES
from command_line import ROOT, environment, typed
from served import Handler, serving

from skinedge.errors import CasesError, EndpointError, SkinedgeError, UsageError
from skinedge.evaluation.datasets import Dataset, open_dataset
from skinedge.evaluation.endpoint import Answer, EndpointSettings
from skinedge.evaluation.figures import figures_of, paired_by_unit, resampled
from skinedge.evaluation.journal import Journal, open_journal
from skinedge.evaluation.models import Asked, EndpointModel, Model, Reply, TorchModel
from skinedge.evaluation.result import AnswerRecord, Evaluation, read_evaluation
from skinedge.evaluation.run import evaluate, plan
from skinedge.evaluation.scorer import Scorable, Scored
from skinedge.evaluation.scorers import known_scorers, load_scorer
from skinedge.evaluation.scores import DIMENSIONS
from skinedge.evaluation.selection import Selection
from skinedge.evaluation.table import compare
from skinedge.manifest import DecodingRecord
from skinedge.parity.statistics import paired_difference, wilson
from skinedge.weights.checkpoint import digest_of


@dataclass
class Fake:
    """A model that says what it is told to, and remembers what it was asked."""

    say: Callable[[Asked], str | None]
    name: str = "fake"
    version: str = "1"
    asked: list[str] = field(default_factory=list)

    def identity(self) -> Mapping[str, str]:
        return {"kind": "fake", "version": self.version}

    def settings(self) -> Mapping[str, str | int | float]:
        return {"max_new_tokens": 10}

    def served(self) -> Mapping[str, object]:
        return {}

    def answer(self, asked: Sequence[Asked]) -> Iterator[Reply]:
        for question in reversed(asked):  # any order will do
            self.asked.append(question.id)
            text = self.say(question)
            yield Reply(question.id, None, "it would not") if text is None else Reply(question.id, Answer(text, "stop", 5, 3))


@dataclass
class Grader:
    """A scorer that gives every answer its length, and nothing to an empty one."""

    need: frozenset[str] = frozenset({"diagnosis"})
    given: list[Scorable] = field(default_factory=list)

    def identity(self) -> Mapping[str, str]:
        return {"name": "grader"}

    def needs(self) -> frozenset[str]:
        return self.need

    def score(self, narratives: Sequence[Scorable]) -> Iterator[Scored]:
        for one in narratives:
            self.given.append(one)
            value = min(5.0, len(one.text) / 10)
            yield Scored(one.id, dict.fromkeys(DIMENSIONS, value)) if one.text else Scored(one.id, None, "it is empty")


@pytest.fixture
def pad(tmp_path: Path) -> Dataset:
    return open_dataset(COPIES["pad-ufes-20"](tmp_path / "pad"))


def run(model: Model, dataset: Dataset, journal: Path, **more: Any) -> Evaluation:
    how = more.pop("how", Selection())
    with open_journal(journal) as answers:
        return evaluate(model, plan(model, dataset, how, answers, question=more.pop("question", None)), answers, **more)


def right(dataset: Dataset) -> Callable[[Asked], str]:
    truths = {item.id: item.truth for item in dataset.items}
    return lambda asked: f"The answer is {truths[asked.id]}."


# --- running ------------------------------------------------------------------------------------------------------------


def test_answers_are_kept_and_never_asked_for_again(pad: Dataset, tmp_path: Path) -> None:
    model = Fake(right(pad))
    first = run(model, pad, tmp_path / "j.jsonl", how=Selection(limit=2))
    again = run(model, pad, tmp_path / "j.jsonl")
    assert (first.figures.answered, first.reused, again.figures.answered, again.reused) == (2, 0, 6, 2)
    assert sorted(model.asked) == sorted(item.id for item in pad.items)
    assert [a.id for a in again.answers] == [item.id for item in pad.items]
    lines = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert {line["key"] for line in lines} == {a.key for a in again.answers}
    assert all(line["text"].startswith("The answer is ") for line in lines)


def test_whatever_changes_is_asked_anew(pad: Dataset, tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    run(Fake(right(pad)), pad, journal)
    for model, question, asked in (
        (Fake(right(pad)), None, 0),
        (Fake(right(pad), version="2"), None, 6),
        (Fake(right(pad)), "What is it?", 6),
    ):
        run(model, pad, journal, question=question)
        assert len(model.asked) == asked
    pad.items[0].image.write_bytes(pad.items[1].image.read_bytes())
    model = Fake(right(pad))
    assert run(model, pad, journal).figures.answered == 6
    assert model.asked == []  # the same picture and question as another item's


def test_a_stopped_run_keeps_what_was_answered(pad: Dataset, tmp_path: Path) -> None:
    def three_then_stop(asked: Asked) -> str:
        if len(stopping.asked) > 3:
            raise KeyboardInterrupt
        return "The answer is melanoma."

    stopping = Fake(three_then_stop)
    with pytest.raises(KeyboardInterrupt):
        run(stopping, pad, tmp_path / "j.jsonl")
    going_on = Fake(right(pad))
    assert run(going_on, pad, tmp_path / "j.jsonl").reused == 3
    assert len(going_on.asked) == 3


def test_no_answer_is_named_and_counted_and_asked_for_again(pad: Dataset, tmp_path: Path) -> None:
    bad = pad.items[2]
    pad.items[5].image.unlink()
    found = run(Fake(lambda q: None if q.id == bad.id else "The answer is melanoma."), pad, tmp_path / "j.jsonl")
    assert [(f.id, f.why) for f in found.failed] == [(bad.id, "it would not")]
    assert found.missing == (pad.items[5].id,)
    assert found.figures.answered == 4
    assert found.figures.accuracy is not None
    assert found.figures.accuracy.n == 4
    model = Fake(right(pad))
    assert run(model, pad, tmp_path / "j.jsonl").failed == ()
    assert model.asked == [bad.id]
    with pytest.raises(SkinedgeError, match="not one of 5 questions was answered: it would not"):
        run(Fake(lambda q: None), pad, tmp_path / "other.jsonl")


# --- figures ------------------------------------------------------------------------------------------------------------


def answer(number: int, truth: str, said: str | None, skin: str = "I-II", unit: str = "") -> AnswerRecord:
    return AnswerRecord(
        id=str(number), key="0" * 64, image="0" * 64, unit=unit or str(number), skin=skin, truth=truth, said=said,
        correct=said == truth, reason="" if said == truth else "no final answer" if said is None else "another disease",
        finish="stop", prompt_tokens=1, tokens=1, well_formed=said is not None,
    )  # fmt: skip


def test_figures_are_what_they_are_called() -> None:
    answers = [
        *(answer(n, "a", "a") for n in range(6)), answer(6, "a", "b"), answer(7, "a", None),
        answer(8, "b", "b", "V-VI"), answer(9, "b", "a", "V-VI"), answer(10, "b", None, "unknown"),
    ]  # fmt: skip
    found = figures_of(answers, ("a", "b"))
    assert found.accuracy is not None
    assert (found.accuracy.right, found.accuracy.n) == (7, 11)
    assert (found.accuracy.low, found.accuracy.high) == (wilson(7, 11).low, wilson(7, 11).high)
    assert found.commonest == 8 / 11
    assert found.balanced_accuracy is not None
    assert found.balanced_accuracy.value == pytest.approx((6 / 8 + 1 / 3) / 2)
    assert found.balanced_accuracy.low < found.balanced_accuracy.value < found.balanced_accuracy.high
    assert {g: (s.right, s.n) for g, s in found.groups.items()} == {"I-II": (6, 8), "V-VI": (1, 2), "unknown": (0, 1)}
    assert found.worst_group == "V-VI"  # the unknown are no group
    assert found.confusion == {"a": {"a": 6, "b": 1, "no answer": 1}, "b": {"a": 1, "b": 1, "no answer": 1}}
    assert found.reasons == {"another disease": 2, "no final answer": 2}
    assert found.accuracy_by_unit is None
    assert found.structure is not None
    assert (found.structure.right, found.structure.n) == (9, 11)


def test_photographs_of_one_lesion_are_one_case() -> None:
    answers = [answer(n, "a", "a" if n < 12 else "b", unit=f"u{n // 6}") for n in range(24)]
    found = figures_of(answers, ("a", "b"))
    assert found.units == 4
    assert found.accuracy is not None
    assert found.accuracy_by_unit is not None
    assert found.accuracy_by_unit.value == found.accuracy.value == 0.5
    assert found.accuracy_by_unit.high - found.accuracy_by_unit.low > 2 * (found.accuracy.high - found.accuracy.low) * 0.9


def test_where_all_are_right_the_interval_is_not_a_point() -> None:
    found = figures_of([answer(n, "ab"[n % 2], "ab"[n % 2], unit=f"u{n // 2}") for n in range(20)], ("a", "b"))
    for rate in (found.accuracy_by_unit, found.balanced_accuracy):
        assert rate is not None
        assert (rate.value, rate.low, rate.high) == (1.0, wilson(10, 10).low, 1.0)


def test_a_paired_difference_draws_units() -> None:
    first, second = [0.0, 0.0, 1.0, 1.0] * 10, [1.0, 1.0, 1.0, 0.0] * 10
    alone = paired_by_unit(first, second, [str(n) for n in range(40)])
    together = paired_by_unit(first, second, [str(n // 10) for n in range(40)])
    pairs = paired_by_unit([0.0] * 20 + [1.0] * 20, [1.0] * 20 + [1.0] * 20, [str(n // 20) for n in range(40)])
    assert alone.mean == together.mean == 0.25
    assert alone == paired_difference(np.array(first), np.array(second))
    assert together.interval.high - together.interval.low < alone.interval.high - alone.interval.low  # each unit has the mix
    assert (pairs.mean, pairs.interval.low, pairs.interval.high) == (0.5, 0.0, 1.0)  # two cases


def test_resampling_units_agrees_with_drawing_them_one_by_one() -> None:
    rng = np.random.default_rng(0)
    totals, sizes = rng.integers(0, 3, (9, 2)).astype(float), rng.integers(1, 4, (9, 2)).astype(float)
    draws = rng.integers(9, size=(40_000, 9))
    slow = totals[draws].sum(1) / sizes[draws].sum(1)
    np.testing.assert_allclose(np.quantile(resampled(totals, sizes), [0.05, 0.5, 0.95], axis=0),
                               np.quantile(slow, [0.05, 0.5, 0.95], axis=0), atol=0.02)  # fmt: skip


# --- scorers ------------------------------------------------------------------------------------------------------------


def test_scores_are_kept_too_and_an_invalid_case_is_counted(pad: Dataset, tmp_path: Path) -> None:
    say = right(pad)
    model, grader = Fake(lambda q: "" if q.id == pad.items[0].id else say(q)), Grader()
    found = run(model, pad, tmp_path / "j.jsonl", scorer=grader)
    assert found.judge == {"name": "grader"}
    assert (found.figures.unscored, found.answers[0].unscored) == (1, "it is empty")
    assert found.figures.mean_score is not None
    assert found.figures.mean_score.n == 5
    assert list(found.figures.dimensions) == list(DIMENSIONS)
    assert {one.diagnosis for one in grader.given} == {item.diagnosis for item in pad.items}
    assert {one.image for one in grader.given} == {None}  # it is shown what it needs
    again = Grader()
    assert run(model, pad, tmp_path / "j.jsonl", scorer=again).answers == found.answers
    assert again.given == []


def test_a_scorer_that_needs_what_there_is_not_stops_before_anything_is_asked(pad: Dataset, tmp_path: Path) -> None:
    model = Fake(right(pad))
    with pytest.raises(UsageError, match="grader needs findings and PAD-UFES-20 gives none"):
        run(model, pad, tmp_path / "j.jsonl", scorer=Grader(frozenset({"findings"})))
    assert model.asked == []


def test_scorers_are_found_by_name() -> None:
    with pytest.raises(UsageError, match=r"unknown scorer 'rubrick'\. Did you mean 'rubric'"):
        load_scorer("rubrick")
    for name in known_scorers():
        if importlib.util.find_spec(f"skinedge.evaluation.{name}"):
            assert callable(load_scorer(name))
        else:
            with pytest.raises(UsageError, match=rf"has no scorer '{name}': skinedge\.evaluation\.{name} is missing"):
                load_scorer(name)


# --- a model in PyTorch, and a bundle of it -------------------------------------------------------------------------------


def test_a_checkpoint_and_its_bundle_say_the_same(tiny_model: Path, tiny_branch: Path, pad: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from skinedge.artifacts import AdapterCheckpoint
    from skinedge.bundle import export
    from skinedge.evaluation.models import BundleModel
    from skinedge.targets._contract import ExportOptions

    source = AdapterCheckpoint.find(tiny_model, [tiny_branch])
    export(source, "onnx", ExportOptions("f32", context=512, workers=1), tmp_path / "bundle")
    pad.items[0].image.write_bytes(b"no picture")
    decoding = DecodingRecord(max_new_tokens=12)
    torch = run(TorchModel(source, decoding, threads=1), pad, tmp_path / "t.jsonl")
    onnx = run(BundleModel(tmp_path / "bundle", decoding, threads=1), pad, tmp_path / "o.jsonl")
    texts = [
        {line["case"]: line["text"] for line in map(json.loads, (tmp_path / name).read_text().splitlines())}
        for name in ("t.jsonl", "o.jsonl")
    ]
    assert texts[0] == texts[1]
    assert len(set(texts[0].values())) > 1
    assert [f.id for f in torch.failed] == [f.id for f in onnx.failed] == [pad.items[0].id]
    assert torch.model.settings["max_pixels"] == onnx.model.settings["max_pixels"]
    assert (torch.model.identity["kind"], onnx.model.identity["scheme"]) == ("pytorch", "f32")
    assert torch.figures.cut_off == 5


# --- an endpoint --------------------------------------------------------------------------------------------------------


@contextmanager
def served(
    reply: Callable[[int, dict[str, Any]], tuple[int, str]], says: dict[str, Any] | None = None
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An OpenAI-compatible server that says ``says`` of its model; yields its address and the bodies it was sent."""
    bodies: list[dict[str, Any]] = []
    lock = threading.Lock()

    class Model(Handler):
        def do_POST(self) -> None:
            body = json.loads(self.sent())
            with lock:
                bodies.append(body)
                number = len(bodies) - 1
            status, text = reply(number, body)
            value = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]} if status == 200 else {"error": text}
            self.reply(status, json.dumps(value).encode())

        def do_GET(self) -> None:
            self.reply(200, json.dumps({"data": [{"id": "vlm", **(says or {})}]}).encode())

    with serving(Model) as url:
        yield url, bodies


def test_an_endpoint_is_asked_many_at_once_under_the_official_decoding(pad: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("httpx2")
    together = threading.Barrier(3)

    def reply(number: int, body: dict[str, Any]) -> tuple[int, str]:
        together.wait(20)  # passes only when three are under way
        return 200, "The answer is melanoma."

    with served(reply) as (url, bodies):
        found = run(EndpointModel(EndpointSettings(url, concurrency=3), "vlm"), pad, tmp_path / "j.jsonl")
    assert found.figures.answered == len(bodies) == 6
    for body in bodies:
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("vlm", 0.0, 4096)
        assert body["repetition_penalty"] == 1.0
        picture, question = body["messages"][0]["content"]
        assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
        assert question["text"] == pad.items[0].question
    plain = EndpointModel(EndpointSettings(url), "vlm", standard=True)
    assert "repetition_penalty" not in plain.settings()
    assert found.model.identity == {"kind": "endpoint", "url": url, "model": "vlm", "served": digest_of({"id": "vlm"})}


def test_two_models_under_one_name_are_not_mixed_in_one_journal(pad: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("httpx2")
    says: dict[str, Any] = {"created": 1, "root": "first-weights"}
    with served(lambda n, _: (200, "The answer is melanoma."), says) as (url, bodies):
        model = EndpointModel(EndpointSettings(url), "vlm")
        first = run(model, pad, tmp_path / "j.jsonl", how=Selection(limit=2))
        says["created"] = 2  # restarted with the same weights
        assert run(model, pad, tmp_path / "j.jsonl", how=Selection(limit=3)).model == first.model
        says["root"] = "other-weights"
        asked = len(bodies)
        for one in (model, replace(model, title="another name in tables")):
            with pytest.raises(CasesError, match="answers are of another model that is called vlm, too") as e:
                run(one, pad, tmp_path / "j.jsonl")
        assert "--journal" in e.value.hint
        assert len(bodies) == asked
        assert run(model, pad, tmp_path / "j.jsonl", how=Selection(limit=3)).reused == 3, "old answers stay what they are"
        other = run(model, pad, tmp_path / "k.jsonl")
    assert other.figures.answered == 6
    assert other.model.identity["served"] != first.model.identity["served"]


def test_a_judge_that_was_busy_is_asked_again(pad: Dataset, tmp_path: Path) -> None:
    busy = [True]

    class Busy(Grader):
        def score(self, narratives: Sequence[Scorable]) -> Iterator[Scored]:
            for one in super().score(narratives):
                away = busy[0] and one.id == pad.items[0].id
                yield Scored(one.id, None, "refused: the endpoint answers 503: loading.") if away else one

    found = run(Fake(right(pad)), pad, tmp_path / "j.jsonl", scorer=Busy())
    assert found.answers[0].unscored == "refused: the endpoint answers 503: loading."
    text = (tmp_path / "j.jsonl").read_text(encoding="utf-8")
    assert "refused" not in text
    old = json.loads(next(line for line in text.splitlines() if '"score"' in line))
    old["text"] = json.dumps({"scores": None, "invalid": "refused: no answer within 300 s.", "answer": ""})
    with (tmp_path / "j.jsonl").open("a", encoding="utf-8") as file:  # as journals of earlier versions have it
        file.write(json.dumps(old) + "\n")
    busy[0], again = False, Busy()
    found = run(Fake(right(pad)), pad, tmp_path / "j.jsonl", scorer=again)
    assert found.figures.unscored == 0
    assert len(again.given) == 2


def test_a_context_that_cuts_answers_short_is_another_question(tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip("onnx_ir")
    from skinedge.artifacts import AdapterCheckpoint
    from skinedge.bundle import export
    from skinedge.evaluation.models import BundleModel
    from skinedge.targets._contract import ExportOptions

    bundle = export(AdapterCheckpoint.find(tiny_model), "onnx", ExportOptions("f32", workers=1), tmp_path / "bundle").path
    whole, short = BundleModel(bundle).settings(), BundleModel(bundle, context=64).settings()
    assert dict(short) == {**whole, "context": 64}


def test_an_endpoint_that_refuses_one_question_loses_one(pad: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("httpx2")
    pad.items[3].image.write_bytes(b"no picture")
    with served(lambda n, _: (400, "too blue") if n == 1 else (200, "The answer is nevus")) as (url, bodies):
        found = run(EndpointModel(EndpointSettings(url, concurrency=1), "vlm"), pad, tmp_path / "j.jsonl")
    assert len(bodies) == 5
    assert {f.id: f.why for f in found.failed}[pad.items[1].id] == "the endpoint answers 400: too blue."
    assert pad.items[3].id in {f.id for f in found.failed}
    assert found.figures.answered == 4


def test_an_endpoint_that_refuses_all_stops_the_run(tmp_path: Path) -> None:
    pytest.importorskip("httpx2")
    dataset = open_dataset(COPIES["ham10000"](tmp_path / "ham"))
    with (
        served(lambda n, _: (400, "no pictures")) as (url, bodies),
        pytest.raises(EndpointError, match="5 questions in a row got no answer: the endpoint answers 400: no pictures"),
    ):
        run(EndpointModel(EndpointSettings(url, concurrency=2), "vlm"), dataset, tmp_path / "j.jsonl")
    assert len(bodies) < 10
    with served(lambda n, _: (401, "who are you")) as (url, bodies), pytest.raises(EndpointError, match="the key is wrong"):
        run(EndpointModel(EndpointSettings(url), "vlm"), dataset, tmp_path / "j.jsonl")
    assert not (tmp_path / "j.jsonl").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_it_loses_at_most_the_answers_under_way(tmp_path: Path) -> None:
    pytest.importorskip("httpx2")
    folder, out = COPIES["ham10000"](tmp_path / "ham"), tmp_path / "r.json"
    journal, slow = tmp_path / "r.json.journal.jsonl", [True]

    def reply(number: int, body: dict[str, Any]) -> tuple[int, str]:
        if slow[0]:
            time.sleep(0.15)
        return 200, "The answer is melanoma."

    def lines() -> int:
        return journal.read_bytes().count(b'"step": "evaluate"') if journal.exists() else 0

    with served(reply) as (url, bodies):
        words = ["evaluate", url, "--endpoint-model", "vlm", "--data", str(folder), "--out", str(out), "--concurrency", "2"]
        process = subprocess.Popen([sys.executable, "-m", "skinedge", *words, "--json"], env=environment(), cwd=ROOT,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        deadline = time.monotonic() + 60
        while lines() < 4 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        time.sleep(0.3)  # what was under way arrives at nobody
        kept, before = lines(), len(bodies)
        slow[0] = False
        assert not out.exists()
        assert 4 <= kept < 14
        assert before - kept <= 2 + 1  # two under way, and at most one answered and not yet written
        done = typed(*words, "--json")
    assert done.code == 0, done.err
    assert (done.json["reused"], done.json["figures"]["answered"]) == (kept, 14)
    assert len(bodies) - before == 14 - kept
    assert read_evaluation(out).figures.answered == 14


def test_a_judge_at_an_endpoint_scores_against_the_references_of_dermbench(tmp_path: Path) -> None:
    pytest.importorskip("httpx2")
    folder = COPIES["dermbench"](tmp_path / "bench")

    def reply(number: int, body: dict[str, Any]) -> tuple[int, str]:
        if body["model"] == "vlm":
            return 200, "Papules. The answer is rosacea."
        if "Seen: 3." in json.dumps(body):
            return 200, "Splendid, 5 of 5."
        return 200, f"<think>hm</think>{json.dumps(dict.fromkeys(DIMENSIONS, 4))}"

    with served(reply) as (url, bodies):
        words = (
            "evaluate",
            url,
            "--endpoint-model",
            "vlm",
            "--data",
            folder,
            "--judge",
            url,
            "--judge-model",
            "critic",
            "--json",
        )
        done = typed(*words, "--out", tmp_path / "r.json")
        assert done.code == 0, done.err
        asked = len(bodies)
        again = typed(*words, "--out", tmp_path / "s.json", "--journal", tmp_path / "r.json.journal.jsonl")
        assert len(bodies) == asked == 10
    found = read_evaluation(tmp_path / "r.json")
    assert found.judge is not None
    assert (found.judge["name"], found.judge["model"]) == ("judge, against a reference", "critic")
    assert found.figures.mean_score is not None
    assert (found.figures.mean_score.value, found.figures.mean_score.n, found.figures.unscored) == (4.0, 4, 1)
    assert found.answers[3].unscored == "no JSON object after the reasoning"
    assert [a.correct for a in found.answers] == [True, True, False, False, False]  # by category
    assert again.json["figures"] == done.json["figures"]


# --- the command --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--data", "{pad}"], "there is no place for the result. Say where: --out result.json"),
        (["--data", "{pad}", "--out", "{taken}"], "exists already."),
        (["--data", "nowhere", "--out", "r.json"], "nowhere: no such file or folder."),
        (["nowhere", "--data", "{pad}", "--out", "r.json"], "nowhere: no such file or folder."),
        (["{pad}", "--data", "{pad}", "--out", "r.json"], "config.json"),
        (["--data", "{pad}", "--out", "r.json", "--split", "val"], "the benchmark has no split 'val'."),
        (["--data", "{pad}", "--out", "r.json", "--layout", "padufes"], "Did you mean 'pad-ufes-20'"),
        (["--data", "{pad}", "--out", "r.json", "--bias", "on"], "unknown bias 'on'."),
        (["--data", "{pad}", "--out", "r.json", "--precision", "fp16"], "unknown type 'fp16'. Did you mean 'f16'"),
        (["--data", "{pad}", "--out", "r.json", "--judge", "dermevl"], "unknown scorer 'dermevl'. Did you mean 'dermeval'"),
        (["--data", "{pad}", "--out", "r.json", "--judge", "http://localhost:1/v1"], "Say which is to judge: --judge-model NAME"),
        (["http://localhost:1/v1", "--data", "{pad}", "--out", "r.json"], "Say which: --endpoint-model NAME"),
        (["http://derm.example/v1", "--endpoint-model", "m", "--data", "{pad}", "--out", "r.json"],
         "derm.example is another machine, and photographs and narratives are patient data."),
        (["--data", "{pad}", "--out", "r.json", "--judge", "https://derm.example/v1", "--judge-model", "m"],
         "derm.example is another machine"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], why: str
) -> None:
    pytest.importorskip("httpx2")
    monkeypatch.chdir(tmp_path)
    pad = COPIES["pad-ufes-20"](tmp_path / "pad")
    taken = tmp_path / "taken.json"
    taken.write_text("{}")
    done = typed("evaluate", *(word.format(pad=pad, taken=taken) for word in words))
    assert done.code in (1, 2)
    assert why in " ".join(done.err.split()), done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pad", "taken.json"]


def test_a_dry_run_asks_nothing(tmp_path: Path) -> None:
    folder = COPIES["pad-ufes-20"](tmp_path / "pad")
    (folder / "imgs_part_1" / "PAT_0.png").unlink()
    done = typed("evaluate", "--data", folder, "--limit", "3", "--dry-run", "--json")
    assert (done.json["chosen"], done.json["to_ask"], done.json["missing"]) == (3, 3, ["PAT_0"])
    assert done.json["settings"]["repetition_penalty"] == 1.0
    said = typed("evaluate", "--data", folder, "--dry-run")
    assert "5 of 6 items are chosen." in said.out
    assert "PAT_0 is not there: counted as missing." in said.err


def test_the_embedded_model_from_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = COPIES["synthderm"](tmp_path / "s")
    words = (
        "evaluate",
        "--data",
        folder,
        "--limit",
        "2",
        "--out",
        tmp_path / "r.json",
        "--max-new-tokens",
        "3",
        "--threads",
        "1",
    )
    done = typed(*words, "--quiet")
    assert done.code == 0, done.err
    assert "SynthDerm: right answers (95 % intervals)" in done.out
    assert "2 answers met the limit of tokens." in done.out
    found = read_evaluation(tmp_path / "r.json")
    assert found.model.name == "skinedge-tiny"
    assert found.figures.cut_off == 2
    assert typed(*words).code == 1  # the place is taken


# --- the table ----------------------------------------------------------------------------------------------------------


def test_models_side_by_side(pad: Dataset, tmp_path: Path) -> None:
    always = run(Fake(lambda q: "The answer is melanoma.", "always"), pad, tmp_path / "a.jsonl", scorer=Grader())
    knows = run(Fake(right(pad), "knows"), pad, tmp_path / "k.jsonl", scorer=Grader(), how=Selection(limit=5))
    found = compare([always, knows])
    (pair,) = found.pairs
    common = [a for a in always.answers if a.id in {k.id for k in knows.answers}]
    assert (pair.first, pair.second, pair.common) == ("always", "knows", 5)
    assert pair.accuracy is not None
    assert pair.accuracy.mean == pytest.approx(1 - sum(bool(a.correct) for a in common) / 5)
    assert (pair.only_first, pair.only_second) == (0, sum(not a.correct for a in common))
    assert pair.score is not None
    text = found.to_markdown()
    assert "### PAD-UFES-20: right answers (95 % intervals)" in text
    assert "### PAD-UFES-20: six dimensions, 0 to 5, by grader (95 % intervals)" in text
    assert "| knows - always | 5 |" in text
    assert "| knows | 5 of 5 | 100.0 [" in text
    json.dumps(found.to_json(), allow_nan=False)


def test_models_that_never_differ_are_not_proven_equal(pad: Dataset, tmp_path: Path) -> None:
    results = [run(Fake(right(pad), name), pad, tmp_path / f"{name}.jsonl") for name in ("one", "two")]
    (pair,) = compare(results).pairs
    assert pair.accuracy is not None
    z2 = 1.959964**2
    assert pair.accuracy.interval.high == pytest.approx(z2 / (3 + z2), abs=1e-6)  # three patients
    assert pair.accuracy.interval.low == -pair.accuracy.interval.high
    assert pair.p == 1.0


def test_the_command_writes_the_table_once(pad: Dataset, tmp_path: Path) -> None:
    for name in ("one", "two"):
        found = run(Fake(right(pad), name), pad, tmp_path / f"{name}.jsonl")
        (tmp_path / "results").mkdir(exist_ok=True)
        (tmp_path / "results" / f"{name}.json").write_text(found.to_json())
    done = typed("compare", tmp_path / "results", "--out", tmp_path / "t.md")
    assert done.code == 0, done.err
    assert "Differences on the same items (95 % intervals)" in done.out
    assert (tmp_path / "t.md").read_text().count("###") == 2
    assert typed("compare", tmp_path / "results", "--out", tmp_path / "t.md").code == 1
    assert "a table is written as .md or .json" in typed("compare", tmp_path / "results", "--out", "t.xls").err
    assert typed("compare", tmp_path / "results", "--json").json["pairs"][0]["mcnemar_p"] == 1.0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is not JSON"),
        ("{}", "is no evaluation."),
        ('{"kind": "evaluation", "schema_version": 9}', "its schema version is 9 and this skinedge reads 1."),
        ('{"kind": "evaluation", "schema_version": 1}', "Field required."),
    ],
)
def test_a_file_that_is_no_result(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "r.json").write_text(text)
    done = typed("compare", tmp_path / "r.json")
    assert done.code == 2
    assert why in done.err


def test_models_of_one_name_are_told_apart(pad: Dataset, tmp_path: Path) -> None:
    results = [run(Fake(right(pad), version=v), pad, tmp_path / f"{v}.jsonl") for v in ("1", "2")]
    names = compare(results).names
    assert names == ("fake (fake)", "fake (fake)") or len(set(names)) == 2


def test_a_plan_reads_no_model(pad: Dataset) -> None:
    todo = plan(Fake(right(pad)), pad, Selection(limit=3), Journal({}, None))
    assert (len(todo.questions), todo.asked_already) == (3, 0)
