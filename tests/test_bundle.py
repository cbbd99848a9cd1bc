"""Bundles: whole or not at all, verified byte by byte, nothing outside the folder."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import check_files, export, preflight, verify
from skinedge.errors import BundleError, OutputError, SkinedgeError
from skinedge.manifest import MANIFEST_FILE, read_manifest
from skinedge.targets._contract import ExportOptions
from skinedge.weights.checkpoint import open_checkpoint

pytest.importorskip("onnx_ir")


@pytest.fixture(scope="module")
def pristine(source: AdapterCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(source, "onnx", ExportOptions("int4"), tmp_path_factory.mktemp("bundle") / "b").path


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "b"))


def edit(bundle: Path, change: dict[str, object]) -> None:
    path = bundle / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_verify_accepts_what_export_wrote(bundle: Path, source: AdapterCheckpoint) -> None:
    manifest = verify(bundle)
    assert manifest.lineage[0].digest == source.digest
    assert {f.path for f in manifest.files} | {MANIFEST_FILE} == {p.name for p in bundle.iterdir()}
    assert manifest.scheme.bits_per_weight == pytest.approx(
        sum(a.bits * a.weights for a in manifest.applied.values()) / sum(a.weights for a in manifest.applied.values()), abs=1e-3
    )


def test_lineage_goes_on_through_a_merge(tiny_model: Path, tiny_lora: Path, tmp_path: Path) -> None:
    """Merged first and exported later: the chain still ends at the adapter, and the weights are the same bytes."""
    adapted = AdapterCheckpoint.find(tiny_model, [tiny_lora])
    merged = export(adapted, "safetensors", ExportOptions("as-stored"), tmp_path / "merged").path
    later = verify(export(AdapterCheckpoint.find(merged), "onnx", ExportOptions("int4"), tmp_path / "later").path)
    at_once = verify(export(adapted, "onnx", ExportOptions("int4"), tmp_path / "at_once").path)
    assert later.lineage[0].digest == adapted.digest
    assert "LoRA of rank 8" in later.lineage[0].note
    assert later.file("decoder.onnx.data") == at_once.file("decoder.onnx.data")
    assert later.file("vision.onnx.data") == at_once.file("vision.onnx.data")


def test_manifest_says_what_was_done_not_what_was_asked(bundle: Path) -> None:
    applied = verify(bundle).applied
    assert applied["model.layers.0.self_attn.qkv_proj.weight"].scheme == "int4"
    assert applied["visual.blocks.0.mlp.down_proj.weight"].scheme == "int8"
    assert applied["model.norm.weight"].scheme == "f32"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_found(bundle: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(bundle.iterdir())))
    content = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    content[where] ^= data.draw(st.integers(1, 255))
    original = path.read_bytes()
    path.write_bytes(content)
    try:
        if path.name == MANIFEST_FILE:
            with suppress(BundleError):  # another kind of white space is not a change
                assert verify(bundle).to_json().encode() == original
        else:
            with pytest.raises(BundleError, match="was changed"):
                verify(bundle)
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize(
    "path", ["../evil", "/etc/passwd", "a/../../b", "C:\\x", "a\\b", "", ".", "a//b", "nul:\0", "./decoder.onnx", "c:x"]
)
def test_paths_cannot_leave_the_folder(bundle: Path, path: str) -> None:
    edit(bundle, {"files": [{"path": path, "nbytes": 1, "sha256": "0" * 64}]})
    with pytest.raises(BundleError, match="not a plain path inside the bundle"):
        verify(bundle)


def test_missing_extra_and_linked_files(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("x")
    with pytest.raises(BundleError, match=r"'notes.txt' does not belong to the bundle"):
        verify(bundle)
    (bundle / "notes.txt").unlink()
    (bundle / "vision.onnx.data").rename(bundle.parent / "elsewhere")
    with pytest.raises(BundleError, match=r"'vision.onnx.data' is missing"):
        check_files(bundle)
    (bundle / "vision.onnx.data").symlink_to(bundle.parent / "elsewhere")
    with pytest.raises(BundleError, match="is a link"):
        verify(bundle)


def test_truncated_file_is_found_without_reading_it(bundle: Path) -> None:
    with (bundle / "decoder.onnx.data").open("r+b") as f:
        f.truncate(100)
    with pytest.raises(BundleError, match="has 100 bytes and the manifest says"):
        check_files(bundle)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not readable as JSON"),
        ("[]", "schema version is None"),
        ('{"schema_version": 99}', "schema version is 99"),
        ('{"schema_version": 1}', "Field required"),
        ("{" * 100000, "not readable as JSON"),
    ],
)
def test_bad_manifests(bundle: Path, text: str, message: str) -> None:
    (bundle / MANIFEST_FILE).write_text(text)
    with pytest.raises(BundleError, match=message):
        read_manifest(bundle)


def test_unknown_manifest_field_is_refused(bundle: Path) -> None:
    edit(bundle, {"surprise": 1})
    with pytest.raises(BundleError, match="surprise: Extra inputs are not permitted"):
        read_manifest(bundle)


def test_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle: it has no skinedge.json"):
        verify(tmp_path)


def test_nothing_existing_is_overwritten(source: AdapterCheckpoint, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not empty"):
        export(source, "onnx", ExportOptions("int4"), tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_an_empty_folder_will_do(source: AdapterCheckpoint, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    verify(export(source, "onnx", ExportOptions("int4"), tmp_path / "out").path)


def test_leftovers_of_a_killed_export_are_swept(source: AdapterCheckpoint, tmp_path: Path) -> None:
    dead = tmp_path / ".out.partial-999999999"
    dead.mkdir()
    (dead / "decoder.onnx.data").write_bytes(b"half")
    alive = tmp_path / f".out.partial-{os.getppid()}"
    alive.mkdir()
    export(source, "onnx", ExportOptions("int4"), tmp_path / "out")
    assert not dead.exists()
    assert alive.exists(), "another running export's work was removed"


def test_failure_midway_leaves_nothing(source: AdapterCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import skinedge.bundle

    def fail(*args: object) -> None:
        raise SkinedgeError("the adapter went missing")

    monkeypatch.setattr(skinedge.bundle, "_carry", fail)
    with pytest.raises(SkinedgeError, match="went missing"):
        export(source, "onnx", ExportOptions("int4"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_plan_matches_what_is_written(source: AdapterCheckpoint, pristine: Path, tmp_path: Path) -> None:
    flight = preflight(open_checkpoint(source.path, source.adapters), "onnx", ExportOptions("int4"), tmp_path / "new")
    for name, nbytes in flight.plan.files.items():
        assert (pristine / name).stat().st_size == nbytes, name
    assert not (tmp_path / "new").exists()


def test_too_small_a_disk_is_refused_before_the_first_byte(
    source: AdapterCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1 << 20))  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match=r"needs .* and its disk has 1.0 MiB free"):
        export(source, "onnx", ExportOptions("int4"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
