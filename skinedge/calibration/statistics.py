"""What a model's linear layers were given: the statistics that every careful scheme needs.

One pass over photographs with their narratives (``skinedge calibrate``) leaves a folder::

    CALIBRATION/calibration.json          what it was made of
    CALIBRATION/calibration.safetensors   per linear layer: mean_square [in], peak [in] and, if asked for,
                                          second_moment [blocks, block, block]

Layers go by the canonical names of their weights (``skinedge.model.names``).  The file is mapped, not loaded: a
second moment is read when its layer is quantized.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from skinedge.errors import CheckpointError, UsageError
from skinedge.staging import staged
from skinedge.weights.safetensors import SafetensorsFile, header
from skinedge.weights.source import F32, Float32, TensorSpec

RECORD_FILE, STATISTICS_FILE = "calibration.json", "calibration.safetensors"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class LinearInputs:
    """The inputs ``x`` of one linear layer, over ``rows`` tokens or patches.

    Attributes:
        mean_square: ``[in]``, mean of ``x**2``.
        peak: ``[in]``, largest ``|x|``.
        second_moment: ``[in / b, b, b]``, the diagonal blocks of ``mean(x xᵀ)``, or ``None``.
    """

    rows: int
    mean_square: Float32
    peak: Float32
    second_moment: Float32 | None = None


@dataclass(frozen=True)
class CalibrationRecord:
    """What a calibration was made of; ``model`` is the digest of checkpoint and adapters, ``data`` that of the records."""

    model: str
    data: str
    records: int
    images: int
    tokens: int
    rows: Mapping[str, int]


@dataclass(frozen=True)
class Calibration:
    """A calibration folder, opened."""

    folder: Path
    record: CalibrationRecord
    _file: SafetensorsFile

    @classmethod
    def open(cls, folder: Path) -> Calibration:
        """Open what ``write`` wrote.

        Raises:
            UsageError: it is no calibration folder.
            CheckpointError: its files are damaged.
        """
        path = folder / RECORD_FILE
        if not path.is_file():
            raise UsageError(
                f"{folder} is not a calibration: it has no {RECORD_FILE}.",
                hint="Make one: skinedge calibrate --model DIR --data records.jsonl --out DIR",
            )
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            version = raw.pop("schema_version")
            record = CalibrationRecord(**raw)
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise CheckpointError(f"{path} is damaged: {e}.", hint="Calibrate again.") from e
        if version != SCHEMA_VERSION:
            raise CheckpointError(f"{path} has schema version {version}, and this skinedge reads {SCHEMA_VERSION}.")
        return cls(folder, record, SafetensorsFile(folder / STATISTICS_FILE))

    def names(self) -> tuple[str, ...]:
        """The layers' weights."""
        return tuple(self.record.rows)

    def inputs(self, name: str) -> LinearInputs | None:
        """What the layer with the weight ``name`` was given; ``None`` if it was not seen."""
        if name not in self.record.rows:
            return None
        kinds = {"mean_square", "peak", "second_moment"}
        found = {kind: self._file.read(f"{name}.{kind}") for kind in kinds if f"{name}.{kind}" in self._file.names()}
        return LinearInputs(self.record.rows[name], **{kind: np.asarray(array, F32) for kind, array in found.items()})


def write(folder: Path, record: CalibrationRecord, layers: Iterable[tuple[str, LinearInputs]]) -> None:
    """Write a calibration folder; it appears whole.

    Raises:
        OutputError: the folder is taken.
    """
    arrays: dict[str, Float32] = {}
    for name, inputs in layers:
        arrays[f"{name}.mean_square"], arrays[f"{name}.peak"] = inputs.mean_square, inputs.peak
        if inputs.second_moment is not None:
            arrays[f"{name}.second_moment"] = inputs.second_moment
    with staged(folder) as made:
        with (made / STATISTICS_FILE).open("wb") as f:
            f.write(header(TensorSpec(name, array.shape, F32) for name, array in arrays.items()))
            for array in arrays.values():
                f.write(np.ascontiguousarray(array, F32).tobytes())
        text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(record)}, indent=2, sort_keys=True) + "\n"
        (made / RECORD_FILE).write_text(text, encoding="utf-8", newline="\n")
