"""A label is named by its whole name or a synonym, and by no accident of letters."""

from __future__ import annotations

import itertools
import tomllib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from skinedge.evaluation.answer import SYNONYMS, normalised, usual_name
from skinedge.evaluation.cases import PAD_DIAGNOSES
from skinedge.evaluation.datasets.ham10000 import CLASSES
from skinedge.evaluation.labels import (
    DIFFERENTIAL,
    NO_ANSWER,
    OTHER_DISEASE,
    OUTSIDE,
    SEVERAL_FINALS,
    SUBTYPE_MISSING,
    SUBTYPE_OTHER,
    SYNONYMS_FILE,
    Categories,
    ClosedSet,
    OpenName,
    difference,
    plain,
    synonyms,
    words,
)
from skinedge.synthderm.findings import DIAGNOSES

PAD = ClosedSet({name: (code,) for code, name in PAD_DIAGNOSES.items()})
SETS = {
    "pad": PAD,
    "ham": ClosedSet({label: (code, *others) for code, (label, others) in CLASSES.items()}),
    "synthderm": ClosedSet(dict.fromkeys(DIAGNOSES, ())),
    "partition": ClosedSet(dict.fromkeys(("benign", "malignant", "non-neoplastic"), ())),
}
NAMED = [(name, label) for name, rule in SETS.items() for label in rule.labels]
WORDS = st.from_regex(r"[a-z]{3,9}", fullmatch=True)
NAMES = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)


# --- closed sets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "label"), NAMED)
def test_every_label_is_read_however_it_is_written(name: str, label: str) -> None:
    rule = SETS[name]
    for said in (label, label.upper(), label.replace(" ", "-"), f"**{label}**", f"a {label}", f"most likely {label}"):
        assert rule(f"The answer is {said}.", label).correct, said
        assert rule(f"<think>x</think><answer>{said}</answer>", label).correct, said


@pytest.mark.parametrize(("name", "label"), NAMED)
def test_no_label_is_read_out_of_another_phrase(name: str, label: str) -> None:
    rule = SETS[name]
    other = next(x for x in rule.labels if x != label)
    for said in (f"not a {label}", f"not {label}", f"no {label}", f"{label} or {other}", f"{label}/{other}", f"un{label}",
                 f"{label} is excluded", f"anything but {label}", f"pseudo-{label}", f"{label}osis"):  # fmt: skip
        verdict = rule(f"The answer is {said}.", label)
        assert (verdict.said, verdict.correct, verdict.reason) == (None, False, OUTSIDE), said


def test_non_neoplastic_is_not_neoplastic() -> None:
    rule = SETS["partition"]
    assert rule("The answer is neoplastic.", "non-neoplastic").said is None
    assert rule("The answer is non neoplastic.", "non-neoplastic").correct
    assert rule("The answer is not malignant.", "malignant").said is None


def test_a_bare_label_is_an_answer_where_a_list_was_given() -> None:
    assert PAD("Melanoma", "melanoma").correct
    assert PAD("<think>a nevus? no</think>\nmelanoma.", "melanoma").correct
    assert PAD("It is a melanoma", "melanoma").reason == NO_ANSWER
    assert PAD("", "melanoma").reason == NO_ANSWER


def test_without_a_truth_nothing_is_right_or_wrong() -> None:
    for rule in (PAD, OpenName(), Categories.of([("psoriasis", "plaques")])):
        assert rule("The answer is melanoma.", None).correct is None
        assert rule("no idea", None).correct is None


def test_a_synonym_of_two_labels_names_neither() -> None:
    rule = ClosedSet({"nevus": (), "melanocytic nevus": ()})
    assert rule("The answer is nevus.", "nevus").correct
    assert rule("The answer is melanocytic nevus.", "melanocytic nevus").correct
    assert rule("The answer is mole.", "nevus").said is None


@given(st.lists(NAMES, min_size=2, max_size=6, unique_by=plain), st.data())
def test_of_any_labels_the_one_said_is_the_one_read(labels: list[str], data: st.DataObject) -> None:
    rule, label = ClosedSet(dict.fromkeys(labels, ())), data.draw(st.sampled_from(labels))
    assume(not label.startswith(("because ", "since ", "given ")))
    assert rule.match(label) == label
    assert rule.match(label.title().replace(" ", "-") + "!") == label


@given(st.lists(NAMES, min_size=2, max_size=6, unique_by=plain), NAMES)
def test_what_is_read_is_a_label_or_nothing(labels: list[str], said: str) -> None:
    rule = ClosedSet(dict.fromkeys(labels, ()))
    found = rule.match(said)
    assert found is None or usual_name(found, synonyms()) == usual_name(said, synonyms()) or plain(found) == plain(said)


@given(st.text(max_size=80))
def test_any_text_gives_a_verdict(text: str) -> None:
    for rule in (PAD, OpenName(), Categories.of([("psoriasis", "plaques")])):
        verdict = rule(text, "melanoma")
        assert isinstance(verdict.correct, bool)
        assert bool(verdict.reason) is not verdict.correct


# --- open names, by the rules of DDI's judge ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "truth", "reason"),
    [
        ("melanoma in situ", "melanoma-in-situ", ""),
        ("Acral lentiginous melanoma", "melanoma-acral-lentiginous", ""),
        ("nevus, melanocytic", "melanocytic-nevi", ""),
        ("mole", "melanocytic-nevi", ""),
        ("Bowen's disease", "squamous cell carcinoma in situ", ""),
        ("verruca vulgaris", "wart", ""),
        ("melanoma", "melanoma in situ", SUBTYPE_MISSING),
        ("basal cell carcinoma", "basal cell carcinoma superficial", SUBTYPE_MISSING),
        ("nodular basal cell carcinoma", "basal cell carcinoma superficial", SUBTYPE_OTHER),
        ("nodular melanoma", "acral lentiginous melanoma", OTHER_DISEASE),
        ("melanoma or nevus", "melanoma", SEVERAL_FINALS),
        ("melanoma / nevus", "melanoma", SEVERAL_FINALS),
        ("nevus vs. melanoma", "melanoma", SEVERAL_FINALS),
        ("melanoma/nevus", "melanoma", SEVERAL_FINALS),
        ("melanoma and nevus", "melanoma", SEVERAL_FINALS),
        ("nodular melanoma", "melanoma", SUBTYPE_OTHER),
        ("possible melanoma", "melanoma", DIFFERENTIAL),
        ("suspicious for melanoma", "melanoma", DIFFERENTIAL),
        ("psoriasis", "melanoma", OTHER_DISEASE),
        ("not melanoma", "melanoma", SUBTYPE_OTHER),
    ],
)
def test_an_open_name_is_right_by_its_words_and_wrong_for_a_reason(said: str, truth: str, reason: str) -> None:
    assert difference(said, truth) == reason
    verdict = OpenName()(f"The answer is {said}.", truth)
    assert (verdict.correct, verdict.reason) == (not reason, reason)


def test_several_answers_are_several_finals() -> None:
    verdict = OpenName()("<answer>melanoma</answer> <answer>nevus</answer>", "melanoma")
    assert (verdict.correct, verdict.reason) == (False, SEVERAL_FINALS)


@given(NAMES, st.sampled_from(["not", "no", "un", "possible", "rule out", "differential"]), NAMES)
def test_an_open_name_with_anything_before_or_beside_it_is_another(name: str, before: str, other: str) -> None:
    assume(words(name) != words(f"{name} {other}"))
    assert difference(f"{before} {name}", name)
    for joint in ("or", "and", "/", "versus", "vs."):
        assert difference(f"{name} {joint} {other}", name) == SEVERAL_FINALS


@given(NAMES, st.randoms())
def test_the_order_of_words_does_not_matter(name: str, random: object) -> None:
    shuffled = name.split()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assume(usual_name(name, synonyms()) == normalised(name))
    assume(usual_name(" ".join(shuffled), synonyms()) == normalised(" ".join(shuffled)))
    assert words(" ".join(shuffled)) == words(name)


# --- the synonyms -------------------------------------------------------------------------------------------------------


def test_synonyms_are_written_normalised_each_once_and_lead_to_a_usual_name_in_one_step() -> None:
    data = tomllib.loads(SYNONYMS_FILE.read_text(encoding="utf-8"))
    others = list(itertools.chain.from_iterable(data["names"].values()))
    assert len(others) == len(set(others))
    for usual, names in data["names"].items():
        assert names
        for name in (usual, *names):
            assert normalised(name) == name
    for other, usual in synonyms().items():
        assert other != usual
        assert usual not in synonyms(), f"{other} -> {usual} -> {synonyms()[usual]}"
    assert set(SYNONYMS.items()) <= set(synonyms().items())


def test_synonyms_keep_the_known_diagnoses_apart() -> None:
    names = {*DIAGNOSES, *PAD_DIAGNOSES.values(), "melanoma in situ", "acne vulgaris", "wart", "genital warts"}
    assert len({words(name) for name in names}) == len(names)
