"""Messages between the server and its engine, over a pipe: a JSON object and, where there are pictures, their bytes.

A frame is two lengths (big-endian, 4 and 8 bytes), the JSON text and the bytes.  No pickle: neither side runs what the
other sends.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from skinedge.console import Json

_LENGTHS = struct.Struct(">IQ")
MAX_JSON, MAX_BYTES = 64 << 20, 2 << 30

Message = dict[str, "Json"]


class WireError(Exception):
    """The other side is gone, or sent what is no frame."""


def pack(message: Mapping[str, Json], blob: bytes = b"") -> bytes:
    """One frame."""
    text = json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return _LENGTHS.pack(len(text), len(blob)) + text + blob


def read(stream: IO[bytes]) -> tuple[Message, bytes] | None:
    """The next frame; ``None`` at the end.

    Raises:
        WireError: it ends inside a frame.
    """
    head = stream.read(_LENGTHS.size)
    if not head:
        return None
    if len(head) < _LENGTHS.size:
        raise WireError("the pipe ended inside a frame")
    text, blob = (stream.read(n) for n in _lengths(head))
    return _message(text), blob


async def read_async(stream: asyncio.StreamReader) -> tuple[Message, bytes]:
    """The next frame.

    Raises:
        WireError: there is none, for the pipe has ended.
    """
    try:
        text, blob = _lengths(await stream.readexactly(_LENGTHS.size))
        return _message(await stream.readexactly(text)), await stream.readexactly(blob)
    except (asyncio.IncompleteReadError, ConnectionError) as e:
        raise WireError("the pipe ended") from e


def _lengths(head: bytes) -> tuple[int, int]:
    text, blob = _LENGTHS.unpack(head)
    if text > MAX_JSON or blob > MAX_BYTES:
        raise WireError("this is no frame")
    return text, blob


def _message(text: bytes) -> Message:
    try:
        message = json.loads(text)
    except ValueError as e:
        raise WireError("a frame holds no JSON") from e
    if not isinstance(message, dict):
        raise WireError("a frame holds no object")
    return message
