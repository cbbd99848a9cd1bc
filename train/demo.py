"""The whole path, as ``make demo`` goes it: draw a data set, distil the adapter, ask base and adapter, export.

It starts from the base model that ships with skinedge and needs nothing else; everything is written under one
folder.  ``skinedge demo`` does the second half, with the adapter made here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skinedge.console import note, run_command
from skinedge.demo import run_demo
from skinedge.embedded import BASE
from skinedge.staging import refuse_taken
from skinedge.synthderm.dataset import write_dataset
from train.diagnose import answer
from train.held_out import judge, read_held_out
from train.job import Job
from train.recipe import read_recipe

TRAIN, TEST = 2880, 120
TRAIN_SEED, TEST_SEED = 101, 202


def train_and_export(out: Path, *, quiet: bool = False) -> bool:
    """Make everything under ``out``; whether every bundle agrees with PyTorch.

    Raises:
        OutputError: ``out`` is taken.
        SkinedgeError: a step failed.
    """
    refuse_taken(out)
    records = write_dataset(out / "train", TRAIN, TRAIN_SEED, quiet=quiet)
    held_out = write_dataset(out / "held-out", TEST, TEST_SEED, quiet=quiet)
    adapter = out / "adapter"
    changes = {"model.folder": str(BASE), "data.files": (str(records),)}
    note(f"distilling a side branch into the shipped base model from {TRAIN} pictures")
    Job(read_recipe("demo", changes), adapter, quiet=quiet).train()
    for name, adapters in (("base", []), ("base + side branch", [adapter])):
        note(f"{name}: right on {_right(adapters, held_out, quiet)} of {TEST} pictures that it has not seen")
    return run_demo(out / "export", [adapter], quiet=quiet)


def _right(adapters: list[Path], records: Path, quiet: bool) -> int:
    asked = read_held_out(records)
    texts = answer(BASE, adapters, asked, precision="bf16", batch=TEST, quiet=quiet)
    return sum(judge(record, text).correct for record, text in zip(asked, texts, strict=True))


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(out: Annotated[Path, typer.Option("--out", "-o", help="New folder for everything.")] = Path("build/demo")) -> None:
    """Distil an adapter into the shipped base model and take it through export (a few minutes on two cores)."""
    if not train_and_export(out):
        raise typer.Exit(1)


if __name__ == "__main__":
    run_command(app)
