"""Memory-mapped safetensors: reading shards block by block, writing them from a stream.

The format (https://github.com/huggingface/safetensors, "Format"): 8 bytes little-endian header
length, a JSON header of ``name -> {dtype, shape, data_offsets}``, then one byte buffer that the
offsets tile without holes or overlap.  A file from outside is not trusted: every rule of the format
is checked before a byte of data is looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from skinedge.errors import CheckpointError
from skinedge.weights.source import ALL, BF16, Array, TensorSpec

DTYPES: dict[str, np.dtype[np.generic]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BF16,
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
MAX_HEADER = 100 << 20  # the reference implementation's own limit
MAX_AXES = 64  # numpy's


class SafetensorsFile:
    """One ``.safetensors`` file, mapped and checked.

    Raises:
        CheckpointError: the file is truncated, is not safetensors, or its header lies.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._spec: dict[str, TensorSpec] = {}
        self._start: dict[str, int] = {}
        try:
            size = path.stat().st_size
            if size < 8:
                raise _damaged(path, f"it has {size} bytes and a header alone needs 8")
            self._map = np.memmap(path, np.uint8, "r")
        except OSError as e:
            raise CheckpointError(f"{path}: it cannot be read: {e.strerror or e}.") from e
        length = int(self._map[:8].view("<u8")[0])
        if length > size - 8:
            raise _damaged(path, f"its header claims {length} bytes and the file holds {size - 8}")
        if length > MAX_HEADER:
            raise _damaged(path, f"its header claims {length} bytes and the format allows {MAX_HEADER}")
        self._index(_header(path, bytes(self._map[8 : 8 + length])), base=8 + length, room=size - 8 - length)

    def _index(self, header: Mapping[str, object], base: int, room: int) -> None:
        spans: list[tuple[int, int, str]] = []
        for name, entry in header.items():
            spec, start, stop = self._entry(name, entry)
            if not 0 <= start <= stop or stop - start != spec.nbytes:
                raise _damaged(self.path, f"tensor '{name}' needs {spec.nbytes} bytes and its offsets give [{start}, {stop}]")
            if stop > room:
                raise _damaged(self.path, f"tensor '{name}' ends at byte {stop} and the file holds {room}; it is cut short")
            self._spec[name], self._start[name] = spec, base + start
            spans.append((start, stop, name))
        position = 0
        for start, stop, name in sorted(spans):
            if start != position:
                raise _damaged(self.path, f"tensor '{name}' starts at byte {start} where {position} was due")
            position = stop
        if position != room:
            raise _damaged(self.path, f"its tensors cover {position} bytes and the file holds {room}")

    def _entry(self, name: str, entry: object) -> tuple[TensorSpec, int, int]:
        try:
            code, shape, (start, stop) = _fields(entry)
            possible = len(shape) <= MAX_AXES and all(type(n) is int and 0 <= n < 1 << 63 for n in (*shape, start, stop))
        except (KeyError, TypeError, ValueError) as e:
            raise _damaged(self.path, f"the header entry of tensor '{name}' is malformed") from e
        if not possible:
            raise _damaged(self.path, f"the header entry of tensor '{name}' has a negative, fractional or impossible number")
        if code not in DTYPES:
            raise CheckpointError(
                f"{self.path}: tensor '{name}' has type {code}, which skinedge does not read.",
                hint=f"Known types: {', '.join(DTYPES)}.",
            )
        return TensorSpec(name, shape, DTYPES[code]), start, stop

    def names(self) -> tuple[str, ...]:
        return tuple(self._spec)

    def spec(self, name: str) -> TensorSpec:
        return self._spec[name]

    def read(self, name: str, rows: slice = ALL, cols: slice = ALL) -> Array:
        spec, start = self._spec[name], self._start[name]
        flat = self._map[start : start + spec.nbytes]
        # An unaligned view is legal: numpy copies on the cast or the slice that follows.
        view: Array = np.frombuffer(flat, spec.dtype)
        return view.reshape(spec.rows, spec.cols)[rows, cols]


def header(specs: Iterable[TensorSpec], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes before the data: length, JSON, padded with spaces to 8 bytes."""
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for spec in specs:
        table[spec.name] = {
            "dtype": CODES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + math.prod(spec.shape) * spec.dtype.itemsize],
        }
        offset += spec.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _header(path: Path, text: bytes) -> Mapping[str, object]:
    try:
        found = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as e:
        raise _damaged(path, "its header is not JSON of distinct names") from e
    if not isinstance(found, dict):
        raise _damaged(path, "its header is not a JSON object")
    metadata = found.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged(path, "its metadata is not a table of texts")
    return found


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _fields(entry: object) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """The three fields of a header entry; their numbers are still to be checked."""
    if not isinstance(entry, dict):
        raise TypeError("not an object")
    shape, (start, stop) = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list):
        raise TypeError("not a list")
    return str(entry["dtype"]), tuple(shape), (start, stop)


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path}: not a usable safetensors file: {why}.", hint="Copy it again from where it was made.")


def save(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write small tensors that are in memory (adapters, fixtures) to ``path``."""
    specs = [TensorSpec(name, a.shape, a.dtype) for name, a in arrays.items()]
    with path.open("wb") as f:
        f.write(header(specs, metadata))
        for a in arrays.values():
            f.write(np.ascontiguousarray(a).tobytes())
