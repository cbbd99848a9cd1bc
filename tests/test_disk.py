"""A disk that is too small, and one that fills up all the same: a sentence, and nothing left on it."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import typed

from skinedge.errors import OutputError
from skinedge.parity.compare import Comparison, write_report
from skinedge.runtime._tensorrt import find_library

SIZE = 512 << 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a MiB."""
    with disk(tmp_path / "disk", SIZE) as folder:
        yield folder


@contextmanager
def disk(folder: Path, nbytes: int) -> Iterator[Path]:
    """A file system of ``nbytes``, in memory."""
    folder.mkdir()
    if sys.platform != "linux" or not shutil.which("mount"):
        pytest.skip("mounting a tmpfs needs Linux")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def pretend_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the check before the export see a large disk, as when another program fills it meanwhile."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 50, 0, 1 << 50))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("target", "scheme"), [("onnx", "int4"), ("gguf", "q8_0"), ("safetensors", "as-stored"), ("trt", "f16")])
def test_too_small_a_disk_is_refused_before_the_first_byte(
    target: str, scheme: str, tiny_model: Path, tiny_branch: Path, small_disk: Path
) -> None:
    ask = ("export", "--model", tiny_model, "-a", tiny_branch, "-t", target, "-s", scheme, "--out", small_disk / "deep" / "b")
    done = typed(*ask)
    assert done.code == 1
    assert f"{small_disk / 'deep' / 'b'} needs " in done.err
    assert "and its disk has 512.0 KiB free." in done.err
    assert "Free some space, choose a smaller scheme, or another disk with --out." in done.err
    assert list(small_disk.iterdir()) == []
    assert "512.0 KiB free there" in typed(*ask, "--dry-run").out


@pytest.mark.parametrize(("target", "scheme"), [("onnx", "int4"), ("gguf", "q8_0"), ("safetensors", "as-stored"), ("trt", "f16")])
def test_a_disk_that_fills_up_midway(
    target: str, scheme: str, tiny_model: Path, tiny_branch: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_space(monkeypatch)
    out = small_disk / "deep" / "b"
    done = typed("export", "--model", tiny_model, "-a", tiny_branch, "-t", target, "-s", scheme, "--out", out)
    assert done.code == 1
    assert f"error: {out} could not be written: the disk ran full." in done.err
    assert "Free some space or choose another disk with --out." in done.err
    assert list(small_disk.iterdir()) == []
    monkeypatch.undo()
    assert shutil.disk_usage(small_disk).free == SIZE, "a deleted file is still open"


def test_a_disk_that_holds_the_graphs_but_not_the_plans(
    tiny_model: Path, tiny_branch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_library()
    pretend_space(monkeypatch)
    with disk(tmp_path / "disk", 13 << 20) as folder:
        ask = ("export", "--model", tiny_model, "-a", tiny_branch, "-t", "trt", "-s", "f16", "--context", "256")
        done = typed(*ask, "--out", folder / "b")
        assert done.code == 1
        assert f"{folder / 'b'} could not be written: the disk ran full." in done.err
        assert "decoder.plan" in done.err, "it ended before the plans"
        assert list(folder.iterdir()) == []
        gc.collect()  # TensorRT's parser maps the graphs' weights until it is freed, and the disk cannot go before


def test_a_mounted_disk_cannot_be_replaced_by_a_bundle(small_disk: Path) -> None:
    """What people do in a container: its disk is mounted at /out, and only a folder in it can be made whole."""
    done = typed("export", "--out", small_disk)
    assert done.code == 1
    assert f"{small_disk} is where a disk is mounted, and a new folder cannot take its place." in done.err
    assert f"Name one in it: --out {small_disk / 'bundle'}." in done.err


def test_a_report_that_does_not_fit(small_disk: Path) -> None:
    (small_disk / "photographs.zip").write_bytes(b"\0" * (SIZE - 4096))
    images = tuple(f"{i:064x}" for i in range(1000))
    with pytest.raises(OutputError, match=r"report.json could not be written: the disk ran full."):
        write_report(Comparison("b", "r", True, "onnx", "f32", images, ()), small_disk / "report.json")
    assert [p.name for p in small_disk.iterdir()] == ["photographs.zip"]
