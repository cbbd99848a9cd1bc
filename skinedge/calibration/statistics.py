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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from skinedge.errors import CalibrationError, CheckpointError, UsageError
from skinedge.staging import staged
from skinedge.weights.safetensors import SafetensorsFile, header
from skinedge.weights.source import F32, Float32, TensorSpec, tensor

RECORD_FILE, STATISTICS_FILE = "calibration.json", "calibration.safetensors"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class LinearInputs:
    """The inputs ``x`` of one linear layer, over ``rows`` tokens or patches.

    Attributes:
        mean_square: ``[in]``, mean of ``x**2``.
        peak: ``[in]``, largest ``|x|``; not-a-number where it is not known (an imported llama.cpp imatrix).
        second_moment: ``[in / b, b, b]``, the diagonal blocks of ``mean(x xᵀ)``, or ``None``.
    """

    rows: int
    mean_square: Float32
    peak: Float32
    second_moment: Float32 | None = None

    def possible(self) -> bool:
        """Whether these can be means: finite, and of squares not below zero."""
        moment = self.second_moment
        return bool(
            np.isfinite(self.mean_square).all()
            and (self.mean_square >= 0).all()
            and (moment is None or np.isfinite(moment).all())
        )


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
        """What the layer with the weight ``name`` was given; ``None`` if it was not seen.

        Raises:
            CheckpointError: the file is damaged.
        """
        if name not in self.record.rows:
            return None
        kinds = {"mean_square", "peak", "second_moment"}
        found = {kind: tensor(self._file, f"{name}.{kind}") for kind in kinds if f"{name}.{kind}" in self._file.names()}
        inputs = LinearInputs(self.record.rows[name], **{kind: np.asarray(array, F32) for kind, array in found.items()})
        if not inputs.possible():
            raise CheckpointError(
                f"{self.folder / STATISTICS_FILE}: what it says of '{name}' is no mean of squares.", hint="Calibrate again."
            )
        return inputs


@dataclass(frozen=True)
class LayerShape:
    """What a calibration will say of one linear layer, known before it is run: inputs, and the second moment's block."""

    name: str
    width: int
    block: int | None = None

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The arrays in the file, in order."""
        shapes: dict[str, tuple[int, ...]] = {"mean_square": (self.width,), "peak": (self.width,)}
        if self.block:
            shapes["second_moment"] = (self.width // self.block, self.block, self.block)
        return tuple(TensorSpec(f"{self.name}.{kind}", shape, F32) for kind, shape in shapes.items())


def write(folder: Path, record: CalibrationRecord, layers: Iterable[tuple[str, LinearInputs]]) -> None:
    """Write a calibration folder from statistics that are in memory; it appears whole.

    Raises:
        OutputError: the folder is taken.
    """
    known = dict(layers)
    shapes = [LayerShape(name, len(x.mean_square), _block(x)) for name, x in known.items()]
    with staged(folder) as made:
        write_layers(made, record, shapes, known.items())


def write_layers(
    folder: Path, record: CalibrationRecord, shapes: Sequence[LayerShape], layers: Iterable[tuple[str, LinearInputs]]
) -> None:
    """Write the files of a calibration into an empty folder, each layer as it comes: only one is held in memory.

    Raises:
        CalibrationError: a layer was given values that are not finite.
        RuntimeError: ``layers`` are not those of ``shapes``, in order; a fault of skinedge's own.
    """
    with (folder / STATISTICS_FILE).open("wb") as f:
        f.write(header(spec for shape in shapes for spec in shape.specs))
        for shape, (name, inputs) in zip(shapes, layers, strict=True):
            arrays = [a for a in (inputs.mean_square, inputs.peak, inputs.second_moment) if a is not None]
            if name != shape.name or [a.shape for a in arrays] != [spec.shape for spec in shape.specs]:
                raise RuntimeError(f"the statistics of '{name}' came where those of {shape} were due")
            if not inputs.possible():
                raise CalibrationError(
                    f"what '{name}' is given is not finite on these records: the model overflows before it.",
                    hint="See where: skinedge overflow. A model that does so in float32 has damaged weights.",
                )
            for array in arrays:
                f.write(np.ascontiguousarray(array, F32).data)
    text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(record)}, indent=2, sort_keys=True) + "\n"
    (folder / RECORD_FILE).write_text(text, encoding="utf-8", newline="\n")


def _block(inputs: LinearInputs) -> int | None:
    return None if inputs.second_moment is None else int(inputs.second_moment.shape[-1])
