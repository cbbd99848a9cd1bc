"""A progress bar that counts cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text


@contextmanager
def case_bar(total: int, quiet: bool) -> Iterator[Callable[[], None]]:
    """A bar on standard error for ``total`` cases, gone when it is done; yields what moves it on by one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _TimeLeft())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet or not total) as bars:
        task = bars.add_task("asking the teacher", total=total)
        yield lambda: bars.advance(task)


class _TimeLeft(ProgressColumn):
    """The rest at the mean speed so far: cases end in bursts, which rich's own estimate follows up and down."""

    def render(self, task: Task) -> Text:
        if not task.completed or task.elapsed is None or task.total is None:
            return Text("time left: not known yet")
        left = task.elapsed * (task.total - task.completed) / task.completed
        return Text(f"{timedelta(seconds=round(left))} left")
