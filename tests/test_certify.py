"""From an export to a certificate in its folder: the quick form, the whole one, and what is said where neither can be."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import psutil
import pytest
from command_line import typed

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export, verify
from skinedge.cli import comparing
from skinedge.errors import NotFiniteError, UsageError
from skinedge.manifest import read_manifest
from skinedge.parity import quick
from skinedge.parity.certificate import FOLDER, read_certificate
from skinedge.parity.certify import Pictures, aside_of, certify, drawn_pictures
from skinedge.parity.quick import quick_form
from skinedge.parity.recheck import recheck
from skinedge.parity.rows import read_rows
from skinedge.targets._contract import ExportOptions

TOKENS = 6


@pytest.fixture(scope="module")
def made(source: AdapterCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(source, "onnx", ExportOptions("f32", workers=1), tmp_path_factory.mktemp("certify") / "bundle").path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return drawn_pictures(4, tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def test_a_bundle_carries_what_was_found_of_it(
    bundle: Path, source: AdapterCheckpoint, pictures: Pictures, tmp_path: Path
) -> None:
    certificate = certify(bundle, source, pictures, tmp_path / "rows", threads=1, limit_tokens=TOKENS, quiet=True)
    assert certificate.data.n == 4
    assert certificate.context.reference.same_source
    assert [s.verdict for s in certificate.context.stages if s.name in ("pixels", "tokens", "prefill")] == ["ok", "ok", "ok"]
    assert certificate.verdict == "not enough data"
    assert read_certificate(bundle / FOLDER) == certificate
    verify(bundle)
    assert recheck(bundle, verify(bundle), threads=1).passed
    assert [r.id for r in read_rows(tmp_path / "rows")] == [case.id for case in pictures.cases]
    assert "data:image/" in (bundle / FOLDER / "parity.html").read_text(encoding="utf-8"), "drawn pictures may be shown"
    again = certify(bundle, source, pictures, tmp_path / "rows", threads=1, limit_tokens=TOKENS, quiet=True)
    assert again.endpoints == certificate.endpoints


def test_photographs_are_not_shown_unasked(bundle: Path, source: AdapterCheckpoint, pictures: Pictures, tmp_path: Path) -> None:
    real = Pictures("photographs", pictures.cases)
    certificate = certify(bundle, source, real, tmp_path / "rows", threads=1, limit_tokens=TOKENS, quiet=True)
    assert certificate.examples == ()
    assert "data:image/" not in (bundle / FOLDER / "parity.html").read_text(encoding="utf-8")
    assert aside_of(read_rows(tmp_path / "rows"), real).scores == {}
    for name in ("mean of six scores", "Safety"):
        found = certificate.endpoint(name)
        assert found
        assert (found.n, found.verdict, found.estimate) == (0, "not enough data", None)
        assert f"{name}: not scored; --judge dermeval scores offline" in " ".join(certificate.reasons)


def test_drawn_pictures_are_the_same_every_time(pictures: Pictures, tmp_path: Path) -> None:
    again = drawn_pictures(4, tmp_path)
    assert [c.image.read_bytes() for c in again.cases] == [c.image.read_bytes() for c in pictures.cases]
    assert again.findings == pictures.findings
    assert drawn_pictures(4, tmp_path).cases == again.cases
    assert {c.diagnosis for c in drawn_pictures(12, tmp_path).cases} == {c.diagnosis for c in drawn_pictures(12, tmp_path).cases}


def test_the_quick_form_says_that_it_is_too_small(
    bundle: Path, source: AdapterCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick, "TOKENS", TOKENS)
    found = quick_form(bundle, read_manifest(bundle), source, threads=1, quiet=True)
    assert not isinstance(found, str)
    assert (found.data.n, found.verdict) == (quick.PICTURES, "not enough data")
    verify(bundle)


def test_why_a_bundle_stays_unverified(bundle: Path, source: AdapterCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(bundle)
    stranger = manifest.model_copy(update={"target": "safetensors"})
    assert quick_form(bundle, stranger, source) == "skinedge does not run safetensors bundles"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("Memory", "available")(1 << 20))
    assert "of memory, and 1.0 MiB are free" in str(quick_form(bundle, manifest, source))
    monkeypatch.setattr(quick, "_NEEDED", ("no_such_library",))
    assert quick_form(bundle, manifest, source) == "no_such_library is not installed here (pip install 'skinedge[train]')"
    assert not (bundle / FOLDER).exists()


def test_export_says_which_it_is(tiny_model: Path, tiny_branch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = ("export", "--model", tiny_model, "-a", tiny_branch, "-s", "f32", "--workers", "1")
    said = typed(*ask, "--out", tmp_path / "a", "--unverified")
    assert said.code == 0
    assert "parity   unverified: --unverified left the comparison with PyTorch out" in said.out
    assert json.loads(typed(*ask, "--out", tmp_path / "b", "--unverified", "--json").out)["parity"] == "unverified"

    monkeypatch.setattr(quick, "quick_form", lambda *_, **__: namedtuple("Found", "verdict")("fail"))
    said = typed(*ask, "--out", tmp_path / "c")
    assert said.code == 1
    assert f"{tmp_path / 'c'} does not say what the PyTorch model says." in said.err
    assert "--bisect" in said.err

    def overflowed(*_: object, **__: object) -> object:
        raise NotFiniteError("the model gave nan instead of a logit, so no next token can be chosen.")

    monkeypatch.setattr(quick, "quick_form", overflowed)
    said = typed(*ask, "--out", tmp_path / "d")
    assert said.code == 1
    assert f"{tmp_path / 'd'} does not compute: the model gave nan instead of a logit" in said.err
    assert f"skinedge parity {tmp_path / 'd'} --reference MODEL --bisect" in said.err


def test_parity_certifies_by_the_command_line(bundle: Path, tiny_model: Path, tiny_branch: Path, tmp_path: Path) -> None:
    ask = ("parity", bundle, "--reference", tiny_model, "-a", tiny_branch, "--drawn", "3", "--max-new-tokens", "4",
           "--steps", "4", "--threads", "1")  # fmt: skip
    said = typed(*ask, "--certify", "--rows", tmp_path / "rows")
    assert said.code == 0, said.err
    assert "parity: not enough data" in said.out
    assert "not enough data on 3 pictures of SynthDerm" in typed("show", bundle).out
    found = json.loads(typed(*ask, "--certify", "--rows", tmp_path / "rows", "--json").out)
    assert (found["passed"], found["certificate"]["verdict"]) == (True, "not enough data")


def test_reviews_are_read_by_the_pictures_digest(tmp_path: Path) -> None:
    table = tmp_path / "reviews.csv"
    table.write_text(f"image_sha256,review\n{'AB' * 32},a wart; harmless\n{'cd' * 32},\n")
    assert comparing._reviews(table) == {"ab" * 32: "a wart; harmless"}
    table.write_text("image,review\nx,y\n")
    with pytest.raises(UsageError, match="has no column 'image_sha256'") as e:
        comparing._reviews(table)
    assert "as in parity.json" in e.value.hint


@pytest.mark.parametrize(
    ("words", "why", "hint"),
    [
        (("--certify",), "--certify needs pictures to compare narratives on.", "Add --images DIR, --cases FILE or --drawn 600."),
        (("--drawn", "3", "--images", "."), "--drawn has pictures of its own.", "Leave out --images and --cases"),
        (("--split", "val"), "--split chooses among cases, and there are none.", "Add --cases FILE."),
    ],
)
def test_what_cannot_be_meant(bundle: Path, words: tuple[str, ...], why: str, hint: str) -> None:
    said = typed("parity", bundle, *words)
    assert said.code == 2
    assert why in said.err
    assert hint in said.err


def test_a_split_that_is_not_there(bundle: Path, pictures: Pictures, tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text(f"image,label,split\n{pictures.cases[0].image},nevus,train\n{pictures.cases[1].image},nevus,val\n")
    said = typed("parity", bundle, "--cases", table, "--split", "test", "--certify")
    assert said.code == 2
    assert f"{table} has no case of the split 'test'." in said.err
    assert "Its splits: train, val." in said.err
