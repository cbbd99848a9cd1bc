"""Narratives as texts: what may be learnt from them, how they read, and that the shipped base model can say them."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product

import numpy as np
import pytest
from tokenizers import Tokenizer

import skinedge.embedded
from skinedge.synthderm.findings import DIAGNOSES, Findings, draw_case, draw_cases
from skinedge.synthderm.narrative import (
    QUESTIONS,
    draw_differentials,
    draw_random,
    narrate,
    read_answer,
    read_findings,
)

_NAMED = re.compile("|".join(DIAGNOSES))
_WORD = re.compile(r"[a-z]+")


@pytest.fixture(scope="module")
def texts() -> list[tuple[Findings, str, str]]:
    """Findings, the diagnosis drawn for them, and what was written."""
    told = []
    for case in draw_cases(3000, 17):
        rng = np.random.default_rng(case.seed)
        diagnosis, others = draw_random(rng)
        told.append((case.findings, diagnosis, narrate(case.findings, diagnosis, others, rng)))
    return told


def test_thousands_of_narratives_are_read_back(texts: list[tuple[Findings, str, str]]) -> None:
    for findings, diagnosis, text in texts:
        assert read_findings(text) == read_findings(text.upper()) == dict(findings.items()), text
        assert read_answer(text) == diagnosis


@pytest.mark.parametrize(("true", "told"), list(product(DIAGNOSES, DIAGNOSES)))
def test_any_diagnosis_can_be_told_of_any_case(true: str, told: str) -> None:
    for seed in range(8):
        findings = draw_case(seed, diagnosis=true).findings
        rng = np.random.default_rng(seed)
        text = narrate(findings, told, draw_differentials(told, rng), rng)
        assert read_findings(text) == dict(findings.items())
        assert read_answer(text) == told


def test_all_diagnoses_are_told_in_the_same_words() -> None:
    for case in draw_cases(200, 23):
        said = {narrate(case.findings, d, ("X", "Y"), np.random.default_rng(case.seed)).replace(d, "D") for d in DIAGNOSES}
        assert len(said) == 1


def test_no_disease_is_named_in_the_observation_and_each_follows_a_space(texts: list[tuple[Findings, str, str]]) -> None:
    for _, diagnosis, text in texts:
        observation, rest = text.split("\nReasoning:")
        assert _NAMED.search(observation) is None
        named = _NAMED.search(rest)
        assert named is not None
        assert named.group() == diagnosis
        thought = rest.split("</think>")[0]
        assert all(thought[m.start() - 1] == " " for m in _NAMED.finditer(thought))


def test_wording_varies_within_a_small_vocabulary(texts: list[tuple[Findings, str, str]]) -> None:
    assert len({text for _, _, text in texts[:500]}) == 500
    assert len({word for _, _, text in texts for word in _WORD.findall(text.lower())}) < 350
    lengths = [len(text.split()) for _, _, text in texts]
    assert 45 < min(lengths) <= max(lengths) < 110


def test_every_word_is_one_token_of_the_shipped_base_model(texts: list[tuple[Findings, str, str]]) -> None:
    """That model speaks the wording it was trained on: new words need a new base (``python -m train.tiny_base``)."""
    tokenizer = Tokenizer.from_file(f"{skinedge.embedded.__path__[0]}/tiny/tokenizer.json")
    spelt = {w for _, _, text in texts for w in re.findall(r"(?<= )[a-z]+", text)}
    assert [w for w in sorted(spelt) if len(tokenizer.encode(f" {w}", add_special_tokens=False).ids) > 1] == []


def test_true_differentials_are_other_diseases() -> None:
    rng = np.random.default_rng(0)
    for diagnosis in DIAGNOSES:
        drawn = [draw_differentials(diagnosis, rng) for _ in range(100)]
        assert {len(others) for others in drawn} == {1, 2}
        assert all(len(set(others)) == len(others) and diagnosis not in others for others in drawn)
        assert {name for others in drawn for name in others} < set(DIAGNOSES)


def test_random_differentials_are_even_over_all_others() -> None:
    rng = np.random.default_rng(1)
    drawn = [draw_random(rng) for _ in range(12_000)]
    pairs = Counter((diagnosis, other) for diagnosis, others in drawn for other in others)
    assert set(pairs) == {(a, b) for a, b in product(DIAGNOSES, DIAGNOSES) if a != b}
    mean = sum(pairs.values()) / len(pairs)
    assert max(abs(n - mean) for n in pairs.values()) < 5 * mean**0.5


def test_questions_are_short_and_all_different() -> None:
    assert len(set(QUESTIONS)) == 6
    assert all(len(q.split()) <= 16 and re.fullmatch(r"[A-Z].*[.?]", q) for q in QUESTIONS)
