"""The training loop: the same for the side branch and a LoRA, cached or plain, one process or many."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import accelerate
import torch
from torch import Tensor

from skinedge.console import note
from train.ahead import ahead
from train.backbone import Backbone
from train.batches import Batch, Source, totals
from train.errors import TrainingError
from train.log import Log
from train.losses import NAMES, Totals
from train.objective import Objective
from train.run_folder import RunFolder
from train.schedule import Schedule
from train.settings import Recipe
from train.states import finite, load_states, whole_states
from train.stop import stop_signals
from train.students import Student


@dataclass(frozen=True)
class Ended:
    """How a run ended: after its last step, or stopped on the way."""

    step: int
    stopped: bool


class Trainer:
    """A student, what it learns from, and where it is kept.

    ``head`` and ``backbone`` are those of ``train.objective``.
    """

    def __init__(
        self,
        recipe: Recipe,
        accelerator: accelerate.Accelerator,
        student: Student,
        source: Source,
        schedule: Schedule,
        head: Tensor,
        run: RunFolder,
        backbone: Backbone | None = None,
        quiet: bool = False,
    ) -> None:
        self._recipe, self._accelerator, self._source, self._schedule = recipe, accelerator, source, schedule
        self._student, self._run, self._quiet = student, run, quiet
        self._objective = Objective(recipe.loss, head, backbone, self._sum)
        optim = recipe.optim
        trained = [p for p in student.module.parameters() if p.requires_grad]
        adamw = torch.optim.AdamW(trained, optim.lr, (optim.beta1, optim.beta2), optim.eps, optim.weight_decay, fused=True)
        self._module, self._optimizer = accelerator.prepare(student.module, adamw)

    def train(self) -> Ended:
        """Train from the last checkpoint, or from the beginning, to the end or until a signal asks to stop.

        Raises:
            TrainingError: a loss is not a number; the last checkpoint stays as it is.
        """
        step = self._run.last_step()
        if step:
            self._load(step)
        main = self._accelerator.is_main_process
        log = Log(self._run, step, self._schedule.steps, quiet=self._quiet) if main else nullcontext()
        with log as lines, stop_signals() as stop, ThreadPoolExecutor(1) as reader:
            batches = self._batches(step, reader)
            while step < self._schedule.steps:
                begin = time.perf_counter()
                row, stopped = self._step(step, batches, stop)
                step += 1
                if lines is not None:
                    lines.write(step, row | _speed(row, time.perf_counter() - begin))
                if stopped or step == self._schedule.steps or self._due(step):
                    self._save(step)
                if stopped and step < self._schedule.steps:
                    return Ended(step, stopped=True)
        return Ended(step, stopped=False)

    def _due(self, step: int) -> bool:
        every = self._recipe.train.save_every
        return step % every == 0 if every else self._schedule.ends_epoch(step)

    def _batches(self, step: int, reader: ThreadPoolExecutor) -> Iterator[Batch]:
        """The parts of all steps from ``step`` on, the next one being read while one is worked on."""
        process = self._accelerator.process_index
        parts = (part for s in range(step, self._schedule.steps) for part in self._schedule.parts(s, process))
        for batch in ahead(reader, self._source.batch, parts):
            yield batch.to(self._accelerator.device)

    def _step(self, step: int, batches: Iterator[Batch], stop: Sequence[int]) -> tuple[dict[str, float], bool]:
        """One update; the figures of the step, and whether to stop after it."""
        schedule, accelerator = self._schedule, self._accelerator
        whole = totals(self._source, schedule.chosen(step), schedule.accumulation)
        # Dropout's random numbers depend on the step alone, so that a resumed run draws the same.
        torch.manual_seed((schedule.seed << 32) + step * schedule.processes + accelerator.process_index)
        shares = []
        for number in range(schedule.accumulation):
            batch = next(batches)
            last = number == schedule.accumulation - 1
            with nullcontext() if last else accelerator.no_sync(self._module):
                losses = self._objective.shares(self._module, batch, whole)
                # Gradients are averaged over the processes, and the shares are to be added up.
                accelerator.backward(self._objective.total(losses) * schedule.processes)
            shares.append(torch.stack(losses).detach())
        flag = shares[0].new_tensor([float(bool(stop))])
        *terms, asked = accelerator.reduce(torch.cat([torch.stack(shares).sum(0), flag]), "sum").tolist()
        self._check(step, terms, shares)
        for group in self._optimizer.param_groups:
            group["lr"] = schedule.learning_rate(step)
        norm = self._clip()
        self._check_norm(step, norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return self._row(step, terms, norm, whole), asked > 0

    def _sum(self, values: Tensor) -> Tensor:
        summed: Tensor = self._accelerator.reduce(values, "sum")
        return summed

    def _clip(self) -> float:
        parameters = [p for p in self._module.parameters() if p.requires_grad]
        return float(self._accelerator.clip_grad_norm_(parameters, self._recipe.optim.clip or math.inf))

    def _check(self, step: int, terms: Sequence[float], shares: Sequence[Tensor]) -> None:
        """Stop at a loss that is not a number, naming the records of the parts in which it is not."""
        wrong = [name for name, value in zip(NAMES, terms, strict=True) if not math.isfinite(value)]
        if not wrong:
            return
        parts = self._schedule.parts(step, self._accelerator.process_index)
        parts = [part for part, share in zip(parts, shares, strict=True) if not bool(share.isfinite().all())]
        ids = [self._source.ids[i] for part in parts for i in part]
        self._give_up(step, f"the {wrong[0]} loss is {terms[NAMES.index(wrong[0])]}", ids)

    def _check_norm(self, step: int, norm: float) -> None:
        if not math.isfinite(norm):
            self._give_up(step, f"the gradient's norm is {norm}", [self._source.ids[i] for i in self._schedule.chosen(step)])

    def _give_up(self, step: int, what: str, ids: Sequence[str]) -> None:
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        last = self._run.last_step()
        kept = f"The checkpoint of step {last} is kept. " if last else ""
        raise TrainingError(
            f"step {step + 1}: {what} (records {shown or 'of another process'}).",
            hint=f"{kept}Lower --lr, or look at these records.",
        )

    def _row(self, step: int, terms: Sequence[float], norm: float, whole: Totals) -> dict[str, float]:
        weights = self._recipe.loss
        loss = sum(value * getattr(weights, name) for name, value in zip(NAMES, terms, strict=True))
        named = dict(zip(NAMES, terms, strict=True))
        lr = self._schedule.learning_rate(step)
        return {"epoch": self._schedule.epoch(step + 1), "lr": lr, "loss": loss} | named | {
            "grad_norm": norm, "tokens": float(whole.tokens)
        }  # fmt: skip

    def _save(self, step: int) -> None:
        model, optimizer = whole_states(self._module, self._optimizer.optimizer)
        if not self._accelerator.is_main_process:
            return
        if not finite(model):
            raise TrainingError(f"step {step}: a weight is no longer a finite number.", hint="Lower --lr.")
        self._run.save(step, lambda folder: self._student.write(folder, model), optimizer)

    def _load(self, step: int) -> None:
        folder, stored = self._run.load(step)
        load_states(self._module, self._optimizer.optimizer, self._student.read(folder), stored)
        if self._accelerator.is_main_process and not self._quiet:
            note(f"Resumed at step {step}.")


def _speed(row: dict[str, float], seconds: float) -> dict[str, float]:
    return {"tokens_per_s": row["tokens"] / seconds, "seconds": seconds}
