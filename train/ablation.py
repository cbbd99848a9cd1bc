"""Which part of the distillation does what: ``python -m train.ablation``.

Every arm of ``train/recipes/ablation.toml`` is trained from the same base, asked about the same held-out pictures,
and tested against an earlier arm on those.  Finished arms are found again, so the command can be stopped and given
again.  SynthDerm is drawn as it is needed; PAD-UFES-20 is used where it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from skinedge.cli import MOST_THREADS
from skinedge.console import Json, emit, note, run_command, say
from skinedge.embedded import BASE
from skinedge.errors import UsageError
from skinedge.registry import check
from skinedge.staging import refuse_taken_file, staged_file
from skinedge.weights.checkpoint import digest_of
from train.ablation_plan import Counts, count_records, measure, plan, show, to_json
from train.ablation_report import Comparison, draw, markdown
from train.ablation_sets import check_apart, pad_ufes_20, synthderm
from train.arms import BENCHMARKS, PAD, ROOT, Ablation, Benchmark, Place, Trial, read_ablation
from train.recipe import RECIPES

app = typer.Typer(
    name="python -m train.ablation",
    help="Train the arms of an ablation and compare what they say of held-out pictures.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def ablation(
    base: Annotated[Path, typer.Option("--base", "--model", "-m", help="Folder of the frozen base model.")] = BASE,
    recipe: Annotated[Path, typer.Option(help="TOML file of the arms.")] = RECIPES / "ablation.toml",
    train: Annotated[Path | None, typer.Option(help="Records to train on; left out, SynthDerm is drawn.")] = None,
    test: Annotated[Path | None, typer.Option(help="Held-out records.")] = None,
    pad: Annotated[Path, typer.Option(help="Folder of PAD-UFES-20; left out where it is absent.")] = ROOT.parent
    / "shared/data/pad-ufes-20",
    benchmark: Annotated[list[str] | None, typer.Option(help=f"{' or '.join(BENCHMARKS)}; by default both.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = ROOT / "benchmarks" / "results",
    work: Annotated[Path, typer.Option(help="Folder for pictures, adapters and answers.")] = Path("build/ablation"),
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the training of every arm.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")] = False,
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, max=MOST_THREADS, help="CPU threads.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained and how long it may take.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")] = False,
) -> None:
    """Train, ask, compare, and write a table and a plot of each benchmark."""
    check("device", device, ("auto", "cpu"))
    names = [check("benchmark", name, BENCHMARKS) for name in benchmark or BENCHMARKS]
    if not base.is_dir():
        raise UsageError(f"{base}: there is no such folder.", hint="Give the folder of the base model with --base.")
    what = read_ablation(recipe)
    place = Place(base.resolve(), work.resolve(), device, threads, quiet or as_json)
    if PAD in names and not (pad / "metadata.csv").is_file():
        note(f"{PAD} is left out: there is no {pad / 'metadata.csv'}.")
        names.remove(PAD)
    if dry_run:
        _show_plan({name: count_records(name, what, train, test, pad) for name in names}, what, place, seed, as_json)
        return
    for file in (file for name in names if not overwrite for file in _files(out, name)):
        refuse_taken_file(file)
    results = []
    for name in names:
        found = (
            pad_ufes_20(place.work, pad) if name == PAD else synthderm(place.work, what.synthderm, train, test, quiet=place.quiet)
        )
        results.append(_compare(found, [Trial(arm, found, what, place, seed=seed) for arm in what.arms], out, as_json))
    if as_json:
        emit({"benchmarks": results})
    if any(result["failed"] for result in results):
        raise typer.Exit(1)


def _show_plan(counts: Mapping[str, Counts], what: Ablation, place: Place, seed: int | None, as_json: bool) -> None:
    speed = measure(what, place)
    plans = {name: plan(name, what, count, speed, seed) for name, count in counts.items()}
    if as_json:
        emit({"plan": [to_json(name, planned, counts[name]) for name, planned in plans.items()]})
        return
    for name, planned in plans.items():
        show(name, planned, counts[name])


def _compare(benchmark: Benchmark, trials: Sequence[Trial], out: Path, as_json: bool) -> dict[str, Json]:
    """Run every arm and write what came of it."""
    check_apart(benchmark)
    outcomes = tuple(trial.run() for trial in trials)
    recipe = digest_of([[t.arm.name, t.recipe.tables() if t.recipe else None] for t in trials])
    comparison = Comparison(benchmark, outcomes, trials[0].place, recipe)
    result: dict[str, Json] = {**comparison.to_json(), "failed": [o.arm.name for o in outcomes if o.failure]}
    files = _files(out, benchmark.name)
    contents = [json.dumps(result, indent=1) + "\n", markdown(comparison, files[2].name)]
    pictures = [draw(comparison)] if comparison.reports else []
    for file, data in zip(files, [*(c.encode() for c in contents), *pictures], strict=False):
        file.unlink(missing_ok=True)
        with staged_file(file) as f:
            f.write(data)
    if not as_json:
        say(contents[1])
        say(f"Written: {', '.join(map(str, files))}")
    return result


def _files(out: Path, name: str) -> list[Path]:
    return [out / f"ablation_{name}.{suffix}" for suffix in ("json", "md", "png")]


def main() -> None:
    """Entry point: a line for every mistake, never a traceback for one the user can mend."""
    run_command(app, stopped="stopped; finished arms and the last checkpoint are kept. Run the same command again to go on.")


if __name__ == "__main__":
    main()
