"""What a corpus is made from: tables as spreadsheets save them, cases, pictures, and which of them are chosen."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

import conftest
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skinedge.errors import CasesError, ImageError, OutputError, UsageError
from skinedge.evaluation.cases import Case, read_cases
from skinedge.evaluation.pictures import (
    MAX_PIXELS,
    copy_without_metadata,
    data_uri,
    earlier_likeness,
    fingerprint,
    perceptual_hash,
)
from skinedge.evaluation.scores import DIMENSIONS, Thresholds
from skinedge.evaluation.tables import guarded, read_table, unguarded, write_table
from skinedge.parity.pictures import make_picture
from train.corpus.outcomes import Narrative, Rejection, Told
from train.corpus.selection import Rules, distinct_pictures, in_turn, lot, passing, split_by_patient

PAD = conftest.SHARED_DATA / "pad-ufes-20" / "metadata.csv"


def cases_of(folder: Path, text: str, name: str = "cases.csv", encoding: str = "utf-8") -> tuple[Case, ...]:
    (folder / name).write_bytes(text.encode(encoding))
    return read_cases(folder / name).cases


# Tables.


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_read_however_the_spreadsheet_saved_it(tmp_path: Path, encoding: str, separator: str) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=separator).writerows(
        [["Image", "label"], ["ü.jpg", 'two\nlines; "quoted", and more'], ["", ""], ["b.jpg", " x "]]
    )
    (tmp_path / "t.csv").write_bytes(stream.getvalue().encode(encoding))
    table = read_table(tmp_path / "t.csv")
    assert table.columns == ("image", "label")
    assert [(r.number, dict(r.cells)) for r in table.rows] == [
        (2, {"image": "ü.jpg", "label": 'two\nlines; "quoted", and more'}),
        (4, {"image": "b.jpg", "label": "x"}),
    ]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "has no header"),
        (b"\n\n", "has no header"),
        (b"image,label\na.jpg,na\xefve\n", r"line 2: it is not UTF-8\. Save it as 'CSV UTF-8'"),
        (b"image,label\na,b,c\n", "row 2: it has 3 cells and the header 2"),
        (b"image,Image\na,b\n", "has the column 'image' twice"),
        (b'image,label\n"a,b\n', "this is not CSV"),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(CasesError, match=why):
        read_table(tmp_path / "t.csv")


@given(st.text(alphabet=st.sampled_from("=+-@'\t\r\n＝a1 ;,\"")))
def test_no_cell_is_a_formula_and_each_is_read_as_it_was(text: str) -> None:
    cell = guarded(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
    assert unguarded(cell) == text


def test_a_table_comes_back_as_it_was_written_and_is_not_written_over(tmp_path: Path) -> None:
    rows = [['=HYPERLINK("http://x","y")', "two\nlines"], ["+1", "'already"], ["-", "“ü” 皮肤"]]
    write_table(tmp_path / "t.csv", ("a", "b"), rows)
    assert (tmp_path / "t.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    assert b"'=HYPERLINK" in (tmp_path / "t.csv").read_bytes()
    assert [list(row.cells.values()) for row in read_table(tmp_path / "t.csv").rows] == rows
    with pytest.raises(OutputError, match="exists already"):
        write_table(tmp_path / "t.csv", ("a",), [])


# Cases.


def test_pad_ufes_20_is_known_by_its_columns() -> None:
    if not PAD.is_file():
        pytest.skip(f"{PAD} is absent: no real photographs on this machine")
    found = read_cases(PAD)
    assert Counter(c.diagnosis for c in found.cases) == {
        "basal cell carcinoma": 142, "melanocytic nevus": 130, "seborrheic keratosis": 91, "actinic keratosis": 70,
        "melanoma": 31, "squamous cell carcinoma": 18,
    }  # fmt: skip
    assert Counter(c.fitzpatrick for c in found.cases) == {None: 180, 2: 161, 3: 88, 1: 32, 4: 18, 5: 2, 6: 1}
    assert Counter(c.split for c in found.cases) == {"train": 414, "val": 68}
    assert all(c.image.is_file() and c.patient.startswith("PAT_") and c.site for c in found.cases)
    assert found.cases[0].id == "PAT_1008_59_297"
    assert "age" in found.unused


def test_every_column_is_understood(tmp_path: Path) -> None:
    text = (
        "id,image,label,patient,site,skin,category,split,description,camera\n"
        'a1,sub/x.jpg,tinea_corporis,P1,Back,IV,fungal,Validation,"A ring, with {scale}.",Nikon\n'
        ",Sub dir\\y.jpg,Psoriasis vulgaris,,,,,,,\n"
    )
    first, second = cases_of(tmp_path, text)
    assert first == Case(
        "a1", tmp_path / "sub/x.jpg", "tinea corporis", "fungal", "back", "P1", 4, "val", "A ring, with {scale}."
    )
    assert second == Case("Sub dir-y", tmp_path / "Sub dir/y.jpg", "Psoriasis vulgaris", "Psoriasis vulgaris")
    assert read_cases(tmp_path / "cases.csv").unused == ("camera",)


def test_json_lines_are_the_same_cases(tmp_path: Path) -> None:
    lines = [
        {"image": "a.jpg", "label": "nevus\u2028x", "fitzpatrick": 3, "patient": 7},
        {"image": "b.jpg", "label": "MEL\ud800"},
    ]
    found = cases_of(tmp_path, "\n".join(map(json.dumps, lines)) + "\n", "c.jsonl")
    assert found[0] == Case("a", tmp_path / "a.jpg", "nevus x", "nevus x", patient="7", fitzpatrick=3)
    assert found[1].diagnosis == "MEL?"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image,label\na.jpg,\n", "row 2, column 'label': it is empty"),
        ("image,label\n,x\n", "row 2, column 'image': it is empty"),
        ("image,label\na.jpg,<answer>x\n", "row 2, column 'label': '<answer>x' is not a diagnosis"),
        ("image,label,fitzpatrick\na.jpg,x,1\nb.jpg,y,7\n", "row 3, column 'fitzpatrick': '7' is not a Fitzpatrick type"),
        ("image,label,split\na.jpg,x,holdout\n", "row 2, column 'split': 'holdout' is not a split; known are train, val, test"),
        ("image,label\na.jpg,x\na.png,y\n", "rows 2 and 3: both have the id 'a'. Give each case an id"),
        ("image,label,patient,split\na,x,P,train\nb,x,Q,val\nc,x,P,val\n", "rows 2 and 4: patient 'P' is in train and in val"),
        ("img_id,patient_id,diagnostic\na.png,P,XYZ\n", "row 2, column 'diagnostic': 'XYZ' is not a diagnosis"),
        ("image,label\n", "has no cases"),
    ],
)
def test_a_case_that_cannot_be_understood_is_named(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(CasesError, match=why.replace("(", r"\(")):
        cases_of(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image,label,patinet\na,x,P\n", "has a column 'patinet', which is not known. Did you mean 'patient'"),
        ("picture,label\na,x\n", "has no column 'image'. It has: picture, label"),
    ],
)
def test_a_misspelt_column_is_not_overlooked(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        cases_of(tmp_path, text)


def test_a_damaged_json_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(CasesError, match="line 2: it is not JSON"):
        cases_of(tmp_path, '{"image": "a", "label": "x"}\n{"image"\n', "c.jsonl")
    with pytest.raises(CasesError, match="line 1: it is not an object of plain values"):
        cases_of(tmp_path, '{"image": ["a"], "label": "x"}\n', "c.jsonl")


def test_pictures_are_found_below_the_folder_unless_two_have_the_name(tmp_path: Path) -> None:
    for name in ("imgs_part_1/a.jpg", "imgs_part_2/b.jpg", "imgs_part_1/twice.jpg", "imgs_part_2/twice.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = cases_of(tmp_path, "image,label\na.jpg,x\nb.jpg,x\ntwice.jpg,x\n")
    assert [c.image.relative_to(tmp_path).as_posix() for c in found] == ["imgs_part_1/a.jpg", "imgs_part_2/b.jpg", "twice.jpg"]
    with pytest.raises(UsageError, match="no such folder"):
        read_cases(tmp_path / "cases.csv", tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="no such file"):
        read_cases(tmp_path / "nothing.csv")


# Pictures.


def test_what_the_teacher_is_sent_is_bounded_and_holds_no_metadata(tmp_path: Path) -> None:
    import base64

    exif = Image.Exif()
    exif[0x010E] = "melanoma, Mrs Smith"
    exif[0x0112] = 6  # lying on its side
    make_picture(1600, 1200, 0).save(tmp_path / "a.jpg", exif=exif)
    assert b"Mrs Smith" in (tmp_path / "a.jpg").read_bytes()
    sent = base64.b64decode(data_uri(tmp_path / "a.jpg").removeprefix("data:image/jpeg;base64,"))
    copy_without_metadata(tmp_path / "a.jpg", tmp_path / "copy.jpg")
    for data, size in ((sent, None), ((tmp_path / "copy.jpg").read_bytes(), (1200, 1600))):
        picture = Image.open(io.BytesIO(data))
        assert b"Mrs Smith" not in data
        assert not picture.getexif()
        assert picture.height > picture.width, "it stands upright"
        assert picture.width * picture.height <= MAX_PIXELS or picture.size == size


def test_near_duplicates_are_found_and_strangers_are_not(photographs: list[Path]) -> None:
    opened = [Image.open(path).convert("RGB") for path in photographs]
    changed = [
        *opened,
        opened[0].resize((opened[0].width // 2, opened[0].height // 2)),
        opened[1].point(lambda value: min(255, int(value * 1.2))),
        jpeg(opened[2], quality=30),
    ]
    assert earlier_likeness([perceptual_hash(image) for image in changed]) == [None] * 8 + [0, 1, 2]
    assert earlier_likeness([]) == []


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def test_likeness_does_not_depend_on_how_the_work_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    hashes = [rng.random(512) < 0.5 for _ in range(40)]
    for _ in range(60):
        near = hashes[rng.integers(len(hashes))].copy()
        near[rng.choice(512, 40, replace=False)] ^= True
        hashes.append(near)
    whole = earlier_likeness(hashes)
    monkeypatch.setattr("skinedge.evaluation.pictures._BLOCK", 7)
    assert earlier_likeness(hashes) == whole
    for place, like in enumerate(whole):
        near_ones = [i for i in range(place) if whole[i] is None and (hashes[i] != hashes[place]).sum() <= 64]
        assert like == (near_ones[0] if near_ones else None)


def blotches(seed: int) -> Image.Image:
    """A picture like no other seed's."""
    few = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(few).resize((200, 150), Image.Resampling.BICUBIC)


def test_pictures_are_kept_once_and_not_at_all_under_two_labels(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1), ("c", 2)):
        blotches(seed).save(tmp_path / f"{name}.png")
    blotches(0).resize((100, 75)).save(tmp_path / "a_small.png")
    (tmp_path / "a_again.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "b_again.png").write_bytes((tmp_path / "b.png").read_bytes())
    labels = {"a": "x", "b": "x", "a_small": "x", "c": "y", "a_again": "x", "b_again": "y"}
    cases = [Case(name, tmp_path / f"{name}.png", label, label) for name, label in labels.items()]
    kept, rejected = distinct_pictures(cases, {case.id: fingerprint(case.image) for case in cases})
    assert [case.id for case in kept] == ["a", "c"]
    assert [(r.case.id, r.reason, r.detail) for r in rejected] == [
        ("b", "conflicting labels", "x / y"),
        ("a_small", "near-duplicate image", "of a"),
        ("a_again", "duplicate image", "of a"),
        ("b_again", "conflicting labels", "x / y"),
    ]


def test_pad_ufes_20_holds_one_picture_twice() -> None:
    if not PAD.is_file():
        pytest.skip(f"{PAD} is absent: no real photographs on this machine")
    cases = read_cases(PAD).cases
    kept, rejected = distinct_pictures(cases, {case.id: fingerprint(case.image) for case in cases})
    assert len(kept) == 481
    assert [(r.case.id, r.reason, r.detail) for r in rejected] == [("PAT_701_4056_457", "duplicate image", "of PAT_701_1321_156")]


def test_a_damaged_picture_has_no_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff" + b"0" * 100)
    with pytest.raises(ImageError, match=r"a\.jpg is damaged"):
        fingerprint(tmp_path / "a.jpg")


# Choosing.


def told(name: str, *, diagnosis: str = "x", site: str = "back", patient: str = "", split: str = "", score: float = 5) -> Told:
    case = Case(name, Path(f"{name}.jpg"), diagnosis, diagnosis, site, patient, None, split)
    narrative = Narrative(f"Seen on {name}.", f"Thought of {name}.", diagnosis)
    return Told(case, name, narrative, dict.fromkeys(DIMENSIONS, score))


def reasons(rejected: list[Rejection]) -> dict[str, tuple[str, str]]:
    return {r.case.id: (r.reason, r.detail) for r in rejected}


def test_what_passes_is_good_enough_said_once_and_within_the_cap() -> None:
    many = [told(f"n{i}", site="arm" if i % 2 else "leg") for i in range(20)]
    low, copy = told("low", score=3.5), Told(told("copy").case, "copy", many[0].narrative, many[0].scores)
    kept, rejected = passing([low, *many, copy], Rules(cap=4))
    assert Counter(one.case.site for one in kept) == {"arm": 4, "leg": 4}
    assert reasons(rejected)["low"] == ("low score", "mean 3.50 is below 4")
    assert reasons(rejected)["copy"] == ("near-duplicate narrative", "of n0")
    assert Counter(r.reason for r in rejected)["over the cap"] == 12
    assert all(r.narrative and r.scores for r in rejected)
    assert [one.case.id for one in kept] == sorted((one.case.id for one in kept), key=lambda name: int(name[1:]))
    same, _ = passing([low, *many, copy], Rules(cap=4))
    other, _ = passing([low, *many, copy], Rules(cap=4, seed=1))
    assert kept == same != other
    assert len(passing(many, Rules(Thresholds(5, 5)))[0]) == 20


def test_a_beginning_of_the_turn_is_balanced() -> None:
    cases = [told(f"m{i}", diagnosis="mel").case for i in range(3)] + [told(f"n{i}", diagnosis="nev").case for i in range(50)]
    assert Counter(c.diagnosis for c in in_turn(cases, 0)[:6]) == {"mel": 3, "nev": 3}
    assert sorted(c.id for c in in_turn(cases, 0)) == sorted(c.id for c in cases)
    assert in_turn(cases, 0) == in_turn(cases[::-1], 0) != in_turn(cases, 1)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["", "train", "val", "test"])), max_size=60),
    st.integers(0, 3),
    st.floats(0, 0.45),
    st.floats(0, 0.45),
)
def test_no_patient_is_ever_in_two_splits(drawn: list[tuple[int, str]], seed: int, val: float, test: float) -> None:
    said = {patient: split for patient, split in drawn if split}  # the input speaks with one voice, or is refused before
    cases = [told(f"c{i}", patient=f"P{p}", split=said.get(p, "") if s else "") for i, (p, s) in enumerate(drawn)]
    splits = split_by_patient(cases, Rules(val=val, test=test, seed=seed))
    where = {name: {one.case.patient for one in ones} for name, ones in splits.items()}
    assert sum(map(len, where.values())) == len({one.case.patient for one in cases})
    assert sum(map(len, splits.values())) == len(cases)
    for patient, split in said.items():
        assert f"P{patient}" in where[split]


def test_more_cases_move_nobody() -> None:
    few = [told(f"c{i}", patient=f"P{i}") for i in range(300)]
    many = [*few, *(told(f"d{i}", patient=f"Q{i}") for i in range(300))]
    before, after = split_by_patient(few, Rules()), split_by_patient(many, Rules())
    assert all({one.case.id for one in before[name]} <= {one.case.id for one in after[name]} for name in before)
    shares = [len(after[name]) / len(many) for name in ("train", "val", "test")]
    assert np.allclose(shares, (0.8, 0.1, 0.1), atol=0.04), shares


@given(st.integers(), st.text(), st.text())
def test_a_lot_is_a_share(seed: int, one: str, other: str) -> None:
    assert 0 <= lot(seed, one, other) < 1
    assert lot(seed, one, other) == lot(seed, one, other)
