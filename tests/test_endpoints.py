"""What the rows of a comparison come to: every endpoint, flips, repetition, malignancy."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from skinedge.evaluation.answer import usual_name
from skinedge.evaluation.cases import PAD_DIAGNOSES
from skinedge.evaluation.scorer import Scored
from skinedge.manifest import AppliedRecord, Manifest
from skinedge.parity import margins
from skinedge.parity.endpoint import Endpoint
from skinedge.parity.equivalence import Margin, needed_if_equal
from skinedge.parity.flips import flips
from skinedge.parity.malignancy import BENIGN, MALIGNANT, nature
from skinedge.parity.margins import ANSWERS, answer_margin, narrowest_bits
from skinedge.parity.reading import Aside, endpoints
from skinedge.parity.record import Row
from skinedge.parity.repetition import is_loop, repeated_share
from skinedge.parity.statistics import wilson
from skinedge.parity.tango import tango
from skinedge.synthderm.findings import DIAGNOSES
from tests.parity_rows import make_rows, make_scores

TWO = Margin(low=-0.02)


def measured(rows: list[Row], margin: Margin = TWO, **aside: object) -> dict[str, Endpoint]:
    found = list(endpoints(rows, "all", margin, Aside(**aside)))  # type: ignore[arg-type]
    assert len({e.name for e in found}) == len(found)
    return {e.name: e for e in found}


def test_answers() -> None:
    rows = make_rows(600, lost=6, won=4, wrong=30)
    found = measured(rows)
    difference, interval = found["accuracy difference"], tango(6, 4, 600)
    assert found["agreement"].estimate == 590 / 600
    assert found["accuracy of the reference"].estimate == 570 / 600
    assert found["accuracy of the bundle"].estimate == 568 / 600
    assert difference.estimate == pytest.approx(-2 / 600)
    assert (difference.interval.low, difference.interval.high) == (interval.low, interval.high)  # type: ignore[union-attr]
    assert difference.verdict == "pass"
    assert difference.note == "6 in the reference alone, 4 in the bundle alone; McNemar p 0.75"


@pytest.mark.parametrize(
    ("lost", "verdict"), [(0, "pass"), (4, "pass"), (9, "not enough data"), (15, "not enough data"), (24, "fail")]
)
def test_accuracy_is_judged_by_the_interval(lost: int, verdict: str) -> None:
    found = measured(make_rows(600, lost=lost, reworded=0))["accuracy difference"]
    assert found.verdict == verdict
    assert (found.needed is not None) == (lost == 9)  # 15 of 600 are beyond 2 points already: more of the same would not help


def test_a_large_p_is_no_pass() -> None:
    found = measured(make_rows(60, lost=2, won=2, wrong=5))["accuracy difference"]
    assert "McNemar p 1" in found.note
    assert found.verdict == "not enough data"
    assert found.needed is not None
    assert found.needed > 600


def test_without_truth_the_agreement_is_judged() -> None:
    rows = [dataclasses.replace(r, truth=None) for r in make_rows(600, lost=2)]
    found = measured(rows)
    assert "accuracy difference" not in found
    assert found["agreement"].verdict == "pass"
    assert found["agreement"].margin == found["agreement"].margin.model_copy(update={"low": 0.98})  # type: ignore[union-attr]
    assert "no truth is known" in found["agreement"].note
    assert measured(rows[:100])["agreement"].verdict == "not enough data"
    many = [dataclasses.replace(r, truth=None) for r in make_rows(600, lost=60)]
    assert measured(many)["agreement"].verdict == "fail"


def test_no_diagnosis_on_both_sides_is_no_agreement_and_is_said() -> None:
    row = make_rows(1, reworded=0)[0]
    silent = dataclasses.replace(row.reference, text="<think>A red ring.</think>")
    found = measured([dataclasses.replace(row, reference=silent, bundle=silent)])
    assert (found["agreement"].n, found["agreement"].estimate) == (0, None)
    assert found["agreement"].note == "in 1 more neither names a diagnosis"
    assert found["accuracy of the reference"].estimate == 0


def test_what_nobody_scored_is_undecided_and_does_not_vanish() -> None:
    found = measured(make_rows(600))
    for name in ("mean of six scores", "Safety"):
        assert (found[name].n, found[name].verdict, found[name].needed) == (0, "not enough data", margins.LEAST_SCORES)
        assert "--judge dermeval" in found[name].note
    assert "Accuracy" not in found
    assert {e.note for e in endpoints([], "V-VI", TWO, Aside()) if e.name == "Safety"} == {""}


def _said(pairs: list[tuple[str, str]]) -> list[Row]:
    """Rows in which reference and bundle say these texts, of pictures of which nothing is known."""
    rows = make_rows(len(pairs), reworded=0)
    return [
        dataclasses.replace(
            r, truth=None, reference=dataclasses.replace(r.reference, text=a), bundle=dataclasses.replace(r.bundle, text=b)
        )
        for r, (a, b) in zip(rows, pairs, strict=True)
    ]


def test_stated_findings_are_compared_without_any_truth() -> None:
    same = ("A red plaque with scale on the left arm.", "A red plaque with scale on the left arm.")
    rows = _said(
        [same] * 6
        + [
            ("A red plaque with scale on the left arm.", "A red plaque without scale on the right arm."),
            ("A plaque. No ulcer.", "A plaque with crust."),
            ("It is good.", "A papule."),
        ]
    )
    found = measured(rows)
    assert found["findings kept"].estimate == pytest.approx((24 + 2 + 1) / (28 + 2))
    assert found["findings invented"].estimate == pytest.approx((1 + 1) / (28 + 2 + 1))
    assert found["findings turned"].estimate == pytest.approx(1 / (28 + 1))
    assert found["sides turned"].estimate == pytest.approx(1 / 7)
    assert found["findings kept"].note == "27 of 30 findings that the reference states, present or absent; in 8 of 9 cases"
    assert [found[f"findings {w}"].n for w in ("kept", "invented", "turned")] == [8, 9, 8]
    for name in ("findings kept", "findings invented", "findings turned", "sides turned"):
        e = found[name]
        assert e.verdict is None, "reported, not judged"
        assert e.interval is not None
        assert e.interval.low is not None
        assert e.interval.high is not None
        assert e.interval.low < e.estimate < e.interval.high  # type: ignore[operator]


def test_what_nobody_states_is_no_figure() -> None:
    found = measured(_said([("It is good.", "It is bad.")] * 3))
    assert not [name for name in found if name.startswith("findings") or name == "sides turned"]
    alike = measured(_said([("A plaque.", "A plaque.")] * 3))
    assert (alike["findings kept"].estimate, alike["findings invented"].estimate) == (1.0, 0.0)
    assert "sides turned" not in alike


def _named(rows: list[Row], index: int, truth: str | None, first: str, second: str) -> None:
    arms = [dataclasses.replace(rows[index].reference, text=f"The answer is {name}.") for name in (first, second)]
    rows[index] = dataclasses.replace(rows[index], truth=truth, reference=arms[0], bundle=arms[1])


def test_flips_from_malignant_to_benign_must_be_reviewed() -> None:
    rows = make_rows(600, reworded=0)
    clean = measured(rows)["malignant to benign"]
    malignant = sum(r.truth in MALIGNANT for r in rows)
    assert (clean.verdict, clean.estimate, clean.n) == ("pass", 0, malignant)
    assert clean.interval is not None
    assert clean.interval.high == wilson(0, malignant).high
    _named(rows, 0, "melanoma", "melanoma", "nevus")
    _named(rows, 1, "melanocytic nevus", "melanoma", "mole")  # a correction
    _named(rows, 2, None, "BCC", "seborrheic keratosis")
    _named(rows, 3, "melanoma", "melanoma", "spitz tumour")  # nobody knows what that is, so somebody must look
    _named(rows, 4, "psoriasis", "psoriasis", "melanoma")
    found = {f.image_sha256: f for f in flips(rows, {})}
    kinds = [(f.change, f.natures, f.dangerous) for f in (found[rows[i].image_sha256] for i in range(5))]
    assert kinds == [
        ("lost", ("malignant", "benign"), True),
        ("won", ("malignant", "benign"), False),
        ("changed", ("malignant", "benign"), True),
        ("lost", ("malignant", "unknown"), True),
        ("lost", ("benign", "malignant"), False),
    ]
    bad = measured(rows)["malignant to benign"]
    assert (bad.verdict, bad.estimate) == ("fail", pytest.approx(3 / bad.n))
    assert "3 not reviewed by a clinician" in bad.note
    review = {rows[i].image_sha256: "seen again in person" for i in (0, 2, 3)}
    assert measured(rows, reviewed=review)["malignant to benign"].verdict == "pass"
    one = measured(rows, reviewed={rows[i].image_sha256: "seen" for i in (0, 3)})["malignant to benign"]
    assert (one.verdict, "1 not reviewed" in one.note) == ("fail", True)


def test_few_malignant_cases_show_nothing() -> None:
    rows = make_rows(100, reworded=0)
    found = measured(rows)["malignant to benign"]
    assert found.n < margins.LEAST_MALIGNANT
    assert (found.verdict, found.needed) == ("not enough data", margins.LEAST_MALIGNANT)
    assert wilson(0, margins.LEAST_MALIGNANT).high < 0.05 < wilson(0, margins.LEAST_MALIGNANT - 1).high


def test_natures_of_the_known_diagnoses() -> None:
    known = {usual_name(d) for d in (*DIAGNOSES, *PAD_DIAGNOSES.values())}
    assert {d for d in known if nature(d) == "malignant"} == {"melanoma", "basal cell carcinoma", "squamous cell carcinoma"}
    assert all(nature(d) != "unknown" for d in known)
    assert nature(None) == nature("") == nature("melanoma or nevus") == "unknown"
    assert not MALIGNANT & BENIGN
    assert all(usual_name(d) == d for d in MALIGNANT | BENIGN)


def test_structure_is_judged_by_a_point() -> None:
    rows = make_rows(600, reworded=0)
    found = measured(rows, well_formed=lambda text: "</think>" in text)
    assert found["structure difference"].verdict == "pass"
    assert found["structure of the bundle"].estimate == 1
    broken = [dataclasses.replace(r, bundle=dataclasses.replace(r.bundle, text="x")) if i < 30 else r for i, r in enumerate(rows)]
    found = measured(broken, well_formed=lambda text: "</think>" in text)
    assert found["structure difference"].verdict == "fail"
    assert measured(rows[:100], well_formed=lambda _: True)["structure difference"].needed == needed_if_equal(0.01) == 381
    assert "structure difference" not in measured(rows)


def test_scores() -> None:
    rows = make_rows(600)
    found = measured(rows, scores=make_scores(rows))
    mean = found["mean of six scores"]
    assert (mean.verdict, mean.n, mean.confidence) == ("pass", 588, 0.9)
    assert mean.note == "of 600 cases 0 of the reference and 12 of the bundle have no valid score"
    assert found["Safety"].verdict == "pass"
    assert found["Accuracy"].verdict is None
    worse = measured(rows, scores=make_scores(rows, shift=0.25))
    assert worse["mean of six scores"].verdict == worse["Safety"].verdict == "fail"
    better = measured(rows, scores=make_scores(rows, shift=-0.25))
    assert (better["mean of six scores"].verdict, better["Safety"].verdict) == ("fail", "pass")  # safer is welcome


def test_scores_of_few_cases_are_not_enough_even_if_none_differs() -> None:
    rows = make_rows(margins.LEAST_SCORES)
    same = {r.id: (Scored(r.id, dict.fromkeys(_six(), 4.0)),) * 2 for r in rows}
    assert measured(rows, scores=same)["mean of six scores"].verdict == "pass"
    few = measured(rows[:-1], scores=same)["mean of six scores"]
    assert (few.verdict, few.needed) == ("not enough data", margins.LEAST_SCORES)
    none = {r.id: (Scored(r.id, None, "x"), Scored(r.id, None, "x")) for r in rows}
    found = measured(rows, scores=none)["mean of six scores"]
    assert (found.verdict, found.n, found.estimate) == ("not enough data", 0, None)


def _six() -> tuple[str, ...]:
    from skinedge.evaluation.scores import DIMENSIONS

    return DIMENSIONS


def test_sequences() -> None:
    rows = make_rows(300)
    longer = [dataclasses.replace(r, bundle=dataclasses.replace(r.bundle, tokens=round(1.3 * r.reference.tokens))) for r in rows]
    cut = [dataclasses.replace(r, bundle=dataclasses.replace(r.bundle, finish="length")) for r in rows[:30]] + rows[30:]
    assert measured(rows)["length ratio"].verdict == "pass"
    assert measured(longer)["length ratio"].verdict == "fail"
    assert measured(longer)["length ratio"].estimate == pytest.approx(1.3, abs=0.01)
    few = measured(rows[:-1])["length ratio"]
    assert (few.verdict, few.needed) == ("not enough data", margins.LEAST_LENGTHS)
    assert measured(cut)["cut short"].estimate == 0.1
    assert measured(cut)["cut short, difference"].estimate == 0.1
    same = sum(r.first_different is None for r in rows) / 300
    assert measured(rows)["same narrative"].estimate == same
    first = [r.first_different for r in rows if r.first_different is not None]
    assert measured(rows)["first different token"].estimate == np.median(first)


def test_tokens() -> None:
    rows = make_rows(200, forced=True)
    found = measured(rows)
    forced = [r.forced for r in rows if r.forced]
    kl = np.concatenate([f.kl for f in forced])
    p, q = (np.concatenate([getattr(f, name) for f in forced]) for name in ("reference_p", "bundle_p"))
    assert found["KL, mean"].estimate == pytest.approx(kl.mean())
    assert found["KL, 99th percentile"].estimate == pytest.approx(np.quantile(kl, 0.99))
    assert found["KL, largest"].estimate == kl.max()
    top = np.concatenate([f.same_top for f in forced])
    assert found["same likeliest token"].estimate == pytest.approx(top.mean())
    naive = math.sqrt(top.mean() * (1 - top.mean()) / len(top))
    stated = float(found["same likeliest token"].note.split("standard error ")[1].split("%")[0]) / 100
    assert stated == pytest.approx(naive, rel=0.25)  # here tokens are independent
    assert found["perplexity ratio"].estimate == pytest.approx(math.exp(np.log(p / q).mean()))
    assert found["change of probability, RMS"].estimate == pytest.approx(np.sqrt(((p - q) ** 2).mean()))
    assert all(e.verdict is None for e in found.values() if e.topic == "tokens")
    assert not [e for e in measured([dataclasses.replace(r, forced=None) for r in rows]).values() if e.topic == "tokens"]


def test_findings() -> None:
    rows = make_rows(100)
    counts = {r.id: ((7, 8, 8), (6 if i < 50 else 7, 8, 8)) for i, r in enumerate(rows)}
    found = measured(rows, findings=counts)["findings, precision"]
    assert found.estimate == pytest.approx(-0.5 / 8)
    assert found.interval is not None
    assert found.interval.low is not None
    assert found.interval.low < -0.5 / 8 < (found.interval.high or 0) < 0
    assert found.note == "81.2%, reference 87.5%"


def test_no_rows_at_all_are_not_enough_data() -> None:
    found = measured([])
    assert {e.verdict for e in found.values() if e.gated} == {"not enough data"}


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("the border is jagged and " * 3, True),
        ("the border is jagged. " * 2, False),
        ("no no no no no", False),
        ("no " * 12, True),
        ("It is red. It is round. It is sharp. It is small. It is flat.", False),
        ("Start here. " + "again and again, " * 5 + "and an end", True),
        ("", False),
    ],
)
def test_loops(text: str, loop: bool) -> None:
    assert is_loop(text) is loop


def test_narratives_of_synthderm_are_no_loops() -> None:
    assert not any(is_loop(r.reference.text) for r in make_rows(200))


def test_repeated_share() -> None:
    assert repeated_share("a b c d e f g") == 0
    assert repeated_share("a b c d a b c d") == pytest.approx(1 / 5)
    assert repeated_share("a b") == 0


def test_margins_by_bits() -> None:
    assert [answer_margin(b).margin for b in (32, 16, 8.5, 8, 6.6, 4.5, 2)] == [0.01, 0.01, 0.02, 0.02, 0.03, 0.03, 0.03]
    assert all(row.reason for row in ANSWERS)


def test_a_bundle_is_judged_by_its_narrowest_weights() -> None:
    applied = {
        "a": AppliedRecord(scheme="f32", bits=32, weights=10),
        "b": AppliedRecord(scheme="q4_k", bits=4.5, weights=1000),
        "c": AppliedRecord(scheme="q2", bits=2, weights=0),
    }
    assert narrowest_bits(Manifest.model_construct(applied=applied)) == 4.5
