"""What a run tells of itself: a line of JSON a step, TensorBoard, and a bar with the time left."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from skinedge.errors import MissingDependencyError
from train.run_folder import Row, RunFolder, truncate_metrics

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from torch.utils.tensorboard import SummaryWriter

_CURVES = ("loss", "ce", "cosine", "balance", "skin", "lr", "grad_norm", "tokens_per_s")


class Log:
    """The log of a run from ``step`` on; lines of later steps, left by a run that was killed, are removed."""

    def __init__(self, run: RunFolder, step: int, steps: int, *, quiet: bool) -> None:
        truncate_metrics(run.metrics, step)
        self._file = run.metrics.open("a", encoding="utf-8", newline="\n")
        self._writer = _tensorboard(run.tensorboard, step)
        self._bar, self._task = _bar(step, steps, quiet)

    def write(self, step: int, row: Row) -> None:
        """One step's figures."""
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        for name in _CURVES:
            self._writer.add_scalar(name, row[name], step)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, loss=f"loss {row['loss']:.4f}")

    def __enter__(self) -> Log:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._file.close()
        self._writer.close()


def _tensorboard(folder: Path, step: int) -> SummaryWriter:
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as e:
        raise MissingDependencyError(
            "training logs to TensorBoard, which is not installed.", hint="Install it: pip install 'skinedge[train]'."
        ) from e
    return SummaryWriter(str(folder), purge_step=step + 1)


def _bar(step: int, steps: int, quiet: bool) -> tuple[Progress | None, TaskID]:
    from rich.progress import TaskID

    if quiet:
        return None, TaskID(0)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True),
    )  # fmt: skip
    return bar, bar.add_task("training", total=steps, completed=step, loss="")
