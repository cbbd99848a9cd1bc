"""Bundles and plans in words, for people; ``--json`` has the same as data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skinedge.console import say, size, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skinedge.bundle import Preflight
    from skinedge.calibration.budget import BudgetPlan
    from skinedge.calibration.overflow_report import Reach
    from skinedge.calibration.plan import CalibrationPlan
    from skinedge.calibration.planning import Sizes
    from skinedge.manifest import Manifest
    from skinedge.parity.certificate import Certificate


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
    for name, why in manifest.details.get("wide", {}).items():
        say(f"  wide     {name} in {why['kind']}: {why['why']}")
    say(f"  bias     {manifest.decoding.bias}")
    say(f"  licence  {manifest.licence}")
    for record in reversed(manifest.lineage):
        say(f"  from     {record.kind:19} {record.digest[:16]}  {record.note}".rstrip())


def describe_certificate(certificate: Certificate | None) -> None:
    """What is known of a bundle's parity, on one line."""
    missing = "unverified: nobody has compared it with its reference (skinedge parity BUNDLE)"
    say(f"  parity   {certificate.summary if certificate else missing}")


def describe_calibration_plan(out: Path, records: int, plan: CalibrationPlan) -> None:
    """What a calibration would read, write and need."""
    say(f"{records} records, {plan.images} photographs, {plan.tokens} tokens, {len(plan.shapes)} layers.")
    say(f"{out}: {size(plan.nbytes)}; memory: up to {size(plan.memory)} beyond the mapped checkpoint. Nothing was written.")


def describe_budget_plan(plan: BudgetPlan) -> None:
    """The scheme of every matrix, and what it adds up to."""
    table(
        ("matrices", "scheme", "bytes", "damage (KL, nats a token)", "answers changed"),
        [(e.name, e.scheme, size(e.nbytes), f"{e.damage:.2e}", f"{e.answer:.1%}") for e in plan.entries],
    )
    total = sum(e.damage for e in plan.entries)
    say(f"All weights: {size(plan.nbytes)} of {size(plan.budget)}; the damages add up to {total:.2e}.")
    say("Answers changed: tokens of the answers that become others when this one alone is in its fewest bits.")


def describe_sizes(sizes: Sizes, schemes: Sequence[str], budget: int) -> None:
    """What a budget can be spent on."""
    say(f"{len(sizes.groups)} matrices, each in one of {', '.join(schemes)}; {size(sizes.fixed)} are not chosen.")
    say(f"All weights take {size(sizes.smallest)} at least and {size(sizes.largest)} at most, and the budget is {size(budget)}.")
    say("Nothing was measured or written.")


def describe_reaches(reaches: Sequence[Reach], activations: str, margin: float, top: int) -> None:
    """The places that leave the range of a float type, and those that come closest."""
    ordered = sorted(reaches, key=lambda r: r.headroom(activations))
    over = [r for r in ordered if r.headroom(activations) < margin]
    rows = [
        (
            r.layer,
            r.place,
            f"{r.peak:.4g}",
            f"{r.headroom(activations):.3g}x",
            "must stay in higher precision" if r in over else "",
            r.picture,
        )
        for r in ordered[: max(top, len(over))]
    ]
    table(("layer", "place", "largest value", f"headroom in {activations}", "", "seen on"), rows)
    layers = len({r.layer for r in over})
    say(f"{layers or 'No'} layers have a headroom below {margin:g} in {activations}.")


def _by_scheme(manifest: Manifest) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for applied in manifest.applied.values():
        tensors, weights = counts.get(applied.scheme, (0, 0))
        counts[applied.scheme] = (tensors + 1, weights + applied.weights)
    return counts
