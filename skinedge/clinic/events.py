"""What is asked of the engine, and what it says while it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from skinedge.runtime.generate import FinishReason
from skinedge.runtime.prompt import Message

Code = Literal[
    "engine_restarted", "engine_failed", "out_of_memory", "timeout", "too_long", "bad_prompt", "bad_request", "closing",
]  # fmt: skip


@dataclass(frozen=True)
class Photo:
    """A photograph at the size in which the model sees it: ``rgb`` is uint8 ``[height, width, 3]``, row by row.

    ``id`` names it: the engine keeps what it has encoded under it.
    """

    id: str
    width: int
    height: int
    rgb: bytes = field(repr=False)


@dataclass(frozen=True)
class Question:
    """A conversation to go on with; ``photos`` in the order of their places, ``overrides`` of the decoding defaults."""

    messages: tuple[Message, ...] = field(repr=False)
    photos: tuple[Photo, ...] = ()
    overrides: Mapping[str, float | int | str] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Waiting:
    """In the queue; 0 is next."""

    position: int


@dataclass(frozen=True)
class Started:
    """The prompt fits and is being read."""

    prompt_tokens: int


@dataclass(frozen=True)
class Said:
    """The text that one more token makes certain, often none."""

    text: str
    token_id: int


@dataclass(frozen=True)
class Ended:
    """The answer is whole, or was cut short: ``finish_reason`` as a ``Transcript`` has it.

    ``kept`` of the ``prompt_tokens`` were not read again; ``seconds`` are of pictures, prefill and decode.
    """

    finish_reason: FinishReason
    tokens: int
    prompt_tokens: int
    kept: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Failed:
    """No answer, or no more of it."""

    code: Code
    message: str
    hint: str = ""


Event = Waiting | Started | Said | Ended | Failed
