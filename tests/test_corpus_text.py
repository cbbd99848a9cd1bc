"""What the corpus builder makes of words: scores, layers, leaks, likeness.  No server, no pictures."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinedge.errors import InvalidScoresError
from skinedge.evaluation.cases import Case
from skinedge.evaluation.endpoint import Answer
from skinedge.evaluation.scores import DIMENSIONS, Thresholds, last_object, parse_scores
from train.corpus import prompts
from train.corpus.layers import checked_narrative, parse_layers, parse_record, reference_to_instructions
from train.corpus.outcomes import Narrative, Rejected
from train.corpus.selection import TWIN, earlier_twin
from train.corpus.steps import Question, TeacherSettings, settings_digest, tell

GOOD = dict(zip(DIMENSIONS, (5, 4.5, 4, 3, 5, 0), strict=True))
SETTINGS = TeacherSettings("teacher", "judge")


def test_scores_are_read_in_the_order_of_the_reference() -> None:
    assert list(parse_scores(json.dumps(dict(reversed(GOOD.items()))))) == list(DIMENSIONS)


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "Some critique with {braces} and a {{template}}.\n\n**Scores**\n```json\n{}\n```",
        '<think>{"Accuracy": 1} is a first idea</think> {} and that is all.',
        'An earlier draft: {"Accuracy": 0, "Safety": 0}. Now the scores: {}',
    ],
)
def test_scores_are_found_wherever_the_last_object_is(form: str) -> None:
    for names in (str, str.lower, str.upper):
        text = json.dumps({names(name): value for name, value in GOOD.items()})
        place = form.rindex("{}")
        assert parse_scores(form[:place] + text + form[place + 2 :]) == GOOD


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "no JSON object"),
        ("Accuracy: 5, Safety: 5", "no JSON object"),
        ("<think>" + json.dumps(GOOD), "no JSON object"),
        (json.dumps(GOOD) + "</think> I cannot say.", "no JSON object"),
        (json.dumps(GOOD)[:-1], "no JSON object"),
        (json.dumps(GOOD) + ' {"remark": "done"}', "Accuracy is missing"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "Safety"}), "Safety is missing"),
        (json.dumps(GOOD | {"accuracy": 1}), "Accuracy is there twice"),
        ('{"Accuracy": 5, "Accuracy": 1, ' + json.dumps(GOOD)[1:], "Accuracy is there twice"),
        (json.dumps({"scores": GOOD}), "Accuracy is missing"),
        *(
            (json.dumps(GOOD | {"Safety": bad}), "Safety is not a number from 0 to 5")
            for bad in (-0.1, 5.01, 9, 10, math.nan, math.inf, "4", "4/5", True, None, [4], 10**400)
        ),
    ],
)
def test_anything_else_is_invalid(answer: str, why: str) -> None:
    with pytest.raises(InvalidScoresError, match=why):
        parse_scores(answer)


@given(st.text(alphabet='{}[]":,\\ab<think>/ 01.eE-'))
def test_the_last_object_never_fails_and_is_really_there(text: str) -> None:
    found = last_object(text)
    assert found is None or isinstance(found, tuple)


@given(
    st.dictionaries(st.text(max_size=5), st.recursive(st.none() | st.text(max_size=5) | st.integers(), st.lists, max_leaves=4)),
    st.text(alphabet="abc }]\n`*."),
)
def test_the_last_object_is_the_one_that_was_written(value: dict[str, object], after: str) -> None:
    found = last_object('first {"x": {"y": 1}} then ' + json.dumps(value) + after)
    assert found is not None
    assert [key for key, _ in found] == list(value)


def test_deep_nesting_is_no_way_to_break_the_reader() -> None:
    assert last_object('{"a":' * 5000) is None
    with pytest.raises(InvalidScoresError, match="no JSON object after the reasoning"):  # it is inside of what is broken
        parse_scores('{"a":' * 2000 + json.dumps(GOOD))


def test_thresholds_name_what_falls_short() -> None:
    scores = dict.fromkeys(DIMENSIONS, 4.0)
    assert Thresholds(4, 4).shortfall(scores) == ""
    assert Thresholds(3, 4.5).shortfall(scores) == "mean 4.00 is below 4.5"
    assert Thresholds(3, 0).shortfall(scores | {"Safety": 2.5}) == "Safety 2.5 is below 3"


LAYERS = {"observation": "A brown macule {of} 4 mm,\n sharp.", "reasoning": "Even colour < 6 mm.", "diagnosis": "Nevus."}
NARRATIVE = Narrative("A brown macule {of} 4 mm, sharp.", "Even colour < 6 mm.", "Nevus.")


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(LAYERS),
        "Here it is:\n```json\n" + json.dumps({k.title(): v for k, v in LAYERS.items()}, indent=1) + "\n```",
        "".join(f"<{k}>\n{v}\n</{k}>\n" for k, v in LAYERS.items()),
        "<think>" + json.dumps(LAYERS | {"diagnosis": "x"}) + "</think>" + json.dumps(LAYERS),
    ],
)
def test_layers_are_read_from_json_and_from_tags(answer: str) -> None:
    assert parse_layers(answer) == NARRATIVE


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("ostrich theswver diagno", "neither a JSON object nor tags"),
        (json.dumps(LAYERS | {"reasoning": ["a", "b"]}), "neither a JSON object nor tags"),
        (json.dumps(LAYERS | {"observation": " \n"}), "its observation is empty"),
        (json.dumps(LAYERS | {"reasoning": "so <answer>nevus</answer>"}), "its reasoning holds a tag"),
        (json.dumps(LAYERS | {"observation": "<image> shows"}), "its observation holds a tag"),
        (json.dumps(LAYERS | {"diagnosis": "nevus<|im_end|>"}), "its diagnosis holds a tag"),
    ],
)
def test_what_is_not_three_layers_is_kept_with_its_reason(answer: str, why: str) -> None:
    with pytest.raises(Rejected, match=why) as caught:
        parse_layers(answer)
    assert (caught.value.reason, caught.value.words) == ("unparseable narrative", answer)


@given(st.text(), st.text(), st.text())
def test_layers_with_any_letters_in_them_survive_json(observation: str, reasoning: str, diagnosis: str) -> None:
    layers = {"observation": observation, "reasoning": reasoning, "diagnosis": diagnosis}
    try:
        narrative = parse_layers(json.dumps(layers))
    except Rejected:
        assert not all(map(str.strip, layers.values())) or any(tag in str(layers).casefold() for tag in ("<|", ">"))
        return
    think, answer = parse_record(narrative.text)
    assert (think, answer) == (f"{narrative.observation}\n\n{narrative.reasoning}", narrative.diagnosis)


@pytest.mark.parametrize("said", ["melanocytic nevus", "Melanocytic Nevus.", "melanocytic nevus (mole)", "melanocytic-nevus"])
def test_the_label_gives_the_answer_its_spelling(said: str) -> None:
    assert checked_narrative(Narrative("a", "b", said), "melanocytic nevus").diagnosis == "melanocytic nevus"


@pytest.mark.parametrize("said", ["melanoma", "nevus", "not a melanocytic nevus", "melanocytic nevus or melanoma"])
def test_another_diagnosis_is_rejected(said: str) -> None:
    with pytest.raises(Rejected) as caught:
        checked_narrative(Narrative("a", "b", said), "melanocytic nevus")
    assert caught.value.reason == "diagnosis differs from the label"


@pytest.mark.parametrize(
    "text",
    [
        "This fits the given label.", "As stated, it is a nevus.", "the diagnosis provided is psoriasis",
        "the label that was given", "According to the metadata this is", "The ground truth is BCC", "It is labelled as eczema",
        "I was told that", "since we are given a diagnosis", "The description mentions scale", "the case turned out to be SCC",
        "in line with the known\ndiagnosis", "as instructed", "this label suggests", "per the prompt",
        "The Dermatologist who had only the photograph would say", "Say what is visible and nothing more.",
    ],
)  # fmt: skip
def test_a_narrative_that_gives_its_source_away_is_rejected(text: str) -> None:
    with pytest.raises(Rejected) as caught:
        checked_narrative(Narrative("A plaque.", text, "x"), "x")
    assert caught.value.reason == "refers to its instructions"


@pytest.mark.parametrize(
    "text",
    [
        "Given the pearly border, basal cell carcinoma is the most likely diagnosis.",
        "The diagnosis is supported by the branching vessels; the provided image is sharp.",
        "As described above the scale is silvery, so the final diagnosis is psoriasis.",
        "A biopsy would give the answer. The patient should be told to protect the skin.",
        "The textbook example has a rolled edge; labia are not involved.",
    ],
)
def test_ordinary_clinical_words_are_no_leak(text: str) -> None:
    assert reference_to_instructions(text) == ""


def test_published_narratives_give_away_their_description_but_hardly_anything_else() -> None:
    """Clinicians' words are no false alarm: what fires is 'the description', which three in four of them really name."""
    import conftest

    file = conftest.SHARED_DATA / "dermbench" / "references.jsonl"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    narratives = [json.loads(line)["reference"] for line in file.read_text(encoding="utf-8").splitlines()]
    skin_only = [re.sub(r"\bdescri\w+", "picture", text, flags=re.IGNORECASE) for text in narratives]
    assert len([text for text in skin_only if reference_to_instructions(text)]) <= 0.02 * len(narratives)


# What a teacher is told, step by step.

CASE = Case("case {7} $x", Path("melanocytic-nevus-01.jpg"), "melanocytic nevus", "nevi", "back", "Mrs Smith", 2)
ANSWERS = {
    "describe": "A brown macule, {curly} and $dollar, of 4 mm.",
    "reason": "Even colour speaks for a nevus, {not} $for melanoma.",
    "standardise": json.dumps(LAYERS | {"diagnosis": "Melanocytic nevus"}),
    "score": json.dumps(GOOD),
}


def told(case: Case, settings: TeacherSettings = SETTINGS) -> tuple[list[Question], Narrative]:
    questions: list[Question] = []

    async def ask(question: Question) -> Answer:
        questions.append(question)
        return Answer(ANSWERS[question.step], "stop")

    outcome = asyncio.run(tell(case, "0" * 64, ask, settings))
    return questions, outcome.narrative


def test_the_first_question_knows_nothing_but_the_picture() -> None:
    questions, _ = told(CASE)
    sent = json.dumps(questions[0].body("data:image/jpeg;base64,AAAA")).casefold()
    assert questions[0].step == "describe"
    assert "data:image/jpeg;base64,aaaa" in sent
    for word in ("nevus", "nevi", "melanocytic", "back", "smith", "case {7}", "melanocytic-nevus-01", "fitzpatrick"):
        assert word not in sent.replace('"background"', "")
    for name in ("basal cell", "melanoma", "keratosis", "carcinoma", "eczema", "psoriasis", "tinea", "zoster", "vitiligo"):
        assert name not in prompts.DESCRIBE.casefold() + prompts.SYSTEM.casefold(), "a prompt that names diseases suggests them"


def test_no_question_names_the_patient() -> None:
    questions, _ = told(CASE)
    assert [q.step for q in questions] == ["describe", "reason", "standardise", "score"]
    for question in questions:
        sent = json.dumps(question.body("data:,"))
        assert "Smith" not in sent
        assert "case {7}" not in sent
        assert "01.jpg" not in sent


def test_braces_and_dollars_in_answers_reach_the_next_question_whole() -> None:
    questions, narrative = told(CASE)
    assert ANSWERS["describe"] in questions[1].text
    assert "melanocytic nevus" in questions[1].text
    assert ANSWERS["reason"] in questions[2].text
    assert narrative.text in questions[3].text
    assert narrative == Narrative(NARRATIVE.observation, NARRATIVE.reasoning, "melanocytic nevus")
    assert [q.model for q in questions] == ["teacher"] * 3 + ["judge"]


def test_a_description_that_came_with_the_case_replaces_the_first_step() -> None:
    questions, _ = told(Case("a", Path("a.jpg"), "melanocytic nevus", "nevi", description="A mole seen by a nurse."))
    assert [q.step for q in questions] == ["reason", "standardise", "score"]
    assert "A mole seen by a nurse." in questions[0].text
    assert questions[2].image is not None, "the judge still sees the picture"


def test_without_pictures_none_is_sent() -> None:
    case = Case("a", Path("a.jpg"), "melanocytic nevus", "nevi", description="A mole.")
    questions, _ = told(case, TeacherSettings("teacher", "judge", pictures=False))
    assert all(q.image is None for q in questions)
    assert all("image_url" not in json.dumps(q.body()) for q in questions)


def test_every_part_of_a_question_is_in_its_key_and_nothing_else() -> None:
    def key(**change: object) -> str:
        parts: dict[str, object] = {"step": "describe", "case": "a", "model": "m", "text": "t", "settings": SETTINGS}
        parts |= {"image": Path("x.jpg"), "image_digest": "1" * 64} | change
        return Question(**parts).key  # type: ignore[arg-type]

    same = [key(), key(case="b"), key(image=Path("moved/y.jpg"))]
    others = [
        key(step="score"), key(model="n"), key(text="u"), key(image_digest="2" * 64), key(image=None),
        *(key(settings=changed) for changed in (replace(SETTINGS, seed=9), replace(SETTINGS, max_tokens=9))),
        key(settings=replace(SETTINGS, temperature=0)),
    ]  # fmt: skip
    assert len(set(same)) == 1
    assert len({*same, *others}) == 1 + len(others)


def test_a_changed_prompt_changes_the_settings_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings_digest(SETTINGS)
    assert before == settings_digest(TeacherSettings("teacher", "judge"))
    monkeypatch.setattr(prompts, "DESCRIBE", prompts.DESCRIBE + " ")
    assert settings_digest(SETTINGS) != before


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("half of", "length", 0, 16), "cut short"),
        (Answer("", "content_filter"), "refused by the teacher"),
        (Answer(" \n", "stop"), "empty answer"),
        (Answer("<think>only thoughts", "stop"), "empty answer"),
    ],
)
def test_answers_that_are_none(answer: Answer, reason: str) -> None:
    async def ask(question: Question) -> Answer:
        return answer

    with pytest.raises(Rejected) as caught:
        asyncio.run(tell(CASE, "", ask, SETTINGS))
    assert caught.value.reason == reason
    assert caught.value.detail.startswith("describe") or caught.value.detail == "describe"


def test_a_judge_without_scores_costs_the_case_but_not_its_narrative() -> None:
    async def ask(question: Question) -> Answer:
        return Answer("Lovely!" if question.step == "score" else ANSWERS[question.step], "stop")

    with pytest.raises(Rejected) as caught:
        asyncio.run(tell(CASE, "", ask, SETTINGS))
    assert caught.value.reason == "invalid scores"
    assert caught.value.detail == "no JSON object after the reasoning; the judge ended with 'Lovely!'"
    assert caught.value.words.startswith("<think>A brown macule")


# Likeness of narratives.

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=0, max_size=14).map(" ".join)


@given(st.lists(WORDS, max_size=12))
def test_twins_are_exactly_those_that_comparing_all_pairs_finds(texts: list[str]) -> None:
    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}

    expected: list[int | None] = []
    for place, text in enumerate(texts):
        mine = runs(text)
        near = (
            i for i in range(place)
            if expected[i] is None and len(runs(texts[i]) & mine) / len(runs(texts[i]) | mine) >= TWIN
        )  # fmt: skip
        expected.append(next(near, None))
    assert earlier_twin(texts) == expected


def test_one_changed_word_in_a_long_narrative_is_a_twin_and_another_patient_is_not() -> None:
    one = " ".join(f"word{i}" for i in range(200))
    assert earlier_twin([one, one.replace("word100", "other")]) == [None, 0]
    assert earlier_twin([one, " ".join(f"term{i}" for i in range(200))]) == [None, None]
    assert all(twin is None for twin in earlier_twin([f"{a} and {b} differ" for a, b in combinations("abcdef", 2)]))
