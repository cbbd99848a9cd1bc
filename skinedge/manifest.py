"""``skinedge.json``: what a bundle says of itself.

The manifest is the last file written and the first one read.  It is checked as data from outside:
unknown fields, paths that leave the folder and impossible sizes are refused.  It holds no date and no
machine name, so the same input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from skinedge.errors import BundleError
from skinedge.model.adapter import AdapterShape
from skinedge.model.config import ModelConfig, TextConfig, VisionConfig

MANIFEST_FILE = "skinedge.json"
SCHEMA_VERSION = 1
MAX_MANIFEST = 64 << 20


def _inside(path: str) -> str:
    """A relative POSIX path of plain names: it cannot leave the folder on any operating system."""
    parts = PurePosixPath(path).parts
    plain = parts and all(p not in ("..", ".") and not set(p) & set('\\:*?"<>|\0') for p in parts)
    if not plain or path.startswith("/") or str(PurePosixPath(path)) != path:
        raise ValueError(f"'{path}' is not a plain path inside the bundle")
    return path


InsidePath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileRecord(_Record):
    """One file of the bundle."""

    path: InsidePath
    nbytes: int = Field(ge=0)
    sha256: Sha256


class LineageRecord(_Record):
    """One step of the way from the adapter checkpoint: what it was and its digest."""

    kind: str
    digest: Sha256
    note: str = ""


class AppliedRecord(_Record):
    """How one tensor was stored, how many bits each weight takes (scales included), how many there are."""

    scheme: str
    bits: float = Field(gt=0)
    weights: int = Field(ge=0)


class SchemeRecord(_Record):
    """What was asked for; ``bits_per_weight`` is what it came to."""

    asked: str
    activations: str | None = None
    vision: str | None = None
    bits_per_weight: float = Field(gt=0)


class ArchitectureRecord(_Record):
    """The model's sizes, as ``ModelConfig`` and ``AdapterShape`` hold them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    text: TextConfig
    vision: VisionConfig
    image_token_id: int
    eos_token_ids: tuple[int, ...]
    side_branch: AdapterShape | None = None

    def config(self) -> ModelConfig:
        """The same as ``ModelConfig``."""
        return ModelConfig(self.text, self.vision, self.image_token_id, self.eos_token_ids)


class DecodingRecord(_Record):
    """Decoding defaults (SkinGPT-R1's: greedy, no repetition penalty, up to 4096 tokens)."""

    max_new_tokens: int = Field(default=4096, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    bias: str = Field(default="every-step", pattern="^(every-step|off)$")


class PromptRecord(_Record):
    """How a case is put to the model: the question asked when there is none, and how it is rendered with one image."""

    question: str
    rendered: str


class Manifest(_Record):
    """The whole of ``skinedge.json``."""

    schema_version: int
    skinedge: str
    target: str
    scheme: SchemeRecord
    lineage: tuple[LineageRecord, ...] = Field(min_length=1)
    architecture: ArchitectureRecord
    applied: dict[str, AppliedRecord]
    processor: dict[str, Any]
    prompt: PromptRecord
    decoding: DecodingRecord
    requirements: dict[str, str]
    licence: str
    details: dict[str, Any]
    files: tuple[FileRecord, ...]

    def file(self, path: str) -> FileRecord:
        """The record of ``path``.

        Raises:
            BundleError: the bundle has no such file.
        """
        for record in self.files:
            if record.path == path:
                return record
        raise BundleError(f"the bundle lists no file '{path}'.", hint="Export it again.")

    @property
    def digest(self) -> str:
        """sha256 of the manifest, which fixes every other file."""
        return _digest(self.model_dump(mode="json"))

    def to_json(self) -> str:
        """The text of ``skinedge.json``: the manifest and, so that a changed byte of it is found too, its digest."""
        return _text({**self.model_dump(mode="json"), "digest": self.digest})


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(_text(record).encode()).hexdigest()


def architecture_record(config: ModelConfig, side_branch: AdapterShape | None) -> ArchitectureRecord:
    """The manifest's page on the model."""
    return ArchitectureRecord(side_branch=side_branch, **_shallow(config))


def _shallow(config: ModelConfig) -> dict[str, Any]:
    return {
        "text": TextConfig(**asdict(config.text)),
        "vision": VisionConfig(**asdict(config.vision)),
        "image_token_id": config.image_token_id,
        "eos_token_ids": config.eos_token_ids,
    }


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``skinedge.json``.

    Raises:
        BundleError: missing, unreadable, changed, from a newer skinedge, or it breaks a rule above.
    """
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        why = "it is a file, and a bundle is a folder" if folder.exists() else "there is no such folder"
        raise BundleError(f"{folder} is not a bundle: {why}.", hint="Give the folder that skinedge export wrote.")
    if not path.is_file():
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST_FILE}.", hint="Make one: skinedge export --out FOLDER.")
    if path.stat().st_size > MAX_MANIFEST:
        raise BundleError(f"{path}: {path.stat().st_size} bytes is too large for a manifest.")
    try:
        text = path.read_bytes().decode("utf-8")
        raw = json.loads(text)
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{path}: its schema version is {version!r} and this skinedge reads {SCHEMA_VERSION}.",
                hint="Use the skinedge that wrote it, or export again.",
            )
        same = text == _text(raw)  # or white space was changed, which the digest does not see
        stated = raw.pop("digest", None)
        # Through JSON text again: strict mode then applies JSON's types (lists for tuples).
        manifest = Manifest.model_validate_json(json.dumps(raw))
        if stated != _digest(raw) or not same:
            raise BundleError(f"{path} was changed since it was written: its digest is another.", hint="Copy the bundle again.")
        return manifest
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "manifest"
        raise BundleError(f"{path}: {where}: {first['msg']}.", hint="The file was changed or damaged; export again.") from e
    except (ValueError, RecursionError) as e:
        raise BundleError(f"{path}: not readable as JSON: {e}.", hint="The file was changed or damaged; export again.") from e
