"""``skinedge calibrate``, ``quantize``, ``imatrix`` and ``overflow``: what the layers are given, and what follows from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from skinedge.cli.options import (
    Adapters,
    AsJson,
    DryRun,
    Model,
    Threads,
    calibration_of,
    existing,
    export_options,
    model_name,
    source_of,
)
from skinedge.console import emit, progress_bar, say, size


def calibrate(
    data: Annotated[
        Path, typer.Option("--data", "-d", help="records.jsonl, or a folder of photographs (1.jpg) and narratives (1.txt).")
    ],
    model: Model = None,
    adapter: Adapters = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New folder; by default MODEL-calibration here.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many records.")] = None,
    second_moments: Annotated[
        bool, typer.Option("--second-moments", help="Also what export --rounding gptq needs; a larger folder.")
    ] = False,
    block: Annotated[
        int, typer.Option(min=1, help="Most inputs whose products are kept together, with --second-moments.")
    ] = 1024,
    imatrix: Annotated[bool, typer.Option("--imatrix", help="Also write llama.cpp's importance matrix, imatrix.gguf.")] = False,
    text_only: Annotated[bool, typer.Option("--text-only", help="Leave the photographs out.")] = False,
    threads: Threads = None,
    dry_run: DryRun = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure what every layer is given on photographs with their narratives, for the careful weight schemes.

    Example: skinedge calibrate --model SkinGPT-R1/ --data records.jsonl --out calibration/
    """
    from skinedge.calibration import run as calibration
    from skinedge.describe import describe_calibration_plan

    place, silent = out or Path(f"{model_name(model)}-calibration"), quiet or as_json
    existing(data)
    source = source_of(model, adapter, place)
    asked = block if second_moments else None
    prepared = calibration.prepare(source, data, limit=limit, block=asked, text_only=text_only, quiet=silent)
    if not dry_run:
        with progress_bar(quiet=silent) as progress:
            calibration.calibrate(prepared, place, progress, imatrix=imatrix, threads=threads, quiet=silent)
    known = prepared.plan
    if as_json:
        sums = {"records": len(prepared.samples), "images": known.images, "tokens": known.tokens, "layers": len(known.shapes)}
        emit({"out": str(place), "nbytes": known.nbytes, "memory": known.memory, "written": not dry_run, **sums})
    elif dry_run:
        describe_calibration_plan(place, len(prepared.samples), known)
    else:
        say(f"{place}: {len(known.shapes)} layers, {len(prepared.samples)} records, {known.tokens} tokens, {size(known.nbytes)}")
        say(f"Next: skinedge export --calibration {place}")


def quantize(
    budget: Annotated[str, typer.Option("--budget", help="Bytes for the files of weights together: 4.2GiB, 900MB.")],
    calibration: Annotated[Path, typer.Option(help="What skinedge calibrate wrote for this model and these adapters.")],
    data: Annotated[
        Path,
        typer.Option("--data", "-d", help="Narratives with photographs to measure the damage on, as for skinedge calibrate."),
    ],
    model: Model = None,
    adapter: Adapters = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The plan, a new file.")] = Path("plan.json"),
    target: Annotated[str, typer.Option("--target", "-t", help="gguf, onnx or trt.")] = "gguf",
    scheme: Annotated[
        str | None,
        typer.Option(
            "--scheme", "-s", help="Of what the plan does not choose (embedding, vision tower); by default the target's."
        ),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", help="Choose only among these (q4_k, int8); may be repeated; by default all of the target's."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Narratives to measure the damage on; more take longer.")] = 4,
    text_only: Annotated[bool, typer.Option("--text-only", help="Leave the photographs out.")] = False,
    threads: Threads = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what can be chosen and whether it can fit; measure and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Choose a scheme for every matrix, so that all fit a budget and the model's words change least.

    Each matrix is stored in few bits by itself and the model reads narratives with it: the KL of its final logits is the
    damage. The plan is a table here and a file for skinedge export --plan, which writes the bundle.

    Example: skinedge quantize --budget 4.2GiB --calibration calibration/ --data records.jsonl --model SkinGPT-R1/
    """
    from skinedge.bundle import check_scheme
    from skinedge.calibration.budget import parse_size
    from skinedge.calibration.layers import use_threads
    from skinedge.calibration.planning import Sizes, candidates, plan_to_budget
    from skinedge.calibration.run import check_calibration
    from skinedge.calibration.samples import read_conversations
    from skinedge.describe import describe_budget_plan, describe_sizes
    from skinedge.staging import refuse_taken_file, staged_file
    from skinedge.weights.checkpoint import open_checkpoint

    refuse_taken_file(out)
    existing(data)
    nbytes, options = parse_size(budget), export_options(check_scheme(target, scheme), None, None, 4096, None)
    options = replace(options, calibration=calibration_of(calibration))
    assert options.calibration is not None
    offered = candidates(target, options.calibration, kinds)
    conversations = read_conversations(data, limit=limit, text_only=text_only)
    source = source_of(model, adapter)
    check_calibration(options.calibration, source)
    if dry_run:
        found = Sizes.of(open_checkpoint(source.path, source.adapters), options, offered, target)
        found.check(nbytes)
        if as_json:
            sizes = {"fixed": found.fixed, "smallest": found.smallest, "largest": found.largest, "budget": nbytes}
            emit({"out": str(out), "written": False, "matrices": len(found.groups), "schemes": offered.schemes, **sizes})
        else:
            describe_sizes(found, offered.schemes, nbytes)
        return
    use_threads(threads)
    with progress_bar(quiet=as_json) as progress:
        made = plan_to_budget(source, options, offered, conversations, nbytes, progress, target=target, quiet=as_json)
    with staged_file(out) as part:
        part.write(made.to_json().encode())
    if as_json:
        emit({"out": str(out), "nbytes": made.nbytes, "budget": nbytes, "schemes": {e.name: e.scheme for e in made.entries}})
    else:
        describe_budget_plan(made)
        say(f"Next: skinedge export --plan {out} --calibration {calibration}")


def imatrix(
    source: Annotated[Path, typer.Argument(help="A folder of skinedge calibrate, or a file of llama-imatrix (.gguf, .dat).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file or the new folder to write.")],
    model: Model = None,
    adapter: Adapters = None,
    as_json: AsJson = False,
) -> None:
    """Convert a calibration to llama.cpp's importance matrix, or such a file to a calibration.

    Example: skinedge imatrix calibration/ --out imatrix.gguf --model SkinGPT-R1/
    """
    from skinedge.calibration.imatrix import import_imatrix, write_imatrix
    from skinedge.calibration.run import check_calibration
    from skinedge.calibration.statistics import Calibration
    from skinedge.model.config import read_config

    existing(source)
    checkpoint = source_of(model, adapter)
    config = read_config(checkpoint.path)
    if source.is_dir():
        calibration = Calibration.open(source)
        check_calibration(calibration, checkpoint)
        write_imatrix(out, calibration, config)
    else:
        import_imatrix(source, config, checkpoint.digest, out)
    if as_json:
        emit({"out": str(out), "kind": "imatrix" if source.is_dir() else "calibration"})
    else:
        say(f"{out}: written.")


def overflow(
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="Photographs to look at, beside the checkerboards and other pictures that provoke."),
    ] = None,
    model: Model = None,
    adapter: Adapters = None,
    activations: Annotated[str, typer.Option(help="The float type that the table is about: f16, bf16 or fp8 (e4m3).")] = "f16",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also a report for skinedge export --overflow, a new file.")
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0, help="Name layers whose largest value fits into the type fewer times than this.")
    ] = 2.0,
    top: Annotated[int, typer.Option(min=0, help="Show at least so many places, those that come closest.")] = 10,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the layers whose values leave the range of a narrow float type, before an engine answers with noise.

    Example: skinedge overflow lesion.jpg --model SkinGPT-R1/ --out report.json
    """
    from skinedge.calibration.run import survey
    from skinedge.describe import describe_reaches
    from skinedge.registry import check
    from skinedge.staging import refuse_taken_file, staged_file

    check("activation type", activations, ("f16", "bf16", "fp8"))
    existing(*(images or ()))
    if out:
        refuse_taken_file(out)
    source = source_of(model, adapter)
    with progress_bar(quiet=quiet or as_json) as progress:
        report = survey(source, images or (), progress, threads, margin=margin)
    if out:
        with staged_file(out) as part:
            part.write(report.to_json().encode())
    if as_json:
        named = sorted({r.layer for r in report.offending(activations)})
        where = {"out": str(out)} if out else {}
        emit({"activations": activations, "offending": named, **where, "reaches": [r.to_json() for r in report.reaches]})
        return
    describe_reaches(report.reaches, activations, margin, top)
    if out:
        say(f"Next: skinedge export --overflow {out}")
