"""The product of a vector with a GGUF's own head, so that the adapter's bias needs no second copy of it.

Row block by row block: mapped, dequantized as llama.cpp dequantizes, multiplied.  At 7B this reads half
a gigabyte once per image and holds a few megabytes.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skinedge.errors import BundleError
from skinedge.quantize._ggml import GgmlType, dequantize, symbol, type_of
from skinedge.runtime.session import Float32
from skinedge.weights.source import F32, TensorSpec, row_blocks

HEAD, TIED_HEAD = "output.weight", "token_embd.weight"
_BLOCK_BYTES = 4 << 20  # measured: a block that stays in the cache is a fifth faster than 32 MB

_pointer, _size, _index = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64


class _InitParams(ctypes.Structure):
    """``struct gguf_init_params``."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", _pointer))


@dataclass(frozen=True)
class _Place:
    kind: GgmlType
    offset: int
    nbytes: int


def head_times(path: Path, vector: Float32, threads: int = 1) -> Float32:
    """``W_head @ vector`` for the head of the GGUF at ``path``.

    Args:
        path: ``model.gguf``; a model without ``output.weight`` uses its embedding as head.
        vector: ``[hidden]``.
        threads: blocks dequantized at a time.

    Returns:
        ``[vocabulary]``.

    Raises:
        BundleError: the file is damaged, or its head has another width.
    """
    place = _find(path)
    row_bytes = place.kind.row_bytes(len(vector))
    if not row_bytes or place.nbytes % row_bytes or place.offset + place.nbytes > path.stat().st_size:
        raise BundleError(f"{path}: its head does not take {len(vector)} values or is cut short.", hint="Export it again.")
    rows = np.memmap(path, np.uint8, "r", place.offset, (place.nbytes // row_bytes, row_bytes))
    blocks = row_blocks(TensorSpec(HEAD, (len(rows), len(vector)), F32), _BLOCK_BYTES)
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(lambda block: dequantize(place.kind, rows[block]) @ vector, blocks)))


def _find(path: Path) -> _Place:
    """Where the head lies, by ggml's own reader of GGUF."""
    init = symbol("gguf_init_from_file", _pointer, ctypes.c_char_p, _InitParams)
    file = init(str(path).encode(), _InitParams(no_alloc=True))
    if not file:
        raise BundleError(f"{path} is missing or not a GGUF file.", hint="Export it again.")
    try:
        find = symbol("gguf_find_tensor", _index, _pointer, ctypes.c_char_p)
        number = max(find(file, HEAD.encode()), -1)
        if number < 0:
            number = find(file, TIED_HEAD.encode())
        if number < 0:
            raise BundleError(f"{path}: it has neither '{HEAD}' nor '{TIED_HEAD}'.", hint="Export it again.")
        return _Place(
            type_of(symbol("gguf_get_tensor_type", ctypes.c_int, _pointer, _index)(file, number)),
            symbol("gguf_get_data_offset", _size, _pointer)(file)
            + symbol("gguf_get_tensor_offset", _size, _pointer, _index)(file, number),
            symbol("gguf_get_tensor_size", _size, _pointer, _index)(file, number),
        )
    finally:
        symbol("gguf_free", None, _pointer)(file)
