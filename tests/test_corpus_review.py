"""A corpus on disk, its card, and dermatologists' scores on their way out and back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from corpus_command import typed

from skinedge.errors import CasesError, OutputError, UsageError
from skinedge.evaluation.cases import Case
from skinedge.evaluation.pictures import fingerprint
from skinedge.evaluation.scores import DIMENSIONS
from skinedge.parity.pictures import make_picture
from train.corpus.card import card
from train.corpus.outcomes import Narrative, Rejection, Told
from train.corpus.records import About, Corpus, copy_name, read_corpus, record_of, refusal_of, write_corpus
from train.corpus.review import COLUMNS, certify, export_review

NASTY = '=cmd|"/c calc"!A1 is what the macule {says}, “ü”'


@pytest.fixture(params=[False, True], ids=["referenced", "copied"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Four cases (two for training) and a rejected one; the pictures lie in a folder beside it, or in it."""
    out = tmp_path / "corpora" / "first"
    told = [make_told(tmp_path / "photos", n) for n in range(4)]
    records = [record_of(one, out, request.param) for one in told]
    gone = refusal_of(Rejection(told[0].case, "low score", "Safety 1 is below 3", "words", dict.fromkeys(DIMENSIONS, 1.0)), out)
    about = About(
        cases_file="cases.csv", cases_sha256="0" * 64, cases=5, descriptions_given=0, teacher="a|b", judge="j",
        settings={"min_score": 3.0}, settings_digest="1" * 64, notes=["one patient has no name."],
    )  # fmt: skip
    whole = Corpus(about, {"train": records[:2], "val": records[2:3], "test": records[3:]}, [gone])
    copies = {copy_name(one): one.case.image for one in told} if request.param else {}
    write_corpus(out, whole, card(whole), copies, {})
    return out


def make_told(folder: Path, number: int) -> Told:
    folder.mkdir(exist_ok=True)
    image = folder / f"{number}.png"
    make_picture(40 + number, 30, number).save(image)
    case = Case(f"c{number}", image, "nevus", "moles", "back" if number else "", f"P{number}", 2 * number or None)
    narrative = Narrative(NASTY, f"Even colour, < {number} mm.", "nevus")
    return Told(case, fingerprint(image).sha256, narrative, dict.fromkeys(DIMENSIONS, 4.5))


def filled(
    corpus: Path, sheet: Path, edits: Mapping[str, Mapping[str, str]], *, encoding: str = "utf-8-sig", separator: str = ","
) -> Path:
    """Export a sheet and send it back with ``edits`` by case id, as a spreadsheet saves it."""
    blank = sheet.with_name("blank.csv")
    blank.unlink(missing_ok=True)
    export_review(corpus, blank, ("train", "val", "test"))
    with blank.open(encoding="utf-8-sig", newline="") as f:
        rows = list(csv.DictReader(f))
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS, delimiter=separator)
    writer.writeheader()
    writer.writerows(row | dict(edits.get(row["id"], {})) for row in rows)
    sheet.write_bytes(stream.getvalue().encode(encoding))
    return sheet


def scored(value: object = 5, **more: str) -> dict[str, str]:
    return {**dict.fromkeys(DIMENSIONS, str(value)), "reviewer": "Dr. Weiß", **more}


def test_a_corpus_is_read_back_as_it_was_written_and_its_images_are_there(corpus: Path) -> None:
    found = read_corpus(corpus)
    assert [r.id for r in found.records] == ["c0", "c1", "c2", "c3"]
    assert all((corpus / r.images[0]).is_file() for r in found.records)
    line = json.loads((corpus / "train.jsonl").read_text(encoding="utf-8").splitlines()[1])
    assert [m["role"] for m in line["messages"]] == ["user", "assistant"]
    assert line["messages"][0]["content"].startswith("<image>Look at the skin")
    assert line["messages"][1]["content"] == f"<think>{NASTY}\n\nEven colour, < 1 mm.</think><answer>nevus</answer>"
    assert (line["fitzpatrick"], line["skin_labels"], line["patient"], line["diagnosis"]) == (2, 0, "P1", "nevus")
    assert "skin_labels" not in json.loads((corpus / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    with pytest.raises(OutputError, match="not empty"):
        write_corpus(corpus, found, "", {}, {})


def test_the_trainer_reads_it(corpus: Path) -> None:
    from train.data import NO_LABEL, read_records

    found = read_records([corpus / "train.jsonl", corpus / "val.jsonl", corpus / "test.jsonl"])
    assert [(r.id, r.skin) for r in found] == [("c0", NO_LABEL), ("c1", 0), ("c2", 1), ("c3", 2)]
    assert all(image.is_file() for record in found for image in record.images)


def test_the_card_counts_everything(corpus: Path) -> None:
    text = (corpus / "README.md").read_text(encoding="utf-8")
    for line in (
        "| moles | 4 |", "| back | 3 |", "| not known | 1 |", "| I-II | 1 |", "| III-IV | 1 |", "| V-VI | 1 |",
        "| train | 2 | 2 |", "| val | 1 | 1 |", "| test | 1 | 1 |", "| low score | 1 |",
        "| Safety | 0 | 1 | 0 | 0 | 4 | 0 | 3.80 |",
        "| teacher | a\\|b |", "| judge | j |", "| min score | 3.0 |", "Note: one patient has no name.", "1" * 64, "cases.csv",
    ):  # fmt: skip
        assert line in text, line
    assert text == card(read_corpus(corpus))


def test_a_sheet_for_review_runs_no_formula_and_has_empty_scores(corpus: Path, tmp_path: Path) -> None:
    done = typed("review", corpus, "--export", tmp_path / "sheet.csv", "--json")
    assert (done.code, done.json) == (0, {"review": str(tmp_path / "sheet.csv"), "cases": 4})
    data = (tmp_path / "sheet.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbf"), "without the mark Excel takes UTF-8 for something else"
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert all(row[name] == "" for row in rows for name in COLUMNS[3:])
    assert all(not cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    assert all((tmp_path / row["image"]).is_file() for row in rows)
    one = typed("review", corpus, "--export", tmp_path / "val.csv", "--split", "val")
    assert "1 cases. When it comes back: python -m train.corpus certify" in one.out
    wrong = typed("review", corpus, "--export", tmp_path / "x.csv", "--split", "vall")
    assert (wrong.code, wrong.err) == (2, "error: unknown split 'vall'.\n  Did you mean 'val'? Known: train, val, test.\n")


@pytest.mark.parametrize(
    ("encoding", "separator", "half"), [("utf-8-sig", ",", "4.5"), ("utf-8", ";", "4,5"), ("utf-16", "\t", "4,5")]
)
def test_scores_certify_correct_and_reject(corpus: Path, tmp_path: Path, encoding: str, separator: str, half: str) -> None:
    corrected = "<think>'A brown macule, <5 mm.\r\n\r\nEven.</think>\n<answer>Nevus</answer>"
    edits = {
        "c0": scored(half),
        "c1": scored(**{"corrected narrative": corrected}),
        "c2": scored(5, Safety="3"),
    }
    sheet = filled(corpus, tmp_path / "back.csv", edits, encoding=encoding, separator=separator)
    done = typed("certify", corpus, "--scores", sheet, "-o", tmp_path / "deep" / "er" / "second", "--json")
    assert (done.code, done.json["certified"], done.json["rejected"]) == (0, 2, 1)
    new = read_corpus(tmp_path / "deep" / "er" / "second")
    records = {r.id: r for r in new.records}
    assert list(records) == ["c0", "c1", "c3"]
    first, second = records["c0"].certified, records["c1"].certified
    assert first is not None
    assert (first.reviewer, first.scores["Safety"], first.corrected) == ("Dr. Weiß", 4.5, False)
    assert second is not None
    assert second.corrected
    assert records["c1"].narrative == "<think>'A brown macule, <5 mm.\n\nEven.</think><answer>nevus</answer>"
    assert records["c3"] == next(r for r in read_corpus(corpus).records if r.id == "c3") or records["c3"].images[0].startswith(
        ".."
    )
    assert records["c3"].certified is None
    assert [(r.id, r.reason, r.detail) for r in new.rejected][1:] == [("c2", "low clinician score", "Safety 3 is below 4")]
    assert all((tmp_path / "deep/er/second" / r.images[0]).is_file() for r in new.records)
    assert all((tmp_path / "deep/er/second" / r.image).is_file() for r in new.rejected)
    assert "3 cases kept, 2 left out, 2 certified by a dermatologist" in (tmp_path / "deep/er/second/README.md").read_text(
        encoding="utf-8"
    )
    assert "`back.csv`" in (tmp_path / "deep/er/second/README.md").read_text(encoding="utf-8")
    assert [r.id for r in read_corpus(corpus).records] == ["c0", "c1", "c2", "c3"], "the first corpus stays as it is"
    again = tmp_path / "again.csv"
    assert export_review(tmp_path / "deep/er/second", again, ("train", "val", "test")) == 1


def test_what_a_spreadsheet_echoes_back_unchanged_is_no_correction(corpus: Path, tmp_path: Path) -> None:
    narrative = read_corpus(corpus).records[0].narrative
    sheet = filled(corpus, tmp_path / "back.csv", {"c0": scored(**{"corrected narrative": narrative})})
    certify(corpus, sheet, tmp_path / "second", 4)
    certificate = read_corpus(tmp_path / "second").records[0].certified
    assert certificate is not None
    assert not certificate.corrected


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (scored(Safety="good"), "row 3, column 'Safety': 'good' is not a number"),
        (scored(Safety="5.5"), "row 3, column 'Safety': 5.5 is not between 0 and 5"),
        (scored(Safety="nan"), "row 3, column 'Safety': nan is not between 0 and 5"),
        (scored(Safety="-1"), "row 3, column 'Safety': -1 is not between 0 and 5"),
        (scored(Safety="1,000"), None),  # a decimal comma: 1.0
        (scored(**{"Clinical Coverage": ""}), "row 3, column 'Clinical Coverage': it is empty, though others"),
        (scored(reviewer=""), "row 3, column 'reviewer': it is empty, and a certificate needs a name"),
        (scored(id="c9"), "row 3, column 'id': there is no case 'c9' in this corpus"),
        (scored(id="c0"), "row 3, column 'id': case 'c0' has been scored in an earlier row"),
        ({"corrected narrative": "x"}, "row 3, column 'corrected narrative': it is filled in, but the case is not scored"),
        (scored(**{"corrected narrative": "A nevus."}), "column 'corrected narrative': it is not of the form <think>"),
        (
            scored(**{"corrected narrative": "<think>a</think><think>b</think><answer>nevus</answer>"}),
            "column 'corrected narrative': it is not of the form <think>",
        ),
        (
            scored(**{"corrected narrative": "<think>a</think><answer>melanoma</answer>"}),
            "column 'corrected narrative': it answers 'melanoma' where the label is 'nevus'",
        ),
    ],
)  # fmt: skip
def test_a_cell_that_cannot_be_meant_is_named_and_nothing_is_written(
    corpus: Path, tmp_path: Path, edit: dict[str, str], why: str | None
) -> None:
    sheet = filled(corpus, tmp_path / "back.csv", {"c0": scored(), "c1": edit})
    if why is None:
        certify(corpus, sheet, tmp_path / "second", 1)
        return
    with pytest.raises(CasesError) as caught:
        certify(corpus, sheet, tmp_path / "second", 4)
    assert why in caught.value.message
    assert caught.value.message.startswith("back.csv, row 3")
    assert not (tmp_path / "second").exists()


def test_every_fault_of_a_sheet_is_told_at_once(corpus: Path, tmp_path: Path) -> None:
    sheet = filled(corpus, tmp_path / "back.csv", {"c0": scored("x"), "c1": scored("6"), "c3": scored(reviewer="")})
    with pytest.raises(CasesError) as caught:
        certify(corpus, sheet, tmp_path / "second", 4)
    assert "3 rows have faults; nothing was changed." in caught.value.hint
    assert "row 3, column 'Accuracy': 6 is not between 0 and 5" in caught.value.hint
    assert "row 5, column 'reviewer'" in caught.value.hint


def test_a_sheet_or_corpus_that_is_none(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("id,Accuracy\nc0,5\n", encoding="utf-8")
    with pytest.raises(UsageError, match="has no column 'Safety'"):
        certify(corpus, tmp_path / "other.csv", tmp_path / "second", 4)
    with pytest.raises(UsageError, match="no such file"):
        certify(corpus, tmp_path / "nothing.csv", tmp_path / "second", 4)
    with pytest.raises(UsageError, match=r"is not a corpus: it has no corpus\.json"):
        certify(tmp_path, tmp_path / "other.csv", tmp_path / "second", 4)
    lines = (corpus / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (corpus / "train.jsonl").write_text(lines[0] + "\n" + lines[1].replace('"c1"', "17", 1) + "\n", encoding="utf-8")
    with pytest.raises(CasesError, match=r"train\.jsonl, line 2: id cannot be used"):
        read_corpus(corpus)
