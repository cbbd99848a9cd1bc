"""Running skinedge as a person does: in this process for speed, in one of its own where that is what is tested."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Result:
    """Exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on standard output."""
        return one_object(self.out)


def one_object(text: str) -> Any:
    """Parse exactly one line holding exactly one strict JSON object."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    value = json.loads(lines[0], parse_constant=_refuse)
    assert isinstance(value, dict)
    return value


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def typed(*arguments: str | Path) -> Result:
    """Run the command line in this process."""
    from skinedge.cli import main

    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["skinedge", *map(str, arguments)]):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    assert isinstance(code, int), "main() ends with an exit code"
    return Result(code, out.getvalue(), err.getvalue())


def environment(**extra: str) -> dict[str, str]:
    """This process's environment, in which ``skinedge`` is importable and no BLAS spins on a busy machine."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **threads, "PYTHONPATH": path, "PYTHONWARNINGS": "error", **extra}


def python(script: str, *arguments: str | Path, cwd: Path | None = None, **extra: str) -> Result:
    """Run ``script`` in an interpreter of its own."""
    return _process([sys.executable, "-c", script, *map(str, arguments)], cwd, extra)


def process(*arguments: str | Path, cwd: Path | None = None, **extra: str) -> Result:
    """Run the command line in a process of its own."""
    return _process([sys.executable, "-m", "skinedge", *map(str, arguments)], cwd, extra)


def _process(command: Sequence[str], cwd: Path | None, extra: dict[str, str]) -> Result:
    done = subprocess.run(command, cwd=cwd, env=environment(**extra), capture_output=True, timeout=300, check=False)
    return Result(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
