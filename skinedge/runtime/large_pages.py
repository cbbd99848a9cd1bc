"""A model's weights on large pages.

A decoder reads all weights for every token.  On pages of 4 KiB the processor translates an address every 64 cache lines and
its prefetching stops there; on pages of 2 MiB neither is felt.  Most Linux systems give large pages only to memory that
asks (``/sys/kernel/mm/transparent_hugepage/enabled``: ``madvise``), and ONNX Runtime does not ask.  So its memory is moved
when it has been filled: ``MADV_COLLAPSE`` of madvise(2), Linux 6.1.  Measured in ``docs/decisions/0018-decode-speed.md``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAPS = Path("/proc/self/maps")
SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
MADV_COLLAPSE = 25
LARGEST = 32 << 20  # with 64 KiB base pages a large one has 512 MiB: too coarse for weights
# Moved at a time: where the system has no large page left, the call gives up.
STEP = 64 << 20

Span = tuple[int, int]


@contextmanager
def large_pages() -> Iterator[None]:
    """What the process allocates meanwhile lies on large pages afterwards, as far as the system has them.

    Where there are none (another system, an older kernel, ``never`` in its settings, fragmented memory) nothing happens.
    """
    page = _page_size()
    before = _allocated() if page else []
    yield
    if page:
        for start, stop in _without(_allocated(), before):
            _collapse(-(-start // page) * page, stop // page * page)


def _page_size() -> int:
    """Bytes of a large page; 0 if there is none to be had."""
    try:
        size = int((SETTINGS / "hpage_pmd_size").read_text(encoding="ascii"))
        refused = "[never]" in (SETTINGS / "enabled").read_text(encoding="ascii")
    except (OSError, ValueError):
        return 0
    return 0 if refused or size > LARGEST else size


def _allocated() -> list[Span]:
    """Private memory that no file lies behind, ascending."""
    spans = []
    for line in MAPS.read_text(encoding="utf-8").splitlines():
        addresses, access, _, _, _, *name = line.split(maxsplit=5)
        if access == "rw-p" and (not name or name[0] == "[heap]"):
            start, _, stop = addresses.partition("-")
            spans.append((int(start, 16), int(stop, 16)))
    return spans


def _without(spans: list[Span], taken: list[Span]) -> Iterator[Span]:
    """The parts of ``spans`` outside of ``taken``; both ascend."""
    for start, stop in spans:
        for first, last in taken:
            if last > start and first < stop:
                if first > start:
                    yield start, first
                start = max(start, last)
        if start < stop:
            yield start, stop


def _collapse(start: int, stop: int) -> None:
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for at in range(start, stop, STEP):
        # Advice: a refusal leaves the memory as it was.
        madvise(at, min(STEP, stop - at), MADV_COLLAPSE)
