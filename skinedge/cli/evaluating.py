"""``skinedge evaluate`` and ``compare``: a model on a benchmark, and models side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from skinedge.cli.options import (
    Adapters,
    AllowRemote,
    AsJson,
    Concurrency,
    Context,
    KeyVariable,
    PerMinute,
    Side,
    Threads,
    among,
    source_of,
)
from skinedge.cli.scoring import JudgeFolder, JudgeModel, JudgeName, place_of, scoring
from skinedge.console import emit
from skinedge.errors import UsageError

if TYPE_CHECKING:
    from skinedge.evaluation.endpoint import EndpointSettings
    from skinedge.evaluation.models import Model
    from skinedge.manifest import DecodingRecord


def _layouts(incomplete: str) -> list[str]:
    return [name.replace("_", "-") for name in among("evaluation/datasets")(incomplete.replace("-", "_"))]


def evaluate(
    data: Annotated[Path, typer.Option("--data", "-d", help="The benchmark's folder, or the file it is known by.")],
    model: Annotated[
        str | None,
        typer.Argument(help="A bundle, a checkpoint folder, or http://…/v1; left out: the embedded tiny model."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New file for the result; raw answers go beside it.")] = None,
    adapter: Adapters = None,
    layout: Annotated[
        str | None,
        typer.Option(autocompletion=_layouts, help="By default the one that is found."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="What is asked of a benchmark that has several truths.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the photographs; by default the benchmark's own.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split of the benchmark.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many photographs, of each skin group and label its share.")] = None,
    seed: Annotated[int, typer.Option(help="Which photographs --limit takes.")] = 0,
    seen: Annotated[
        Path | None, typer.Option(help="Names of pictures, lesions or patients in training, one a line: left out.")
    ] = None,
    question: Annotated[str | None, typer.Option("--question", "-q", help="Asked instead of the benchmark's own.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 4096,
    bias: Annotated[str, typer.Option(help="The adapter's bias: every-step or off.")] = "every-step",
    precision: Annotated[str, typer.Option(help="Of a checkpoint's arithmetic: f32, f16 or bf16.")] = "f32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    side: Side = None,
    threads: Threads = None,
    context: Context = None,
    endpoint_model: Annotated[str | None, typer.Option(metavar="<name>", help="The model's name at its endpoint.")] = None,
    allow_remote: AllowRemote = False,
    standard_fields: Annotated[
        bool, typer.Option("--standard-fields", help="Send an endpoint OpenAI's own fields only, no repetition penalty.")
    ] = False,
    key_variable: KeyVariable = "",
    concurrency: Concurrency = 4,
    per_minute: PerMinute = 0,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_folder: JudgeFolder = None,
    name: Annotated[str, typer.Option(help="What tables call the model.")] = "",
    journal: Annotated[Path | None, typer.Option(help="Where raw answers are kept; by default beside the result.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked; ask nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar, no remarks.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a model a benchmark's questions; accuracy with intervals, by skin group, and the six dimensions of a judge.

    A run that was stopped goes on where it was when the same command is typed again.

    Example: skinedge evaluate bundle/ --data PAD-UFES-20/ --split val --judge rubric --out results/bundle-pad.json
    """
    from skinedge.evaluation.datasets import open_dataset
    from skinedge.evaluation.endpoint import EndpointSettings
    from skinedge.evaluation.journal import Journal, open_journal, read_journal
    from skinedge.evaluation.run import evaluate as run
    from skinedge.evaluation.run import journal_beside, plan
    from skinedge.evaluation.selection import Selection
    from skinedge.evaluation.show import plan_json, remarks, result_json, show_plan, show_result
    from skinedge.manifest import DecodingRecord
    from skinedge.registry import check
    from skinedge.staging import refuse_taken_file, staged_file

    check("bias", bias, ("every-step", "off"))
    check("type", precision, ("f32", "f16", "bf16"))
    if out is None and not dry_run:
        raise UsageError("there is no place for the result.", hint="Say where: --out result.json")
    if out and not dry_run:
        refuse_taken_file(out)
    dataset = open_dataset(data, layout=layout, images=images, task=task)
    decoding = DecodingRecord(max_new_tokens=max_new_tokens, bias=bias)

    def endpoint(url: str) -> EndpointSettings:
        return place_of(EndpointSettings(url, key_variable, concurrency, per_minute), allow_remote, quiet or as_json)

    who = _model(
        model, adapter, decoding, name, precision, device, side, threads, context, endpoint_model, standard_fields, endpoint
    )
    form: Literal["free", "reference"] = "reference" if all(item.reference for item in dataset.items) else "free"
    scorer = scoring(judge, judge_model, judge_folder, threads, form, endpoint) if judge else None
    place = journal or (journal_beside(out) if out else None)
    todo = plan(
        who, dataset, Selection(split, limit, seed, seen), read_journal(place) if place else Journal({}, None), question=question
    )
    if dry_run:
        if as_json:
            emit(plan_json(who, todo))
        else:
            show_plan(who, todo)
        return
    assert out
    assert place
    if not (quiet or as_json):
        remarks(todo)
    with open_journal(place) as answers:
        found = run(who, todo, answers, scorer=scorer.make(answers) if scorer else None, quiet=quiet or as_json)
    with staged_file(out) as f:
        f.write(found.to_json().encode())
    if as_json:
        emit({"result": str(out), "journal": str(place), **result_json(found)})
    else:
        show_result(found)


def compare(
    results: Annotated[list[Path], typer.Argument(help="What skinedge evaluate wrote; a folder stands for its JSON files.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New file for the tables: .md or .json")] = None,
    as_json: AsJson = False,
) -> None:
    """Put evaluations side by side: models x accuracy, models x six dimensions, differences on the same items.

    Each model is compared with the first one given of the same benchmark.

    Example: skinedge compare results/*.json --out table.md
    """
    from skinedge.evaluation.table import compare as side_by_side
    from skinedge.evaluation.table import read_all
    from skinedge.staging import refuse_taken_file, staged_file

    if out:
        refuse_taken_file(out)
        if out.suffix not in (".md", ".json"):
            raise UsageError(f"{out}: a table is written as .md or .json.", hint=f"For example: --out {out.stem}.md")
    found = side_by_side(read_all(results))
    if out:
        text = found.to_markdown() if out.suffix == ".md" else json.dumps(found.to_json(), indent=1, sort_keys=True) + "\n"
        with staged_file(out) as f:
            f.write(text.encode())
    if as_json:
        emit(found.to_json())
    else:
        found.show()


def _model(
    model: str | None, adapters: list[Path] | None, decoding: DecodingRecord, name: str, precision: str, device: str,
    side: str | None, threads: int | None, context: int | None, served_as: str | None,
    standard: bool, endpoint: Callable[[str], EndpointSettings],
) -> Model:  # fmt: skip
    """Whichever of the three kinds ``model`` is."""
    from skinedge.evaluation.models import BundleModel, EndpointModel, TorchModel
    from skinedge.manifest import MANIFEST_FILE

    if model and model.startswith(("http://", "https://")):
        if not served_as:
            raise UsageError(f"{model} may serve several models.", hint="Say which: --endpoint-model NAME")
        return EndpointModel(endpoint(model), served_as, decoding, name, standard)
    folder = Path(model) if model else None
    if folder and (folder / MANIFEST_FILE).is_file():
        if adapters:
            raise UsageError(f"{folder} is a bundle, and its adapters are in it.", hint="Leave --adapter out.")
        return BundleModel(folder, decoding, name, side, threads, context, device)
    from skinedge.embedded import NAME

    return TorchModel(source_of(folder, adapters), decoding, name or ("" if model else NAME), precision, threads, device)
