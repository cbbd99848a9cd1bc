"""The two stages in which the tiny base model is trained from scratch (``train.tiny_base``)."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor, nn

from skinedge.console import note
from skinedge.model.config import ModelConfig
from skinedge.runtime.image import ProcessorConfig
from skinedge.runtime.session import Grid, Prompt
from skinedge.synthderm.findings import VOCABULARY, Case
from train.decoder import decode, rotary
from train.vision import UniformVision

Pictures = npt.NDArray[np.uint8]  # [N, side, side, 3]
IGNORED = -100
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Stage:
    """How a stage is trained: AdamW, ``warmup`` of the steps to warm up, then a cosine down to nothing."""

    steps: int
    batch: int
    lr: float
    warmup: float = 0.08
    weight_decay: float = 0.05
    clip: float = 1.0


class Eye:
    """Square pictures of one size, turned into features by a model's vision tower."""

    def __init__(self, side: int, config: ModelConfig, processor: ProcessorConfig) -> None:
        self.grid = Grid(1, side // config.vision.patch_size, side // config.vision.patch_size)
        self._config = config.vision
        self._mean, self._std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        self._encode = compiled(UniformVision(self.grid, config.vision).encode)

    def __call__(self, visual: transformers.PreTrainedModel, pictures: Pictures) -> Tensor:
        """Features ``[B, merged patches, hidden]`` of pictures ``[B, side, side, 3]``."""
        features: Tensor = self._encode(visual, self.patches(pictures))
        return features

    def patches(self, pictures: Pictures) -> Tensor:
        """Patch rows ``[B, P, patch values]`` in the processor's order."""
        merge, size, frames = self._config.spatial_merge_size, self._config.patch_size, self._config.temporal_patch_size
        groups, batch = self.grid.height // merge, len(pictures)
        x = (torch.from_numpy(pictures).float() / 255 - self._mean) / self._std
        x = x.reshape(batch, groups, merge, size, groups, merge, size, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
        x = x.reshape(batch, self.grid.patches, 3, 1, size, size).expand(-1, -1, -1, frames, -1, -1)
        return x.reshape(batch, self.grid.patches, -1)


def train_vision(visual: transformers.PreTrainedModel, eye: Eye, pictures: Pictures, cases: Sequence[Case], stage: Stage) -> None:
    """Teach the vision tower the findings: one linear head a finding on the mean of the features, thrown away after."""
    truth = finding_labels(cases)
    heads = nn.ModuleDict({f: nn.Linear(visual.config.out_hidden_size, len(v)) for f, v in VOCABULARY.items()})
    order = _draws(len(cases), stage)

    def loss() -> Tensor:
        rows, rng = next(order)
        with torch.autocast("cpu", torch.bfloat16):
            seen = eye(visual, _turn(pictures[rows], rng)).mean(1)
            logits = {f: head(seen).float() for f, head in heads.items()}
        return torch.stack([nn.functional.cross_entropy(logits[f], truth[f][rows]) for f in logits]).sum()

    _optimise([*visual.parameters(), *heads.parameters()], loss, stage, "vision: findings")


def train_language(
    model: transformers.Qwen2_5_VLForConditionalGeneration,
    eye: Eye,
    asked: Sequence[Prompt],
    pictures: Pictures,
    tell: Callable[[int, np.random.Generator], list[int]],
    stage: Stage,
    keep: Callable[[], None],
) -> None:
    """Teach the whole model to answer each of ``asked`` with the tokens of ``tell(row, rng)``, written anew each time."""
    text, decoded = model.model.language_model, compiled(decode)
    order = _draws(len(pictures), stage)

    def loss() -> Tensor:
        rows, rng = next(order)
        answers = [tell(int(row), rng) for row in rows]
        ids, positions, labels = _conversation(
            asked[int(rng.integers(len(asked)))], answers, model.generation_config.pad_token_id
        )
        with torch.autocast("cpu", torch.bfloat16):
            embeds = model.get_input_embeddings()(ids)
            features = eye(model.model.visual, _turn(pictures[rows], rng))
            embeds = embeds.masked_scatter((ids == model.config.image_token_id)[..., None], features.to(embeds.dtype))
            hidden = decoded(text, embeds, *rotary(text, embeds, positions))
            supervised = labels != IGNORED
            logits = model.lm_head(hidden[supervised]).float()
        return nn.functional.cross_entropy(logits, labels[supervised])

    _optimise(list(model.parameters()), loss, stage, "language: narratives", keep)


def finding_labels(cases: Sequence[Case]) -> dict[str, Tensor]:
    """The number of each case's value, ``[N]`` for each finding."""
    return {f: torch.tensor([v.index(getattr(c.findings, f)) for c in cases]) for f, v in VOCABULARY.items()}


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` through ``torch.compile`` where there is a C++ compiler: twice as fast, to rounding the same."""
    if any(shutil.which(name) for name in ("g++", "clang++", "cl")):
        return torch.compile(function, dynamic=False)
    note("no C++ compiler was found: training goes on without torch.compile, at about half the speed.")
    return function


# Lengths that sequences are filled up to: few, since each is compiled by itself.
_LENGTH_STEP = 64


def _conversation(asked: Prompt, answers: Sequence[list[int]], padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids ``[B, S]``, positions ``[3, B, S]`` and labels ``[B, S]`` (of the *next* token) of one question answered."""
    start = len(asked.token_ids)
    length = math.ceil((start + max(map(len, answers))) / _LENGTH_STEP) * _LENGTH_STEP
    ids = np.full((len(answers), length), padding, np.int64)
    labels = np.full((len(answers), length), IGNORED, np.int64)
    ids[:, :start] = asked.token_ids
    for row, answer in enumerate(answers):
        ids[row, start : start + len(answer)] = answer
        labels[row, start - 1 : start - 1 + len(answer)] = answer
    following = asked.next_position + np.arange(length - start)
    positions = np.concatenate([asked.positions, np.tile(following, (3, 1))], 1)
    return torch.from_numpy(ids), torch.from_numpy(positions)[:, None].expand(-1, len(answers), -1), torch.from_numpy(labels)


def _draws(count: int, stage: Stage) -> Iterator[tuple[npt.NDArray[np.int64], np.random.Generator]]:
    """Batches of rows, every row once before any comes again; the generator goes on from batch to batch."""
    rng = np.random.default_rng([count, stage.steps])
    while True:
        shuffled = rng.permutation(count)
        for first in range(0, count - stage.batch + 1, stage.batch):
            yield np.sort(shuffled[first : first + stage.batch]), rng


def _turn(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """One of the eight ways to turn and mirror a square: no finding has a direction."""
    turned = np.rot90(pictures, int(rng.integers(4)), (1, 2))
    return np.ascontiguousarray(turned[:, ::-1] if rng.integers(2) else turned)


def _optimise(
    parameters: list[nn.Parameter],
    loss: Callable[[], Tensor],
    stage: Stage,
    what: str,
    keep: Callable[[], None] = lambda: None,
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    optimiser = torch.optim.AdamW(parameters, stage.lr, betas=(0.9, 0.98), weight_decay=stage.weight_decay)
    schedule = transformers.get_cosine_schedule_with_warmup(optimiser, int(stage.warmup * stage.steps), stage.steps)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=stage.steps)
        for step in range(stage.steps):
            value = loss()
            optimiser.zero_grad()
            torch.autograd.backward(value)
            nn.utils.clip_grad_norm_(parameters, stage.clip)
            optimiser.step()
            schedule.step()
            bar.update(task, advance=1, description=f"{what}: loss {value.item():.3f}")
            if step % 500 == 499:
                keep()
            if step % 100 == 0:
                note(f"{what}: step {step} of {stage.steps}, loss {value.item():.4f}")
