"""The embedding table: one tensor in a safetensors file, looked up on the host.

A token needs one row of it.  Inside a graph it would be held whole: 1.09 GB of a GPU's memory at 7B.  Mapped from
disk only the rows in use are ever read, in the checkpoint's own type, so no value changes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from skinedge.model.names import EMBEDDING
from skinedge.targets._contract import Applied
from skinedge.weights.cast import FLOATS
from skinedge.weights.safetensors import header
from skinedge.weights.source import Array, TensorSource, row_blocks
from skinedge.weights.stream import Payload, Progress, hashing_file, write_payloads

FILE = "embedding.safetensors"


def embedding_size(weights: TensorSource) -> int:
    """Bytes of the file."""
    spec = weights.spec(EMBEDDING)
    return len(header([spec])) + spec.nbytes


def embedding_applied(weights: TensorSource) -> dict[str, Applied]:
    """How the table is stored: as it is."""
    spec = weights.spec(EMBEDDING)
    kind = next(name for name, dtype in FLOATS.items() if dtype == spec.dtype)
    return {EMBEDDING: Applied(kind, spec.dtype.itemsize * 8.0, spec.size)}


def write_embedding(weights: TensorSource, folder: Path, progress: Progress, workers: int | None = None) -> dict[str, str]:
    """Write the table into ``folder``; returns its sha256 by file name."""
    spec = weights.spec(EMBEDDING)

    def part(rows: slice) -> Callable[[], Array]:
        return lambda: weights.read(EMBEDDING, rows)

    payload = Payload(EMBEDDING, spec.nbytes, [part(rows) for rows in row_blocks(spec)])
    start = header([spec])
    progress.begin(FILE, len(start) + spec.nbytes)
    with hashing_file(folder / FILE) as out:
        out.begin(start)
        write_payloads(out, [(len(start), payload)], progress, workers)
    return {FILE: out.hexdigest()}
