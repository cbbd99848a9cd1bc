"""Reading the disease that a text names, and comparing names."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinedge.evaluation.answer import SYNONYMS, normalised, read_answer, same_diagnosis, usual_name
from skinedge.evaluation.cases import PAD_DIAGNOSES
from skinedge.synthderm.findings import DIAGNOSES


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think><answer>Psoriasis.</answer>", "Psoriasis"),
        ("<think>a</think>\n<answer> lichen planus </answer>\n", "lichen planus"),
        ("<answer>nevus</answer>", "nevus"),
        ("<ANSWER>\n**Melanoma**\n</ANSWER>", "Melanoma"),
        ("The answer is melanoma. Final diagnosis: nevus. <answer>vitiligo</answer>", "vitiligo"),  # the order of forms
        ("Final diagnosis: nevus. The answer is melanoma.", "melanoma"),
        ("<think>The answer is nevus</think>Final diagnosis: melanoma", "melanoma"),  # a thought is no answer
        ("<think>maybe <answer>nevus</answer></think>The answer is melanoma.", "melanoma"),
        ("<think>a<answer>nevus</answer>", "nevus"),  # a lost </think>
        ("<think>a <answer>nevus</answer></think>", "nevus"),
        ("<think>The answer is nevus, or", None),
        ("The answer is: **Basal cell carcinoma (BCC)**.", "Basal cell carcinoma (BCC)"),
        ("the  answer is melanoma, given the jagged border. See a doctor.", "melanoma"),
        ("The answer is melanoma because the border is jagged", "melanoma"),
        ("The answer is nevus? No. The answer is melanoma!", "melanoma"),
        ("**Final diagnosis:** tinea corporis\nUrgency: low", "tinea corporis"),
        ("Final Diagnosis:\n- not here", "- not here"),
        ("The final diagnosis is Bowen's disease.", "Bowen's disease"),
        ("The answer is melanoma or nevus.", "melanoma or nevus"),
        ("<answer>nevus</answer><answer>Nevus.</answer>", "nevus"),
        ("<answer>vitiligo</answer><answer>psoriasis</answer>", "vitiligo / psoriasis"),
        ("<answer></answer>", None),
        ("<answer>basal cell", None),  # cut short: half a name is no name
        ("<answer> . </answer> The answer is nevus", "nevus"),
        ("It looks like psoriasis.", None),
        ("", None),
    ],
)
def test_reads_the_last_word(text: str, answer: str | None) -> None:
    assert read_answer(text) == answer


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Psoriasis.", "psoriasis", True),
        ("a seborrhoeic keratosis", "Seborrheic-keratosis", True),
        ("nevus", "melanocytic naevus", True),
        ("mole", "nevus", True),
        ("most likely a melanoma", "malignant melanoma", True),
        ("tinea corporis (ringworm)", "ringworm", True),
        ("Bowen’s disease", "bowens disease", True),
        ("plaque psoriasis", "psoriasis", False),  # a subtype is another name
        ("not melanoma", "melanoma", False),
        ("melanoma or nevus", "melanoma", False),
        ("vitiligo / psoriasis", "psoriasis", False),
        ("", "", False),
        (None, None, False),
        ("...", "!", False),
        ("(nevus)", "nevus", True),
    ],
)
def test_same_diagnosis(a: str | None, b: str | None, same: bool) -> None:
    assert same_diagnosis(a, b) is same
    assert same_diagnosis(b, a) is same


def test_synonyms_are_a_hook() -> None:
    assert not same_diagnosis("cutaneous horn", "cornu cutaneum")
    assert same_diagnosis("cutaneous horn", "Cornu cutaneum", {"cornu cutaneum": "cutaneous horn"})


def test_synonyms_are_written_normalised_and_lead_to_a_name_in_one_step() -> None:
    for other, usual in SYNONYMS.items():
        assert normalised(other) == other
        assert normalised(usual) == usual
        assert usual not in SYNONYMS


def test_known_diagnoses_keep_apart() -> None:
    names = {*DIAGNOSES, *PAD_DIAGNOSES.values()}
    assert len({usual_name(name) for name in names}) == len(names)


@given(st.text(max_size=60))
@settings(deadline=None)  # the machine may be busy
def test_normalising_twice_changes_nothing(name: str) -> None:
    assert normalised(normalised(name)) == normalised(name)


@given(st.text(max_size=80))
@settings(deadline=None)  # the machine may be busy
def test_any_text_is_read(text: str) -> None:
    answer = read_answer(text)
    assert answer is None or answer
