"""Running ``python -m train.corpus``, and six cases to run it on."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import numpy as np
from command_line import Result, environment
from PIL import Image

from train.corpus.__main__ import main
from train.corpus.records import read_corpus


def typed(*arguments: str | Path) -> Result:
    """Run ``python -m train.corpus`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with redirect_stdout(out), redirect_stderr(err), patch("sys.argv", ["train.corpus", *map(str, arguments)]):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    assert isinstance(code, int)
    return Result(code, out.getvalue(), err.getvalue())


@contextmanager
def running(words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m train.corpus`` in a process of its own, with Ctrl-C as a terminal has it."""
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from train.corpus.__main__ import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, *words], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def make_cases(folder: Path, count: int = 6) -> Path:
    """Pictures that are not alike, two of each patient, on two sites, in a CSV."""
    for n in range(count):
        few = np.random.default_rng(n).integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(few).resize((160, 120), Image.Resampling.BICUBIC).save(folder / f"{n}.png")
    rows = [f"{n}.png,nevus,{'arm' if n % 2 else 'leg'},P{n // 2},{n % 6 + 1}" for n in range(count)]
    file = folder / "cases.csv"
    file.write_text("\n".join(["image,label,site,patient,fitzpatrick", *rows]) + "\n", encoding="utf-8")
    return file


def command(cases: Path, url: str, out: Path, *more: str) -> list[str]:
    return ["build", str(cases), "--endpoint", url, "--model", "tiny", "-o", str(out), "--json", "--retries", "0", *more]


def journal_of(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.with_name(f"{out.name}.journal.jsonl").read_text(encoding="utf-8").splitlines()]


def rejected_of(out: Path) -> list[tuple[str, str]]:
    return [(one.id, one.reason) for one in read_corpus(out).rejected]
