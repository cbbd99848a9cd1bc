"""What every benchmark's layout promises, over all that are found by name, and what is particular to each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from benchmark_copies import COPIES
from conftest import SHARED_DATA

from skinedge.errors import CasesError, UsageError
from skinedge.evaluation.datasets import Dataset, detect, known_layouts, load_layout, open_dataset
from skinedge.parity.record import SKIN_GROUPS, UNKNOWN_SKIN


@pytest.fixture(params=known_layouts())
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    return request.param, COPIES[request.param](tmp_path)


# --- every layout -------------------------------------------------------------------------------------------------------


def test_it_is_found_and_says_what_it_is(copy: tuple[str, Path]) -> None:
    name, folder = copy
    module = load_layout(name)
    found, file = detect(folder)
    assert found == name
    assert detect(file)[0] == name or name == "skincon"  # the table alone is Fitzpatrick17k's
    assert all((module.TITLE, module.LICENCE, module.CITATION, module.LOOKS_FOR, module.TASKS))
    assert set(module.YIELDS_TO) < set(known_layouts())


def test_each_task_has_items_with_truths_that_its_rule_reads(copy: tuple[str, Path]) -> None:
    name, folder = copy
    for task in load_layout(name).TASKS:
        dataset = open_dataset(folder, task=task)
        assert len({item.id for item in dataset.items}) == len(dataset.items)
        for item in dataset.items:
            assert item.image.is_file()
            assert item.skin in (*SKIN_GROUPS, UNKNOWN_SKIN)
            assert item.diagnosis
            assert item.unit
            assert item.truth
            assert not dataset.rule.labels or item.truth in dataset.rule.labels
            said = item.diagnosis if name == "dermbench" else item.truth
            verdict = dataset.rule(f"<think>It may be something else.</think>The answer is {said}.", item.truth)
            assert verdict.correct, (said, verdict)
            assert verdict.said == item.truth
            assert dataset.rule("<think>a</think>I cannot say.", item.truth).correct is False


def test_a_closed_question_holds_its_labels(copy: tuple[str, Path]) -> None:
    name, folder = copy
    for task in load_layout(name).TASKS:
        dataset = open_dataset(folder, task=task)
        if name in ("dermbench", "synthderm") or not dataset.rule.labels:
            continue
        for label in dataset.rule.labels:
            assert label in dataset.items[0].question


def test_the_same_file_gives_the_same_items(copy: tuple[str, Path]) -> None:
    assert open_dataset(copy[1]) == open_dataset(copy[1], layout=copy[0])


def test_a_missing_photograph_is_an_item_all_the_same(copy: tuple[str, Path]) -> None:
    dataset = open_dataset(copy[1])
    dataset.items[0].image.unlink()
    again = open_dataset(copy[1])
    assert [item.image.is_file() for item in again.items].count(False) == 1
    assert len(again.items) == len(dataset.items)


def test_an_empty_folder_holds_none(copy: tuple[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert load_layout(copy[0]).find(empty) is None
    with pytest.raises(UsageError, match=rf"empty does not hold {copy[0]}\. It looks for"):
        open_dataset(empty, layout=copy[0])


# --- finding ------------------------------------------------------------------------------------------------------------


def test_an_unknown_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "photos.csv").write_text("picture,disease\na.jpg,b\n")
    with pytest.raises(UsageError, match="holds no benchmark that is known") as caught:
        open_dataset(tmp_path)
    assert all(f"{name}: " in caught.value.hint for name in known_layouts())


def test_an_unknown_layout_or_task_suggests_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'ham10000'"):
        open_dataset(tmp_path, layout="ham1000")
    with pytest.raises(UsageError, match=r"unknown task of ddi 'malignant'.*Did you mean 'malignancy'"):
        open_dataset(COPIES["ddi"](tmp_path), task="malignant")
    with pytest.raises(UsageError, match="nowhere: no such file or folder"):
        open_dataset(tmp_path / "nowhere")


def test_two_layouts_in_one_folder_must_be_told_apart(tmp_path: Path) -> None:
    COPIES["ddi"](COPIES["ham10000"](tmp_path))
    with pytest.raises(UsageError, match=r"fits the layouts ddi and ham10000\. Say which: --layout ddi"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, layout="ham10000").title == "HAM10000"


# --- each layout --------------------------------------------------------------------------------------------------------


def test_pad_ufes_20_takes_patients_as_units(tmp_path: Path) -> None:
    dataset = open_dataset(COPIES["pad-ufes-20"](tmp_path))
    assert [item.skin for item in dataset.items] == ["I-II", "I-II", "III-IV", "III-IV", "V-VI", "unknown"]
    assert [item.unit for item in dataset.items] == ["PAT_0", "PAT_0", "PAT_1", "PAT_1", "PAT_2", "PAT_2"]
    assert dataset.rule("The answer is NEV.", "melanocytic nevus").correct
    assert dataset.rule("The answer is mole.", "melanocytic nevus").correct


def test_ddi_reads_tones_and_both_truths(tmp_path: Path) -> None:
    folder = COPIES["ddi"](tmp_path)
    disease, malignancy = open_dataset(folder), open_dataset(folder, task="malignancy")
    assert [item.skin for item in disease.items] == ["V-VI", "I-II", "III-IV", "III-IV"]
    assert disease.items[0].truth == "melanoma in situ"
    assert [item.truth for item in malignancy.items] == ["malignant", "benign", "malignant", "benign"]


@pytest.mark.parametrize(
    ("layout", "file", "old", "new", "why"),
    [
        ("ddi", "ddi_metadata.csv", ",56,", ",78,", "ddi_metadata.csv, row 2, column 'skin_tone': '78' is not 12, 34 or 56."),
        ("ddi", "ddi_metadata.csv", ",True,melanoma-in", ",maybe,melanoma-in", "column 'malignant': 'maybe' is neither"),
        ("ham10000", "HAM10000_metadata.csv", ",mel,", ",melanoma,", "row 8, column 'dx': 'melanoma' is not one of akiec"),
        ("ham10000", "HAM10000_metadata.csv", "ISIC_0000001", "ISIC_0000000", "the id 'ISIC_0000000' is there 2 times."),
        ("fitzpatrick17k", "fitzpatrick17k.csv", "aa00,1,", "aa00,7,", "'fitzpatrick_scale': '7' is not -1 (unknown) or 1 to 6."),
        ("fitzpatrick17k", "fitzpatrick17k.csv", "three_partition_label", "three", "has no column 'three_partition_label'."),
        ("dermbench", "references.jsonl", '"Rosacea"', '""', "references.jsonl, line 1: 'diagnosis' is missing or no text."),
        ("dermbench", "references.jsonl", '{"id": "dermbench_1"', "{", "line 2: it is not JSON."),
        ("synthderm", "records.jsonl", '"border": ', '"edge": ', "'findings' must have exactly the keys arrangement"),
        ("csv", "cases.csv", ",II,", ",VII,", "'VII' is not a Fitzpatrick type"),
    ],
)
def test_a_row_that_cannot_be_understood_is_named(tmp_path: Path, layout: str, file: str, old: str, new: str, why: str) -> None:
    folder = COPIES[layout](tmp_path)
    text = (folder / file).read_text(encoding="utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises((CasesError, UsageError)) as caught:
        open_dataset(folder, layout=layout)
    assert why in str(caught.value)


def test_ham10000_takes_lesions_as_units_and_classes_by_their_diseases(tmp_path: Path) -> None:
    dataset = open_dataset(COPIES["ham10000"](tmp_path))
    assert Counter(Counter(item.unit for item in dataset.items).values()) == {2: 7}
    for said, truth in [("Bowen's disease", "actinic keratosis or Bowen's disease"), ("angioma", "vascular lesion"),
                        ("solar lentigo", "benign keratosis"), ("nv", "melanocytic nevus")]:  # fmt: skip
        assert dataset.rule(f"The answer is {said}", truth).correct


def test_ham10000_is_read_as_a_dataverse_saves_it(tmp_path: Path) -> None:
    file = COPIES["ham10000"](tmp_path) / "HAM10000_metadata.csv"
    (tmp_path / "HAM10000_metadata.tab").write_text(file.read_text().replace(",", "\t"))
    file.unlink()
    assert len(open_dataset(tmp_path).items) == 14


def test_fitzpatrick17k_leaves_out_what_is_known_to_be_wrong(tmp_path: Path) -> None:
    folder = COPIES["fitzpatrick17k"](tmp_path)
    dataset = open_dataset(folder)
    assert [item.id for item in dataset.items] == ["aa00", "bb11", "cc22", "dd33"]
    assert [item.skin for item in dataset.items] == ["I-II", "III-IV", "V-VI", "unknown"]
    assert dataset.notes == ("1 rows are left out: the data set's own check found them wrongly labelled.",)
    assert open_dataset(folder, task="condition").rule.labels == ("acne", "melanoma", "psoriasis", "seborrheic keratosis")


def test_skincon_takes_the_described_pictures_only(tmp_path: Path) -> None:
    folder = COPIES["skincon"](tmp_path)
    dataset = open_dataset(folder)
    assert [item.id for item in dataset.items] == ["aa00", "cc22"]
    assert dataset.notes == ("1 pictures are left out, as their annotators asked.",)
    (folder / "fitzpatrick17k.csv").unlink()
    with pytest.raises(UsageError, match=r"has no fitzpatrick17k.csv, and annotations_fitzpatrick17k.csv says no diagnoses"):
        open_dataset(folder)


def test_dermbench_counts_categories(tmp_path: Path) -> None:
    dataset = open_dataset(COPIES["dermbench"](tmp_path))
    acne, nails = "Acne and Rosacea Photos", "Nail Fungus and other Nail Disease"
    assert len(dataset.rule.labels) == 4
    assert dataset.items[0].reference == "<think> Seen: 0. </think> This is **Rosacea**."
    assert dataset.rule("The answer is open-comedo acne.", acne).correct  # the benchmark's "acne open comedo"
    assert dataset.rule("The answer is nail psoriasis.", nails).correct is False  # no name of the benchmark's
    assert dataset.rule("The answer is psoriasis nails.", nails).correct  # filed under two categories
    assert dataset.rule("The answer is discoid eczema.", acne).said == "Eczema Photos"
    assert dataset.rule("The answer is gout.", acne).reason == "in no category of the benchmark"


def test_csv_takes_labels_that_differ_in_case_as_one_and_brackets_as_part_of_the_name(tmp_path: Path) -> None:
    dataset = open_dataset(COPIES["csv"](tmp_path))
    assert dataset.rule.labels == ("melanoma", "melanoma (in situ)", "Nevus")
    assert [item.truth for item in dataset.items] == ["Nevus", "melanoma (in situ)", "melanoma", "Nevus"]
    assert dataset.rule("The answer is melanoma in situ.", "melanoma").correct is False
    assert dataset.rule("The answer is melanoma in situ.", "melanoma (in situ)").correct
    assert open_dataset(tmp_path, task="open").rule.labels == ()


def test_the_real_references_of_dermbench() -> None:
    folder = SHARED_DATA / "dermbench"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: no narratives of DermBench on this machine")
    dataset: Dataset = open_dataset(folder)
    assert len(dataset.rule.labels) == 23
    assert all(dataset.rule(f"The answer is {item.diagnosis}.", item.truth).correct for item in dataset.items)


def test_the_real_photographs_of_pad_ufes_20() -> None:
    folder = SHARED_DATA / "pad-ufes-20"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: no real photographs on this machine")
    dataset = open_dataset(folder)
    assert Counter(item.split for item in dataset.items) == {"train": 414, "val": 68}
    assert all(item.image.is_file() for item in dataset.items)
