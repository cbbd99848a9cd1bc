"""The command line: one command per step of the path, each a thin wrapper over a function.

Imports of anything heavy live inside the commands, so that ``skinedge --help`` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from skinedge import __version__
from skinedge.cli import (
    calibrating,
    carrying,
    clinic_admin,
    comparing,
    evaluating,
    exporting,
    judging,
    looking,
    measuring,
    planning,
    reporting,
    running,
    serving,
)  # fmt: skip
from skinedge.cli.options import MOST_THREADS
from skinedge.console import run_command, say

__all__ = ["MOST_THREADS", "app", "main"]

app = typer.Typer(
    name="skinedge",
    help="Take a dermatology vision-language model from its training server to the consulting room,\n"
    "and prove that nothing was lost on the way.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# In the order of the path, as the help lists them.
for command in (
    exporting.export, exporting.merge, calibrating.calibrate, calibrating.quantize, calibrating.imatrix, calibrating.overflow,
    planning.plan, running.run, comparing.parity, running.verify, evaluating.evaluate, judging.judge,
    evaluating.compare, measuring.bench, carrying.kit, reporting.report, serving.serve,
    looking.show, looking.targets, looking.devices, looking.doctor, looking.demo,
):  # fmt: skip
    app.command()(command)
app.add_typer(clinic_admin.audit, name="audit")
app.add_typer(clinic_admin.people, name="people")


def _version(value: bool) -> None:
    if value:
        say(f"skinedge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    del version


def main() -> None:
    """Entry point: errors become one sentence, a hint and an exit code (2 usage, 1 failure, 130 stopped)."""
    run_command(app, stopped="stopped; no half-written bundle was left behind.", name="skinedge")
