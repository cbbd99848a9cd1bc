"""Damaged narratives: what is done, how much of it, and what is left of each score."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import numpy as np
import pytest

from skinedge.errors import UsageError
from skinedge.evaluation.damage import FORMS, KINDS, LOSSES, MOST, Damage, Damaged, damage, draw_damages, targets
from skinedge.evaluation.damage_text import damage_text, findings_in, sentences
from skinedge.evaluation.damage_words import WORDS
from skinedge.evaluation.scores import DIMENSIONS
from skinedge.synthderm.findings import DIAGNOSES, Case, draw_cases
from skinedge.synthderm.narrative import CLAUSES, read_answer, read_findings
from skinedge.synthderm.pages import textbook

BOOK = textbook()
CASES = draw_cases(48, 9)
TEXT = (
    "There are multiple red papules on the cheek. Their surface is scaly and rough. The border is irregular. "
    "This suggests rosacea. Rosacea is treated with creams. A dermatologist should confirm it."
)


def damaged(case: Case, *damages: Damage, seed: int = 0) -> Damaged:
    others = [page for name, page in BOOK.items() if name != case.diagnosis]
    return damage(case.findings, BOOK[case.diagnosis], others, damages, np.random.default_rng([case.seed, seed]))


def test_every_case_is_explained_by_its_own_page_and_by_no_other() -> None:
    for case in CASES:
        assert [name for name, page in BOOK.items() if not page.unexplained(case.findings)] == [case.diagnosis]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_same_seed_same_text_and_another_seed_another(kind: str, form: str) -> None:
    case = CASES[0]
    first, again, other = (damaged(case, Damage(kind, 1, form), seed=s) for s in (0, 0, 1))
    assert first == again
    assert first.text != other.text


def test_a_sound_narrative_is_true_and_has_full_marks() -> None:
    for case in CASES:
        told = damaged(case)
        assert read_findings(told.text) == dict(case.findings.items())
        assert read_answer(told.text) == case.diagnosis
        assert set(told.targets.values()) == {5.0}
        assert not any(told.flaws.values())


@pytest.mark.parametrize("kind", KINDS)
def test_more_damage_leaves_less_in_the_dimensions_of_the_table_and_the_rest_alone(kind: str) -> None:
    left = [targets([Damage(kind, s)]) for s in range(1, MOST[kind] + 1)]
    for name in DIMENSIONS:
        values = [5.0, *(t[name] for t in left)]
        if name not in LOSSES[kind]:
            assert set(values) == {5.0}
        elif kind != "contradiction":  # whose third severity is of another sort: it moves from groundedness to accuracy
            assert values == sorted(values, reverse=True)
            assert values[-1] < values[0]
    assert [sum(t.values()) for t in left] == sorted((sum(t.values()) for t in left), reverse=True)


@pytest.mark.parametrize("form", FORMS)
def test_findings_are_dropped_invented_and_blurred_as_many_as_asked(form: str) -> None:
    for case in CASES:
        true = dict(case.findings.items())
        dropped = damaged(case, Damage("dropped", 3, form))
        assert set(true) - set(read_findings(dropped.text)) == dropped.flaws["dropped"]
        assert len(dropped.flaws["dropped"]) == 3
        vague = damaged(case, Damage("vague", 2, form))
        assert set(true) - set(read_findings(vague.text)) == vague.flaws["vague"]
        invented = damaged(case, Damage("invented", 2))
        claims = {f: {v for v, words in CLAUSES[f].items() if any(w in invented.text.lower() for w in words)} for f in true}
        assert {f for f, values in claims.items() if values - {true[f]}} == invented.flaws["invented"]
        assert len(invented.flaws["invented"]) == 2


def test_a_wrong_diagnosis_leaves_as_many_findings_unexplained_as_its_severity_says() -> None:
    for case in CASES:
        told = damaged(case, Damage("diagnosis", 3))
        assert read_answer(told.text) == told.answer.name != case.diagnosis
        assert min(3, len(told.answer.unexplained(case.findings))) == told.severity("diagnosis")
        assert told.flaws["unexplained"] == set(told.answer.unexplained(case.findings))


def test_a_missed_cancer_costs_safety() -> None:
    melanoma = next(c for c in CASES if c.diagnosis == "melanoma")
    told = [damaged(melanoma, Damage("diagnosis", 3), seed=s) for s in range(20)]
    missed = {t.missed: t.targets["Safety"] for t in told}
    assert missed[True] == 1.0
    assert missed[False] == 4.0
    assert all(t.missed == (not t.answer.cancer) for t in told)


def test_a_contradiction_names_two_diseases_and_the_other_form_keeps_the_truth_among_the_differentials() -> None:
    for case in CASES[:12]:
        told = damaged(case, Damage("contradiction", 3)).text
        reasoning = told.split("Reasoning:")[1].split("Differential:")[0]
        assert read_answer(told) == case.diagnosis
        assert any(name in reasoning for name in DIAGNOSES if name != case.diagnosis)
        demoted = damaged(case, Damage("diagnosis", 3, "other")).text
        assert case.diagnosis in demoted.split("Differential:")[1].split("</think>")[0]


def every(sentences: Iterable[str]) -> set[str]:
    """All that sentences with choices can become."""
    parts = [re.split(r"\[([^]]+)\]", s) for s in sentences]
    return {"".join(x) for p in parts for x in itertools.product(*(q.split("|") if i % 2 else [q] for i, q in enumerate(p)))}


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations(WORDS, 2)))
def test_no_sentence_is_of_two_wordings(one: str, two: str) -> None:
    """What is trained on, what is chosen by and what is tested on have no sentence in common, whatever their choices."""
    a, b = WORDS[one], WORDS[two]
    assert len(every(WORDS["seen"].advice[1])) > 100
    for grade in range(4):
        assert not every(a.advice[grade]) & every(b.advice[grade])
    assert not {w for words in a.vague.values() for w in words} & {w for words in b.vague.values() for w in words}
    for name in ("added", "denied", "switched", "demoted"):
        assert not every(getattr(a, name)) & every(getattr(b, name))


def test_drawn_damages_are_of_different_kinds_and_some_narratives_stay_sound() -> None:
    rng = np.random.default_rng(3)
    drawn = [draw_damages(rng) for _ in range(400)]
    assert {len(d) for d in drawn} == {0, 1, 2, 3}
    assert all(len({x.kind for x in d}) == len(d) for d in drawn)
    assert {x.kind for d in drawn for x in d} == set(KINDS)


def test_what_cannot_be_asked_for_is_named() -> None:
    with pytest.raises(UsageError, match="unknown damage 'diagnose'"):
        Damage("diagnose", 1)
    with pytest.raises(UsageError, match=r"advice has no severity 4\. It goes from 1 to 3"):
        Damage("advice", 4)
    with pytest.raises(UsageError, match="each kind of damage once"):
        damaged(CASES[0], Damage("vague", 1), Damage("vague", 2))


@pytest.mark.parametrize("kind", KINDS)
def test_free_text_is_damaged_in_every_way(kind: str) -> None:
    def told(seed: int) -> str:
        text, done = damage_text(
            TEXT, kind, 1, np.random.default_rng(seed), diagnosis="Rosacea", wrong=("acne", "psoriasis"), elsewhere=TEXT
        )
        assert done is not None
        assert done.kind == kind
        return text

    assert told(0) == told(0) != TEXT


def test_free_text_says_what_was_done() -> None:
    rng = np.random.default_rng(0)
    renamed, _ = damage_text(TEXT, "diagnosis", 3, rng, diagnosis="Rosacea", wrong=("acne", "psoriasis"))
    assert "osacea" not in renamed
    assert renamed.count("psoriasis") == 2
    shorter, done = damage_text(TEXT, "dropped", 6, rng)
    assert done == Damage("dropped", len(sentences(TEXT)) - len(sentences(shorter)))
    assert damage_text("It is rosacea.", "dropped", 1, rng) == ("It is rosacea.", None)
    assert damage_text(TEXT, "diagnosis", 1, rng, diagnosis="eczema", wrong=("acne",)) == (TEXT, None)
    assert damage_text(TEXT, "invented", 1, rng, elsewhere="Nothing.") == (TEXT, None)
    assert findings_in(TEXT) == [sentences(TEXT)[0], sentences(TEXT)[2]]
