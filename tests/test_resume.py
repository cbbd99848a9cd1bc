"""An export that was interrupted goes on where it was, and nobody can tell from the bundle."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from command_line import environment

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export, verify
from skinedge.errors import AdapterError, OutputError
from skinedge.manifest import MANIFEST_FILE
from skinedge.model.config import read_config
from skinedge.model.tiny import Size, make_lora, make_model
from skinedge.staging import staged
from skinedge.targets._contract import ExportOptions
from skinedge.weights.journal import JOURNAL_FILE, Journal
from skinedge.weights.safetensors import SafetensorsFile, save

pytest.importorskip("onnx_ir")
pytest.importorskip("gguf")

CASES = [("gguf", "q4_k_m"), ("onnx", "int4"), ("safetensors", "as-stored")]


class Stopping:
    """Progress that is interrupted after some bytes, and remembers where each step began."""

    def __init__(self, after: int | None = None) -> None:
        self.left, self.first = after, []

    def begin(self, what: str, total: int) -> None:
        self.first.append(None)

    def advance(self, count: int) -> None:
        if self.first and self.first[-1] is None:
            self.first[-1] = count
        if self.left is not None:
            self.left -= count
            if self.left < 0:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> AdapterCheckpoint:
    folder = tmp_path_factory.mktemp("resume")
    model = make_model(folder / "model")
    return AdapterCheckpoint.find(model, [make_lora(folder / "lora", read_config(model))])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file; of the manifest all but the time and what follows from it."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def interrupt(source: AdapterCheckpoint, target: str, options: ExportOptions, out: Path, after: int) -> Path:
    with pytest.raises(KeyboardInterrupt):
        export(source, target, options, out, progress=Stopping(after))
    assert not out.exists()
    (left,) = out.parent.glob(f".{out.name}.partial-*")
    return left


@pytest.mark.parametrize(("target", "scheme"), CASES)
def test_goes_on_and_ends_with_the_same_bytes(
    source: AdapterCheckpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, scheme: str
) -> None:
    options = ExportOptions(scheme, workers=2)
    export(source, target, options, tmp_path / "whole")
    size = sum(len(b) for n, b in contents(tmp_path / "whole").items())
    out, begun = tmp_path / "b", 0
    for share in (0.3, 0.5):
        left = interrupt(source, target, options, out, int(size * share))
        assert "the same command again goes on there" in capsys.readouterr().err
        reached = sum(p.stat().st_size for p in left.rglob("*"))
        assert reached >= begun
        begun = reached
    watched = Stopping()
    export(source, target, options, out, progress=watched)
    assert "that an interrupted attempt has written" in capsys.readouterr().err
    assert max(n or 0 for n in watched.first) > size // 8, "it started from the beginning"
    assert contents(out) == contents(tmp_path / "whole")
    verify(out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "whole"]


def damaged_end(left: Path) -> None:
    """A power cut: the last line is there and its data are not."""
    with (left / "model.gguf").open("r+b") as f:
        f.seek(-40000, os.SEEK_END)
        f.write(b"\0" * 40000)


def damaged_start(left: Path) -> None:
    with (left / "model.gguf").open("r+b") as f:
        f.seek(1000)
        f.write(b"\xff")


def cut(left: Path) -> None:
    os.truncate(left / "model.gguf", 300_000)


def cut_journal(left: Path) -> None:
    with (left / JOURNAL_FILE).open("a", encoding="utf-8") as f:
        f.write('["model.gguf", 12')


def lying_journal(left: Path) -> None:
    with (left / JOURNAL_FILE).open("a", encoding="utf-8") as f:
        f.write(json.dumps(["model.gguf", 1 << 50, "0" * 64]) + '\n[]\n{"a": 1}\n["model.gguf", "x", 3]\n')


def file_gone(left: Path) -> None:
    (left / "model.gguf").unlink()


def stranger(left: Path) -> None:
    (left / "config.json").write_text("{")


@pytest.mark.parametrize("damage", [damaged_end, damaged_start, cut, cut_journal, lying_journal, file_gone, stranger])
def test_what_is_damaged_is_written_again(source: AdapterCheckpoint, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    options = ExportOptions("q8_0", workers=1)
    export(source, "gguf", options, tmp_path / "whole")
    damage(interrupt(source, "gguf", options, tmp_path / "b", 2_000_000))
    export(source, "gguf", options, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", [{"scheme": "q6_k"}, {"vision": "f32"}, {"mix": {"lm_head.weight": "q8_0"}}])
def test_another_export_does_not_go_on_with_it(source: AdapterCheckpoint, tmp_path: Path, change: dict[str, object]) -> None:
    options = ExportOptions("q8_0", workers=1)
    interrupt(source, "gguf", options, tmp_path / "b", 2_000_000)
    other, watched = replace(options, **change), Stopping()
    export(source, "gguf", other, tmp_path / "b", progress=watched)
    export(source, "gguf", other, tmp_path / "whole")
    assert contents(tmp_path / "b") == contents(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "whole"]


def test_other_workers_go_on_with_it(source: AdapterCheckpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt(source, "gguf", ExportOptions("q8_0", workers=1), tmp_path / "b", 2_000_000)
    export(source, "gguf", ExportOptions("q8_0", workers=3), tmp_path / "b")
    assert "going on with the" in capsys.readouterr().err
    verify(tmp_path / "b")


def test_nothing_is_kept_before_the_first_tensor(source: AdapterCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        export(source, "gguf", ExportOptions("q8_0"), tmp_path / "b", progress=Stopping(0))
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing(source: AdapterCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(OutputError), staged(tmp_path / "b", "identity") as folder:  # noqa: PT012
        (folder / "weights").write_bytes(b"1")
        Journal(folder).mark(folder / "weights", 1, "0")
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_an_inert_adapter_is_still_found(source: AdapterCheckpoint, tmp_path: Path) -> None:
    """What is not read again must be proved all the same; what changes nothing must still be an error."""
    lora = SafetensorsFile(source.adapters[0] / "adapter_model.safetensors")
    arrays = {name: lora.read(name).copy() for name in lora.names()}
    inert = next(n for n in arrays if "q_proj.lora_B" in n)
    arrays[inert][:] = 0
    shutil.copytree(source.adapters[0], tmp_path / "lora")
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    save(tmp_path / "lora" / "adapter_model.safetensors", arrays)
    untrained = AdapterCheckpoint.find(source.path, [tmp_path / "lora"])
    interrupt(untrained, "gguf", ExportOptions("q8_0"), tmp_path / "b", 4_000_000)
    with pytest.raises(AdapterError, match=r"2 of \d+ adapter tensors changed nothing: .*q_proj"):
        export(untrained, "gguf", ExportOptions("q8_0"), tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["lora"]


def test_what_is_left_counts_as_free_disk(source: AdapterCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ExportOptions("q8_0")
    left = interrupt(source, "gguf", options, tmp_path / "b", 4_000_000)
    there = sum(p.stat().st_size for p in left.iterdir())
    need = 20 << 20
    monkeypatch.setattr("skinedge.bundle.DISK_MARGIN", 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(need, 0, 13_000_000 - there))  # type: ignore[attr-defined]
    export(source, "gguf", options, tmp_path / "b")
    verify(tmp_path / "b")


def test_too_little_memory_is_refused_before_the_first_byte(
    source: AdapterCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Little:
        available = 100 << 20

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    with pytest.raises(OutputError, match=r"takes up to .* of memory and 100.0 MiB are free. Close other programs") as e:
        export(source, "gguf", ExportOptions("q8_0"), tmp_path / "b")
    assert "--workers 1" in e.value.hint
    assert list(tmp_path.iterdir()) == []


KILLS = 30
LARGER = Size(vocab=8192, hidden=512, intermediate=1536, layers=5, heads=8, kv_heads=2)
SMALLER = Size(layers=1, vision_depth=2, vision_full=(1,))  # TensorRT takes seconds for each plan


def reproducible(bundle: Path) -> dict[str, bytes]:
    """A verified bundle's files, without TensorRT's plans and their digests: two builds of one graph differ."""
    manifest = verify(bundle)
    plans = set(manifest.details.get("plans", ()))
    return {n: b for n, b in contents(bundle).items() if n not in plans and not (plans and n == MANIFEST_FILE)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "scheme", "size"),
    [("gguf", "q4_k_m", LARGER), ("onnx", "int4", LARGER), ("safetensors", "f16", LARGER), ("trt", "int4", SMALLER)],
)
def test_kills_one_after_another_end_in_the_same_bundle(tmp_path: Path, target: str, scheme: str, size: Size) -> None:
    """Killed at random moments and started again until it is done; then once more, until 30 kills have hit."""
    if target == "trt":
        pytest.importorskip("tensorrt_rtx_bindings")
    model = make_model(tmp_path / "model", size)
    lora = make_lora(tmp_path / "lora", read_config(model))
    words = f"export --model {model} --adapter {lora} -t {target} -s {scheme} --context 256 --workers 1 --unverified --json --out"
    command = [sys.executable, "-m", "skinedge", *words.split()]
    begin = time.perf_counter()
    subprocess.run([*command, str(tmp_path / "whole")], env=environment(), check=True, stdout=subprocess.DEVNULL)
    took = time.perf_counter() - begin
    whole, out, moments, caught, went_on = reproducible(tmp_path / "whole"), tmp_path / "out" / "b", random.Random(0), 0, 0
    while caught < KILLS:
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        with subprocess.Popen([*command, str(out)], env=environment(), **pipes) as running:
            try:
                _, err = running.communicate(timeout=moments.uniform(0.2, 1) * took)
            except subprocess.TimeoutExpired:
                running.kill()
                _, err = running.communicate()
                caught += 1
        went_on += b"going on with" in err
        if out.exists():
            assert reproducible(out) == whole
            shutil.rmtree(out)
    subprocess.run([*command, str(out)], env=environment(), check=True, stdout=subprocess.DEVNULL)
    assert reproducible(out) == whole
    assert went_on > 0, "no attempt found anything of the one before"
    assert [p.name for p in out.parent.iterdir()] == ["b"]
