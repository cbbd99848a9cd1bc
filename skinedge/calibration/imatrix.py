"""llama.cpp's importance matrix, both ways: its GGUF file, and the older ``.dat`` for reading.

The file holds the sums of squares of what each matrix of the language model was given (``NAME.in_sum2``) and how
many rows they were (``NAME.counts``), under llama.cpp's names.  Source: ``save_imatrix`` in ``tools/imatrix/imatrix.cpp``
and ``load_imatrix`` in ``tools/quantize/quantize.cpp`` of llama.cpp.  llama.cpp keeps no importances of a vision tower,
and no maxima: a calibration read from such a file has not-a-number for every peak.

A ``.dat`` has means times a number of chunks, and not the number of rows: its chunks stand for them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skinedge.calibration.plan import layer_shapes
from skinedge.calibration.statistics import Calibration, CalibrationRecord, LinearInputs, write
from skinedge.errors import CalibrationError
from skinedge.model.config import ModelConfig
from skinedge.staging import staged_file
from skinedge.targets._gguf_tensors import import_gguf
from skinedge.weights.checkpoint import digest_of
from skinedge.weights.source import F32, Float32

SUMS, COUNTS = ".in_sum2", ".counts"
MAGIC = b"GGUF"
_KNOWN_VERSIONS = (2, 3)
_ALIGNMENT = 32
_FLOAT32 = 0  # GGML_TYPE_F32
_STRING, _ARRAY = 8, 9  # enum gguf_type
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class Importance:
    """What one matrix was given: mean squares over ``rows`` rows (of a ``.dat``: chunks)."""

    rows: int
    mean_square: Float32


def write_imatrix(path: Path, calibration: Calibration, config: ModelConfig) -> None:
    """Write the language model's statistics for ``llama-quantize --imatrix``.

    Raises:
        OutputError: ``path`` exists or cannot be written.
        MissingDependencyError: the gguf library is not installed.
    """
    gguf = import_gguf()
    record = calibration.record
    writer = gguf.GGUFWriter(None, "imatrix")
    writer.add_type(gguf.GGUFType.IMATRIX)
    writer.add_array(gguf.Keys.IMatrix.DATASETS, [f"skinedge calibrate, data {record.data[:16]}"])
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_COUNT, record.records)
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_SIZE, max(1, record.tokens // max(1, record.records)))
    for ours, theirs in _names(config).items():
        if inputs := calibration.inputs(ours):
            writer.add_tensor(theirs + SUMS, (inputs.mean_square * F32.type(inputs.rows))[None])
            writer.add_tensor(theirs + COUNTS, np.array([[inputs.rows]], F32))
    with staged_file(path) as f:
        writer.fout, writer.state = [f], gguf.gguf_writer.WriterState.EMPTY
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def import_imatrix(path: Path, config: ModelConfig, model: str, out: Path) -> CalibrationRecord:
    """Write a calibration folder from llama.cpp's file; ``model`` is the digest of the checkpoint it is for.

    Raises:
        CalibrationError: the file is damaged, or it is of another model.
        OutputError: ``out`` is taken.
    """
    found, names = read_imatrix(path), _names(config)
    ours = {theirs: name for name, theirs in names.items()}
    widths = {s.name: s.width for s in layer_shapes(config, pictures=False)}
    layers: dict[str, LinearInputs] = {}
    for theirs, importance in found.items():
        name = ours.get(theirs)
        if name is None or len(importance.mean_square) != widths[name]:
            raise CalibrationError(
                f"{path}: '{theirs}' with {len(importance.mean_square)} inputs is no matrix of this model.",
                hint="Give the model that the imatrix was made of with --model.",
            )
        layers[name] = LinearInputs(importance.rows, importance.mean_square, np.full(widths[name], np.nan, F32))
    rows = {name: layer.rows for name, layer in layers.items()}
    digest = digest_of({name: layer.mean_square.tolist() for name, layer in sorted(layers.items())})
    record = CalibrationRecord(model, digest, records=0, images=0, tokens=max(rows.values(), default=0), rows=rows)
    write(out, record, layers.items())
    return record


def read_imatrix(path: Path) -> Mapping[str, Importance]:
    """The importances of a GGUF or ``.dat`` file by llama.cpp's names of the matrices.

    Raises:
        CalibrationError: it is neither, is cut short, or holds a number that cannot be.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise CalibrationError(f"{path} cannot be read: {e.strerror}.", hint="Give the file that llama-imatrix wrote.") from e
    try:
        found = _read_gguf(data) if data.startswith(MAGIC) else _read_dat(data)
    except (struct.error, ValueError, KeyError, OverflowError) as e:
        raise CalibrationError(
            f"{path} is no importance matrix of llama.cpp, or is damaged: {_why(e)}.", hint="Make it again with llama-imatrix."
        ) from e
    if not found:
        raise CalibrationError(f"{path} holds no importances.", hint="Make it again with llama-imatrix.")
    return found


def _why(e: Exception) -> str:
    if isinstance(e, struct.error):
        return "it ends too early"
    return f"{e.args[0]} is missing" if isinstance(e, KeyError) else str(e)


def _names(config: ModelConfig) -> dict[str, str]:
    """Canonical name -> llama.cpp's, of the language model's matrices."""
    gguf = import_gguf()
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2VL, config.text.num_layers)
    return {s.name: table.get_name(s.name, try_suffixes=(".weight",)) for s in layer_shapes(config, pictures=False)}


class _Bytes:
    """A cursor over bytes from outside: no length in them is believed before it is compared with what is left."""

    def __init__(self, data: bytes) -> None:
        self._data, self.position = data, 0

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self._data) - self.position:
            raise ValueError("it ends too early")
        self.position += count
        return self._data[self.position - count : self.position]

    def number(self, code: str) -> int:
        return int(struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0])

    def text(self, code: str) -> str:
        return self.take(self.number(code)).decode()

    def floats(self, count: int) -> Float32:
        return np.frombuffer(self.take(4 * count), "<f4").astype(F32)

    def skip_value(self, kind: int) -> None:
        """Pass over a value of a GGUF key."""
        if kind == _STRING:
            self.take(self.number("Q"))
        elif kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in _SCALARS:
                self.take(count * struct.calcsize("<" + _SCALARS[inner]))
            elif inner == _STRING:
                for _ in range(count):  # each takes 8 bytes at least, so the end of the file stops a false count
                    self.take(self.number("Q"))
            else:
                raise ValueError("it has an array of an unknown type")
        elif kind in _SCALARS:
            self.take(struct.calcsize("<" + _SCALARS[kind]))
        else:
            raise ValueError("it has a value of an unknown type")


def _read_gguf(data: bytes) -> dict[str, Importance]:
    """GGUF versions 2 and 3 (the ggml repository's docs/gguf.md)."""
    cursor = _Bytes(data)
    cursor.take(len(MAGIC))
    if (version := cursor.number("I")) not in _KNOWN_VERSIONS:
        raise ValueError(f"GGUF version {version} is not known")
    tensors, keys = cursor.number("Q"), cursor.number("Q")
    for _ in range(keys):
        cursor.text("Q")
        cursor.skip_value(cursor.number("I"))
    places = dict(_tensor_info(cursor) for _ in range(tensors))
    if 4 * sum(size for size, _ in places.values()) > len(data):
        raise ValueError("it ends too early")
    base = -(-cursor.position // _ALIGNMENT) * _ALIGNMENT
    arrays = {}
    for name, (size, offset) in places.items():
        cursor.position = min(base + offset, len(data))
        arrays[name] = cursor.floats(size)
    return {n.removesuffix(SUMS): _importance(n.removesuffix(SUMS), arrays) for n in arrays if n.endswith(SUMS)}


def _tensor_info(cursor: _Bytes) -> tuple[str, tuple[int, int]]:
    """Name -> (values, offset)."""
    name, axes = cursor.text("Q"), cursor.number("I")
    if axes > 4:
        raise ValueError(f"'{name}' has {axes} axes")
    size = math.prod(cursor.number("Q") for _ in range(axes))
    if cursor.number("I") != _FLOAT32:
        raise ValueError(f"'{name}' is not in 32-bit floats")
    return name, (size, cursor.number("Q"))


def _importance(name: str, arrays: Mapping[str, Float32]) -> Importance:
    sums, counts = arrays[name + SUMS], arrays[name + COUNTS]
    if len(counts) != 1:
        raise ValueError(f"'{name}' has {len(counts)} counts, as of experts, which this model has not")
    _check(name, np.concatenate([sums, counts]))
    if counts[0] < 1:
        raise ValueError(f"'{name}' was given no rows")
    return Importance(int(counts[0]), sums / counts[0])


def _read_dat(data: bytes) -> dict[str, Importance]:
    cursor = _Bytes(data)
    found = {}
    for _ in range(cursor.number("i")):
        name, calls, count = cursor.text("i"), cursor.number("i"), cursor.number("i")
        values = cursor.floats(count)
        _check(name, values)
        if calls < 1:
            raise ValueError(f"'{name}' was given no rows")
        found[name] = Importance(calls, values / F32.type(calls))
    return found


def _check(name: str, values: Float32) -> None:
    if not len(values) or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"'{name}' holds a value that is no mean of squares")
