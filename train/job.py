"""One run, from its recipe to its adapter: data, teacher, cache, student, loop, card, in this order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import accelerate
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from skinedge.console import note
from skinedge.errors import UsageError
from skinedge.model.config import ModelConfig, read_config
from skinedge.weights.checkpoint import checkpoint_digest
from skinedge.weights.lora import WEIGHTS_FILE
from train.backbone import read_head
from train.batches import Source
from train.cache import MadeOf
from train.card import write_card
from train.data import Record, data_digest, read_records
from train.loop import Trainer
from train.run_folder import RunFolder, truncate_metrics
from train.schedule import Schedule
from train.settings import LoraSection, Recipe, SideBranchSection
from train.sources import Sources
from train.students import ADAPTER_FILE, SideBranchStudent, Student
from train.whitening import whitening

if TYPE_CHECKING:
    from train.teachers import Teacher

# Settings that change nothing of a run's result, or whose digest says it better.
_ELSEWHERE = {"model.folder", "data.files", "teacher.spec", "adapter.start", "cache.folder", "cache.shard_mb", "train.save_every"}
# A process may have to wait for the others as long as the longest cache takes to fill.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Result:
    """How a run ended; ``loss`` is that of the last step."""

    out: Path
    step: int
    steps: int
    loss: float
    stopped: bool


class Job:
    """A recipe applied to a folder.

    Raises:
        UsageError: the recipe lacks a model or data, or asks for what cannot be.
        SkinedgeError: the model or the records cannot be read.
    """

    def __init__(
        self, recipe: Recipe, out: Path, *, device: str = "auto", threads: int | None = None, quiet: bool = False
    ) -> None:
        _check(recipe)
        if threads:
            torch.set_num_threads(threads)
        AcceleratorState._reset_state()  # one process may train one adapter after another, each in its own precision
        self.accelerator = accelerate.Accelerator(
            mixed_precision="bf16" if recipe.train.precision == "bf16" else "no",
            cpu=device == "cpu",
            kwargs_handlers=[accelerate.InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
        self.recipe, self.run = recipe, RunFolder(out)
        self.quiet = quiet or not self.accelerator.is_main_process
        self.folder = Path(recipe.model.folder)
        self.config: ModelConfig = read_config(self.folder)
        self.records: tuple[Record, ...] = read_records([Path(f) for f in recipe.data.files])
        self.adapter_file = ADAPTER_FILE if isinstance(recipe.adapter, SideBranchSection) else WEIGHTS_FILE
        if isinstance(recipe.adapter, SideBranchSection) and recipe.loss.cosine and not recipe.teacher.spec and not self.quiet:
            note("There is no teacher: the cosine loss is left out.")

    def train(self) -> Result:
        """Train to the end, or until a signal asks to stop.

        Raises:
            SkinedgeError: see the errors of each part; the last checkpoint stays usable.
        """
        main = self.accelerator.is_main_process
        if main:
            self.run.claim(self.identity, self.adapter_file)
        self.accelerator.wait_for_everyone()
        sources, cached = self.sources, self.recipe.cached
        source = sources.cached(self.cache_folder, self.made_of) if cached else sources.plain()
        backbone = None if cached or isinstance(self.recipe.adapter, LoraSection) else sources.backbone()
        student = self.student(self.basis(source))
        trainer = Trainer(
            self.recipe, self.accelerator, student, source, self.schedule, self.head, self.run, backbone, self.quiet
        )
        ended = trainer.train()
        rows = truncate_metrics(self.run.metrics, ended.step) if main else []
        if main and not ended.stopped:
            write_card(self.run.out, self.recipe, self.identity, rows, len(self.records))
            self.run.finish(self.adapter_file)
        self.accelerator.wait_for_everyone()
        return Result(self.run.out, ended.step, self.schedule.steps, rows[-1]["loss"] if rows else 0.0, ended.stopped)

    @cached_property
    def teacher(self) -> Teacher | None:
        """The vision teacher, if there is one."""
        if not self.recipe.teacher.spec:
            return None
        from train.teachers import open_teacher

        return open_teacher(self.recipe.teacher.spec)

    @cached_property
    def sources(self) -> Sources:
        """Where batches come from."""
        return Sources(self.recipe, self.config, self.records, self.teacher, self.accelerator, self.quiet)

    @cached_property
    def made_of(self) -> MadeOf:
        """Digests of everything that the hidden states, the features and the pictures depend on."""
        return MadeOf(
            model=checkpoint_digest(self.folder),
            data=data_digest(self.records, quiet=self.quiet),
            teacher=self.teacher.digest if self.teacher else "",
            precision=self.recipe.train.precision,
            cutoff=self.recipe.data.cutoff,
        )

    @cached_property
    def identity(self) -> dict[str, str]:
        """What makes this run this run: every setting that changes its result, and digests of what it reads."""
        start = getattr(self.recipe.adapter, "start", "")
        settings = {f"{s}.{k}": str(v) for s, keys in self.recipe.tables().items() for k, v in keys.items()}
        return {
            "model": self.made_of.model,
            "data": self.made_of.data,
            "teacher": self.made_of.teacher,
            "start": checkpoint_digest(Path(start)) if start else "",
            "processes": str(self.accelerator.num_processes),
            **{name: value for name, value in settings.items() if name not in _ELSEWHERE},
        }

    @cached_property
    def schedule(self) -> Schedule:
        """Order of the data and learning rate."""
        return Schedule.of(self.recipe, len(self.records), self.accelerator.num_processes)

    @cached_property
    def head(self) -> Tensor:
        """The language model's head, on the device."""
        return read_head(self.folder, self.recipe.train.precision, self.accelerator.device)

    @property
    def cache_folder(self) -> Path:
        """Where the cache is."""
        out = self.run.out
        return Path(self.recipe.cache.folder) if self.recipe.cache.folder else out.with_name(f"{out.name}.cache")

    def basis(self, source: Source) -> Tensor | None:
        """The coordinates in which the side branch's first layer learns, if the recipe asks for any."""
        section = self.recipe.adapter
        if isinstance(section, LoraSection) or not section.components or section.start:
            return None
        return whitening(source, section.components)

    def student(self, basis: Tensor | None = None) -> Student:
        """The adapter as it is before the first step."""
        torch.manual_seed(self.recipe.train.seed)
        section = self.recipe.adapter
        if isinstance(section, LoraSection):
            from train.lora import LoraStudent

            train = self.recipe.train
            return LoraStudent(section, self.folder, self.config, train.precision, train.gradient_checkpointing)
        return SideBranchStudent(section, self.config, self.teacher.width if self.teacher else None, basis)


def _check(recipe: Recipe) -> None:
    """What no single key can be blamed for."""
    if not recipe.model.folder:
        raise UsageError("there is no model to train an adapter for.", hint="Give its folder with --model.")
    if not Path(recipe.model.folder).is_dir():
        raise UsageError(f"{recipe.model.folder}: there is no such folder.", hint="Give the folder of a model with --model.")
    if not recipe.data.files:
        raise UsageError("there are no records to train on.", hint="Give a JSON Lines file with --data.")
    if isinstance(recipe.adapter, LoraSection):
        if recipe.teacher.spec:
            raise UsageError("a LoRA has nothing that a vision teacher could be compared with.", hint="Add --teacher ''.")
        if not recipe.adapter.language and not recipe.adapter.vision:
            raise UsageError("this LoRA adapts nothing.", hint="Set adapter.language or adapter.vision.")
