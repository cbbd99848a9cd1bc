"""Time and memory of a command by the operating system's own accounting.  Linux only."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 512  # the unit of ru_oublock


@dataclass(frozen=True)
class Usage:
    """What a command and every process it started took together.

    ``peak_private`` is the largest sum of ``RssAnon`` and ``RssShmem`` (heap, stacks, shared memory: all that is no page
    of a mapped file), ``peak_resident`` that of ``VmRSS``; both in bytes, looked at every 20 ms.  ``written`` counts
    the bytes the kernel was asked to put on the disk, ``cpu_s`` the time on all cores.
    """

    seconds: float
    cpu_s: float
    peak_private: int
    peak_resident: int
    written: int


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Usage:
    """Run ``command`` to its end.

    Raises:
        SystemExit: it failed; its last words are given.
    """
    private = resident = 0
    with tempfile.TemporaryFile() as words:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT, env=environment)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            tree = [_memory(p) for p in _tree(process.pid)]
            private, resident = max(private, sum(p for p, _ in tree)), max(resident, sum(r for _, r in tree))
            time.sleep(0.02)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            words.seek(0)
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{words.read().decode(errors='replace')[-3000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return Usage(round(seconds, 2), round(cpu, 2), private, resident, usage.ru_oublock * _BLOCK)


def _tree(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return
    for child in children:
        yield from _tree(int(child))


def _memory(pid: int) -> tuple[int, int]:
    """Private and resident bytes; nothing once the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0, 0
    found = {key: int(rest.split()[0]) << 10 for key, _, rest in (line.partition(":") for line in lines) if rest.endswith(" kB")}
    return found.get("RssAnon", 0) + found.get("RssShmem", 0), found.get("VmRSS", 0)
