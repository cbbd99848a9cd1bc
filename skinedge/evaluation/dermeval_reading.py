"""What DermEval is given to read: question, picture and narrative as a conversation, then the page of the named disease."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from skinedge.model.config import ModelConfig
from skinedge.runtime.prompt import Message, PromptBuilder, ask
from skinedge.runtime.session import Grid, Int64, Prompt
from skinedge.synthderm.findings import VOCABULARY
from skinedge.synthderm.narrative import CLAUSES, QUESTIONS, read_answer
from skinedge.synthderm.pages import Page

if TYPE_CHECKING:
    from torch import Tensor

    from skinedge.evaluation.dermeval_model import Filled

QUESTION = QUESTIONS[0]
NO_PAGE = "No page."
VALUES = tuple((finding, value) for finding, values in VOCABULARY.items() for value in values)


@dataclass(frozen=True)
class Reading:
    """A conversation, ``ids`` ``[S]`` and ``positions`` ``[3, S]``, its narrative from ``start`` on, and the page.

    ``page`` ``[P]`` are its ids, ``about`` ``[P]`` the number of the finding that each is about (-1: none), ``shows``
    ``[findings' values]`` which values it allows.
    """

    ids: Int64
    positions: Int64
    start: int
    page: Int64
    about: Int64
    shows: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Tree:
    """Every clause of an observation as one tree of tokens after a prompt.

    ``ids`` ``[S]``, ``positions`` ``[3, S]``, ``visible`` ``[S, S]`` true where a token is seen by another; of each clause of
    ``VALUES`` its tokens' places and those before them.
    """

    ids: Int64
    positions: Int64
    visible: npt.NDArray[np.bool_]
    places: tuple[tuple[int, ...], ...]
    before: tuple[tuple[int, ...], ...]


class Reader:
    """Turns narratives into readings for one model."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._prompts = PromptBuilder.from_folder(folder, config)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._starts: dict[int, int] = {}

    def read(self, text: str, grids: Sequence[Grid], page: Page | None) -> Reading:
        """A narrative with the picture's grid (none: read without a picture) and a page, if there is one.

        Raises:
            PromptError: the text holds a special token of the model, or does not fit its context.
        """
        told, start = self._told(text, grids)
        pieces = [(None, NO_PAGE)] if page is None else page.entries()
        tokens = [(f, self._encode(words)) for f, words in pieces]
        names = list(VOCABULARY)
        about = [-1 if f is None else names.index(f) for f, ids in tokens for _ in ids]
        shows = np.array([page is not None and value in page.shows[f] for f, value in VALUES])
        written = np.array([i for _, ids in tokens for i in ids])
        return Reading(told.token_ids, told.positions, start, written, np.array(about), shows)

    def tree(self, grid: Grid) -> Tree:
        """What is asked about a picture: how likely each clause would be the model's own.

        How the lesions lie comes first in an observation; the other clauses follow the first of these.
        """
        opening, (first, *_) = "<think>\nObservation:", CLAUSES["arrangement"].values()
        intro = f"{opening} {first[0][0].upper()}{first[0][1:]}."
        whole, _ = self._told(opening, [grid])
        common = len(whole.token_ids) - self._ending
        ids, positions = list(whole.token_ids[:common]), list(whole.positions[0, :common])
        root, parents, places, before = common - 1, list(range(-1, common - 1)), [], []
        known: dict[tuple[int, int], int] = {}
        for finding, value in VALUES:
            lead = opening if finding == "arrangement" else intro
            clause = CLAUSES[finding][value][0]
            text = f"{lead} {clause[0].upper()}{clause[1:]}."
            path: list[int] = []
            for token in self._told(text, [grid])[0].token_ids[common : -self._ending]:
                parent = path[-1] if path else root
                place = known.setdefault((parent, int(token)), len(ids))
                if place == len(ids):
                    ids.append(int(token))
                    parents.append(parent)
                    positions.append(positions[parent] + 1)
                path.append(place)
            skipped = 0 if lead == opening else len(self._told(lead, [grid])[0].token_ids) - self._ending - common
            places.append(tuple(path[skipped:]))
            before.append(tuple(parents[p] for p in path[skipped:]))
        visible = np.zeros((len(ids), len(ids)), np.bool_)
        for place, parent in enumerate(parents):
            visible[place] = visible[parent] if place else False
            visible[place, place] = True
        after = np.tile(np.array(positions[common:]), (3, 1))
        whole_positions = np.concatenate([whole.positions[:, :common], after], 1)
        return Tree(np.array(ids), whole_positions, visible, tuple(places), tuple(before))

    def _told(self, text: str, grids: Sequence[Grid]) -> tuple[Prompt, int]:
        """A conversation that ends with a narrative, and where the narrative begins."""
        asked, patches = ask(QUESTION, images=len(grids)), sum(g.patches for g in grids)
        if patches not in self._starts:
            self._starts[patches] = len(self._prompts.build(asked, grids).token_ids)
        told = self._prompts.build((*asked, Message("assistant", text)), grids, add_generation_prompt=False)
        return told, self._starts[patches]

    @cached_property
    def _ending(self) -> int:
        """How many tokens the template writes after a narrative."""
        told, start = self._told("a", ())
        return len(told.token_ids) - start - len(self._encode("a"))

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def page_of(text: str, book: Mapping[str, Page]) -> Page | None:
    """The page of the disease that a narrative answers, if there is one."""
    answer = read_answer(text)
    return None if answer is None else book.get(answer.strip().rstrip(".").casefold())


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


def fill_pages(readings: Sequence[Reading], table: Tensor, beliefs: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pages as ``page``, ``written``, ``about`` and ``agreement`` of ``Seen``.

    Args:
        readings: what is read.
        table: the model's embeddings ``[vocabulary, hidden]``.
        beliefs: how likely each of ``VALUES`` is on each picture ``[B, values]``; ``None`` where there is none.
    """
    import torch

    counts = torch.tensor([len(r.page) for r in readings])
    written = torch.arange(int(counts.max()))[None] < counts[:, None]
    pages, about = torch.zeros(*written.shape, table.shape[1]), torch.zeros(written.shape, dtype=torch.long)
    pages[written] = table[torch.from_numpy(np.concatenate([r.page for r in readings]))].float()
    about[written] = torch.from_numpy(np.concatenate([r.about for r in readings])) + 1
    fits = torch.zeros(len(readings), len(VOCABULARY) + 1)
    if beliefs is not None:
        allowed = beliefs * torch.from_numpy(np.stack([r.shows for r in readings]))
        owner = torch.tensor([list(VOCABULARY).index(f) + 1 for f, _ in VALUES])
        fits = fits.index_add(1, owner, allowed)
    agreement = fits.gather(1, about)
    there = (about > 0) & (beliefs is not None)
    return pages, written, about, torch.stack([agreement, there.float() - agreement], -1) * there[..., None]
