"""What a kit's ``run`` writes and a person carries back: did it verify, does it say the same, how fast is it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from skinedge.errors import UsageError
from skinedge.manifest import Sha256
from skinedge.measure.document import Document, read_json, validated
from skinedge.measure.result import Result
from skinedge.parity.golden import GoldenOutcome

KIND = "kit-result"
SCHEMA_VERSION = 1


class KitRecord(Document):
    """One run of a kit on a device.

    ``kit`` is the digest of the kit's list of files, ``bundle`` that of the bundle that ran, which is not the kit's own where
    plans were rebuilt on the device (``rebuilt``).  ``result`` is absent where the benchmark could not run; ``reason`` says why.
    """

    schema_version: int = SCHEMA_VERSION
    kind: Literal["kit-result"] = "kit-result"
    skinedge: str
    time: str  # UTC, ISO 8601
    kit: Sha256
    device: str
    machine: str
    system: str
    python: str
    bundle: Sha256
    rebuilt: bool = False
    verified_files: int = Field(ge=1)
    golden: tuple[GoldenOutcome, ...]
    result: Result | None = None
    reason: str | None = None

    @property
    def passed(self) -> bool:
        """Every golden case agrees."""
        return all(g.passed for g in self.golden)


def read_kit_record(path: Path) -> KitRecord:
    """Read and check what a kit brought back.

    Raises:
        UsageError: it is missing, too large, of another version, or not what a kit writes.
    """
    hint = "It is written on the device by the kit's run.sh."
    text, raw = read_json(path, "a kit's result", hint)
    version = raw.get("schema_version") if isinstance(raw, dict) and raw.get("kind") == KIND else None
    if version != SCHEMA_VERSION:
        raise UsageError(f"{path} is no result of a kit of schema version {SCHEMA_VERSION}.", hint=hint)
    return validated(KitRecord, path, text, "result", "run the kit again.")
