"""What a model is calibrated on: conversations about photographs, read from disk and checked before any work begins.

Two layouts are read:

- ``records.jsonl``, the layout of ``skinedge.records``;
- a folder of photographs, each with its narrative beside it: ``1.jpg`` and ``1.txt``.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from skinedge.console import counted
from skinedge.errors import CalibrationError, ImageError, PromptError, UsageError
from skinedge.model.config import ModelConfig
from skinedge.records import Conversation, RecordReader
from skinedge.runtime.image import ProcessorConfig, load_photograph, read_processor_config, to_pixels
from skinedge.runtime.prompt import Message, PromptBuilder, TextPart, ask
from skinedge.runtime.session import Grid, Int64, Pixels
from skinedge.weights.checkpoint import digest_of

PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_LAYOUT = 'A record is {"messages": [{"role": "user", "content": "<image>..."}, ...], "images": ["1.png"]}.'
_READER = RecordReader(CalibrationError, _LAYOUT, "there is no narrative")


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
        total.update(digest_of(conversation.content()).encode())
    return total.hexdigest()


def _pixels(path: Path, processor: ProcessorConfig) -> Pixels:
    return to_pixels(load_photograph(path), processor)


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
            yield _READER.read(file, f"{file}, line {number}", line)[1]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as e:
        raise UsageError(f"{file} cannot be read: {e.strerror}.", hint="Give a records.jsonl or a folder with --data.") from e
    except UnicodeDecodeError as e:
        raise CalibrationError(f"{file}: not UTF-8 text ({e.reason} at byte {e.start}).", hint=_LAYOUT) from e
