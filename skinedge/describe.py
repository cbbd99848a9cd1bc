"""Bundles and plans in words, for people; ``--json`` has the same as data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skinedge.console import say, size, table

if TYPE_CHECKING:
    from skinedge.bundle import Preflight
    from skinedge.manifest import Manifest


def describe_preflight(out: Path, flight: Preflight) -> None:
    """What an export would write and need."""
    table(("file", "size"), [(name, size(n)) for name, n in flight.plan.files.items()])
    say(f"{out}: {size(flight.plan.nbytes)} in all and the manifest, {size(flight.disk_free)} free there.")
    memory = f"{size(flight.plan.memory)} beyond the mapped checkpoint, {size(flight.memory_free)} free"
    say(f"memory: up to {memory}. Nothing was written.")


def describe_manifest(folder: Path, manifest: Manifest) -> None:
    """What a bundle is and where it came from, back to the adapter checkpoint."""
    a = manifest.architecture
    say(f"{folder}: {manifest.target} bundle, {size(sum(f.nbytes for f in manifest.files))}, digest {manifest.digest[:16]}")
    say(
        f"  model    {a.text.num_layers} layers of {a.text.hidden_size}, vision {a.vision.depth} blocks of {a.vision.hidden_size}"
    )
    say(f"  scheme   {manifest.scheme.asked} asked, {manifest.scheme.bits_per_weight:.2f} bits per weight")
    for scheme, (tensors, weights) in sorted(_by_scheme(manifest).items()):
        say(f"           {scheme:8} {tensors:5} tensors, {weights:,} weights")
    say(f"  bias     {manifest.decoding.bias}")
    say(f"  licence  {manifest.licence}")
    for record in reversed(manifest.lineage):
        say(f"  from     {record.kind:19} {record.digest[:16]}  {record.note}".rstrip())


def _by_scheme(manifest: Manifest) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for applied in manifest.applied.values():
        tensors, weights = counts.get(applied.scheme, (0, 0))
        counts[applied.scheme] = (tensors + 1, weights + applied.weights)
    return counts
