"""What every file in ``skinedge/targets`` offers; the contract tests run over all of them.

A target is a module named after itself with four constants and three functions::

    SCHEMES: tuple[str, ...]        # weight schemes it can write
    DEFAULT_SCHEME: str
    EXTRA: str                      # the pip extra that brings what it needs, "" for none
    RUNS: bool                      # whether a bundle can be opened as a session at all

    def plan(checkpoint, options) -> ExportPlan
    def write(checkpoint, options, folder, progress) -> Written
    def open_session(folder, manifest, options) -> Session

``write`` puts its files into an empty ``folder`` and nothing else; the manifest, the tokenizer and the
final rename are the bundle's business (``skinedge.bundle``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from skinedge.calibration.overflow_report import OverflowReport
    from skinedge.calibration.statistics import Calibration
    from skinedge.manifest import Manifest
    from skinedge.runtime.session import Session
    from skinedge.weights.checkpoint import Checkpoint
    from skinedge.weights.stream import Progress


@dataclass(frozen=True)
class ExportOptions:
    """What is asked of a target.

    ``activations`` is the float type between the quantized weights (``f32``, ``f16`` or ``bf16``;
    ``None`` lets the target choose); ``vision`` the scheme of the vision tower (``None``: the target's
    choice); ``context`` the number of positions a compiled plan must hold; ``calibration`` what the layers
    were given on photographs; ``rounding`` how weights are rounded to few bits (``nearest``, ``scale``,
    ``gptq``; ``None``: the best that the calibration allows); ``mix`` a scheme for single tensors, by canonical
    name, instead of ``scheme``; ``overflow`` how large the values inside the model become: what leaves the range of the
    activations is computed in a wider type, and ``Written.details["wide"]`` says what and why.
    """

    scheme: str
    activations: str | None = None
    vision: str | None = None
    context: int = 4096
    workers: int | None = None
    calibration: Calibration | None = None
    rounding: str | None = None
    mix: Mapping[str, str] | None = None
    overflow: OverflowReport | None = None


@dataclass(frozen=True)
class ExportPlan:
    """What an export will write and need, known before a weight is read."""

    files: Mapping[str, int]  # relative path -> bytes
    memory: int  # peak resident bytes beyond the mapped checkpoint, an upper estimate

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(self.files.values())


@dataclass(frozen=True)
class Applied:
    """How one tensor of ``weights`` elements was stored; ``bits`` per weight counts scales and padding too."""

    scheme: str
    bits: float
    weights: int


@dataclass(frozen=True)
class Written:
    """What an export wrote.

    ``applied`` names tensors as they were stored (stacked, split or as the checkpoint has them);
    ``digests`` maps each file to its sha256 where the writer knows it already; ``details`` is the
    target's own page of the manifest (inputs, outputs, profiles, library versions).
    """

    applied: Mapping[str, Applied]
    digests: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenOptions:
    """How a session is opened: CPU threads (``None``: all physical cores) and context length."""

    threads: int | None = None
    context: int | None = None
    device: str = "auto"


class Target(Protocol):
    """A target module, as seen from outside."""

    SCHEMES: tuple[str, ...]
    DEFAULT_SCHEME: str
    EXTRA: str
    RUNS: bool

    def plan(self, checkpoint: Checkpoint, options: ExportOptions) -> ExportPlan:
        """Names and sizes of the files, and the memory it takes."""
        ...

    def write(self, checkpoint: Checkpoint, options: ExportOptions, folder: Path, progress: Progress) -> Written:
        """Write the files into ``folder``."""
        ...

    def open_session(self, folder: Path, manifest: Manifest, options: OpenOptions) -> Session:
        """Open what ``write`` wrote."""
        ...
