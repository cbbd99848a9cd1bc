"""A forecast as a document: what ``skinedge plan`` writes and ``skinedge report`` shows beside measurements, never among them.

Every figure in it is computed from data sheets, sizes and a few calibrated constants, which the document repeats; nothing in
it was measured, and every row says so (``status: estimated``).  Names and units are those of ``skinedge.measure.result``:
``ttft_ms = preprocess_ms + image_encode_ms + prefill_ms + sample_ms`` and
``e2e_ms = ttft_ms + tpot_ms * (output_tokens - 1)``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from skinedge.errors import UsageError
from skinedge.measure.document import Document, Record, read_json, validated

SCHEMA_VERSION = 1

Resource = Literal["memory bandwidth", "compute", "overhead"]
Verdict = Literal["fits", "too large", "does not run"]


class PlannedModel(Record):
    """What the forecast is of: a checkpoint folder (``source: weights``), or its ``config.json`` or a named shape alone."""

    name: str
    source: Literal["weights", "config", "shape"]
    text_parameters: int = Field(ge=1)  # embedding and head included
    vision_parameters: int = Field(ge=1)
    adapter_parameters: int = Field(ge=0)  # of the side branch; a LoRA is merged


class Workload(Record):
    """One question about one photograph of so many megapixels, which becomes so many image tokens."""

    megapixels: float = Field(ge=0)
    image_tokens: int = Field(ge=0)
    text_tokens: int = Field(ge=1)
    output_tokens: int = Field(ge=1)
    context: int = Field(ge=1)  # positions that the cache holds

    @property
    def prompt_tokens(self) -> int:
        """What the language model reads before it answers."""
        return self.image_tokens + self.text_tokens


class Constant(Record):
    """A calibrated constant: what it stands for and where its value comes from."""

    value: float
    unit: str
    why: str


class Accuracy(Record):
    """How far the model of time is from published measurements: each row forecast by constants that never saw it."""

    median_error: float = Field(ge=0)  # |forecast / published - 1|
    worst_error: float = Field(ge=0)
    rows: int = Field(ge=1)


class MemoryParts(Record):
    """Bytes of the device's memory at once; ``available`` is what the system leaves."""

    weights: int = Field(ge=0)  # decoder, head, vision tower, adapter, and the embedding where the target keeps it there
    cache: int = Field(ge=0)
    vision: int = Field(ge=0)  # activations of the vision tower at its largest
    prefill: int = Field(ge=0)  # activations of the prompt
    runtime: int = Field(ge=0)  # libraries, CUDA context, buffers
    available: int = Field(ge=0)

    @property
    def needed(self) -> int:
        """All parts; the vision tower's and the prompt's activations do not live at the same time."""
        return self.weights + self.cache + max(self.vision, self.prefill) + self.runtime


class TimeParts(Record):
    """Time to the first token and after it, and what each stage waits for."""

    preprocess_ms: float = Field(ge=0)
    image_encode_ms: float = Field(ge=0)
    prefill_ms: float = Field(ge=0)
    sample_ms: float = Field(ge=0)
    ttft_ms: float = Field(ge=0)
    tpot_ms: float = Field(gt=0)
    decode_tok_s: float = Field(gt=0)
    ceiling_tok_s: float = Field(gt=0)  # data-sheet bandwidth over bytes per token: nothing can be faster
    e2e_ms: float = Field(ge=0)
    image_encode_bound: Resource
    prefill_bound: Resource
    decode_bound: Resource


class ForecastRow(Record):
    """One device with one target and scheme.  ``reason`` says why it does not fit or run; ``time`` is there only if it does."""

    status: Literal["estimated"] = "estimated"
    device: str
    title: str
    target: str
    scheme: str
    activations: str
    verdict: Verdict
    reason: str | None = None
    bytes_per_token: int = Field(ge=1)  # weights that one decode step reads
    memory: MemoryParts
    time: TimeParts | None = None
    bound: Resource | Literal["memory size"] | None = None  # what most of the answer's time waits for, or why there is none

    @model_validator(mode="after")
    def _consistent(self) -> ForecastRow:
        if (self.time is None) == (self.verdict == "fits"):
            raise ValueError(f"a row that {self.verdict} has {'no ' if self.time is None else ''}times")
        if (self.reason is None) != (self.verdict == "fits"):
            raise ValueError("a row says why it does not fit or run, and only then")
        return self


class Forecast(Document):
    """All rows of one question, fastest answer first and then those that do not fit or run."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["forecast"] = "forecast"
    status: Literal["estimated"] = "estimated"
    skinedge: str
    time: str  # UTC, ISO 8601
    model: PlannedModel
    workload: Workload
    constants: dict[str, Constant]
    accuracy: Accuracy
    rows: tuple[ForecastRow, ...]


def read_forecast(path: Path) -> Forecast:
    """Read and check a forecast file.

    Raises:
        UsageError: it is missing, too large, of another version, or no forecast of skinedge.
    """
    make = "Make one: skinedge plan --out forecast.json"
    text, raw = read_json(path, "a forecast", make)
    version = raw.get("schema_version") if isinstance(raw, dict) and raw.get("kind") == "forecast" else None
    if version != SCHEMA_VERSION:
        raise UsageError(f"{path} is no forecast of schema version {SCHEMA_VERSION}.", hint=make)
    return validated(Forecast, path, text, "forecast", "forecast again.")
