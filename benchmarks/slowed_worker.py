"""A worker of ``skinedge bench`` whose steps take longer by a share: ``python -m benchmarks.slowed_worker 0.05``.

The planted slowdown of ``benchmarks.bench_selfcheck``, in a module of its own so that a worker imports nothing else.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from skinedge.measure.worker import serve

if TYPE_CHECKING:
    from skinedge.runtime.session import Float32, Session


class Slowed:
    """A session that stays busy after every step for a share of what the step took, as a slower kernel would."""

    def __init__(self, inner: Session, share: float) -> None:
        self._inner, self._share = inner, share
        self.vocab_size, self.context_length, self.on_gpu = inner.vocab_size, inner.context_length, inner.on_gpu
        self.encode_image, self.prefill, self.close = inner.encode_image, inner.prefill, inner.close

    def step(self, token: int) -> Float32:
        begin = time.perf_counter()
        logits = self._inner.step(token)
        now = time.perf_counter()
        until = now + self._share * (now - begin)
        while time.perf_counter() < until:
            pass
        return logits


if __name__ == "__main__":
    sys.exit(serve(lambda session: Slowed(session, float(sys.argv[1]))))
