"""safetensors: a standard Hugging Face checkpoint with the LoRA merged in, for ``transformers`` and what reads its files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from skinedge.errors import TargetError, UsageError
from skinedge.targets._contract import Applied, ExportOptions, ExportPlan, OpenOptions, Written
from skinedge.weights.cast import FLOATS
from skinedge.weights.merge import AS_STORED, SCHEMES, lay_out, merge

if TYPE_CHECKING:
    from skinedge.manifest import Manifest
    from skinedge.runtime.session import Session
    from skinedge.weights.checkpoint import Checkpoint
    from skinedge.weights.stream import Progress

__all__ = ["DEFAULT_SCHEME", "EXTRA", "RUNS", "SCHEMES", "open_session", "plan", "write"]

DEFAULT_SCHEME = AS_STORED
EXTRA = ""
RUNS = False
_SHORT = {dtype: short for short, dtype in FLOATS.items()}

# The interpreter, and the blocks of one worker in flight: 254 MiB with two on layers of the 7B's size, rank 16
# (benchmarks/results/peft_merge.json); a larger rank takes a little more.
_MEMORY, _MEMORY_PER_WORKER = 100 << 20, 120 << 20


def plan(checkpoint: Checkpoint, options: ExportOptions) -> ExportPlan:
    """Names and sizes of the files, and the memory it takes.

    Raises:
        UsageError: an option that a checkpoint has not.
    """
    if options.vision or options.activations:
        raise UsageError(
            "a safetensors checkpoint has one scheme and no activations.", hint="Leave --vision-scheme and --activations out."
        )
    if options.overflow:
        raise UsageError("a safetensors checkpoint has no activations that could overflow.", hint="Leave --overflow out.")
    workers = options.workers or os.cpu_count() or 1
    return ExportPlan(lay_out(checkpoint, options.scheme).sizes, _MEMORY + workers * _MEMORY_PER_WORKER)


def write(checkpoint: Checkpoint, options: ExportOptions, folder: Path, progress: Progress) -> Written:
    """Write the shards, their index, and the small files of the checkpoint."""
    layout = lay_out(checkpoint, options.scheme)
    digests = merge(layout, folder, progress, options.workers)
    specs = [t.spec for tensors in layout.shards.values() for t in tensors]
    applied = {s.name: Applied(_SHORT[s.dtype], s.dtype.itemsize * 8.0, s.size) for s in specs}
    return Written(applied, digests, {"shards": len(layout.shards)})


def open_session(folder: Path, manifest: Manifest, options: OpenOptions) -> Session:  # noqa: ARG001  (the contract's signature)
    """Refuse: this bundle is weights only.

    Raises:
        TargetError: always.
    """
    raise TargetError(
        f"{folder} holds weights for transformers, and skinedge runs none of them itself.",
        hint="Export one that runs here: skinedge export --target onnx.",
    )
