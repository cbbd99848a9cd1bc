"""How fast this machine reads its memory: the ceiling of decoding, where every token reads all weights once.

``probe`` lets as many threads as decoding uses read a block far larger than any cache, and takes the best of several
passes: other work only ever makes a pass slower.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from skinedge.errors import MissingDependencyError, TargetError

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


def probe_gpu(runtime: Any = None, *, nbytes: int = BLOCK, passes: int = PASSES) -> float:
    """Bytes a second that a GPU reads and writes when it copies a block inside its memory, the best of ``passes``.

    Args:
        runtime: ``cuda.bindings.runtime``, or what stands in for it.
        nbytes: size of the block, twice in the GPU's memory.
        passes: copies.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
        TargetError: CUDA refuses.
    """
    cuda = runtime or _cuda_runtime()
    kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
    blocks: list[int] = []
    best = 0.0
    try:
        for _ in range(2):
            blocks.append(_checked(cuda.cudaMalloc(nbytes)))
        for _ in range(passes + 1):  # the first wakes it up
            begin = time.perf_counter()
            _checked(cuda.cudaMemcpy(blocks[0], blocks[1], nbytes, kind))
            _checked(cuda.cudaDeviceSynchronize())
            best = max(best, 2 * nbytes / (time.perf_counter() - begin))
    finally:
        for block in blocks:
            cuda.cudaFree(block)
    return best


def _cuda_runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as e:
        raise MissingDependencyError(
            "measuring a GPU's memory needs cuda-bindings.", hint="Install it: pip install 'skinedge[trt]'."
        ) from e
    return runtime


def _checked(answer: tuple[Any, ...]) -> Any:
    """The result of a CUDA call: its first value says whether it worked (0)."""
    if int(answer[0]) != 0:
        raise TargetError(f"CUDA refuses to copy inside the GPU's memory (error {int(answer[0])}).")
    return answer[1] if len(answer) > 1 else None
