"""What a person sees: progress with bytes and time left, tables, errors with a hint.

Everything for people goes to standard error except the answer itself; ``--json`` puts one JSON object
on standard output and nothing else there.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, TypeVar

from skinedge.errors import SkinedgeError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from skinedge.weights.stream import Progress

T = TypeVar("T")
STOPPED = 130  # the exit code of a command that was interrupted
Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


class _Bar:
    """``Progress`` as a rich progress bar; each ``begin`` opens a line, and before the first nothing is shown."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def begin(self, what: str, total: int) -> None:
        self._bars.start()
        self._task = self._bars.add_task(what, total=total)

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, count)

    def end(self) -> None:
        if self._task is not None:
            self._bars.stop()


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A progress bar on standard error, or silence."""
    if quiet:
        from skinedge.weights.stream import Quiet

        yield Quiet()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    bar = _Bar(Progress(*columns, console=Console(stderr=True)))
    try:
        yield bar
    finally:
        bar.end()


def counted(what: str, items: Sequence[T], quiet: bool) -> Iterator[T]:
    """``items`` one by one, with a bar that says how many are done and how long the rest will take."""
    if quiet:
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=what, console=Console(stderr=True), transient=True)


@contextmanager
def live(quiet: bool) -> Iterator[Callable[[str], None]]:
    """One line on standard error that says where a long job is; it goes away at the end.  Not a terminal: nothing is said."""
    if quiet:
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("", spinner="line") as status:
        yield lambda text: status.update(text.replace("[", "\\["))


def print_any_text() -> None:
    """Let standard output show what its encoding has no letter for (a path, an answer) as ``?`` instead of failing."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def emit(value: Json) -> None:
    """The machine-readable answer, one object on one line: ASCII, so that any encoding of the pipe carries it."""
    sys.stdout.write(json.dumps(value, sort_keys=True, allow_nan=False) + "\n")


def say(text: str = "", *, end: str = "\n") -> None:
    """A line of the answer itself."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def printable(text: str) -> str:
    """``text`` without the control characters by which a model's words could command a terminal."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\ufffd" for c in text)


def note(text: str) -> None:
    """A remark beside the answer."""
    sys.stderr.write(text + "\n")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns: plain text, so that it survives a pipe and a screen reader."""
    lines = [list(headers), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    for number, line in enumerate(lines):
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        if number == 0:
            say("  ".join("-" * width for width in widths))


def report_error(error: SkinedgeError, as_json: bool) -> None:
    """An error and what to do about it."""
    if as_json:
        emit({"error": error.message, "hint": error.hint, "kind": type(error).__name__})
    else:
        note(f"error: {error.message}")
        if error.hint:
            note(f"  {error.hint}")


def run_command(app: Callable[..., object], *, stopped: str = "", name: str | None = None) -> None:
    """Run a typer app: every mistake becomes one sentence, a hint and an exit code (2 usage, 1 failure, 130 stopped).

    ``stopped`` is said when Ctrl-C ended it; ``name`` is what the help calls the program.
    """
    print_any_text()
    try:
        app(prog_name=name)
    except SkinedgeError as error:
        report_error(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)
    except OSError as error:  # a folder without permission, a disk that fails: the system's own words name the file
        words = f"{error.filename}: {error.strerror}." if error.filename else f"{error}."
        report_error(SkinedgeError(words), as_json="--json" in sys.argv)
        sys.exit(SkinedgeError.exit_code)
    except SystemExit as stop:
        if stop.code == STOPPED and stopped:
            note(stopped)
        raise


def size(count: float) -> str:
    """A number of bytes for people.

    >>> size(1536)
    '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
