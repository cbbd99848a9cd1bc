"""What DermEval is given to read: question, picture and narrative as a conversation, then the page of the named disease."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skinedge.model.config import ModelConfig
from skinedge.runtime.prompt import Message, PromptBuilder, ask
from skinedge.runtime.session import Grid, Int64
from skinedge.synthderm.narrative import QUESTIONS, read_answer
from skinedge.synthderm.pages import Page

if TYPE_CHECKING:
    from torch import Tensor

    from skinedge.evaluation.dermeval_model import Filled

QUESTION = QUESTIONS[0]
NO_PAGE = "No page."


@dataclass(frozen=True)
class Reading:
    """A conversation, ``ids`` ``[S]`` and ``positions`` ``[3, S]``, its narrative from ``start`` on; ``page`` ``[P]`` ids."""

    ids: Int64
    positions: Int64
    start: int
    page: Int64


class Reader:
    """Turns narratives into readings for one model."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._prompts = PromptBuilder.from_folder(folder, config)
        self._starts: dict[int, int] = {}

    def read(self, text: str, grids: Sequence[Grid], page: str) -> Reading:
        """A narrative with the picture's grid (none: read without a picture) and a page's text (empty: there is none).

        Raises:
            PromptError: the text holds a special token of the model, or does not fit its context.
        """
        asked, patches = ask(QUESTION, images=len(grids)), sum(g.patches for g in grids)
        if patches not in self._starts:
            self._starts[patches] = len(self._prompts.build(asked, grids).token_ids)
        told = self._prompts.build((*asked, Message("assistant", text)), grids, add_generation_prompt=False)
        written = self._prompts.build((Message("system", page or NO_PAGE),), add_generation_prompt=False)
        return Reading(told.token_ids, told.positions, self._starts[patches], written.token_ids)


def page_of(text: str, book: Mapping[str, Page]) -> str:
    """The page of the disease that a narrative answers, empty where there is no such page."""
    answer = read_answer(text)
    page = None if answer is None else book.get(answer.strip().rstrip(".").casefold())
    return "" if page is None else page.text()


def fill(readings: Sequence[Reading]) -> Filled:
    """Conversations as one batch."""
    import torch

    from skinedge.evaluation.dermeval_model import Filled

    count, length = len(readings), max(len(r.ids) for r in readings)
    ids, positions = np.zeros((count, length), np.int64), np.zeros((3, count, length), np.int64)
    spoken = np.zeros((count, length), np.bool_)
    for i, r in enumerate(readings):
        ids[i, : len(r.ids)], positions[:, i, : len(r.ids)] = r.ids, r.positions
        spoken[i, r.start : len(r.ids)] = True
    return Filled(*map(torch.from_numpy, (ids, positions, spoken)))


def fill_pages(readings: Sequence[Reading], table: Tensor) -> tuple[Tensor, Tensor]:
    """Pages as ``page`` and ``written`` of ``Seen``; ``table`` ``[vocabulary, hidden]`` are the model's embeddings."""
    import torch

    counts = torch.tensor([len(r.page) for r in readings])
    written = torch.arange(int(counts.max()))[None] < counts[:, None]
    pages = torch.zeros(*written.shape, table.shape[1])
    pages[written] = table[torch.from_numpy(np.concatenate([r.page for r in readings]))].float()
    return pages, written
