"""What a model is calibrated on: conversations about photographs, read from disk and checked before any work begins.

Two layouts are read:

- ``records.jsonl``, the SkinGPT-R1 authors' own, one record a line, image paths relative to the file::

      {"messages": [{"role": "user", "content": "<image>question"}, {"role": "assistant", "content": "..."}],
       "images": ["images/1.png"]}

- a folder of photographs, each with its narrative beside it: ``1.jpg`` and ``1.txt``.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import cast

from skinedge.console import counted
from skinedge.errors import CalibrationError, ImageError, PromptError, UsageError
from skinedge.model.config import ModelConfig
from skinedge.runtime.image import ProcessorConfig, load_photograph, read_processor_config, to_pixels
from skinedge.runtime.prompt import ImagePart, Message, PromptBuilder, Role, TextPart, ask
from skinedge.runtime.session import Grid, Int64, Pixels
from skinedge.weights.checkpoint import digest_of

IMAGE_PLACE = "<image>"
PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_ROLES = ("system", "user", "assistant")
_LAYOUT = 'A record is {"messages": [{"role": "user", "content": "<image>..."}, ...], "images": ["1.png"]}.'


@dataclass(frozen=True)
class Conversation:
    """One record: its turns and the photographs they show; ``where`` is for messages."""

    where: str
    messages: tuple[Message, ...]
    images: tuple[Path, ...]


@dataclass(frozen=True)
class Sample:
    """A conversation as the model reads it.

    ``token_ids`` is ``[S]`` and ``positions`` ``[3, S]``; ``pixels`` makes what the model sees of each photograph, of
    the sizes in ``grids``, when it is called: hundreds of photographs need not be in memory at once.
    """

    token_ids: Int64
    positions: Int64
    grids: tuple[Grid, ...]
    pixels: tuple[Callable[[], Pixels], ...]


def read_conversations(data: Path, *, limit: int | None = None, text_only: bool = False) -> tuple[Conversation, ...]:
    """The first ``limit`` conversations of a file of records or a folder of photographs.

    Args:
        data: either layout.
        limit: how many; ``None`` for all.
        text_only: leave the photographs out.

    Raises:
        UsageError: ``data`` is neither, or there are no photographs and ``text_only`` does not say that it is meant.
        CalibrationError: a record, narrative or photograph is missing or not what it must be; it is named.
    """
    found = _folder(data) if data.is_dir() else _records(data)
    conversations = tuple(islice(found, limit))
    if not conversations:
        raise UsageError(
            f"{data} holds no conversations to calibrate on.",
            hint="Give a records.jsonl, or a folder of photographs with narratives of the same names (1.jpg, 1.txt).",
        )
    if text_only:
        return tuple(_without_images(c) for c in conversations)
    for conversation in conversations:
        if not conversation.images:
            raise UsageError(
                f"{conversation.where}: no photograph, and a vision model that is calibrated on words alone"
                " is tuned to inputs it will not see.",
                hint="Give records with photographs, or say that it is meant: --text-only.",
            )
    return conversations


class SampleMaker:
    """Turns conversations into samples for one model, by the runtime's own tokenizer, template and image processor."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._processor = read_processor_config(folder)
        self._prompts = PromptBuilder.from_folder(folder, config)

    def __call__(self, conversation: Conversation, *, answer: bool = True) -> Sample:
        """One conversation; ``answer=False`` opens the assistant's turn instead of expecting that there is one.

        Raises:
            CalibrationError: a photograph cannot be read, or the text cannot be put into a prompt.
        """
        loaders = tuple(functools.partial(_pixels, path, self._processor) for path in conversation.images)
        try:
            grids = tuple(load().grid for load in loaders)
            return self.sample(conversation.messages, grids, loaders, answer=answer)
        except (ImageError, PromptError) as e:
            raise CalibrationError(f"{conversation.where}: {e.message}", hint=e.hint) from e

    def sample(
        self, messages: Sequence[Message], grids: tuple[Grid, ...], pixels: tuple[Callable[[], Pixels], ...], *, answer: bool
    ) -> Sample:
        """A sample of pictures that are not files."""
        prompt = self._prompts.build(messages, grids, add_generation_prompt=not answer)
        return Sample(prompt.token_ids, prompt.positions, grids, pixels)

    @property
    def processor(self) -> ProcessorConfig:
        """How photographs become patches."""
        return self._processor


def data_digest(conversations: Sequence[Conversation], *, quiet: bool = True) -> str:
    """sha256 over what is said and the bytes of the photographs."""
    total = hashlib.sha256()
    for conversation in counted("reading photographs", conversations, quiet):
        pictures = [hashlib.sha256(path.read_bytes()).hexdigest() for path in conversation.images]
        said = [
            [m.role, m.content if isinstance(m.content, str) else [_said(p) for p in m.content]] for m in conversation.messages
        ]
        total.update(digest_of([said, pictures]).encode())
    return total.hexdigest()


def _pixels(path: Path, processor: ProcessorConfig) -> Pixels:
    return to_pixels(load_photograph(path), processor)


def _said(part: TextPart | ImagePart) -> str | None:
    return part.text if isinstance(part, TextPart) else None


def _without_images(conversation: Conversation) -> Conversation:
    messages = []
    for message in conversation.messages:
        if not isinstance(message.content, str):
            text = "".join(part.text for part in message.content if isinstance(part, TextPart))
            message = replace(message, content=text)
        messages.append(message)
    return replace(conversation, messages=tuple(messages), images=())


def _folder(folder: Path) -> Iterator[Conversation]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in PHOTOGRAPHS:
            continue
        narrative = path.with_suffix(".txt")
        if not narrative.is_file():
            raise CalibrationError(f"{path}: its narrative {narrative.name} is missing.", hint=f"Write it to {narrative}.")
        text = _text(narrative).strip()
        if not text:
            raise CalibrationError(
                f"{narrative}: the narrative is empty.", hint="Write what the photograph shows, or remove both."
            )
        yield Conversation(str(path), (*ask(images=1), Message("assistant", text)), (path,))


def _records(file: Path) -> Iterator[Conversation]:
    for number, line in enumerate(_text(file).split("\n"), 1):
        if line.strip():
            yield _record(file, f"{file}, line {number}", line)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as e:
        raise UsageError(f"{file} cannot be read: {e.strerror}.", hint="Give a records.jsonl or a folder with --data.") from e
    except UnicodeDecodeError as e:
        raise CalibrationError(f"{file}: not UTF-8 text ({e.reason} at byte {e.start}).", hint=_LAYOUT) from e


def _record(file: Path, where: str, line: str) -> Conversation:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise CalibrationError(f"{where}: not JSON ({e}).", hint=_LAYOUT) from e
    if not isinstance(raw, dict):
        raise CalibrationError(f"{where}: not a JSON object.", hint=_LAYOUT)
    messages, images = _messages(raw.get("messages"), where), _images(raw.get("images", []), file.parent, where)
    places = sum(isinstance(part, ImagePart) for m in messages for part in m.content)
    if places != len(images):
        raise CalibrationError(f"{where}: it has {places} places {IMAGE_PLACE} and {len(images)} images.", hint=_LAYOUT)
    return Conversation(where, messages, images)


def _messages(raw: object, where: str) -> tuple[Message, ...]:
    if not isinstance(raw, list):
        raise CalibrationError(f"{where}: 'messages' is missing or no list.", hint=_LAYOUT)
    messages = tuple(_message(m, where) for m in raw)
    if not any(m.role == "assistant" and m.content for m in messages):
        raise CalibrationError(f"{where}: there is no narrative: no assistant's turn says anything.", hint=_LAYOUT)
    return messages


def _message(raw: object, where: str) -> Message:
    if not isinstance(raw, dict) or not isinstance(raw.get("content"), str):
        raise CalibrationError(f"{where}: a message must have a 'role' and a 'content' of text.", hint=_LAYOUT)
    role, content = raw.get("role"), raw["content"]
    if role not in _ROLES:
        raise CalibrationError(f"{where}: '{role}' is no role in a conversation.", hint=f"Known: {', '.join(_ROLES)}.")
    return Message(cast(Role, role), tuple(_parts(content)) if IMAGE_PLACE in content else content)


def _parts(content: str) -> Iterator[TextPart | ImagePart]:
    for number, text in enumerate(content.split(IMAGE_PLACE)):
        if number:
            yield ImagePart()
        if text:
            yield TextPart(text)


def _images(raw: object, folder: Path, where: str) -> tuple[Path, ...]:
    names = [raw] if isinstance(raw, str) else raw
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CalibrationError(f"{where}: 'images' is no list of paths.", hint=_LAYOUT)
    paths = tuple(folder / name for name in names)
    for path in paths:
        if not path.is_file():
            raise CalibrationError(f"{where}: its image {path.name} is missing.", hint=f"It was looked for in {path.parent}.")
    return paths
