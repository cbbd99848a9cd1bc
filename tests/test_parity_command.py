"""``skinedge parity``: whose pictures, which rows, what would be done, and what is wrong with the question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import typed
from PIL import Image
from served import Handler, serving

from benchmarks.parity_faults import BY_NAME, plant
from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.embedded import BASE, SIDE_BRANCH
from skinedge.parity.choosing import cases_of, findings_of
from skinedge.parity.rows import read_rows
from skinedge.synthderm.dataset import write_dataset
from skinedge.targets._contract import ExportOptions

pytest.importorskip("onnxruntime")
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = AdapterCheckpoint.find(BASE, [SIDE_BRANCH])
    return export(source, "onnx", ExportOptions("f32", context=1024), tmp_path_factory.mktemp("bundle") / "f32").path


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("cases") / "synthderm", 2, 5, workers=1)


def test_cases_give_stages_and_rows(bundle: Path, records: Path, tmp_path: Path) -> None:
    asked = (bundle, "--cases", records, "--rows", tmp_path / "rows", "--threads", "1", "--steps", "2", "--max-new-tokens", "6")
    planned = typed("parity", *asked, "--dry-run", "--json").json
    assert (planned["pictures"], planned["rows_there"], planned["same_source"]) == (2, 0, True)
    assert not any(tmp_path.iterdir())
    done = typed("parity", *asked, "--json")
    assert done.code == 0, done.err
    assert done.json["passed"] is True
    assert done.json["rows"]["pictures"] == done.json["rows"]["same_narratives"] == 2
    assert done.json["rows"]["same_top"] == 1.0
    rows = read_rows(tmp_path / "rows")
    truth = [json.loads(line)["diagnosis"] for line in records.read_text(encoding="utf-8").splitlines()]
    assert [row.truth for row in rows] == truth
    again = typed("parity", *asked, "--dry-run")
    assert "2 rows are there, 0 would be made." in again.out
    other = typed("parity", *asked[:-1], "7")
    assert other.code == 2
    assert "rows holds rows of another reference, question or length." in other.err


def test_bisect_names_the_block(bundle: Path, records: Path, tmp_path: Path) -> None:
    planted = plant(BY_NAME["one expert zeroed"], bundle, tmp_path / "planted")
    asked = (planted, "--images", records.parent / "images", "--limit", "1", "--threads", "1", "--steps", "1", "--bisect")
    done = typed("parity", *asked)
    assert done.code == 1
    assert "stage 'bias' is out of tolerance" in done.out
    assert "inside it, 'distill_head.adapters.1' is the first that is out of tolerance." in done.out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("--rows", "rows"), "--rows needs pictures to compare narratives on.", "Add --images DIR, --cases FILE or --drawn 600."),
        (("--cases", "none.csv"), "none.csv: no such file.", "Check the spelling."),
        (("--images", "none"), "none: no such folder.", "Give --images a folder"),
        (("--images", "."), ". holds no photograph.", "Looked for"),
        (("--cases", "cases.csv"), "lost.png, the photograph of case 'lost', is not there.", "--images"),
        (("--cases", "torn.jsonl"), "torn.jsonl, line 2: it is not JSON.", ""),
    ],
)
def test_what_cannot_be_meant_is_said(
    arguments: tuple[str, ...], message: str, hint: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cases.csv").write_text("image,label\nlost.png,eczema\n", encoding="utf-8")
    Image.new("RGB", (30, 30)).save("a.gif")
    Path("torn.jsonl").write_text(json.dumps({"messages": [], "images": ["a.gif"]}) + "\n{", encoding="utf-8")
    done = typed("parity", bundle, *arguments)
    assert done.code in (1, 2)
    assert message in done.err
    assert hint in done.err
    assert {p.name for p in tmp_path.iterdir()} == {"cases.csv", "a.gif", "torn.jsonl"}


def test_served_with_dry_run_opens_and_sends_nothing(bundle: Path, records: Path) -> None:
    asked: list[str] = []

    class Api(Handler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.reply(404, b"")

        def do_POST(self) -> None:
            asked.append(self.path)
            self.reply(404, b"")

    with serving(Api) as url:
        words = ("parity", bundle, "--served", url, "--cases", records, "--dry-run")
        done = typed(*words)
        assert done.code == 0, done.err
        assert f"onnx f32, compared with what {url} says of 2 photographs." in " ".join(done.out.split())
        assert "Nothing was opened, sent or written." in done.out
        assert typed(*words, "--json").json["pictures"] == 2
    assert asked == []


@pytest.mark.parametrize(
    "more",
    [("--certify",), ("--rows", "rows"), ("--report", "report.json"), ("--bisect",), ("--reference", "model"),
     ("--examples", "2"), ("--judge", "dermeval")],
)  # fmt: skip
def test_served_says_which_option_has_no_part_in_it(bundle: Path, more: tuple[str, ...], tmp_path: Path) -> None:
    done = typed("parity", bundle, "--served", "http://127.0.0.1:9/", "--images", tmp_path, *more)
    assert done.code == 2
    said = " ".join(done.err.split())
    assert f"--served holds an API against the bundle, and {more[0]} has no part in that." in said
    assert f"Leave out --served, or {more[0]}." in said


def test_a_limit_holds_for_drawn_pictures(bundle: Path) -> None:
    assert typed("parity", bundle, "--drawn", "12", "--limit", "5", "--dry-run", "--json").json["pictures"] == 5


def test_synthderms_own_records_bring_what_is_true(bundle: Path, records: Path, tmp_path: Path) -> None:
    cases = cases_of(records)
    lines = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    assert findings_of(records, cases) == {line["id"]: line["findings"] for line in lines}
    assert findings_of(records, cases[:1]) == {lines[0]["id"]: lines[0]["findings"]}
    planned = typed("parity", bundle, "--cases", records, "--certify", "--dry-run")
    assert "Six dimensions of 4 narratives: rubric." in planned.out
    for wrong in ({}, None, {**lines[1]["findings"], "colour": "plaid"}):
        file = tmp_path / "other.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in (lines[0], {**lines[1], "findings": wrong})))
        assert findings_of(file, cases_of(file, records.parent)) is None
    table = tmp_path / "table.csv"
    table.write_text(f"image,label\n{cases[0].image},nevus\n")
    assert findings_of(table, cases_of(table)) is None
