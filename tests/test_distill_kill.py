"""Killed, terminated, or spread over two processes: a run ends as it would have."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import ROOT, environment
from distill_setup import LOOPBACK, files, losses, typed, words, write_records

pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("data") / "set")


def test_killed_at_any_moment_it_resumes_to_the_same_end(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    more = ("--save-every", "3", "--quiet")
    assert typed(words(tiny_model, data, tmp_path / "whole", *more, train__epochs=40)).returncode == 0
    steps, moments = len(losses(tmp_path / "whole")), random.Random(5)
    caught = 0
    for i in range(4):  # by what it has done, not by the clock: other work on the machine changes nothing
        with subprocess.Popen(
            words(tiny_model, data, tmp_path / "cut", *more, train__epochs=40), env=environment(), cwd=ROOT
        ) as running:
            wait_for_lines(tmp_path / "cut", running, int(steps * (i + moments.random()) / 5))
            time.sleep(moments.random() / 50)
            caught += running.poll() is None
            running.kill()
    assert caught >= 2
    done = typed(words(tiny_model, data, tmp_path / "cut", *more, train__epochs=40))
    if "this run is finished" not in done.stderr:
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert not list((tmp_path / "cut").glob(".*"))


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM is not delivered to Python on Windows")
def test_a_termination_finishes_the_step_and_says_how_to_go_on(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    command = words(tiny_model, data, tmp_path / "out", "--quiet", train__epochs=2000)
    with subprocess.Popen(command, env=environment(), cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        wait_for_a_line(tmp_path / "out", running)
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    rows = losses(tmp_path / "out")
    assert f"step {len(rows)} of 6000 is saved." in err
    assert "Run the same command again to go on." in err
    assert (tmp_path / "out" / "checkpoints" / f"step-{len(rows):08d}").is_dir()


def test_two_processes_interrupted_and_resumed_have_the_losses_of_one(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    assert typed(words(tiny_model, data, tmp_path / "one", "--quiet", train__epochs=10)).returncode == 0
    two = words(tiny_model, data, tmp_path / "two", "--quiet", train__batch=2, train__epochs=10)
    launch = (
        "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --dynamo_backend no --mixed_precision no"
    )
    command = [sys.executable, *launch.split(), "--main_process_ip", "127.0.0.1", "--main_process_port", "0", *two[1:]]
    with subprocess.Popen(command, env=environment(GLOO_SOCKET_IFNAME=LOOPBACK), cwd=ROOT, stderr=subprocess.DEVNULL) as running:
        wait_for_a_line(tmp_path / "two", running)
        running.terminate()
    assert not (tmp_path / "two" / "README.md").exists(), "it was stopped before its end"
    assert json.loads((tmp_path / "two" / "run.json").read_text(encoding="utf-8"))["processes"] == "2"
    done = typed(command)
    assert done.returncode == 0, done.stderr
    for mine, theirs in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)


def test_fsdp_keeps_and_takes_back_the_state_of_one_process() -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = typed([*launch, str(Path(__file__).with_name("distill_fsdp.py"))])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("same") == 2


def wait_for_a_line(out: Path, running: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    wait_for_lines(out, running, 1)


def wait_for_lines(out: Path, running: subprocess.Popen[str] | subprocess.Popen[bytes], count: int) -> None:
    """Until the log has so many, or the process has ended."""
    log, end = out / "log" / "metrics.jsonl", time.monotonic() + 240
    while not (log.is_file() and log.read_bytes().count(b"\n") >= count) and running.poll() is None:
        assert time.monotonic() < end, f"{log} has too few lines"
        time.sleep(0.01)
