"""A bundle's own golden cases: kept beside it where it was compared, asked again after anything under it was updated.

They lie in the bundle's folder ``golden/``: ``golden.json`` and the drawn pictures.  The file names the bundle's digest, the
sha256 of every picture, the machine and its versions, and its own digest; no photograph is in it.  Nothing here needs PyTorch.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skinedge.errors import BundleError, UsageError
from skinedge.manifest import Manifest, Sha256
from skinedge.measure.document import Document, sealed, unsealed
from skinedge.measure.machine import describe_here
from skinedge.measure.result import MachineRecord
from skinedge.parity.golden import GOLDEN_FILE, GoldenCases, GoldenOutcome, make_cases, repeat
from skinedge.runtime.pipeline import Pipeline, open_pipeline
from skinedge.staging import staged
from skinedge.weights.checkpoint import file_digest

if TYPE_CHECKING:
    from skinedge.console import Json

FOLDER = "golden"
KIND: Literal["golden cases"] = "golden cases"
SCHEMA_VERSION = 1
_AGAIN = "Make them again: skinedge parity BUNDLE --reference MODEL"
# What an update moves; clocks and temperatures move by themselves.
_WATCHED = ("system", "processor", "gpu", "l4t", "jetpack")


class KeptCases(Document):
    """``golden.json`` in a bundle: the cases, of which bundle they are, and on what they were asked."""

    kind: Literal["golden cases"] = KIND
    schema_version: int = SCHEMA_VERSION
    bundle: Sha256
    machine: MachineRecord
    pictures: dict[str, Sha256]
    cases: GoldenCases


@dataclass(frozen=True)
class Recheck:
    """What was found: every case, and what is another than it was (``"onnxruntime 1.24.1 -> 1.25.0"``)."""

    outcomes: tuple[GoldenOutcome, ...]
    moved: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Every case agrees."""
        return all(o.passed for o in self.outcomes)

    def lines(self) -> Iterator[str]:
        """For people: what moved, then every case."""
        yield f"since then: {', '.join(self.moved)}" if self.moved else "nothing under it has moved since"
        for o in self.outcomes:
            off = "" if o.kl is None else f", {o.kl:.2g} nats off at most ({o.tolerance:g} allowed)"
            verdict = "as it was" if o.passed else f"ANOTHER: {o.reason}"
            yield f"golden case {o.name}: {o.same_tokens} of {o.tokens} tokens the same{off}: {verdict}"

    def to_json(self) -> Json:
        """One JSON object."""
        return {"passed": self.passed, "moved": list(self.moved), "golden": [o.model_dump(mode="json") for o in self.outcomes]}


def keep_golden(bundle: Path, pipeline: Pipeline, side: str | None = None) -> KeptCases:
    """Ask the golden cases of an opened bundle and keep them in its folder; what was kept before is replaced.

    Args:
        bundle: its folder.
        pipeline: the same, opened.
        side: what it was opened as, if not as its own target.

    Raises:
        OutputError: the folder cannot be written.
    """
    fresh = bundle.parent / f".{bundle.name}.{FOLDER}"  # beside it, so that nothing half-made is ever in it
    with staged(fresh) as partial:
        cases = make_cases(pipeline, partial, side or pipeline.manifest.target)
        pictures = {p.name: file_digest(p) for p in sorted(partial.glob("*.png"))}
        kept = KeptCases(bundle=pipeline.manifest.digest, machine=describe_here(), pictures=pictures, cases=cases)
        (partial / GOLDEN_FILE).write_text(sealed(kept), encoding="utf-8", newline="\n")
    if (bundle / FOLDER).exists():
        shutil.rmtree(bundle / FOLDER)
    fresh.rename(bundle / FOLDER)
    return kept


def verify_golden(bundle: Path, manifest: Manifest) -> KeptCases | None:
    """The golden cases in a bundle's folder, every byte checked; ``None`` where there are none.

    Raises:
        BundleError: they are damaged, incomplete, or another bundle's.
    """
    folder = bundle / FOLDER
    if not folder.is_dir():
        return None
    try:
        kept, _ = unsealed(KeptCases, folder / GOLDEN_FILE, "golden cases", _AGAIN)
    except UsageError as e:  # nobody typed its name: the bundle is at fault
        raise BundleError(e.message, hint=e.hint) from e
    if kept.bundle != manifest.digest:
        raise BundleError(f"{folder / GOLDEN_FILE} is of another bundle, {kept.bundle[:16]}.", hint=_AGAIN)
    there = {p.name: file_digest(p) for p in folder.iterdir() if p.name != GOLDEN_FILE}
    for name in sorted({*there, *kept.pictures}):
        if there.get(name) != kept.pictures.get(name):
            raise BundleError(f"{bundle}: '{FOLDER}/{name}' is not as it was written.", hint=_AGAIN)
    return kept


def recheck(bundle: Path, manifest: Manifest, *, threads: int | None = None) -> Recheck:
    """Ask the golden cases of a bundle again.

    Args:
        bundle: what ``skinedge export`` wrote and ``skinedge parity`` compared.
        manifest: what ``skinedge.bundle.verify`` says of it: every byte of a bundle is read once.
        threads: CPU threads.

    Raises:
        BundleError: it has no golden cases, or they are damaged.
        TargetError: it cannot run on this machine.
    """
    kept = verify_golden(bundle, manifest)
    if kept is None:
        raise BundleError(
            f"{bundle} holds no golden cases: it is unverified.",
            hint=f"Where its checkpoint is: skinedge parity {bundle} --reference MODEL",
        )
    side = None if kept.cases.side == manifest.target else kept.cases.side
    with open_pipeline(bundle, side=side, threads=threads) as pipeline:
        outcomes = tuple(repeat(pipeline, bundle / FOLDER, kept.cases))
    return Recheck(outcomes, tuple(_moved(kept.machine, describe_here())))


def _moved(then: MachineRecord, now: MachineRecord) -> Iterator[str]:
    for name in _WATCHED:
        if getattr(then, name) != getattr(now, name):
            yield f"{name} {getattr(then, name) or 'none'} -> {getattr(now, name) or 'none'}"
    for name in sorted({*then.versions, *now.versions}):
        if then.versions.get(name) != now.versions.get(name):
            yield f"{name} {then.versions.get(name, 'none')} -> {now.versions.get(name, 'none')}"
