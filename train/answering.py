"""Greedy answers to many questions at once, in PyTorch: how an adapter is judged while it is being made.

The network, its LoRA and its side branch are those of ``skinedge.model.reference``, prompts and pixels those of
``skinedge.runtime``; the texts are those that ``skinedge.runtime.generate`` gives one by one
(``tests/test_diagnose.py``).  Questions whose prompts are equally long go through the model together, so nothing
is padded; a row leaves the batch when its answer ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor

from skinedge.errors import SkinedgeError
from skinedge.model.config import read_config
from skinedge.model.reference import Reference
from skinedge.runtime.generate import BiasPolicy
from skinedge.runtime.image import load_photograph, read_processor_config, to_pixels
from skinedge.runtime.prompt import Message, PromptBuilder
from skinedge.runtime.session import Grid, Pixels, Prompt
from train.vision import UniformVision


@dataclass(frozen=True)
class Asked:
    """A conversation that the model is to continue, and its photographs."""

    messages: tuple[Message, ...]
    images: tuple[Path, ...]


@dataclass(frozen=True)
class _Row:
    number: int  # of the question
    prompt: Prompt
    pixels: tuple[Pixels, ...]

    @property
    def alike(self) -> tuple[int, tuple[Grid, ...]]:
        """What rows of one batch share."""
        return len(self.prompt.token_ids), self.prompt.grids


class Answerer:
    """A model with its adapters, ready to answer.

    Args:
        folder: as for ``open_checkpoint``.
        adapters: as for ``open_checkpoint``.
        precision: ``f32``, ``bf16`` or ``f16``, the type of the arithmetic; the side branch stays in float32.
        device: a torch device, or ``auto`` for a GPU where there is one.
        threads: CPU threads, for the whole process.

    Raises:
        CheckpointError: the model cannot be read.
        AdapterError: an adapter does not fit it.
    """

    def __init__(
        self,
        folder: Path,
        adapters: Sequence[Path] = (),
        *,
        precision: str = "f32",
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        reference = Reference.from_checkpoint(folder, adapters, dtype=precision, threads=threads, device=where)
        self._model, self._branch = reference.model, reference.branch
        self._config = read_config(folder)
        self._prompts = PromptBuilder.from_folder(folder, self._config)
        self._processor = read_processor_config(folder)
        self._ends = torch.tensor(self._config.eos_token_ids, device=where)
        self._vision: dict[Grid, UniformVision] = {}

    def answers(
        self, asked: Sequence[Asked], *, max_new_tokens: int = 512, batch: int = 64, bias: BiasPolicy = "every-step"
    ) -> Iterator[tuple[int, str]]:
        """Number and answer of each question, in the order in which batches fill and end.

        Args:
            asked: the questions; a photograph is read when its batch is gathered.
            max_new_tokens: an answer is cut off there.
            batch: questions at once, at most.
            bias: whether the side branch speaks.

        Raises:
            ImageError: a photograph cannot be read.
            PromptError: a prompt does not fit.
            SkinedgeError: the model gave no usable logits.
        """
        for rows in self._batches(asked, batch):
            with torch.inference_mode():
                token_ids = self._generate(rows, max_new_tokens, biased=bias == "every-step")
            yield from ((row.number, self._text(ids)) for row, ids in zip(rows, token_ids, strict=True))

    def _batches(self, asked: Sequence[Asked], batch: int) -> Iterator[list[_Row]]:
        waiting: dict[tuple[int, tuple[Grid, ...]], list[_Row]] = defaultdict(list)
        for number, question in enumerate(asked):
            pixels = tuple(to_pixels(load_photograph(path), self._processor) for path in question.images)
            row = _Row(number, self._prompts.build(question.messages, [p.grid for p in pixels]), pixels)
            waiting[row.alike].append(row)
            if len(waiting[row.alike]) == batch:
                yield waiting.pop(row.alike)
        yield from waiting.values()

    def _generate(self, rows: Sequence[_Row], most: int, *, biased: bool) -> list[list[int]]:
        """The token ids of each row's answer, without the end token."""
        length = len(rows[0].prompt.token_ids)
        most = min(most, self._config.text.max_position_embeddings - length + 1)
        cache = transformers.DynamicCache(config=self._model.config)
        logits = self._forward(self._embed(rows), self._tensor(np.stack([r.prompt.positions for r in rows], 1)), cache)
        bias = self._bias(rows) if biased else None
        places = self._tensor(np.array([r.prompt.next_position for r in rows]))
        answers: list[list[int]] = [[] for _ in rows]
        alive = torch.arange(len(rows), device=logits.device)
        while True:
            chosen = _likeliest(logits if bias is None else logits + bias)
            going = ~torch.isin(chosen, self._ends)
            chosen, alive, places = chosen[going], alive[going], places[going]
            for row, token in zip(alive.tolist(), chosen.tolist(), strict=True):
                answers[row].append(token)
            if not len(alive) or len(answers[int(alive[0])]) == most:
                return answers
            if len(alive) < len(going):
                cache.batch_select_indices(going)
                bias = None if bias is None else bias[going]
            embeds = self._model.get_input_embeddings()(chosen[:, None])
            logits = self._forward(embeds, places.expand(3, -1)[..., None], cache)
            places = places + 1

    def _forward(self, embeds: Tensor, positions: Tensor, cache: transformers.DynamicCache) -> Tensor:
        """Logits ``[B, vocabulary]`` of the last position."""
        out = self._model(inputs_embeds=embeds, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = out.logits[:, 0].float()
        return logits

    def _embed(self, rows: Sequence[_Row]) -> Tensor:
        ids = self._tensor(np.stack([r.prompt.token_ids for r in rows]))
        embeds: Tensor = self._model.get_input_embeddings()(ids)
        if rows[0].pixels:
            features = torch.cat([self._encode(pictures) for pictures in _columns(rows)], 1)
            embeds[ids == self._config.image_token_id] = features.flatten(0, 1).to(embeds.dtype)
        return embeds

    def _encode(self, pictures: Sequence[Pixels]) -> Tensor:
        """Features ``[B, merged patches, hidden]`` of pictures of one grid."""
        grid, visual = pictures[0].grid, self._model.model.visual
        vision = self._vision.setdefault(grid, UniformVision(grid, self._config.vision))
        return vision.encode(visual, self._tensor(np.stack([p.patches for p in pictures])).to(visual.dtype))

    def _bias(self, rows: Sequence[_Row]) -> Tensor | None:
        """``[B, vocabulary]``: each row's mean over its photographs."""
        branch = self._branch
        if branch is None or not rows[0].pixels:
            return None
        head = self._model.lm_head
        each = [[branch.bias(branch(self._tensor(p.patches)).shift, head).float() for p in row.pixels] for row in rows]
        return torch.stack([torch.stack(biases).mean(0) for biases in each])

    def _text(self, token_ids: Sequence[int]) -> str:
        return self._prompts.decode(token_ids)

    def _tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._model.device)


def _columns(rows: Sequence[_Row]) -> Iterator[tuple[Pixels, ...]]:
    """The first photograph of every row, the second of every row, ..."""
    return zip(*(row.pixels for row in rows), strict=True)


def _likeliest(logits: Tensor) -> Tensor:
    highest, token = logits.max(-1)
    if not bool(highest.isfinite().all()):
        raise SkinedgeError(
            "the model gave something else than a number for a logit, so no next token can be chosen.",
            hint="Its numbers overflowed: answer in f32, or look at the adapter.",
        )
    return token
