"""A record as the model will read it: the runtime's own tokens, positions and pixels, and what is supervised.

Supervised is what the assistant says, with the token that ends its turn: exactly the tokens that the model
would have to generate after the prompt that ``skinedge.runtime`` builds for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skinedge.errors import ImageError, PromptError
from skinedge.model.config import ModelConfig
from skinedge.runtime.image import ProcessorConfig, load_photograph, read_processor_config, to_pixels
from skinedge.runtime.prompt import ImagePart, Message, PromptBuilder
from skinedge.runtime.session import Grid, Int64, Pixels
from train.data import Record
from train.errors import DataError
from train.rows import UInt8, still_rows

UNSUPERVISED = -100


@dataclass(frozen=True)
class Example:
    """``token_ids`` ``[S]``, ``positions`` ``[3, S]``; ``labels`` ``[S]`` are -100 where nothing is supervised."""

    record: Record
    token_ids: Int64
    positions: Int64
    labels: Int64
    pixels: tuple[Pixels, ...]
    rows: tuple[UInt8, ...]
    cut: bool  # the conversation goes on beyond the cut-off

    @property
    def targets(self) -> Int64:
        """The supervised tokens, in order."""
        found: Int64 = self.labels[1:][self.labels[1:] != UNSUPERVISED]
        return found

    @property
    def predicting(self) -> Int64:
        """The positions whose next token is supervised."""
        found: Int64 = np.nonzero(self.labels[1:] != UNSUPERVISED)[0]
        return found


@dataclass(frozen=True)
class Counts:
    """How much of a record there is to learn from and to store."""

    tokens: int
    patches: tuple[int, ...]
    cut: bool = False


class ExampleMaker:
    """Turns records into examples for one model.  Safe to share between threads."""

    def __init__(self, folder: Path, config: ModelConfig, cutoff: int) -> None:
        self.processor: ProcessorConfig = read_processor_config(folder)
        self._prompts = PromptBuilder.from_folder(folder, config)
        self._image_token = config.image_token_id
        self._cutoff = cutoff

    def __call__(self, record: Record) -> Example:
        """One record.

        Raises:
            DataError: a photograph cannot be read, a text cannot be put into a prompt, or nothing is supervised.
        """
        try:
            pixels = tuple(to_pixels(load_photograph(path), self.processor) for path in record.images)
            return self._example(record, pixels)
        except (ImageError, PromptError) as e:
            raise DataError(f"{record.where}: {e.message}", hint=e.hint) from e

    def counts(self, record: Record) -> Counts:
        """What ``record`` comes to.

        Raises:
            DataError: as for calling it.
        """
        example = self(record)
        return Counts(len(example.targets), tuple(len(r) for r in example.rows), example.cut)

    def _example(self, record: Record, pixels: tuple[Pixels, ...]) -> Example:
        grids = [p.grid for p in pixels]
        prompt = self._prompts.build(record.messages, grids, add_generation_prompt=False)
        labels = self._labels(record, grids, prompt.token_ids)
        ids, positions, labels = prompt.token_ids[: self._cutoff], prompt.positions[:, : self._cutoff], labels[: self._cutoff]
        whole = np.count_nonzero(ids == self._image_token) == np.count_nonzero(prompt.token_ids == self._image_token)
        if not whole or not (labels != UNSUPERVISED).any():
            raise DataError(
                f"{record.where}: its first {self._cutoff} tokens hold no supervised one, or only part of a photograph.",
                hint="Raise data.cutoff, or use smaller photographs.",
            )
        rows = tuple(still_rows(p, self.processor) for p in pixels)
        return Example(record, ids, positions, labels, pixels, rows, len(ids) < len(prompt.token_ids))

    def _labels(self, record: Record, grids: list[Grid], token_ids: Int64) -> Int64:
        labels = np.full_like(token_ids, UNSUPERVISED)
        for turn, message in enumerate(record.messages):
            if message.role == "assistant":
                start = self._length(record.messages[:turn], grids, token_ids, record, opening=True)
                stop = self._length(record.messages[: turn + 1], grids, token_ids, record, opening=False)
                ends = np.nonzero(np.isin(token_ids[start:stop], self._prompts.eos_token_ids))[0]
                if len(ends):  # what the template writes after the end of the turn is never generated
                    stop = start + int(ends[-1]) + 1
                labels[start:stop] = token_ids[start:stop]
        return labels

    def _length(self, messages: tuple[Message, ...], grids: list[Grid], whole: Int64, record: Record, *, opening: bool) -> int:
        """Tokens of the beginning of a conversation, which must be the beginning of the whole one's tokens."""
        shown = sum(isinstance(part, ImagePart) for m in messages for part in m.content)
        ids = self._prompts.build(messages, grids[:shown], add_generation_prompt=opening).token_ids
        if not np.array_equal(whole[: len(ids)], ids):
            raise DataError(
                f"{record.where}: the tokens of an assistant's turn do not begin where its prompt ends.",
                hint="Remove white space at the beginning of the turn, or make each turn a record of its own.",
            )
        return len(ids)
