"""Files out of memory, so that a cold start is cold."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path

_LEFT = 0.02  # share of pages that may stay: the kernel keeps some that are in use elsewhere


def evict(folder: Path) -> bool:
    """Have the system forget what it has cached of a folder's files; whether it did (Linux only).

    A virtual machine's host may still hold them.
    """
    if not sys.platform.startswith("linux"):
        return False
    total = resident = 0
    for path in (p for p in folder.rglob("*") if p.is_file() and p.stat().st_size):
        with path.open("rb") as f:
            os.fdatasync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            pages, cached = _pages(f.fileno(), path.stat().st_size)
        total, resident = total + pages, resident + cached
    return total > 0 and resident <= _LEFT * total


def _pages(file: int, nbytes: int) -> tuple[int, int]:
    """Pages of a file, and how many of them are in memory (mincore(2))."""
    pages = -(-nbytes // mmap.PAGESIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    address = libc.mmap(None, nbytes, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
    if address == ctypes.c_void_p(-1).value:
        return pages, pages
    held = (ctypes.c_ubyte * pages)()
    failed = libc.mincore(address, nbytes, held)
    libc.munmap(address, nbytes)
    return pages, pages if failed else sum(b & 1 for b in held)
