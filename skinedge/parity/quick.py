"""The quick form of parity, which follows every export: a few drawn pictures, enough to see a fault and too few for a verdict.

A fault of any stage shows on six pictures; whether the answers are as good needs hundreds (``skinedge parity --certify``), and
the certificate says so by itself.  Where the reference cannot be opened the bundle stays unverified, and the reason is told.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import load_target
from skinedge.console import size
from skinedge.manifest import Manifest
from skinedge.parity.certificate import Certificate
from skinedge.parity.certify import certify, drawn_pictures
from skinedge.weights.shards import shard_paths

PICTURES, TOKENS = 6, 160
_NEEDED = ("torch", "transformers", "peft", "accelerate", "scipy")


def quick_form(
    bundle: Path, manifest: Manifest, source: AdapterCheckpoint, *, threads: int | None = None, quiet: bool = False
) -> Certificate | str:
    """Compare a fresh bundle with PyTorch, or say why it stays unverified.

    Raises:
        SkinedgeError: one of the two cannot be opened or run.
    """
    if not load_target(manifest.target).RUNS:
        return f"skinedge does not run {manifest.target} bundles"
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        return f"{absent[0]} is not installed here (pip install 'skinedge[train]')"
    needed, free = _memory(manifest, source), _free_memory()
    if needed > free:
        return f"PyTorch and the bundle together take about {size(needed)} of memory, and {size(free)} are free"
    side = None if manifest.target != "trt" or _has_gpu() else "onnx"
    with tempfile.TemporaryDirectory(prefix="skinedge-") as scratch:
        pictures = drawn_pictures(PICTURES, Path(scratch) / "pictures")
        return certify(
            bundle, source, pictures, Path(scratch) / "rows", side=side, threads=threads, limit_tokens=TOKENS, quiet=quiet
        )


def _memory(manifest: Manifest, source: AdapterCheckpoint) -> int:
    """The reference in 32 bits (its weights are most often stored in 16) with the shards it is read from, and the bundle."""
    stored: int = sum(path.stat().st_size for path in shard_paths(source.path))
    return 3 * stored + sum(f.nbytes for f in manifest.files)


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _has_gpu() -> bool:
    from skinedge.measure.telemetry_nvml import nvml_source

    source = nvml_source()
    if source is not None:
        source.close()
    return source is not None
