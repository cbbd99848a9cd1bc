"""When what happens: the order of the records, the learning rate, the last step.  Pure functions of the step.

Because nothing here has a state, a run that is resumed at step 700 does at step 701 what it would have done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from train.settings import Recipe


@dataclass(frozen=True)
class Schedule:
    """The steps of a run.  ``part`` records go through the student at once, over all processes."""

    records: int
    batch: int
    processes: int
    accumulation: int
    steps: int
    seed: int
    lr: float
    warmup: int

    @classmethod
    def of(cls, recipe: Recipe, records: int, processes: int) -> Schedule:
        """The schedule of a recipe over a data set."""
        train = recipe.train
        step = train.batch * train.accumulation * processes
        steps = train.steps or math.ceil(train.epochs * records / step)
        warmup = math.ceil(recipe.optim.warmup * steps)
        return cls(records, train.batch, processes, train.accumulation, steps, train.seed, recipe.optim.lr, warmup)

    @property
    def step_records(self) -> int:
        """Records of one step."""
        return self.batch * self.processes * self.accumulation

    def parts(self, step: int, process: int) -> list[list[int]]:
        """The records of each accumulated part of ``step`` (from 0) that ``process`` works on."""
        chosen = self.chosen(step)
        part = self.batch * self.processes
        starts = range(process * self.batch, len(chosen), part)
        return [chosen[start : start + self.batch] for start in starts]

    def chosen(self, step: int) -> list[int]:
        """The records of ``step``: one endless stream of shuffled epochs is cut into steps of equal size."""
        first = step * self.step_records
        places = range(first, first + self.step_records)
        return [int(_order(self.records, self.seed, p // self.records)[p % self.records]) for p in places]

    def epoch(self, step: int) -> float:
        """Epochs done once ``step`` steps are."""
        return step * self.step_records / self.records

    def ends_epoch(self, step: int) -> bool:
        """Whether the ``step``-th step (from 1) completes an epoch."""
        return int(self.epoch(step)) > int(self.epoch(step - 1))

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to 0, for ``step`` (from 0)."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


@lru_cache(maxsize=4)
def _order(records: int, seed: int, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng([seed, epoch]).permutation(records)
