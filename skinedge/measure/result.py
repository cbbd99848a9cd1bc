"""A measurement as a document: what ``skinedge bench`` writes, a device kit carries back, and ``skinedge report`` reads.

It is checked as data from outside.  Times are milliseconds where a name ends in ``_ms`` and seconds where it ends in ``_s``,
energies joules, memory bytes; every statistic can be recomputed from the raw samples, which are kept.  Definitions:
``ttft_ms = preprocess_ms + image_encode_ms + prefill_ms + sample_ms``; ``tpot_ms = (end - first token) / (n - 1)`` for
``n`` output tokens; ``e2e_ms`` from the photograph's file to the last token.

A figure is ``measured`` or ``estimated``; the two are never mixed without saying so.  A run that was disturbed is
``invalid`` and one that could not be made ``skipped``, each with its reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from skinedge.errors import UsageError
from skinedge.manifest import DecodingRecord, LineageRecord, Sha256
from skinedge.measure.document import Document, Record, read_json, validated

SCHEMA_VERSION = 1

Status = Literal["measured", "estimated", "invalid", "skipped"]
Mode = Literal["fixed", "natural"]  # end of text ignored, for speed; or obeyed, for end to end


class PowerMode(Record):
    """A Jetson's power mode; the ids of different boards mean different things."""

    name: str
    id: int | None = None


class MachineRecord(Record):
    """What the figures were measured on; whatever is unknown is ``None`` or left out, never guessed.

    ``device`` is a name of ``skinedge devices`` if it is one of them, ``model`` what the machine calls itself;
    ``clocks_mhz`` and ``temperatures_c`` are those at the start.
    """

    model: str
    device: str | None = None
    processor: str
    cores: int = Field(ge=1)
    memory_bytes: int = Field(ge=0)
    system: str
    gpu: str | None = None
    l4t: str | None = None
    jetpack: str | None = None
    power_mode: PowerMode | None = None
    power_source: Literal["mains", "battery"] | None = None
    governor: str | None = None
    clocks_mhz: dict[str, float] = Field(default_factory=dict)
    temperatures_c: dict[str, float] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)  # driver and libraries


class BundleRecord(Record):
    """The artefact: ``digest`` of its manifest, bytes of all its files, recipe and lineage."""

    digest: Sha256
    nbytes: int = Field(ge=0)
    target: str
    scheme: str
    activations: str | None = None
    vision: str | None = None
    bits_per_weight: float = Field(gt=0)
    calibration: str | None = None  # digest of the calibration set
    lineage: tuple[LineageRecord, ...]


class CaseRecord(Record):
    """One row of a suite: what was asked.  ``images`` are sha256 of the photographs, ``prompt`` that of the rendered text."""

    name: str
    mode: Mode
    images: tuple[Sha256, ...]
    image_pixels: tuple[tuple[int, int], ...]  # width, height after the resize rule
    prompt: Sha256
    prompt_tokens: int = Field(ge=1)  # all of them, those of images included
    image_tokens: int = Field(ge=0)
    max_new_tokens: int = Field(ge=1)
    decoding: DecodingRecord
    context: int = Field(ge=1)


class RunSample(Record):
    """One run of a case.  ``step_ms`` are the decode steps, one fewer than ``output_tokens``."""

    preprocess_ms: float = Field(ge=0)
    image_encode_ms: float = Field(ge=0)
    prefill_ms: float = Field(ge=0)
    sample_ms: float = Field(ge=0)
    ttft_ms: float = Field(ge=0)
    e2e_ms: float = Field(ge=0)
    output_tokens: int = Field(ge=1)
    step_ms: tuple[float, ...]

    @property
    def tpot_ms(self) -> float | None:
        """Milliseconds per output token after the first; ``None`` for a single one."""
        return (self.e2e_ms - self.ttft_ms) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def decode_tok_s(self) -> float | None:
        """Tokens a second after the first."""
        tpot = self.tpot_ms
        return 1e3 / tpot if tpot else None


class EnergyRecord(Record):
    """Joules of one phase over all runs of a case: as drawn, and above idle."""

    gross_j: float = Field(ge=0)
    net_j: float
    tokens: int = Field(ge=1)  # read (prefill) or written (decode)
    seconds: float = Field(gt=0)
    source: str  # nvml, ina3221, tegrastats, rapl


class CaseResult(Record):
    """The runs of one case; ``reason`` says why it is invalid or skipped."""

    case: CaseRecord
    status: Status
    reason: str | None = None
    warmups: int = Field(default=0, ge=0)
    samples: tuple[RunSample, ...] = ()
    prefill_energy: EnergyRecord | None = None
    decode_energy: EnergyRecord | None = None

    @model_validator(mode="after")
    def _consistent(self) -> CaseResult:
        if self.status == "measured" and not self.samples:
            raise ValueError("a measured case has samples")
        if self.status in ("invalid", "skipped") and not self.reason:
            raise ValueError(f"an {self.status} case says why")
        return self


class Result(Document):
    """One session of measuring a bundle on a machine."""

    schema_version: int = SCHEMA_VERSION
    skinedge: str
    time: str  # UTC, ISO 8601
    status: Status
    reason: str | None = None
    machine: MachineRecord
    bundle: BundleRecord
    suite: str
    threads: int | None = None
    flags: dict[str, str] = Field(default_factory=dict)  # of the backend
    load_cold_s: float | None = None
    load_warm_s: float | None = None
    peak_resident_bytes: int | None = None
    peak_private_bytes: int | None = None
    peak_device_bytes: int | None = None  # more than at the start; where a GPU shares the memory of the system, of all of it
    bandwidth_gb_s: float | None = None  # measured by the probe on this machine
    weight_bytes_per_token: int | None = None
    cache_bytes_per_position: int | None = None  # of keys and values; a decode step reads them for every position held
    throttling: tuple[str, ...] = ()
    cases: tuple[CaseResult, ...]


def read_result(path: Path) -> Result:
    """Read and check a result file.

    Raises:
        UsageError: it is missing, too large, of another version, or no result of skinedge.
    """
    make = "Make one: skinedge bench BUNDLE --out result.json"
    text, raw = read_json(path, "a result", make)
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: its schema version is {version!r} and this skinedge reads {SCHEMA_VERSION}.",
            hint="Give a file that skinedge bench wrote, or use the skinedge that wrote it.",
        )
    return validated(Result, path, text, "result", "measure again.")
