"""Findings in free text: negation, doubt and sides in sentences made to be tricky; real narratives; two texts compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinedge.evaluation.agreement import Agreement, compare_findings
from skinedge.evaluation.findings import Finding, extract_findings
from skinedge.evaluation.vocabulary import Term, terms
from skinedge.synthderm.findings import Findings
from skinedge.synthderm.narrative import CLAUSES, narrate

DERMBENCH = Path("/work/shared/data/dermbench/references.jsonl")
_SIGN = {"present": "+", "absent": "-", "uncertain": "?", "general": "~"}


def _said(text: str) -> str:
    """Like ``+plaque -scale ?crust +forearm/left``."""
    return " ".join(f"{_SIGN[f.polarity]}{f.name}{'/' + f.side if f.side else ''}" for f in extract_findings(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # denied before
        ("There is no scale.", "-scale"),
        ("A red plaque without ulceration.", "+red +plaque -ulcer"),
        ("The patient denies itching.", "-itch"),
        ("No scale, crust or ulceration, but a sharp border is present.", "-scale -crust -ulcer +well_defined"),
        ("There are no vesicles, pustules, or crusts and the surface is smooth.", "-vesicle -pustule -crust +smooth"),
        ("Neither vesicles nor bullae.", "-vesicle -bulla"),
        ("No pustules are seen on the red plaque.", "-pustule +red +plaque"),
        ("The rash spares the face.", "-face"),
        ("Absence of comedones and telangiectasia further supports this.", "-comedo -telangiectasia"),
        ("It lacks the pearly look of a tumour with crust.", "-pearly -nodule +crust"),
        ("Non-scaly, non-tender nodule.", "-scale -pain +nodule"),
        ("A papule rather than a pustule.", "+papule -pustule"),
        # denied after
        ("Scale is absent.", "-scale"),
        ("Scale and crust are absent.", "-scale -crust"),
        ("The red plaque has a raised border and scale is absent.", "+red +plaque +raised_border -scale"),
        ("Vesicles were not observed, and the nodules are firm.", "-vesicle +nodule"),
        ("Comedones, which aren't described here, would point to acne.", "-comedo"),
        ("Pustules cannot be seen.", "-pustule"),
        # looks denied and is not
        ("It is not only red but also scaly.", "+red +scale"),
        ("The surface is not scaly but crusted.", "-scale +crust"),
        ("The border is not well-defined.", "+ill_defined"),
        ("The lesion is red, not brown, with scale.", "+red -brown +scale"),
        ("There is no doubt that the nodule is ulcerated.", "+nodule +ulcer"),
        ("The margin is poorly defined and no crust, although scale is present.", "+ill_defined -crust +scale"),
        # doubted, or said of a disease
        ("Possible crust on the right cheek.", "?crust +cheek/right"),
        ("Pustules cannot be judged from the photograph.", "?pustule"),
        ("Psoriasis usually shows silvery scale on the elbows.", "~silvery_scale ~elbow"),
        ("Typically shows comedones, which aren't described here.", "-comedo"),
        ("- **Psoriasis**: Thick plaques with silvery scales.", "~plaque ~silvery_scale"),
        ("- **Psoriasis**: The silvery scales here fit.", "+silvery_scale"),
        ("- **Location**: Both cheeks, with nasal sparing.", "+cheek/bilateral -nose"),
        ("It is smooth, ruling out conditions that cause scaling or atrophy.", "+smooth -scale -atrophy"),
        ("This may be fungal, as the plaque is annular.", "+plaque +annular"),
        ("Psoriasis often has clear borders, but the margins here are ill-defined.", "~well_defined +ill_defined"),
        # sides
        ("Papules on the left forearm and both legs.", "+papule +forearm/left +leg/bilateral"),
        ("Lesions affect the left and right cheeks.", "+cheek/bilateral"),
        ("Knees bilaterally, and a macule on the back of the right hand.", "+knee/bilateral +macule +hand/right"),
        ("The left side of the upper back shows a brown macule; the right arm is spared.",
         "+trunk_back/left +brown +macule -arm/right"),
        ("The right diagnosis is seen on the arm.", "+arm"),
        # words that are none
        ("Plaque psoriasis, lichen planus and squamous cell carcinoma were weighed.", ""),
        ("A patch test raises the question.", ""),
        ("Sharply demarcated, honey-coloured crusts; maculopapular elsewhere.", "+well_defined +yellow +crust +macule +papule"),
    ],
)  # fmt: skip
def test_what_a_sentence_says(text: str, said: str) -> None:
    assert _said(text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # a denial ends where something else is said
        ("There is no scale, and crusting is present.", "-scale +crust"),
        ("There is no scale and crusting is present.", "-scale +crust"),
        ("There is no scale, crust is seen.", "-scale +crust"),
        ("There is no scale, and ulceration and crusting are present.", "-scale +ulcer +crust"),
        ("There is no evidence of scale, and vesicles are noted on the left forearm.", "-scale +vesicle +forearm/left"),
        ("No scale, and brown or red crust is present.", "-scale +brown +red +crust"),
        ("Scale is absent, crust present.", "-scale +crust"),
        ("Scale absent, crust present.", "-scale +crust"),
        ("Scale is absent, crusting is present.", "-scale +crust"),
        ("Scale is not seen, and crusting is present.", "-scale +crust"),
        ("Vesicles are not seen, crusting is.", "-vesicle +crust"),
        ("No crusting, scale visible.", "-crust +scale"),
        ("No scale visible, crust present.", "-scale +crust"),
        ("No scale, no crust, ulceration present.", "-scale -crust +ulcer"),
        ("It is without scale but with crusting.", "-scale +crust"),
        ("The lesion is not ulcerated, shows scale.", "-ulcer +scale"),
        ("Scale: absent. Crust: present.", "-scale +crust"),
        ("- **Ulceration**: Not present", "-ulcer"),
        # and not within its list
        ("No scale, crust or ulceration.", "-scale -crust -ulcer"),
        ("There is no scale, crust or ulceration.", "-scale -crust -ulcer"),
        ("No scale, crust, or ulceration is seen.", "-scale -crust -ulcer"),
        ("No papules, vesicles, and crusts are seen.", "-papule -vesicle -crust"),
        ("There is no scale, ulceration or crusting present.", "-scale -ulcer -crust"),
        ("No scale, crust, ulceration noted.", "-scale -crust -ulcer"),
        ("A plaque without scale or crust is seen.", "+plaque -scale -crust"),
        ("There is no scale, and ulceration and crusting are absent.", "-scale -ulcer -crust"),
        ("Scale is present, crust and ulceration absent.", "+scale -crust -ulcer"),
        ("Scale is not present, nor is crust.", "-scale -crust"),
        ("A red plaque, absent scale.", "+red +plaque -scale"),
        ("Fine scaling, absent in this case.", "-scale"),
        # what a border is not
        ("The border is not irregular.", "-irregular_border"),
        ("The borders aren't irregular.", "-irregular_border"),
        ("The border does not appear irregular.", "-irregular_border"),
        ("The border is neither irregular nor raised.", "-irregular_border -raised"),
        ("The margins are not irregular but raised.", "-irregular_border +raised"),
        ("The margins appear slightly irregular.", "+irregular_border"),
        ("The surface is not scaly and the border is not sharp.", "-scale -well_defined"),
        # doubt ends there, too
        ("There may be scale, and crust is present.", "?scale +crust"),
        ("Scale is possibly present, crust is absent.", "?scale -crust"),
        ("Vesicles may be present.", "?vesicle"),
        # sides
        ("A plaque on the left arm and a papule on the right arm.", "+plaque +arm/left +papule +arm/right"),
        ("Not on the left arm but on the right arm.", "-arm/left +arm/right"),
        ("A plaque on the right arm, none on the left arm.", "+plaque +arm/right -arm/left"),
        ("No lesions on the left hand; the right hand shows vesicles.", "-hand/left +hand/right +vesicle"),
        ("Plaques on the trunk, sparing the face.", "+plaque +trunk -face"),
    ],
)  # fmt: skip
def test_a_denial_ends_where_something_else_is_said(text: str, said: str) -> None:
    assert _said(text) == said


def test_a_finding_knows_where_it_stands() -> None:
    text = "Seen: a plaque.\nThere is no silvery scale on it."
    _, scale = extract_findings(text)
    assert scale == Finding("surface", "silvery_scale", "absent", "", (28, 41))
    assert text[slice(*scale.span)] == "silvery scale"


def test_every_finding_of_the_vocabulary_is_read() -> None:
    unread = [t.name for t in terms() if t.name not in _said(f"It shows {t.name.replace('_', ' ')}.")]
    assert unread == []
    assert len(terms()) > 130


def test_two_texts_compared() -> None:
    a = "A red plaque with scale on the left forearm. No ulcer. The border is sharp border. It itches."
    b = "A red plaque without scale on the right forearm. No ulcer. Crusts are seen."
    found = compare_findings(a, b)
    assert found == Agreement(
        agreed=(Term("colour", "red"), Term("morphology", "plaque"), Term("morphology", "ulcer")),
        dropped=(Term("border", "well_defined"), Term("symptom", "itch")),
        invented=(Term("surface", "crust"),),
        contradicted=(Term("surface", "scale"),),
        swapped=(Term("site", "forearm"),),
        sided=(Term("site", "forearm"),),
    )
    assert found.precision == 3 / 6
    assert found.recall == 3 / 7


def test_a_text_agrees_with_itself_and_nothing_with_nothing() -> None:
    same = compare_findings("A red plaque.", "A red plaque.")
    assert (same.precision, same.recall) == (1.0, 1.0)
    nothing = compare_findings("It is good.", "")
    assert (nothing.precision, nothing.recall) == (None, None)


def test_what_is_general_or_doubted_is_not_compared() -> None:
    assert compare_findings("Psoriasis usually has crusts. Possible pus.", "A plaque.").dropped == ()


@pytest.mark.parametrize(("said", "other"), [("left", "both"), ("left", ""), ("left", "left")])
def test_only_opposite_sides_are_swapped(said: str, other: str) -> None:
    assert compare_findings(f"On the {said} arm.", f"On the {other} arm.").swapped == ()


def test_synthderm_narratives_are_read_too() -> None:
    findings = Findings("single", "red", "uniform", "oval", "sharp", "silvery scale", "none", "large")
    said = _said(narrate(findings, "psoriasis", ["nummular eczema"], np.random.default_rng(1)))
    for one in ("+red", "+oval", "+well_defined", "+silvery_scale"):
        assert one in said


def test_synthderms_clauses_of_one_value_are_read_alike() -> None:
    """What a bundle words otherwise, it has not lost.  Smooth is not the same as without scale, nor a blister a vesicle."""
    apart = []
    for finding, values in CLAUSES.items():
        for value, clauses in values.items():
            said = [set(_said(f"{clause[0].upper()}{clause[1:]}.").split()) for clause in clauses]
            if not set.intersection(*said):
                apart.append((finding, value))
    assert apart == [("surface", "smooth"), ("surface", "blisters")]


@given(
    st.text()
    | st.lists(st.sampled_from(["no", "scale", "left", "arm", "but", ",", ".", "is absent", "not", "\n", "*"])).map(" ".join)
)
def test_on_anything_spans_are_in_order_and_in_the_text(text: str) -> None:
    spans = [f.span for f in extract_findings(text)]
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert spans == sorted(spans)


@pytest.mark.skipif(not DERMBENCH.exists(), reason="the texts of DermBench are not on this machine")
def test_certified_narratives_have_many_findings() -> None:
    texts = [json.loads(line)["reference"] for line in DERMBENCH.read_text(encoding="utf-8").splitlines()]
    found = [extract_findings(text) for text in texts]
    assert min(len(f) for f in found) >= 1
    assert np.mean([len(f) for f in found]) > 15
    assert {f.polarity for every in found for f in every} == {"present", "absent", "uncertain", "general"}
