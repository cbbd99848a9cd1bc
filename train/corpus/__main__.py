"""``python -m train.corpus``: build a corpus, send it out for review, take the scores back in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skinedge.cli.options import Concurrency, KeyVariable, PerMinute
from skinedge.console import Json, emit, note, printable, run_command, say, table
from skinedge.errors import UsageError
from skinedge.evaluation.cases import SPLITS, read_cases
from skinedge.evaluation.endpoint import EndpointSettings, check_endpoint
from skinedge.evaluation.scores import HIGHEST, LOWEST, Thresholds
from skinedge.registry import check
from skinedge.staging import refuse_taken
from train.corpus.build import Plan, Prepared, build, notes, prepare, requests_to_make
from train.corpus.review import certify as certify_corpus
from train.corpus.review import export_review
from train.corpus.selection import Rules
from train.corpus.steps import TeacherSettings

app = typer.Typer(
    name="train.corpus",
    help="Build the corpus that a model learns to reason from: photographs and labels in, narratives out.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")]
CorpusDir = Annotated[Path, typer.Argument(help="A folder that train.corpus build wrote.")]


@app.command("build")
def build_command(
    cases: Annotated[Path, typer.Argument(help="CSV or JSONL with columns image and label, or PAD-UFES-20's metadata.csv.")],
    endpoint: Annotated[str, typer.Option(help="An OpenAI-compatible address, such as http://127.0.0.1:8000/v1")],
    model: Annotated[str, typer.Option(help="The teacher's name there.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the corpus.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures; by default the cases file's own.")] = None,
    judge: Annotated[str | None, typer.Option(help="The model that scores; by default the teacher itself.")] = None,
    key_variable: KeyVariable = "",
    journal: Annotated[Path | None, typer.Option(help="Where answers are kept; by default OUT.journal.jsonl.")] = None,
    concurrency: Concurrency = 4,
    per_minute: PerMinute = 0,
    retries: Annotated[int, typer.Option(min=0, max=20, help="How often to ask again when the server is busy or away.")] = 6,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for an answer.")] = 300,
    max_tokens: Annotated[int, typer.Option(min=16, help="Length of an answer at most.")] = 1024,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="For describing and reasoning; the rest is greedy.")] = 0.7,
    structured: Annotated[bool, typer.Option("--structured", help="Hold the endpoint to a JSON schema.")] = False,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Send no picture: every case must bring its own description.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="Take so many cases, from every category and site in turn.")] = 0,
    min_score: Annotated[float, typer.Option(min=LOWEST, max=HIGHEST, help="Each of the six scores at least.")] = 3,
    min_mean: Annotated[float, typer.Option(min=LOWEST, max=HIGHEST, help="Their mean at least.")] = 4,
    cap: Annotated[int, typer.Option(min=0, help="Cases of one category and site at most; 0 is no cap.")] = 0,
    val: Annotated[float, typer.Option(min=0, max=0.9, help="Share of patients for val.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="Share of patients for test.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the teacher, the cap and the split.")] = 0,
    copy_images: Annotated[bool, typer.Option("--copy-images", help="Copy the pictures, upright and without metadata.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many requests it would take; ask nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no remarks.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have a teacher describe, reason, standardise and score; keep what passes.

    Example: python -m train.corpus build metadata.csv --endpoint http://127.0.0.1:8000/v1 --model qwen-vl -o dermcot
    """
    if val + test > 0.9:
        raise UsageError(f"--val and --test take {val + test:g} of the patients, and train needs a tenth at least.")
    where = EndpointSettings(endpoint, key_variable, concurrency, per_minute, timeout, retries)
    teacher = TeacherSettings(model, judge or model, max_tokens, temperature, seed, not no_pictures, structured)
    rules = Rules(Thresholds(min_score, min_mean), cap, val, test, seed)
    place = journal or out.with_name(f"{out.name}.journal.jsonl")
    plan = Plan(read_cases(cases, images), out, place, teacher, where, rules, limit, copy_images)
    silent = quiet or as_json
    if not dry_run:
        refuse_taken(out)
        check_endpoint(where)
    if not silent:
        _remarks(plan)
    prepared = prepare(plan, silent)
    if dry_run:
        _say_plan(plan, prepared, as_json)
        return
    _build(plan, prepared, silent, as_json)


@app.command()
def review(
    corpus: CorpusDir,
    export: Annotated[Path, typer.Option(help="New CSV for the reviewers.")],
    split: Annotated[list[str] | None, typer.Option(metavar="<name>", help="train, val or test; by default all three.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many cases at most.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the cases that nobody has certified as a sheet for dermatologists to score.

    Each of the six scores is 0 to 5.  Who corrects a narrative scores the corrected one.

    Example: python -m train.corpus review dermcot --export review.csv --split test
    """
    splits = [check("split", name, SPLITS) for name in split or SPLITS]
    count = export_review(corpus, export, splits, limit)
    if as_json:
        emit({"review": str(export), "cases": count})
    else:
        say(f"{export}: {count} cases. When it comes back: python -m train.corpus certify {corpus} --scores {export} -o NEW")


@app.command()
def certify(
    corpus: CorpusDir,
    scores: Annotated[Path, typer.Option(help="The sheet as it came back.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the certified corpus.")],
    min_score: Annotated[float, typer.Option(min=LOWEST, max=HIGHEST, help="Each of the six scores at least.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Write the corpus anew with a sheet's scores: certified, corrected, or rejected.

    Example: python -m train.corpus certify dermcot --scores review.csv -o dermcot-certified
    """
    certified, rejected = certify_corpus(corpus, scores, out, min_score)
    if as_json:
        emit({"corpus": str(out), "certified": certified, "rejected": rejected})
    else:
        say(f"{out}: {certified} cases certified, {rejected} rejected, the rest as they were.")


def _remarks(plan: Plan) -> None:
    for text in notes(plan.cases):
        note(f"note: {text}")
    if not plan.where.at_home:
        what = "pictures and labels" if plan.teacher.pictures else "descriptions and labels"
        note(f"note: {what} go to {plan.where.host}{'' if plan.where.encrypted else ', unencrypted'}.")


def _say_plan(plan: Plan, prepared: Prepared, as_json: bool) -> None:
    steps = requests_to_make(plan, prepared)
    if as_json:
        emit({"cases": len(prepared.cases), "rejected": len(prepared.rejected), "requests": steps, "total": sum(steps.values())})
        return
    table(("step", "requests at most"), [*((name, str(count)) for name, count in steps.items()), ("", str(sum(steps.values())))])
    say(f"{len(prepared.cases)} cases; {len(prepared.rejected)} more fell out by their pictures alone.")


def _build(plan: Plan, prepared: Prepared, silent: bool, as_json: bool) -> None:
    try:
        built = build(plan, prepared, silent)
    except KeyboardInterrupt:
        if not silent:
            note(f"stopped; what was answered is in {plan.journal}, and the same command goes on from there.")
        raise
    summary: dict[str, Json] = {"corpus": str(plan.out), "journal": str(plan.journal), **built.to_json()}
    if as_json:
        emit(summary)
    else:
        kept = ", ".join(f"{len(built.corpus.splits[name])} {name}" for name in SPLITS)
        say(printable(f"{plan.out}: {kept}; {len(built.corpus.rejected)} rejected, each with its reason in rejected.jsonl."))
    if not built.corpus.records:
        note("nothing passed: see rejected.jsonl.")
        raise typer.Exit(1)


def main() -> None:
    """Entry point: errors become one sentence, a hint and an exit code, as for ``skinedge`` itself."""
    run_command(app, name="python -m train.corpus")


if __name__ == "__main__":
    main()
