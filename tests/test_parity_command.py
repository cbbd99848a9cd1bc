"""``skinedge parity``: whose pictures, which rows, what would be done, and what is wrong with the question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import typed
from PIL import Image

from benchmarks.parity_faults import BY_NAME, plant
from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.embedded import BASE, SIDE_BRANCH
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
