"""Killed, terminated, or spread over two processes: a run ends as it would have."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import ROOT, environment
from distill_setup import files, losses, typed, words, write_records

pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("data") / "set")


def test_killed_at_any_moment_it_resumes_to_the_same_end(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    more = ("--save-every", "3", "--set", "train.epochs=40", "--quiet")
    begin = time.perf_counter()
    assert typed(words(tiny_model, data, tmp_path / "whole", *more)).returncode == 0
    took = time.perf_counter() - begin
    moments, caught = random.Random(5), 0
    for i in range(4):
        with subprocess.Popen(words(tiny_model, data, tmp_path / "cut", *more), env=environment(), cwd=ROOT) as running:
            try:
                running.wait(took * (0.5 + 0.5 * (i + moments.random()) / 4))
            except subprocess.TimeoutExpired:
                running.kill()
                caught += 1
    assert caught >= 2
    done = typed(words(tiny_model, data, tmp_path / "cut", *more))
    if "this run is finished" not in done.stderr:
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert not list((tmp_path / "cut").glob(".*"))


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM is not delivered to Python on Windows")
def test_a_termination_finishes_the_step_and_says_how_to_go_on(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    command = words(tiny_model, data, tmp_path / "out", "--set", "train.epochs=2000", "--quiet")
    with subprocess.Popen(command, env=environment(), cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        log = tmp_path / "out" / "log" / "metrics.jsonl"
        while not (log.is_file() and log.stat().st_size) and running.poll() is None:
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    rows = losses(tmp_path / "out")
    assert f"Stopped after step {len(rows)} of 6000; run the same command again to go on." in err
    assert (tmp_path / "out" / "checkpoints" / f"step-{len(rows):08d}").is_dir()


def test_two_processes_have_the_losses_of_one(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    one = words(tiny_model, data, tmp_path / "one", "--batch", "4", "--quiet")
    assert typed(one).returncode == 0
    two = words(tiny_model, data, tmp_path / "two", "--batch", "2", "--quiet")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    done = typed([*launch, "--mixed_precision", "no", "--main_process_port", "0", *two[1:]])
    assert done.returncode == 0, done.stderr
    for mine, theirs in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)
