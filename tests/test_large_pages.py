"""Large pages: the process's own new memory, nothing else, and no harm where there are none."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from skinedge.runtime import large_pages as pages

PAGE = 2 << 20


def large_bytes(address: int) -> int:
    """Bytes on large pages in the mapping that holds ``address``."""
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            start, _, stop = first.partition("-")
            inside = int(start, 16) <= address < int(stop, 16)
        elif inside and first == "AnonHugePages:":
            return int(line.split()[1]) << 10
    raise AssertionError("no such mapping")


def filled() -> np.ndarray:
    """16 MiB on small pages."""
    memory = mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(memory, np.uint8)
    array[:] = np.arange(256, dtype=np.uint8).repeat(len(array) // 256)
    return array


@pytest.mark.skipif(not pages._page_size(), reason="this system has no large pages")
def test_new_memory_is_moved_and_keeps_its_content() -> None:
    with pages.large_pages():
        new = filled()
    if not (moved := large_bytes(new.ctypes.data)):
        pytest.skip("no large page is free, or the kernel is older than 6.1")
    assert moved >= PAGE
    assert (new == np.arange(256, dtype=np.uint8).repeat(len(new) // 256)).all()


def test_spans_without_those_taken() -> None:
    spans = [(0, 10), (20, 30), (40, 50)]
    assert list(pages._without(spans, [])) == spans
    assert list(pages._without(spans, [(0, 10), (22, 25), (38, 45)])) == [(20, 22), (25, 30), (45, 50)]
    assert list(pages._without(spans, [(0, 100)])) == []


def test_own_memory_is_found() -> None:
    array = filled()
    assert any(start <= array.ctypes.data < stop for start, stop in pages._allocated())


@pytest.mark.parametrize(
    ("enabled", "size", "expected"),
    [
        ("always [madvise] never", "2097152", 2 << 20),
        ("[always] madvise never", "2097152", 2 << 20),
        ("always madvise [never]", "2097152", 0),
        ("always [madvise] never", "536870912", 0),
        ("always [madvise] never", "", 0),
        (None, "2097152", 0),
    ],
)
def test_what_the_system_allows(
    enabled: str | None, size: str, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "hpage_pmd_size").write_text(size, encoding="ascii")
    if enabled:
        (tmp_path / "enabled").write_text(enabled, encoding="ascii")
    monkeypatch.setattr(pages, "SETTINGS", tmp_path)
    assert pages._page_size() == expected


def test_without_large_pages_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pages, "SETTINGS", tmp_path)
    monkeypatch.setattr(pages, "MAPS", tmp_path / "absent")
    with pages.large_pages():
        assert filled()[1] == 0
