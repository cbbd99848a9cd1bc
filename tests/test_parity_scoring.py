"""Six scores of both arms of a comparison: who may give them, what they are shown, and what the certificate says of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import typed
from test_judge import FIVES, served

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.errors import UsageError
from skinedge.evaluation.cases import Case
from skinedge.evaluation.rubric import Rubric
from skinedge.evaluation.scorer import Scorable, Scored
from skinedge.evaluation.scores import DIMENSIONS
from skinedge.parity.certificate import FOLDER, read_certificate
from skinedge.parity.certify import JUDGED_FILE, Pictures, aside_of, drawn_pictures
from skinedge.parity.rows import read_rows
from skinedge.parity.scoring import check_needs, scores_of
from skinedge.targets._contract import ExportOptions
from tests.parity_rows import make_rows

COUNT = 3


class Counting:
    """Scores a narrative by its length, and keeps what it was shown."""

    def __init__(self, *needs: str) -> None:
        self.shown: list[Scorable] = []
        self._needs = frozenset(needs)

    def identity(self) -> Mapping[str, str]:
        return {"name": "counting"}

    def needs(self) -> frozenset[str]:
        return self._needs

    def score(self, narratives: Sequence[Scorable]) -> Iterator[Scored]:
        self.shown += narratives
        yield from (Scored(n.id, dict.fromkeys(DIMENSIONS, len(n.text) % 6 * 1.0)) for n in reversed(narratives))


def test_a_scorer_is_shown_what_it_needs_and_never_whose_it_is() -> None:
    rows = [replace(r, bundle=replace(r.bundle, text=f"{r.bundle.text} B{i}")) for i, r in enumerate(make_rows(40, reworded=0))]
    cases = [Case(r.id, Path(f"{r.id}.png"), "", "") for r in rows]
    scorer = Counting("image")
    found = scores_of(rows, scorer, cases, None)
    for row in rows:
        for arm, scored in zip((row.reference, row.bundle), found[row.id], strict=True):
            assert (scored.id, scored.scores) == (row.id, dict.fromkeys(DIMENSIONS, len(arm.text) % 6 * 1.0))
    assert [one.id for one in scorer.shown] == [str(i) for i in range(80)], "names that tell nothing"
    assert {(one.reference, one.diagnosis, one.findings) for one in scorer.shown} == {(None, None, None)}
    assert all(one.image for one in scorer.shown)
    first = [i for i in range(40) if scorer.shown[2 * i].text == rows[i].reference.text]
    assert 10 < len(first) < 30, "the arms come in an order drawn case by case"
    again = Counting("image")
    scores_of(rows, again, cases, None)
    assert again.shown == scorer.shown


def test_a_scorer_that_must_know_the_truth() -> None:
    case = Case("1", Path("1.png"), "nevus", "nevus")
    with pytest.raises(UsageError, match="SynthDerm rubric needs findings, and nothing says what they are") as e:
        check_needs(Rubric(), [case], None)
    assert "--judge dermeval" in e.value.hint
    check_needs(Rubric(), [case], {"1": {}})
    with pytest.raises(UsageError, match="needs diagnosis and findings"):
        check_needs(Rubric(), [replace(case, diagnosis="")], None)
    with pytest.raises(UsageError, match="counting needs reference"):
        check_needs(Counting("reference"), [case], None)


@pytest.fixture(scope="module")
def made(source: AdapterCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(source, "onnx", ExportOptions("f32", workers=1), tmp_path_factory.mktemp("scoring") / "bundle").path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return drawn_pictures(COUNT, tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def ask(made: Path, pictures: Pictures, tiny_model: Path, tiny_branch: Path, tmp_path: Path) -> list[str | Path]:
    """A certificate on photographs of which nothing is known; the bundle is ``tmp_path / "bundle"``."""
    bundle = Path(shutil.copytree(made, tmp_path / "bundle"))
    return ["parity", bundle, "--reference", tiny_model, "-a", tiny_branch, "--images", pictures.cases[0].image.parent,
            "--max-new-tokens", "4", "--steps", "2", "--threads", "1", "--certify", "--rows", tmp_path / "rows"]  # fmt: skip


def test_dermeval_scores_photographs_offline_and_its_limits_are_told(ask: list[str | Path], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    planned = typed(*ask, "--judge", "dermeval", "--dry-run")
    assert f"Six dimensions of {2 * COUNT} narratives: dermeval, offline." in planned.out
    assert not (tmp_path / "rows").exists()
    done = typed(*ask, "--judge", "dermeval", "--json")
    assert done.code == 0, done.err
    assert done.json["certificate"]["scorer"]["scorer"] == "dermeval"
    certificate = read_certificate(tmp_path / "bundle" / FOLDER)
    assert len(certificate.context.scorer["weights"]) == 64
    assert any("DermEval's, which has learnt from drawn pictures alone" in limit for limit in certificate.limits)
    for name in ("mean of six scores", *DIMENSIONS):
        found = certificate.endpoint(name)
        assert found
        assert found.n == COUNT


def test_a_judge_at_an_endpoint_is_blinded_and_not_asked_twice(ask: list[str | Path], tmp_path: Path) -> None:
    pytest.importorskip("httpx2")
    with served(lambda n, body: FIVES) as place:
        words = [*ask, "--judge", place.url, "--judge-model", "tiny", "--json"]
        assert "tiny at 127.0.0.1" in typed(*words, "--dry-run").json["scorer"]
        assert place.asked == []
        done = typed(*words)
        assert done.code == 0, done.err
        count = len(place.asked)
        rows = read_rows(tmp_path / "rows")
        assert count == sum(1 if r.reference.text == r.bundle.text else 2 for r in rows)
        assert all(body["messages"][1]["content"][0]["type"] == "image_url" for body in place.asked)
        assert (tmp_path / "rows" / JUDGED_FILE).is_file()
        assert typed(*words).code == 0
        assert len(place.asked) == count, "the answers are in the journal"
        place.models = {"data": [{"id": "tiny", "root": "other-weights"}]}
        other = typed(*words)
        assert other.code == 1
        assert "answers are of another model that is called tiny" in other.json["error"]
    certificate = read_certificate(tmp_path / "bundle" / FOLDER)
    assert certificate.context.scorer["model"] == "tiny"
    assert {"served", "digest", "endpoint"} <= set(certificate.context.scorer)
    found = certificate.endpoint("mean of six scores")
    assert found
    assert (found.n, found.estimate) == (COUNT, 0)
    assert "not scored" not in json.dumps(list(certificate.limits))


def test_a_judge_that_is_away_is_found_out_before_a_narrative_is_made(ask: list[str | Path], tmp_path: Path) -> None:
    pytest.importorskip("httpx2")
    done = typed(*ask, "--judge", "http://127.0.0.1:9/v1", "--judge-model", "tiny", "--json")
    assert done.code == 1
    assert "cannot be reached" in done.json["error"]
    assert not (tmp_path / "rows" / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("more", "why", "hint"),
    [
        (("--judge", "nobody"), "nobody", "dermeval"),
        (("--judge", "judge"), "a judge is a model at an endpoint.", "--judge http://127.0.0.1:8000/v1"),
        (("--judge", "http://127.0.0.1:9/v1"), "may serve several models.", "--judge-model NAME"),
        (("--judge", "http://example.com/v1", "--judge-model", "m"), "patient data", "--allow-remote"),
        (("--judge-model", "m"), "--judge-model is for a judge at an endpoint.", "--judge http://127.0.0.1:8000/v1"),
        (("--judge", "dermeval", "--allow-remote"), "--allow-remote is for a judge at an endpoint.", "Name it"),
        (("--judge-folder", "x"), "--judge-folder holds DermEval's weights.", "--judge dermeval"),
        (("--judge", "dermeval", "--judge-folder", "no-such"), "no-such: no such file or folder.", "Check the spelling"),
        (("--judge", "rubric"), "SynthDerm rubric needs diagnosis and findings", "--judge dermeval"),
    ],
)
def test_what_cannot_be_meant(ask: list[str | Path], tmp_path: Path, more: tuple[str, ...], why: str, hint: str) -> None:
    said = typed(*ask, *more)
    assert said.code == 2, said.err
    assert why in said.err
    assert hint in said.err
    assert not (tmp_path / "rows" / "rows.jsonl").exists()


def test_a_judge_without_a_certificate_has_nothing_to_do(ask: list[str | Path]) -> None:
    said = typed(*[word for word in ask if word != "--certify"], "--judge", "dermeval")
    assert said.code == 2
    assert "--judge scores narratives for a certificate, and none is asked for. Add --certify." in " ".join(said.err.split())


def test_on_drawn_pictures_the_rubric_is_who_scores_unless_another_is_named(pictures: Pictures) -> None:
    assert pictures.findings
    rows = [replace(r, id=case.id, truth=case.diagnosis) for r, case in zip(make_rows(COUNT), pictures.cases, strict=True)]
    asked: dict[str, Any] = aside_of(rows, pictures, Rubric()).scores  # type: ignore[assignment]
    assert asked[rows[0].id][0].answer, "the rubric says which rules fired"
    other = aside_of(rows, pictures, Counting("image"))
    assert other.scores[rows[0].id][0].answer == ""
    assert set(other.findings) == set(pictures.findings), "findings by what is true stay"
    assert aside_of(rows, pictures).scores == {}
