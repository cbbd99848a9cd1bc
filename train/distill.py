"""Distil an adapter into a frozen model: ``python -m train.distill --recipe NAME --model DIR --data FILE --out DIR``.

The same command under ``accelerate launch`` runs on several processes, GPUs or machines that share the folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skinedge.cli import MOST_THREADS
from skinedge.console import STOPPED, emit, note, run_command, say
from skinedge.errors import UsageError
from skinedge.registry import check
from train.recipe import parse_override, read_recipe
from train.settings import Recipe

app = typer.Typer(
    name="python -m train.distill",
    help="Distil an adapter (a side branch or a LoRA) into a frozen Qwen2.5-VL.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


Out = Annotated[Path, typer.Option(help="Folder of the run; an interrupted run in it is resumed.")]
Name = Annotated[str, typer.Option("--recipe", help="Name in train/recipes, or a TOML file.")]
Model = Annotated[Path | None, typer.Option(help="Folder of the frozen model.")]
Data = Annotated[list[Path] | None, typer.Option(help="JSON Lines file of records; may be repeated.")]
TeacherSpec = Annotated[str | None, typer.Option(help="Vision teacher (precomputed:DIR, efficientnet-lite0, ...); '' for none.")]
Start = Annotated[Path | None, typer.Option(help="A trained side branch to go on from.")]
Epochs = Annotated[float | None, typer.Option(help="Epochs.")]
Steps = Annotated[int | None, typer.Option(help="Steps, instead of epochs.")]
BatchSize = Annotated[int | None, typer.Option(help="Records at once, on each process.")]
Accumulation = Annotated[int | None, typer.Option(help="Batches of one step.")]
Rate = Annotated[float | None, typer.Option(help="Highest learning rate.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Precision = Annotated[str | None, typer.Option(help="f32 or bf16.")]
SaveEvery = Annotated[int | None, typer.Option(help="Steps between checkpoints; 0: every epoch.")]
Cache = Annotated[Path | None, typer.Option(help="Folder of the cache; by default OUT.cache.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Run the frozen model at every step instead.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any key of the recipe.")]
Device = Annotated[str, typer.Option(help="auto or cpu.")]
Threads = Annotated[int | None, typer.Option(min=1, max=MOST_THREADS, help="CPU threads.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and how big; write nothing.")]
Silent = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")]


@app.command()
def distill(
    out: Out,
    recipe: Name = "side_branch_v2",
    model: Model = None,
    data: Data = None,
    teacher: TeacherSpec = None,
    start: Start = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch: BatchSize = None,
    accumulation: Accumulation = None,
    lr: Rate = None,
    seed: Seed = None,
    precision: Precision = None,
    save_every: SaveEvery = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    settings: Settings = None,
    device: Device = "auto",
    threads: Threads = None,
    dry_run: DryRun = False,
    quiet: Silent = False,
    as_json: AsJson = False,
) -> None:
    """Train the adapter of a recipe; flags replace keys of the recipe."""
    flags = {
        "model.folder": model and str(model),
        "data.files": tuple(map(str, data)) if data else None,
        "teacher.spec": teacher,
        "adapter.start": start and str(start),
        "train.epochs": epochs,
        "train.steps": steps,
        "train.batch": batch,
        "train.accumulation": accumulation,
        "optim.lr": lr,
        "train.seed": seed,
        "train.precision": precision,
        "train.save_every": save_every,
        "cache.folder": cache and str(cache),
        "cache.use": False if no_cache else None,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    more = dict(map(parse_override, settings or ()))
    if twice := sorted(given.keys() & more.keys()):
        raise UsageError(f"{twice[0]} is given twice: by --set and by its own option.", hint="Leave one of them out.")
    check("device", device, ("auto", "cpu"))
    _run(read_recipe(recipe, given | more), out, device, threads, dry_run, quiet or as_json, as_json)


def _run(recipe: Recipe, out: Path, device: str, threads: int | None, dry_run: bool, quiet: bool, as_json: bool) -> None:
    from train.describe import describe, show
    from train.job import Job

    job = Job(recipe, out, device=device, threads=threads, quiet=quiet)
    main = job.accelerator.is_main_process
    if dry_run:
        if main:
            emit(describe(job)) if as_json else show(job)
        return
    result = job.train()
    if main and as_json:
        emit({"out": str(out), "step": result.step, "steps": result.steps, "loss": result.loss, "stopped": result.stopped})
    if result.stopped:
        if main:
            note(f"step {result.step} of {result.steps} is saved.")
        raise typer.Exit(STOPPED)
    if main and not as_json:
        say(f"{out}: {result.steps} steps, last loss {result.loss:.4f}; the card is {out / 'README.md'}.")
        say(f"Next: skinedge export --model {recipe.model.folder} --adapter {out} --target onnx --out bundle")


def main() -> None:
    """Entry point: a line for every mistake, never a traceback for one the user can mend."""
    run_command(app, stopped="stopped; what is finished is kept. Run the same command again to go on.")


if __name__ == "__main__":
    main()
