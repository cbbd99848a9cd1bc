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
        wait_for_a_line(tmp_path / "out", running)
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    rows = losses(tmp_path / "out")
    assert f"Stopped after step {len(rows)} of 6000; run the same command again to go on." in err
    assert (tmp_path / "out" / "checkpoints" / f"step-{len(rows):08d}").is_dir()


def test_two_processes_interrupted_and_resumed_have_the_losses_of_one(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    more = ("--quiet", "--set", "train.epochs=10")
    assert typed(words(tiny_model, data, tmp_path / "one", "--batch", "4", *more)).returncode == 0
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    two = words(tiny_model, data, tmp_path / "two", "--batch", "2", *more)
    command = [*launch, "--mixed_precision", "no", "--main_process_port", "0", *two[1:]]
    with subprocess.Popen(command, env=environment(), cwd=ROOT, stderr=subprocess.DEVNULL) as running:
        wait_for_a_line(tmp_path / "two", running)
        running.terminate()
    done = typed(command)
    assert done.returncode == 0, done.stderr
    for mine, theirs in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)


def test_fsdp_keeps_and_takes_back_the_state_of_one_process() -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    done = typed([*launch, str(Path(__file__).with_name("distill_fsdp.py"))])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("same") == 2


def wait_for_a_line(out: Path, running: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    log = out / "log" / "metrics.jsonl"
    while not (log.is_file() and log.stat().st_size) and running.poll() is None:
        time.sleep(0.05)
