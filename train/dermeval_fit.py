"""How DermEval's judge is trained: first towards the true scores, then by score-oriented REINFORCE.

The first stage is supervised: cross-entropy to the true score, shared between the two nearest levels, the squared error
of the mean, and the critique's flaws.  The second is that of arXiv 2511.09195 as far as its public text tells: the
evaluator *samples* scores, is rewarded for their closeness to the truth, and follows the policy gradient with an
exponential moving average of the reward as its baseline.  There a language model writes scores as text after a critique
and the truth is a physician's; here each dimension is a distribution over levels and the truth is that of the damage.
Then the expected reward needs no sampling, its gradient is known exactly: ``exact`` follows that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor
from torch.nn import functional

from skinedge.evaluation.dermeval_model import LEVELS, STEP, Judge, Judged, Seen, expected, part, settled
from skinedge.evaluation.scores import DIMENSIONS, HIGHEST
from train.dermeval_data import Watched

Report = Callable[[int, dict[str, float]], None]
Loss = Callable[[Judged, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Stage:
    """One stage: epochs over the set, highest learning rate (a cosine down to nothing after some warm-up), seed."""

    epochs: int
    lr: float
    seed: int = 0
    parts: int = 2  # steps that a kept batch is cut into
    warmup: float = 0.05
    weight_decay: float = 0.02
    thin: float = 0.0  # share of a narrative's tokens that are hidden; three times as many are shown as bare words


@dataclass(frozen=True)
class Reinforce:
    """How scores are sampled and rewarded: draws of each score, decay of the baseline, and weight of the entropy."""

    draws: int = 8
    decay: float = 0.95
    entropy: float = 0.01
    exact: bool = False


def supervised(judge: Judge, watched: Watched, stage: Stage, report: Report | None = None) -> None:
    """Train towards true scores and flaws."""

    def loss(judged: Judged, scores: Tensor, flaws: Tensor) -> Tensor:
        logs = judged.scores.float().log_softmax(-1)
        near = -(two_nearest(scores) * logs).sum(-1).mean()
        far = functional.mse_loss(expected(judged.scores), scores)
        wrong = functional.binary_cross_entropy_with_logits(judged.flaws.float(), flaws)
        return near + 0.5 * far + 4 * wrong

    _train(judge, watched, stage, loss, report)


def reinforce(judge: Judge, watched: Watched, stage: Stage, how: Reinforce, report: Report | None = None) -> None:
    """Train by sampled scores and their reward, ``-|score - truth| / 5``."""
    levels = torch.tensor(LEVELS)
    generator = torch.Generator().manual_seed(stage.seed)
    baseline: Tensor | None = None

    def loss(judged: Judged, scores: Tensor, _: Tensor) -> Tensor:
        nonlocal baseline
        logs = judged.scores.float().log_softmax(-1)
        rewards = -(levels - scores[..., None]).abs() / HIGHEST  # [B, 6, levels], of every score that could be drawn
        entropy = -(logs.exp() * logs).sum(-1).mean()
        if how.exact:
            return -(logs.exp() * rewards).sum(-1).mean() - how.entropy * entropy
        chances = logs.detach().exp().flatten(0, 1)
        drawn = torch.multinomial(chances, how.draws, replacement=True, generator=generator).reshape(*scores.shape, -1)
        reward = rewards.gather(-1, drawn)
        mean = reward.mean((0, 2))
        baseline = mean if baseline is None else how.decay * baseline + (1 - how.decay) * mean
        advantage = reward - baseline[:, None]
        return -(advantage * logs.gather(-1, drawn)).mean() - how.entropy * entropy

    _train(judge, watched, stage, loss, report)


def two_nearest(scores: Tensor) -> Tensor:
    """Scores ``[B, 6]`` as distributions ``[B, 6, levels]`` over the two nearest levels, with the scores as their means."""
    place = scores / STEP
    below = place.floor().clamp(max=len(LEVELS) - 2)
    share = (place - below)[..., None]
    first = functional.one_hot(below.long(), len(LEVELS))
    return first * (1 - share) + first.roll(1, -1) * share


def thinned(seen: Seen, share: float, chance: torch.Generator) -> Seen:
    """The same with some tokens of the narratives hidden, others without what the model had in mind: no sentence is whole."""
    if not share:
        return seen
    drawn = torch.rand(seen.told.shape, generator=chance)
    bare = (drawn >= 4 * share)[..., None]
    return replace(seen, told=seen.told & (drawn >= share), states=seen.states * bare, surprise=seen.surprise * bare)


@torch.inference_mode()
def score_all(judge: Judge, watched: Watched) -> npt.NDArray[np.float64]:
    """Scores ``[N, 6]``, as they are given out, in the order of the samples."""
    judge.eval()
    found = np.zeros((sum(map(len, watched.order)), len(DIMENSIONS)))
    for seen, order in zip(watched.batches, watched.order, strict=True):
        found[list(order)] = settled(judge(_wide(seen)).scores).double().numpy()
    return found


def truth_of(watched: Watched) -> npt.NDArray[np.float64]:
    """True scores ``[N, 6]`` in the order of the samples."""
    found = np.zeros((sum(map(len, watched.order)), len(DIMENSIONS)))
    for scores, order in zip(watched.scores, watched.order, strict=True):
        found[list(order)] = scores.double().numpy()
    return found


def without_pictures(watched: Watched) -> Watched:
    """The same, with no picture for the judge to look at; what the model had in mind when it looked is still there."""
    blind = tuple(replace(b, picture=b.picture[:, :0], agreement=torch.zeros_like(b.agreement)) for b in watched.batches)
    return replace(watched, batches=blind)


def _train(judge: Judge, watched: Watched, stage: Stage, loss: Loss, report: Report | None) -> None:
    judge.train()
    steps = stage.epochs * stage.parts * len(watched.batches)
    optimiser = torch.optim.AdamW(judge.parameters(), stage.lr, betas=(0.9, 0.98), weight_decay=stage.weight_decay)
    schedule = transformers.get_cosine_schedule_with_warmup(optimiser, max(1, int(stage.warmup * steps)), steps)
    rng = np.random.default_rng(stage.seed)
    chance = torch.Generator().manual_seed(stage.seed)
    order = np.concatenate([rng.permutation(len(watched.batches)) for _ in range(stage.epochs)])
    for step, (number, rows) in enumerate(_steps(watched, order, stage.parts, rng)):
        seen, scores, flaws = watched.batches[number], watched.scores[number][rows], watched.flaws[number][rows]
        with torch.autocast("cpu", torch.bfloat16):
            judged = judge(thinned(_wide(part(seen, rows)), stage.thin, chance))
        value = loss(judged, scores, flaws)
        optimiser.zero_grad()
        torch.autograd.backward(value)
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if report:
            error = (expected(judged.scores.detach()) - scores).abs().mean().item()
            report(step, {"loss": value.item(), "error": error})


def _steps(watched: Watched, order: npt.NDArray[np.int64], parts: int, rng: np.random.Generator) -> Iterator[tuple[int, Tensor]]:
    """Number of a kept batch and some of its rows, all rows once in ``parts`` steps that do not follow one another."""
    for first in range(0, len(order), len(watched.batches)):
        epoch = order[first : first + len(watched.batches)]
        cut = [np.array_split(rng.permutation(len(watched.order[n])), parts) for n in epoch]
        for part_number in range(parts):
            yield from (
                (int(n), torch.from_numpy(rows[part_number]))
                for n, rows in zip(epoch, cut, strict=True)
                if len(rows[part_number])
            )


def _wide(seen: Seen) -> Seen:
    """A kept batch in float32."""
    parts = (getattr(seen, f.name) for f in fields(seen))
    return Seen(*(x.float() if x.dtype == torch.bfloat16 else x for x in parts))
