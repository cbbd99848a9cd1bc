"""Certificates: what they say, that they are whole, and that a bundle and its certificate know each other."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export, verify
from skinedge.errors import BundleError, ImageError, MissingDependencyError, OutputError, UsageError
from skinedge.manifest import read_manifest
from skinedge.measure.bench import bundle_record
from skinedge.parity.certificate import (
    FILE,
    FOLDER,
    PAGE,
    Certificate,
    StageRecord,
    read_certificate,
    verify_certificate,
    write_certificate,
)
from skinedge.parity.certifying import make_certificate, reliability
from skinedge.parity.reading import Aside
from skinedge.parity.record import Narrative, Row
from skinedge.parity.show import figure, interval_words, margin_words, print_certificate
from skinedge.report.certificate import marked, render
from skinedge.targets._contract import ExportOptions
from tests.command_line import typed
from tests.parity_rows import NOW, make_context, make_rows, make_scores


def well_formed(text: str) -> bool:
    return "</think>" in text


def certificate(rows: list[Row], **changes: object) -> Certificate:
    aside = Aside(scores=make_scores(rows), well_formed=well_formed)
    return make_certificate(rows, make_context(**changes), aside, now=NOW)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def good() -> Certificate:
    return certificate(make_rows(660, won=2, wrong=5, forced=True))


def test_enough_good_pictures_pass(good: Certificate) -> None:
    assert (good.verdict, good.reasons) == ("pass", ())
    assert {e.name for e in good.of("all") if e.gated} == {
        "accuracy difference", "malignant to benign", "structure difference", "mean of six scores", "Safety", "length ratio",
    }  # fmt: skip
    assert set(good.data.by_skin) == {"I-II", "III-IV", "V-VI"}
    assert sum(good.data.by_diagnosis.values()) == good.data.n == 660
    assert good.summary == "pass on 660 pictures of SynthDerm, seed 7: agreed with the original in 658 of 660 test cases"


def test_a_stage_out_of_tolerance_fails_the_whole() -> None:
    rows = make_rows(660, won=2, wrong=5, forced=True)
    stages = (StageRecord(name="pixels", verdict="FAIL", measured={"max_abs": 3.0}),)
    found = certificate(rows, stages=stages)
    assert found.verdict == "fail"
    assert found.reasons == ("stage pixels is out of tolerance",)


def named(row: Row, reference: str | None, bundle: str | None, truth: str | None = None) -> Row:
    def said(name: str | None) -> Narrative:
        return Narrative(f"<think>A patch.</think><answer>{name}</answer>" if name else "<think>A patch", 9, "stop")

    return dataclasses.replace(row, reference=said(reference), bundle=said(bundle), truth=truth)


def test_two_texts_without_a_diagnosis_do_not_agree() -> None:
    rows = [named(row, None, None) for row in make_rows(400)]
    agreement = make_certificate(rows, make_context()).endpoint("agreement")
    assert agreement is not None
    assert (agreement.n, agreement.verdict) == (0, "not enough data")
    assert agreement.note.startswith("in 400 more neither names a diagnosis")
    assert reliability(rows).startswith("agreed with the original in 0 of 0 test cases; in 400 more neither named a diagnosis")
    some = [*rows[:30], *(named(row, "melanoma", "melanoma") for row in rows[30:])]
    assert reliability(some).startswith("agreed with the original in 370 of 370 test cases; in 30 more neither named")


@pytest.mark.parametrize("other", ["benign nevus", "moles", "dysplastic nevus", "a wart", "something nobody listed"])
def test_melanoma_that_becomes_anything_not_malignant_fails(other: str) -> None:
    rows = [named(row, "melanoma", other if i < 2 else "malignant melanoma") for i, row in enumerate(make_rows(100))]
    flips = make_certificate(rows, make_context()).endpoint("malignant to benign")
    assert flips is not None
    assert (flips.verdict, flips.estimate) == ("fail", 0.02)
    assert flips.note == "2 of 100 cases that the reference calls malignant; 2 not reviewed by a clinician"


def test_melanoma_that_becomes_nothing_is_told() -> None:
    rows = [named(row, "melanoma", None if i < 2 else "lentigo maligna") for i, row in enumerate(make_rows(100))]
    flips = make_certificate(rows, make_context()).endpoint("malignant to benign")
    assert flips is not None
    assert (flips.verdict, flips.estimate) == ("pass", 0.0)
    assert "in 2 more the bundle names nothing" in flips.note


def test_a_group_too_small_is_underpowered_and_fails_nothing(good: Certificate) -> None:
    assert set(good.underpowered) == {"I-II", "III-IV", "V-VI"}  # 220 each: a point of structure takes 381
    assert good.underpowered["V-VI"] == ("malignant to benign", "structure difference", "length ratio")
    found = good.endpoint("structure difference", "V-VI")
    assert found
    assert (found.verdict, found.needed) == ("not enough data", 381)


def test_one_bad_group_fails_the_whole() -> None:
    rows = make_rows(660, reworded=0)
    bad = [i for i, r in enumerate(rows) if r.skin == "V-VI" and r.truth == "psoriasis"]
    for i in bad:
        text = rows[i].bundle.text.replace("<answer>psoriasis<", "<answer>vitiligo<")
        rows[i] = dataclasses.replace(rows[i], bundle=dataclasses.replace(rows[i].bundle, text=text))
    found = certificate(rows)
    assert found.endpoint("accuracy difference").verdict != "fail"  # type: ignore[union-attr]
    assert found.verdict == "fail"
    assert "accuracy difference on skin V-VI is beyond its margin" in found.reasons
    assert found.worst["accuracy difference"] == "V-VI"


def test_few_pictures_are_not_enough_data_and_it_says_how_many_are() -> None:
    found = certificate(make_rows(80))
    assert found.verdict == "not enough data"
    assert "accuracy difference: 80 cases are not enough to tell, 125 would do" in found.reasons


def test_what_nobody_scored_cannot_pass() -> None:
    rows = make_rows(660, won=2, wrong=5, forced=True)
    found = make_certificate(rows, make_context(synthetic=False, scorer={}), Aside(well_formed=well_formed), now=NOW)
    assert found.verdict == "not enough data"
    assert [r.partition(":")[0] for r in found.reasons] == ["mean of six scores", "Safety"]
    assert all("not scored; --judge dermeval scores offline" in r for r in found.reasons)
    page = render(found)
    assert "no case" in page
    assert "no pictures" not in page


def test_the_margin_of_the_answers_follows_the_bits() -> None:
    rows = make_rows(600, lost=4, reworded=0)
    found = [make_certificate(rows, make_context(bits=bits)).endpoint("accuracy difference") for bits in (4.5, 8.5, 16.0)]
    verdicts = [e.verdict for e in found if e]
    assert verdicts == ["pass", "pass", "not enough data"]


@pytest.mark.parametrize(
    ("skins", "sentence"),
    [
        ({"I-II": 50, "III-IV": 40, "V-VI": 39}, "agreed with the original in 127 of 129 test cases; "
         "fewer than 40 tests on skin types V–VI"),
        ({"I-II": 45, "III-IV": 45}, "agreed with the original in 88 of 90 test cases; no tests on skin types V–VI"),
        ({"I-II": 45, "V-VI": 9}, "agreed with the original in 52 of 54 test cases; "
         "fewer than 40 tests on skin types V–VI; no tests on skin types III–IV"),
        ({"unknown": 60}, "agreed with the original in 58 of 60 test cases; skin type not known in any of them"),
        ({"I-II": 40, "III-IV": 40, "V-VI": 40}, "agreed with the original in 118 of 120 test cases"),
    ],
)  # fmt: skip
def test_the_sentence_of_reliability(skins: dict[str, int], sentence: str) -> None:
    groups = [group for group, n in skins.items() for _ in range(n)]
    rows = [dataclasses.replace(r, skin=g) for r, g in zip(make_rows(len(groups), lost=2), groups, strict=True)]
    assert reliability(rows) == sentence


def test_rows_that_are_no_set_of_cases_are_refused() -> None:
    with pytest.raises(UsageError, match="0 rows with 0 different ids make no certificate"):
        make_certificate([], make_context())
    rows = make_rows(3)
    with pytest.raises(UsageError, match="4 rows with 3 different ids"):
        make_certificate([*rows, rows[0]], make_context())


def test_written_and_read_again(good: Certificate, tmp_path: Path) -> None:
    folder = write_certificate(good, tmp_path / "certificate")
    assert {p.name for p in folder.iterdir()} == {FILE, PAGE}
    assert read_certificate(folder) == read_certificate(folder / FILE) == good
    assert read_certificate(folder).digest == good.digest
    assert render(read_certificate(folder)) == (folder / PAGE).read_text()


def test_nothing_is_overwritten_unasked(good: Certificate, tmp_path: Path) -> None:
    folder = write_certificate(good, tmp_path / "c")
    other = certificate(make_rows(80))
    with pytest.raises(OutputError, match="exists and is not empty"):
        write_certificate(other, folder)
    assert read_certificate(folder) == good
    write_certificate(other, folder, replace=True)
    assert read_certificate(folder) == other
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    (folder / "notes.txt").write_text("x")
    with pytest.raises(OutputError, match=r"holds 'notes.txt', which is no part of a certificate"):
        write_certificate(good, folder, replace=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "report"}, "its kind is 'report'"),
        ({"schema_version": 99}, "its schema version 99"),
        ({"verdict": "pass", "digest": "0" * 64}, "its digest is another"),
    ],
)
def test_a_changed_certificate_is_found(good: Certificate, tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write_certificate(good, tmp_path / "c") / FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BundleError, match=message):
        read_certificate(path)


def test_what_is_no_certificate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    for text in ("[]", "{}", '{"kind": 3}'):
        path.write_text(text)
        with pytest.raises(BundleError, match="this skinedge reads 'parity certificate' 1"):
            read_certificate(path)
    path.write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        read_certificate(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_certificate(tmp_path / "absent.json")


def test_a_field_of_the_wrong_kind_is_named(good: Certificate, tmp_path: Path) -> None:
    path = write_certificate(good, tmp_path / "c") / FILE
    raw = json.loads(path.read_text())
    raw["endpoints"][0]["n"] = "many"
    path.write_text(json.dumps(raw))
    with pytest.raises(UsageError, match=r"endpoints\.0\.n: Input should be a valid integer"):
        read_certificate(path)


@pytest.fixture(scope="module")
def pristine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx_ir")
    source = AdapterCheckpoint.find(tiny_model)
    bundle = export(source, "onnx", ExportOptions("int4"), tmp_path_factory.mktemp("certified") / "b").path
    context = make_context(bundle=bundle_record(read_manifest(bundle)))
    write_certificate(make_certificate(make_rows(60), context, now=NOW), bundle / FOLDER)
    return bundle


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "b"))


def test_a_bundle_verifies_with_its_certificate(bundle: Path) -> None:
    manifest = verify(bundle)
    found = verify_certificate(bundle, manifest)
    assert found
    assert found.context.bundle.digest == manifest.digest
    shutil.rmtree(bundle / FOLDER)
    assert verify(bundle) == manifest
    assert verify_certificate(bundle, manifest) is None


@given(st.data())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_byte_of_a_certificate_is_found(pristine: Path, data: st.DataObject) -> None:
    path = pristine / FOLDER / data.draw(st.sampled_from([FILE, PAGE]))
    whole = path.read_bytes()
    at, to = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    if whole[at] == to:
        return
    try:
        path.write_bytes(whole[:at] + bytes([to]) + whole[at + 1 :])
        with pytest.raises(BundleError):
            verify(pristine)
    finally:
        path.write_bytes(whole)


def test_a_foreign_certificate_is_found(bundle: Path, good: Certificate) -> None:
    shutil.rmtree(bundle / FOLDER)
    write_certificate(good, bundle / FOLDER)
    with pytest.raises(BundleError, match="is of another bundle: gguf q4_k_m"):
        verify(bundle)


def test_half_a_certificate_and_strangers_beside_it_are_found(bundle: Path) -> None:
    (bundle / FOLDER / "more.txt").write_text("x")
    with pytest.raises(BundleError, match=r"'certificate/more.txt' does not belong to the bundle"):
        verify(bundle)
    (bundle / FOLDER / "more.txt").unlink()
    (bundle / FOLDER / PAGE).unlink()
    with pytest.raises(BundleError, match=r"'certificate/parity.html' is missing"):
        verify(bundle)


def test_show_says_the_verdict_or_unverified(bundle: Path) -> None:
    shown = typed("show", str(bundle)).out
    assert "  parity   not enough data on 60 pictures of SynthDerm, seed 7: agreed with the original in 60 of 60" in shown
    assert json.loads(typed("show", str(bundle), "--json").out)["parity"]["verdict"] == "not enough data"
    shutil.rmtree(bundle / FOLDER)
    assert "  parity   unverified: nobody has compared it" in typed("show", str(bundle)).out
    assert json.loads(typed("show", str(bundle), "--json").out)["parity"] is None


def test_photographs_are_shown_only_when_asked(tmp_path: Path) -> None:
    rows = make_rows(30, lost=2)
    picture = Image.new("RGB", (900, 600), "tan")
    exif = picture.getexif()
    exif[0x010E] = "patient 815"
    for row in rows:
        picture.save(tmp_path / f"{row.id}.jpg", exif=exif, comment=b"patient 815")
    pictures = {r.id: tmp_path / f"{r.id}.jpg" for r in rows}
    photographs = make_context(synthetic=False, data="photographs")
    unasked = make_certificate(rows, photographs, pictures=pictures)
    assert unasked.examples == ()
    assert rows[0].reference.text not in unasked.to_json()
    assert rows[0].id not in unasked.to_json()
    asked = make_certificate(rows, photographs, pictures=pictures, examples=3)
    assert [e.image_sha256 for e in asked.examples[:2]] == [r.image_sha256 for r in rows[:2]]  # flips first
    assert asked.examples[0].picture.startswith("data:image/jpeg;base64,")
    shown = base64.b64decode(asked.examples[0].picture.partition(",")[2])
    assert b"patient" not in shown
    assert len(make_certificate(rows, make_context()).examples) == 4
    assert len(make_certificate(rows, make_context(), examples=0).examples) == 0
    (tmp_path / "bad.jpg").write_text("x")
    with pytest.raises(ImageError, match=r"bad\.jpg is not a photograph"):
        make_certificate(rows, photographs, pictures={r.id: tmp_path / "bad.jpg" for r in rows}, examples=1)


def test_the_page_says_everything_and_asks_nothing_of_a_network() -> None:
    rows = make_rows(330, lost=9, won=1, wrong=12, forced=True)
    found = certificate(rows)
    page = render(found)
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    for e in found.endpoints:
        assert e.name in text
        if e.gated and e.group == "all":
            assert figure(e.estimate, e.unit) in text
            assert interval_words(e) in text
            assert margin_words(e) in text
    assert found.reliability in text
    for said in (*found.reasons, *found.limits, found.digest, found.context.bundle.digest, "underpowered"):
        assert said in text
    assert all(f.image_sha256[:12] in text for f in found.flips)
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", page)
    assert "<script" not in page
    assert "<del>" in page
    assert "<ins>" in page


def test_an_example_names_what_is_lost_turned_and_invented() -> None:
    rows = make_rows(30, reworded=0)
    texts = (
        "No ulcer. A scaly plaque on the left arm. The answer is eczema.",
        "No scale. Crust on the right arm. The answer is wart.",
    )
    arms = [dataclasses.replace(rows[0].reference, text=text) for text in texts]
    rows[0] = dataclasses.replace(rows[0], reference=arms[0], bundle=arms[1])
    text = " ".join(re.sub(r"<[^>]+>", "", render(make_certificate(rows, make_context()))).split())
    said = "Findings lost: no ulcer, plaque; turned: scale: present, then absent, arm: left, then right; invented: crust."
    assert said in text
    assert text.count("Both state the same findings.") == 3
    assert {"findings kept", "findings invented", "findings turned", "sides turned"} <= {
        e.name for e in make_certificate(rows, make_context()).of("all")
    }


def test_what_comes_from_outside_is_escaped() -> None:
    rows = make_rows(30)
    evil = "<script>alert(1)</script>"
    arm = dataclasses.replace(rows[0].bundle, text=f"{evil} The answer is {evil}")
    rows[0] = dataclasses.replace(rows[0], bundle=arm, truth=evil)
    page = render(make_certificate(rows, make_context(data=evil)))
    assert "<script" not in page


@given(st.text(max_size=80), st.text(max_size=80))
@settings(deadline=None)  # the machine may be busy
def test_marked_pieces_are_the_texts_again(a: str, b: str) -> None:
    first, second = marked(a, b)
    assert "".join(p.text for p in first) == a
    assert "".join(p.text for p in second) == b
    same = ["".join(p.text for p in side if not p.differs) for side in (first, second)]
    assert same[0] == same[1]


def test_the_terminal_shows_the_verdict(good: Certificate, capsys: pytest.CaptureFixture[str]) -> None:
    print_certificate(good)
    shown = capsys.readouterr().out
    assert "parity: pass; agreed with the original in 658 of 660 test cases" in shown
    assert re.search(r"accuracy difference +660 +0\.3 points +−0\.3 to 1\.1 points +above −3\.0 points +pass", shown)
    assert "skin V-VI is underpowered with " in shown


def test_a_certificate_without_scores_needs_no_scipy_and_one_with_scores_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    rows = make_rows(30)
    assert make_certificate(rows, make_context()).verdict == "not enough data"
    with pytest.raises(MissingDependencyError, match="scores are compared with scipy, which is not installed") as found:
        certificate(rows)
    assert found.value.hint == 'pip install "skinedge[evaluate]"'
