"""SynthDerm: what is drawn, what is said of it, and that the two agree."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skinedge.errors import OutputError
from skinedge.synthderm.dataset import render_all, write_dataset
from skinedge.synthderm.findings import DIAGNOSES, VOCABULARY, Findings, diagnose, draw_case, draw_cases
from skinedge.synthderm.narrative import (
    CLAUSES,
    draw_differentials,
    draw_random,
    narrate,
    read_answer,
    read_findings,
    score_findings,
)
from skinedge.synthderm.picture import render

seeds = st.integers(0, 2**40)


@settings(deadline=None)
@given(seeds, st.sampled_from(list(DIAGNOSES)), st.integers(1, 6))
def test_the_diagnosis_follows_from_the_findings(seed: int, diagnosis: str, fitzpatrick: int) -> None:
    case = draw_case(seed, diagnosis=diagnosis, fitzpatrick=fitzpatrick)
    assert diagnose(case.findings) == case.diagnosis == diagnosis
    assert case.fitzpatrick == fitzpatrick
    assert all(value in VOCABULARY[finding] for finding, value in case.findings.items())


def test_diagnoses_and_skin_types_have_equal_shares() -> None:
    cases = draw_cases(720, 7)
    assert set(Counter((c.diagnosis, c.fitzpatrick) for c in cases).values()) == {10}
    assert set(Counter(c.skin_label for c in cases).values()) == {240}
    assert [c.diagnosis for c in cases[:12]] != [c.diagnosis for c in cases[12:24]]


@settings(deadline=None)
@given(seeds)
def test_findings_are_read_back_from_the_narrative_of_any_diagnosis(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = draw_case(seed)
    diagnosis, differentials = draw_random(rng)
    text = narrate(case.findings, diagnosis, differentials, rng)
    assert read_findings(text) == asdict(case.findings)
    assert score_findings(text, case.findings) == (8, 8, 8)
    assert read_answer(text) == diagnosis


@settings(deadline=None)
@given(seeds)
def test_nothing_but_the_names_depends_on_the_diagnosis(seed: int) -> None:
    findings = draw_case(seed).findings
    first, second = (narrate(findings, d, (o,), np.random.default_rng(seed)) for d, o in [("vitiligo", "psoriasis"), ("A", "B")])
    assert first.replace("vitiligo", "A").replace("psoriasis", "B") == second


@settings(deadline=None)
@given(seeds)
def test_narratives_are_clean_english(seed: int) -> None:
    case = draw_case(seed)
    rng = np.random.default_rng(seed)
    text = narrate(case.findings, case.diagnosis, draw_differentials(case.diagnosis, rng), rng)
    assert re.fullmatch(r"<think>\nObservation: .+\nReasoning: .+\nDifferential: .+\n</think>\n<answer>[a-z ]+</answer>", text)
    for sentence in re.findall(r"(?:Observation|Reasoning|Differential): (.+)", text):
        assert re.fullmatch(r"([A-Z][^.A-Z]*(\bI\b[^.A-Z]*)?\.( |$))+", sentence.replace("I weigh", "We weigh")), sentence
    assert "  " not in text
    assert re.search(r"\ba [aeio]", text) is None


def test_no_clause_can_be_taken_for_another() -> None:
    said = [(finding, value, c) for finding, values in CLAUSES.items() for value, clauses in values.items() for c in clauses]
    assert list(CLAUSES) == list(VOCABULARY)
    assert all(set(CLAUSES[f]) == set(VOCABULARY[f]) for f in CLAUSES)
    for finding, value, clause in said:
        others = [c for f, v, c in said if (f, v) != (finding, value)]
        assert not any(re.search(rf"\b{re.escape(clause)}\b", other) for other in others), clause


def test_random_diagnoses_are_even_and_never_among_their_differentials() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_random(rng) for _ in range(2400)]
    assert all(d not in others and 1 <= len(others) <= 2 for d, others in drawn)
    shares = Counter(d for d, _ in drawn)
    assert set(shares) == set(DIAGNOSES)
    assert max(shares.values()) < 1.4 * min(shares.values())


@pytest.mark.parametrize("text", ["", "The surface is warty.", "<answer>x", "<answer> melanoma </answer>"])
def test_free_text_is_read_as_far_as_it_goes(text: str) -> None:
    assert read_answer(text) == ("melanoma" if "melanoma" in text else None)
    assert read_findings(text) == ({"surface": "warty"} if "warty" in text else {})


def test_a_claim_counts_once_and_only_in_the_observation() -> None:
    truth = Findings("single", "red", "uniform", "round", "sharp", "smooth", "none", "small")
    text = "The colour is red. The colour is pink. The border is jagged. Reasoning: the outline is round."
    assert score_findings(text, truth) == (1, 2, 8)


def test_same_case_same_picture_and_every_finding_shows() -> None:
    case = draw_case(11, diagnosis="melanocytic nevus", fitzpatrick=2)
    picture = render(case)
    assert picture.shape == (168, 168, 3)
    assert np.array_equal(picture, render(case))
    assert not np.array_equal(picture, render(draw_case(12, diagnosis="melanocytic nevus", fitzpatrick=2)))
    middle, corner = picture[60:108, 60:108].mean(), picture[:24, :24].mean()
    assert middle < corner - 5  # a brown lesion is darker than the skin around it
    assert list(render_all([case] * 3, workers=1))[2].tobytes() == picture.tobytes()


def test_skin_gets_darker_from_one_to_six() -> None:
    def brightness(fitzpatrick: int) -> float:
        cases = [draw_case(seed, diagnosis="vitiligo", fitzpatrick=fitzpatrick) for seed in range(8)]
        return float(np.mean([render(case, 56)[:8].mean() for case in cases]))

    tones = [brightness(f) for f in range(1, 7)]
    assert tones == sorted(tones, reverse=True)


def test_a_data_set_has_the_layout_of_the_training_records(tmp_path: Path) -> None:
    records = write_dataset(tmp_path / "set", 24, seed=5, workers=1)
    lines = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    assert Counter(line["diagnosis"] for line in lines) == dict.fromkeys(DIAGNOSES, 2)
    for line in lines:
        with Image.open(records.parent / line["images"][0]) as picture:
            assert picture.size == (168, 168)
        assert line["messages"][0]["content"].startswith("<image>")
        assert read_answer(line["messages"][1]["content"]) == line["diagnosis"]
        assert read_findings(line["messages"][1]["content"]) == line["findings"]
        assert line["skin_labels"] == (line["fitzpatrick"] - 1) // 2
    with pytest.raises(OutputError, match="exists and is not empty"):
        write_dataset(tmp_path / "set", 12, seed=5)
