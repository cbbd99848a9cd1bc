"""ggml's own kernels, reached through the shared object of the llama.cpp that is installed.

``ggml_quantize_chunk`` is what ``llama-quantize`` calls, so the bytes are llama.cpp's own; calling it
by ctypes spares a compiler and a second pass over the model, and frees the interpreter lock, so that
blocks are quantized on all cores.  It is exported by the ``xllamacpp`` wheel and by llama-cpp-python,
but it is not a promised API: ``tests/test_gguf_write.py`` checks every symbol and size used here.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.machinery
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skinedge.errors import MissingDependencyError, QuantizeError, TargetError
from skinedge.quantize import _fast_ggml
from skinedge.weights.cast import FLOATS
from skinedge.weights.source import F32, Array, Float32

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class GgmlType:
    """One of ggml's tensor types: ``block`` values of a row share ``block_bytes`` bytes."""

    name: str
    code: int
    block: int
    block_bytes: int

    @property
    def bits(self) -> float:
        """Bits per value, scales included."""
        return 8 * self.block_bytes / self.block

    @property
    def quantized(self) -> bool:
        """Whether values share a scale."""
        return self.block > 1

    def row_bytes(self, cols: int) -> int:
        """Bytes of a row of ``cols`` values."""
        return cols // self.block * self.block_bytes


# enum ggml_type and the block structures of ggml-common.h
TYPES = {
    t.name: t
    for t in (
        GgmlType("f32", 0, 1, 4),
        GgmlType("f16", 1, 1, 2),
        GgmlType("bf16", 30, 1, 2),
        GgmlType("q5_0", 6, 32, 22),
        GgmlType("q5_1", 7, 32, 24),
        GgmlType("q8_0", 8, 32, 34),
        GgmlType("q4_k", 12, 256, 144),
        GgmlType("q5_k", 13, 256, 176),
        GgmlType("q6_k", 14, 256, 210),
        GgmlType("iq4_nl", 20, 32, 18),
        GgmlType("iq4_xs", 23, 256, 136),
    )
}


def type_of(code: int) -> GgmlType:
    """The type with this number in ``enum ggml_type``.

    Raises:
        TargetError: skinedge does not write such a type.
    """
    for kind in TYPES.values():
        if kind.code == code:
            return kind
    raise TargetError(f"ggml type {code} is not one that skinedge writes.", hint="Export the bundle again.")


@functools.cache
def libraries() -> tuple[ctypes.CDLL, ...]:
    """The shared objects that hold llama.cpp, mtmd and ggml, loaded.

    llama-cpp-python comes first: who has it built it for this very device.

    Raises:
        MissingDependencyError: neither it nor xllamacpp is installed.
    """
    if importlib.util.find_spec("llama_cpp"):
        llama, mtmd = importlib.import_module("llama_cpp.llama_cpp"), importlib.import_module("llama_cpp.mtmd_cpp")
        return (llama._lib, mtmd._libmtmd, importlib.import_module("llama_cpp._ggml").libggml)
    spec = importlib.util.find_spec("xllamacpp")
    found = [
        Path(folder) / f"xllamacpp{suffix}"
        for folder in (spec.submodule_search_locations or () if spec else ())
        for suffix in importlib.machinery.EXTENSION_SUFFIXES
    ]
    for path in found:
        if path.is_file():
            return (ctypes.CDLL(str(path)),)
    raise MissingDependencyError("the GGUF target needs llama.cpp.", hint="Install it: pip install 'skinedge[gguf]'.")


def symbol(name: str, result: Any, *arguments: Any) -> Any:
    """The C function ``name`` with its ctypes signature, as an object of our own.

    Raises:
        MissingDependencyError: llama.cpp is not installed.
        TargetError: the one that is installed has no such function.
    """
    for library in libraries():
        try:
            function = library[name]
        except AttributeError:
            continue
        function.restype, function.argtypes = result, arguments
        return function
    raise TargetError(
        f"the installed llama.cpp has no function '{name}'.",
        hint="skinedge is made for the versions its extras pin: pip install 'skinedge[gguf]'.",
    )


class _TypeTraits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


def quantize(kind: GgmlType, rows: Float32, importance: Float32 | None = None) -> Bytes:
    """``[n, cols]`` values to ``[n, row bytes]``; a row's bytes depend on that row alone.

    ``importance`` ``[cols]`` weighs the errors of each column: the mean square of what it is multiplied with.

    Raises:
        QuantizeError: the importances led to a scale that is not a finite number.
        TargetError: ggml is not of the version this is made for.
    """
    rows = np.ascontiguousarray(rows, F32)
    cols = rows.shape[1]
    if importance is not None and importance.shape != (cols,):
        raise ValueError(f"{importance.shape} importances of {cols} columns")  # ggml would read beyond their end
    if kind.name == "q4_k" and importance is None:
        packed = _fast_ggml.quantize(rows, _plain_q4_k)
        if packed is not None:
            return packed
    return _by_ggml(kind, rows, None if importance is None else np.ascontiguousarray(importance, F32))


def _plain_q4_k(rows: Float32) -> Bytes:
    return _by_ggml(TYPES["q4_k"], rows, None)


def _by_ggml(kind: GgmlType, rows: Float32, weights: Float32 | None) -> Bytes:
    count, cols = rows.shape
    out = np.empty((count, kind.row_bytes(cols)), np.uint8)
    address = None if weights is None else weights.ctypes.data
    written = _quantize_chunk()(kind.code, rows.ctypes.data, out.ctypes.data, 0, count, cols, address)
    if written != out.nbytes:
        raise TargetError(f"ggml wrote {written} bytes of {kind.name} where {out.nbytes} were due: it is of another version.")
    if weights is not None and not _validate()(kind.code, out.ctypes.data, out.nbytes):
        raise QuantizeError(f"with these importances ggml finds no scale for {kind.name}.", hint="Calibrate on more records.")
    return out


def dequantize(kind: GgmlType, rows: Bytes) -> Float32:
    """``[n, row bytes]`` to the ``[n, cols]`` values llama.cpp computes with."""
    rows = np.ascontiguousarray(rows)
    if not kind.quantized:
        plain: Array = rows.view(FLOATS[kind.name])
        return plain.astype(F32)
    out = np.empty((len(rows), rows.shape[1] // kind.block_bytes * kind.block), F32)
    _traits(kind).to_float(rows.ctypes.data, out.ctypes.data, out.size)
    return out


@functools.cache
def _quantize_chunk() -> Any:
    size, pointer, count = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int64
    return symbol("ggml_quantize_chunk", size, ctypes.c_int, pointer, pointer, count, count, count, pointer)


@functools.cache
def _validate() -> Any:
    return symbol("ggml_validate_row_data", ctypes.c_bool, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)


@functools.cache
def _traits(kind: GgmlType) -> _TypeTraits:
    traits: _TypeTraits = symbol("ggml_get_type_traits", ctypes.POINTER(_TypeTraits), ctypes.c_int)(kind.code).contents
    found = (traits.type_name, traits.blck_size, traits.type_size)
    if found != (kind.name.replace("k", "K").encode(), kind.block, kind.block_bytes):
        raise TargetError(f"the installed ggml describes {kind.name} as {found}: it is of another version.")
    return traits
