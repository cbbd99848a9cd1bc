"""``kill -9`` at any moment: afterwards there is no bundle, or the whole one."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import environment, typed

from skinedge.bundle import verify
from skinedge.errors import BundleError
from skinedge.model.config import read_config
from skinedge.model.tiny import Size, make_model, make_side_branch

pytest.importorskip("onnx_ir")

KILLS = 20
# About a second of writing: 18 million weights, read, quantized and hashed.
LARGER = Size(vocab=8192, hidden=512, intermediate=1536, layers=5, heads=8, kv_heads=2)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("larger")
    model = make_model(folder / "model", LARGER)
    branch = make_side_branch(folder / "branch", read_config(model), experts=0)
    words = [
        "export",
        "--model",
        str(model),
        "--adapter",
        str(branch),
        "--target",
        "onnx",
        "--scheme",
        "f32",
        "--workers",
        "1",
        "--unverified",
    ]
    return [sys.executable, "-m", "skinedge", *words, "--json", "--out"]


def timed(words: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(words, env=environment(), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def killed_after(seconds: float, words: list[str]) -> bool:
    """Start a command and kill it; whether it was still running."""
    with subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            running.wait(seconds)
        except subprocess.TimeoutExpired:
            running.kill()
            return True
    return False


@pytest.mark.slow
def test_twenty_kills_leave_no_half_bundle(command: list[str], tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out" / "bundle"
    took = min(timed([*command, str(whole)]), timed([*command, str(tmp_path / "warm")]))
    digest = verify(whole).digest
    moments = random.Random(0)
    caught = complete = 0
    for i in range(KILLS):
        # One in each twentieth of the time it takes, so that every phase is hit: reading, writing, manifest, rename.
        caught += killed_after(took * (i + moments.random()) / KILLS, [*command, str(out)])
        assert not out.exists() or verify(out).digest == digest
        for left in out.parent.glob(".*") if out.parent.exists() else ():
            complete += accepted_by_mistake(left, digest)
        if out.exists():
            shutil.rmtree(out)
    assert caught >= KILLS // 2, "the export ended before it could be killed"
    assert complete <= 1, "only the instant before the rename may leave a whole hidden folder"
    timed([*command, str(out)])
    assert verify(out).digest == digest
    assert [p.name for p in out.parent.iterdir()] == ["bundle"], "what the killed exports left was not swept away"


def accepted_by_mistake(left: Path, digest: str) -> bool:
    """Whether a hidden leftover is a whole bundle; half of one must be refused."""
    try:
        assert verify(left).digest == digest
    except BundleError:
        return False
    return True


def test_a_killed_export_is_swept_by_the_next(command: list[str], tmp_path: Path) -> None:
    """The same without luck: killed once its folder is there."""
    out = tmp_path / "bundle"
    with subprocess.Popen([*command, str(out)], env=environment(), stdout=subprocess.DEVNULL) as running:
        while not (left := list(tmp_path.glob(".bundle.partial-*"))) and running.poll() is None:
            time.sleep(0.001)
        running.kill()
    assert left, "the export ended before it could be killed"
    with pytest.raises(BundleError, match=r"it has no skinedge.json|not readable as JSON|is missing"):
        verify(left[0])
    assert not out.exists()
    assert typed(*command[3:], out).code == 0
    verify(out)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
