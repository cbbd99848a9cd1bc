"""A bundle's golden cases are asked again, and whatever is another is named; a changed byte of them is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import typed

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export, verify
from skinedge.errors import BundleError
from skinedge.manifest import read_manifest
from skinedge.measure.document import sealed
from skinedge.parity import recheck as module
from skinedge.parity.golden import GOLDEN_FILE
from skinedge.parity.recheck import FOLDER, KeptCases, keep_golden, recheck, verify_golden
from skinedge.runtime.pipeline import open_pipeline
from skinedge.targets._contract import ExportOptions


@pytest.fixture(scope="module")
def made(source: AdapterCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = export(source, "onnx", ExportOptions("f32", workers=1), tmp_path_factory.mktemp("recheck") / "bundle").path
    with open_pipeline(folder, threads=1) as pipeline:
        keep_golden(folder, pipeline)
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def put(bundle: Path, kept: KeptCases) -> None:
    (bundle / FOLDER / GOLDEN_FILE).write_text(sealed(kept), encoding="utf-8", newline="\n")


def test_the_same_machine_says_the_same(bundle: Path) -> None:
    found = recheck(bundle, verify(bundle), threads=1)
    assert found.passed
    assert found.moved == ()
    assert [o.name for o in found.outcomes] == ["wide", "tall", "words"]
    said = typed("verify", bundle, "--recheck", "--threads", "1")
    assert (said.code, said.out.count("as it was\n")) == (0, 3)
    assert "nothing under it has moved since" in said.out
    assert json.loads(typed("verify", bundle, "--recheck", "--json").out)["recheck"]["passed"] is True


def test_they_are_kept_anew_and_nothing_is_left_beside(bundle: Path) -> None:
    with open_pipeline(bundle, threads=1) as pipeline:
        keep_golden(bundle, pipeline)
    verify(bundle)
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_what_moved_is_said_and_what_changed_fails(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = verify_golden(bundle, read_manifest(bundle))
    assert kept
    versions = {**kept.machine.versions, "onnxruntime": "1.0", "gone": "2.0"}
    older = kept.machine.model_copy(update={"versions": versions, "system": "Another 1"})
    first, *rest = kept.cases.cases
    likeliest = ((*reversed([(t, p - 1) for t, p in first.likeliest[0]]),), *first.likeliest[1:])
    cases = kept.cases.model_copy(update={"cases": (first.model_copy(update={"likeliest": likeliest}), *rest)})
    put(bundle, kept.model_copy(update={"machine": older, "cases": cases}))
    found = recheck(bundle, verify(bundle), threads=1)
    assert [o.passed for o in found.outcomes] == [False, True, True]
    now = kept.machine
    assert found.moved == (
        f"system Another 1 -> {now.system}", "gone 2.0 -> none", f"onnxruntime 1.0 -> {now.versions['onnxruntime']}",
    )  # fmt: skip
    said = typed("verify", bundle, "--recheck", "--threads", "1")
    assert said.code == 1
    assert "golden case wide: 16 of 16 tokens the same" in said.out
    assert "ANOTHER: its probabilities diverge by" in said.out
    monkeypatch.setattr(module, "describe_here", lambda: older)
    assert recheck(bundle, verify(bundle), threads=1).moved == ()


@pytest.mark.parametrize("name", [GOLDEN_FILE, "wide.png", "tall.png"])
def test_a_changed_byte_is_found(bundle: Path, name: str) -> None:
    path = bundle / FOLDER / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"golden/.*(changed|damaged|JSON|not as it was written)|not JSON|UTF-8|codec"):
        verify(bundle)


def test_a_byte_between_the_words_is_found(bundle: Path) -> None:
    path = bundle / FOLDER / GOLDEN_FILE
    path.write_text(path.read_text(encoding="utf-8").replace('": ', '":  ', 1), encoding="utf-8", newline="\n")
    with pytest.raises(BundleError, match=r"golden\.json was changed since it was written"):
        verify(bundle)


@pytest.mark.parametrize(
    ("name", "why"), [("wide.png", "'golden/wide.png' is not as it was written"), (GOLDEN_FILE, "cannot be read")]
)
def test_a_missing_file_is_found(bundle: Path, name: str, why: str) -> None:
    (bundle / FOLDER / name).unlink()
    with pytest.raises(BundleError, match=why):
        verify(bundle)


def test_a_stranger_is_found(bundle: Path) -> None:
    (bundle / FOLDER / "note.txt").write_text("hello")
    with pytest.raises(BundleError, match=r"'golden/note\.txt' is not as it was written"):
        verify(bundle)


def test_those_of_another_bundle_are_refused(bundle: Path) -> None:
    kept = verify_golden(bundle, read_manifest(bundle))
    assert kept
    put(bundle, kept.model_copy(update={"bundle": "0" * 64}))
    with pytest.raises(BundleError, match=r"is of another bundle, 0{16}"):
        verify(bundle)


def test_a_bundle_without_any_says_what_to_do(bundle: Path) -> None:
    shutil.rmtree(bundle / FOLDER)
    verify(bundle)
    said = typed("verify", bundle, "--recheck")
    assert (said.code, said.out) == (1, "")
    assert "holds no golden cases: it is unverified." in said.err
    assert f"skinedge parity {bundle} --reference MODEL" in said.err
