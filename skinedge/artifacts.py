"""Read this first: the things skinedge makes, in the order it makes them.

::

    AdapterCheckpoint -> MergedWeights -> QuantizedWeights -> Bundle -> Measurement
                                                                    \\-> Transcript -> ParityReport

Each is a small frozen value with a path, a digest and its parent's digest, so that the chain from a
figure in a report back to the adapter that caused it never breaks; ``skinedge show`` prints it.
Merged and quantized weights are usually never written down: weights are a stream
(``skinedge.weights.source``), and their digest is that of the recipe and of what it was applied to.

The steps between them are functions of the same names as the commands: ``merge`` and ``export`` in
``skinedge.bundle``, ``run`` in ``skinedge.runtime.pipeline``, ``parity`` in ``skinedge.parity.compare``.  A
transcript holds what was said of a patient: it is a value (``skinedge.runtime.generate.Transcript``) and
becomes a file only when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skinedge.weights.checkpoint import checkpoint_digest, digest_of


@dataclass(frozen=True)
class Artifact:
    """Something made, where it is, what it is, and what it was made from."""

    path: Path
    digest: str
    parent: str | None


@dataclass(frozen=True)
class AdapterCheckpoint(Artifact):
    """A base model's folder with adapters, as training left them."""

    adapters: tuple[Path, ...] = ()

    @classmethod
    def find(cls, folder: Path, adapters: Sequence[Path] = ()) -> AdapterCheckpoint:
        """Digest a checkpoint folder and its adapters (reads every byte once)."""
        return cls(folder, checkpoint_digest(folder, adapters), None, tuple(adapters))


@dataclass(frozen=True)
class MergedWeights(Artifact):
    """A checkpoint with its LoRA merged; a stream, or a folder written by ``skinedge merge``."""

    @classmethod
    def of(cls, source: AdapterCheckpoint) -> MergedWeights:
        """The merge of ``source``; its digest fixes the arithmetic (docs/decisions/0004)."""
        return cls(source.path, digest_of({"step": "merge", "rule": 1, "parent": source.digest}), source.digest)


@dataclass(frozen=True)
class QuantizedWeights(Artifact):
    """Merged weights under a scheme; always a stream."""

    @classmethod
    def of(cls, source: MergedWeights, recipe: Mapping[str, str | int | None]) -> QuantizedWeights:
        """``source`` under ``recipe`` (scheme, activations, vision scheme)."""
        step = {"step": "quantize", "recipe": dict(recipe), "parent": source.digest}
        return cls(source.path, digest_of(step), source.digest)


@dataclass(frozen=True)
class Bundle(Artifact):
    """A self-describing folder that runs on a device; ``skinedge.json`` is its manifest."""

    target: str = ""


@dataclass(frozen=True)
class ParityReport(Artifact):
    """How far a bundle is from the PyTorch reference, stage by stage."""

    passed: bool = False
