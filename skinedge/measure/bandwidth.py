"""How fast this machine reads its memory: the ceiling of decoding, where every token reads all weights once.

``probe`` lets as many threads as decoding uses read a block far larger than any cache, and takes the best of several
passes: other work only ever makes a pass slower.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

BLOCK = 1 << 30  # far above the largest last-level cache (384 MiB on Epyc)
PASSES = 5


def probe(threads: int, *, nbytes: int = BLOCK, passes: int = PASSES) -> float:
    """Bytes a second that so many threads read from memory together, the best of ``passes``.

    Args:
        threads: at least 1.
        nbytes: size of the block; a quarter of the free memory at most is taken.

    Raises:
        ValueError: fewer than one thread or pass.
    """
    import numpy as np
    import psutil

    if threads < 1 or passes < 1:
        raise ValueError("threads and passes are at least 1")
    each = max(1 << 20, min(nbytes, psutil.virtual_memory().available // 4) // threads) // 8
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        # every thread fills its own block, so that its pages are near it
        blocks = list(pool.map(lambda _: np.ones(each, np.int64), range(threads)))
        for _ in range(passes):
            begin = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, blocks))
            best = max(best, sum(b.nbytes for b in blocks) / (time.perf_counter() - begin))
    return best
