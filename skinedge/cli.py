"""The command line: one command per step of the path, each a thin wrapper over a function.

Imports of anything heavy live inside the commands, so that ``skinedge --help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skinedge import __version__
from skinedge.console import emit, note, printable, progress_bar, run_command, say, size, table
from skinedge.errors import UsageError
from skinedge.registry import names

if TYPE_CHECKING:
    from skinedge.artifacts import AdapterCheckpoint
    from skinedge.calibration.budget import BudgetPlan
    from skinedge.calibration.statistics import Calibration
    from skinedge.targets._contract import ExportOptions

app = typer.Typer(
    name="skinedge",
    help="Take a dermatology vision-language model from its training server to the consulting room,\n"
    "and prove that nothing was lost on the way.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _among(folder: str, suffix: str = ".py") -> Callable[[str], list[str]]:
    """Shell completion from the names of the files in ``skinedge/<folder>``."""
    return lambda incomplete: [name for name in names(folder, suffix) if name.startswith(incomplete)]


# Exit code after Ctrl-C, as shells have it: 128 + SIGINT.

# More threads than any CPU has cores exhaust the machine's process table.
MOST_THREADS = 512

Model = Annotated[
    Path | None, typer.Option("--model", "-m", help="Qwen2.5-VL checkpoint folder; left out: the embedded tiny model.")
]
Adapters = Annotated[
    list[Path] | None,
    typer.Option(
        "--adapter",
        "-a",
        metavar="<path>",
        help="PEFT LoRA folder, or the side branch's folder or file; may be repeated.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be written, how big, how much memory; write nothing.")]
Workers = Annotated[
    int | None, typer.Option(min=1, max=MOST_THREADS, help="Threads that compute weights; by default one per core.")
]
AllowInert = Annotated[bool, typer.Option("--allow-inert", help="Export although some adapter tensor changes nothing.")]
Threads = Annotated[int | None, typer.Option(min=1, max=MOST_THREADS, help="CPU threads; by default one per core.")]
Context = Annotated[int | None, typer.Option(min=1, help="Positions of context to hold; by default the model's.")]
Side = Annotated[
    str | None,
    typer.Option(
        "--target",
        autocompletion=_among("targets"),
        help="Open this side of the bundle instead: a trt bundle also holds an onnx one.",
    ),
]
BundleDir = Annotated[Path, typer.Argument(help="A folder that skinedge export wrote.")]


@app.command()
def export(
    model: Model = None,
    adapter: Adapters = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", autocompletion=_among("targets"), help="What to write: see skinedge targets.")
    ] = None,
    scheme: Annotated[
        str | None, typer.Option("--scheme", "-s", autocompletion=_among("quantize"), help="Weight scheme: see skinedge targets.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New folder; by default MODEL-TARGET-SCHEME here.")] = None,
    device: Annotated[
        str | None,
        typer.Option(
            autocompletion=_among("devices", ".toml"), help="Choose target and scheme for this device: see skinedge devices."
        ),
    ] = None,
    activations: Annotated[str | None, typer.Option(help="Float type between the weights: f32, f16 or bf16.")] = None,
    vision_scheme: Annotated[str | None, typer.Option(help="Scheme of the vision tower, if it is to differ.")] = None,
    context: Annotated[int, typer.Option(min=64, help="Positions a compiled TensorRT plan holds.")] = 4096,
    calibration: Annotated[
        Path | None, typer.Option(help="What the layers were given on photographs: a folder of skinedge calibrate.")
    ] = None,
    rounding: Annotated[
        str | None, typer.Option(help="nearest, scale or gptq; left out: the best that the calibration allows.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="A scheme for every matrix: a file of skinedge quantize, which says the target too.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for the manifest.")] = None,
    allow_inert: AllowInert = False,
    workers: Workers = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write a bundle for a target: weights merged, quantized and laid out in one pass.

    Example: skinedge export --model SkinGPT-R1/ --target onnx --out bundle/
    """
    planned = _plan(plan, calibration)
    if planned:
        target, scheme = target or planned.target, scheme or planned.scheme
    target, scheme, activations = _choose(target, scheme, activations, device)
    options = _options(scheme, activations, vision_scheme, context, workers)
    options = replace(options, calibration=_calibration(calibration), rounding=_rounding(rounding))
    place = out or Path(f"{_model_name(model)}-{target}-{scheme}")
    source = _source(model, adapter, place)
    if options.calibration:
        from skinedge.calibration.run import check_calibration

        check_calibration(options.calibration, source)
        if planned:
            planned.check(source.digest, options.calibration.record.data, target)
            options = replace(options, mix=planned.mix)
    _export(source, target, options, place, licence, allow_inert, dry_run, as_json)


@app.command()
def merge(
    model: Model = None,
    adapter: Adapters = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New folder; by default MODEL-merged here.")] = None,
    dtype: Annotated[str, typer.Option(help="as-stored, f32, f16 or bf16.")] = "as-stored",
    allow_inert: AllowInert = False,
    workers: Workers = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write a standard Hugging Face checkpoint with the LoRA merged, shard by shard.

    Example: skinedge merge --model Qwen2.5-VL-7B/ --adapter lora/
    """
    from skinedge.bundle import check_scheme

    options = _options(check_scheme("safetensors", dtype), None, None, 4096, workers)
    place = out or Path(f"{_model_name(model)}-merged")
    source = _source(model, adapter, place)
    _export(source, "safetensors", options, place, None, allow_inert, dry_run, as_json)


@app.command()
def calibrate(
    data: Annotated[
        Path, typer.Option("--data", "-d", help="records.jsonl, or a folder of photographs (1.jpg) and narratives (1.txt).")
    ],
    model: Model = None,
    adapter: Adapters = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New folder; by default MODEL-calibration here.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many records.")] = None,
    second_moments: Annotated[bool, typer.Option("--second-moments", help="Also what --rounding gptq needs; larger.")] = False,
    block: Annotated[int, typer.Option(min=1, help="Inputs in a block of second moments, at most.")] = 1024,
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

    place, silent = out or Path(f"{_model_name(model)}-calibration"), quiet or as_json
    _existing(data)
    source = _source(model, adapter, place)
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


@app.command()
def quantize(
    budget: Annotated[str, typer.Option("--budget", help="What all weights may take together: 4.2GiB, 900MB.")],
    calibration: Annotated[Path, typer.Option(help="A folder of skinedge calibrate.")],
    data: Annotated[
        Path,
        typer.Option("--data", "-d", help="Narratives with photographs to measure the damage on, as for skinedge calibrate."),
    ],
    model: Model = None,
    adapter: Adapters = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The plan, a new file.")] = Path("plan.json"),
    target: Annotated[str, typer.Option("--target", "-t", help="gguf.")] = "gguf",
    scheme: Annotated[
        str | None, typer.Option("--scheme", "-s", help="Of what the plan leaves alone; by default the target's.")
    ] = None,
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", help="A scheme to choose from; may be repeated; by default all of the target's.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Narratives to measure on.")] = 4,
    text_only: Annotated[bool, typer.Option("--text-only", help="Leave the photographs out.")] = False,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Choose a scheme for every matrix, so that all fit a budget and the model's words change least.

    Each matrix is stored in few bits by itself and the model reads narratives with it: the KL of its final logits is the
    damage. The plan is a table here and a file for skinedge export --plan.

    Example: skinedge quantize --budget 4.2GiB --calibration calibration/ --data records.jsonl --model SkinGPT-R1/
    """
    from skinedge.bundle import check_scheme
    from skinedge.calibration.budget import parse_size
    from skinedge.calibration.layers import use_threads
    from skinedge.calibration.planning import candidates, plan_to_budget
    from skinedge.calibration.run import check_calibration
    from skinedge.calibration.samples import read_conversations
    from skinedge.describe import describe_budget_plan
    from skinedge.staging import refuse_taken_file, staged_file

    refuse_taken_file(out)
    _existing(data)
    nbytes, options = parse_size(budget), replace(_options(check_scheme(target, scheme), None, None, 4096, None))
    options = replace(options, calibration=_calibration(calibration))
    assert options.calibration is not None
    offered = candidates(target, options.calibration, kinds)
    conversations = read_conversations(data, limit=limit, text_only=text_only)
    source = _source(model, adapter)
    check_calibration(options.calibration, source)
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


@app.command()
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

    _existing(source)
    checkpoint = _source(model, adapter)
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


@app.command()
def overflow(
    images: Annotated[list[Path] | None, typer.Argument(help="Photographs, beside the pictures made to provoke.")] = None,
    model: Model = None,
    adapter: Adapters = None,
    activations: Annotated[str, typer.Option(help="The float type asked about: f16, bf16 or fp8 (e4m3).")] = "f16",
    margin: Annotated[float, typer.Option(min=0, help="Headroom below which a layer is named.")] = 1.0,
    top: Annotated[int, typer.Option(min=0, help="Also show this many places that come closest.")] = 10,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the layers whose values leave the range of a narrow float type, before an engine answers with noise.

    Example: skinedge overflow lesion.jpg --model SkinGPT-R1/ --activations f16
    """
    from skinedge.calibration.run import survey
    from skinedge.describe import describe_reaches
    from skinedge.registry import check

    check("activation type", activations, ("f16", "bf16", "fp8"))
    _existing(*(images or ()))
    source = _source(model, adapter)
    with progress_bar(quiet=quiet or as_json) as progress:
        reaches = survey(source, images or (), progress, threads)
    if as_json:
        named = sorted({r.layer for r in reaches if r.headroom(activations) < margin})
        emit({"activations": activations, "offending": named, "reaches": [r.to_json() for r in reaches]})
    else:
        describe_reaches(reaches, activations, margin, top)


@app.command()
def run(
    bundle: BundleDir,
    images: Annotated[list[Path] | None, typer.Argument(help="Photographs, in order; none for a text-only question.")] = None,
    question: Annotated[str | None, typer.Option("--question", "-q", help="What to ask; by default a full description.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Stop after this many tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 is greedy: the most likely token each time.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Sample from the most likely tokens of this total share.")
    ] = None,
    repetition_penalty: Annotated[float | None, typer.Option(min=0, help="Above 1 discourages repetition.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(metavar="<str>", help="Stop before this text; may be repeated.")] = None,
    bias: Annotated[str | None, typer.Option(help="The adapter's bias: every-step or off.")] = None,
    side: Side = None,
    threads: Threads = None,
    context: Context = None,
    as_json: AsJson = False,
) -> None:
    """Ask a bundle about photographs; the answer streams as it is made.

    Example: skinedge run bundle/ lesion.jpg --max-new-tokens 400
    """
    from skinedge.manifest import read_manifest
    from skinedge.runtime.pipeline import Ask, decoding_options, open_pipeline, question_of

    overrides = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p,
        "repetition_penalty": repetition_penalty, "bias": bias,
    }  # fmt: skip
    request = Ask(tuple(images or ()), question, seed, tuple(stop or ()), {k: v for k, v in overrides.items() if v is not None})
    # What can be judged without the model is judged before it is loaded, which takes a while.
    _existing(bundle, *request.photographs)
    manifest = read_manifest(bundle)
    question_of(request, manifest.prompt.question)
    decoding_options(manifest.decoding, request)
    with open_pipeline(bundle, side=side, threads=threads, context=context) as pipeline:
        answer = pipeline.run(request, on_text=None if as_json else lambda piece: say(printable(piece), end=""))
    if as_json:
        emit(answer.to_json())
    else:
        say()
        note(answer.summary())


@app.command()
def parity(
    bundle: BundleDir,
    reference: Annotated[Path | None, typer.Option(help="The checkpoint it was made from; left out: the embedded model.")] = None,
    adapter: Adapters = None,
    images: Annotated[Path | None, typer.Option(help="Folder of photographs; left out: three generated pictures.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many photographs.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Teacher-forced steps.")] = 64,
    report: Annotated[Path | None, typer.Option(help="Write the whole comparison here as JSON.")] = None,
    side: Side = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Compare a bundle with PyTorch stage by stage; exit 1 at the first stage out of tolerance.

    Example: skinedge parity bundle/ --reference SkinGPT-R1/ --images photos/
    """
    from skinedge.parity.compare import compare, print_stages, write_report
    from skinedge.staging import refuse_taken_file

    _existing(bundle)
    if report:
        refuse_taken_file(report)
    source = _source(reference, adapter)
    result = compare(bundle, source, images, limit=limit, steps=steps, side=side, threads=threads, quiet=as_json)
    if report:
        write_report(result, report)
    if as_json:
        emit(result.to_json())
    else:
        print_stages(result)
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def verify(bundle: BundleDir, as_json: AsJson = False) -> None:
    """Check every byte of a bundle against its manifest.

    Example: skinedge verify bundle/
    """
    from skinedge.bundle import verify as verify_bundle

    _existing(bundle)
    manifest = verify_bundle(bundle)
    total = sum(f.nbytes for f in manifest.files)
    if as_json:
        emit({"verified": True, "digest": manifest.digest, "files": len(manifest.files), "nbytes": total})
    else:
        say(f"{bundle}: {len(manifest.files)} files, {size(total)}, all as they were written. digest {manifest.digest[:16]}")


@app.command()
def show(folder: Annotated[Path, typer.Argument(help="A bundle or a checkpoint folder.")], as_json: AsJson = False) -> None:
    """Say what a folder holds and where it came from, back to the adapter checkpoint.

    Example: skinedge show bundle/
    """
    from skinedge.describe import describe_manifest
    from skinedge.manifest import MANIFEST_FILE, read_manifest
    from skinedge.model.config import read_config

    _existing(folder)
    if not (folder / MANIFEST_FILE).exists() and (folder / "config.json").exists():
        config = read_config(folder)
        if as_json:
            emit({"kind": "checkpoint", "config": asdict(config)})
        else:
            say(f"{folder}: a Qwen2.5-VL checkpoint, {config.text.num_layers} layers of {config.text.hidden_size},")
            say(f"vision tower of {config.vision.depth} blocks of {config.vision.hidden_size}.")
            say(f"Next: skinedge export --model {folder}")
        return
    manifest = read_manifest(folder)
    if as_json:
        emit({"kind": "bundle", "digest": manifest.digest, "manifest": manifest.model_dump(mode="json")})
    else:
        describe_manifest(folder, manifest)


@app.command()
def targets(as_json: AsJson = False) -> None:
    """List what can be written, and in which weight schemes.

    Each name goes after --target, each scheme after --scheme: skinedge export --target gguf --scheme q8_0
    """
    from skinedge.bundle import known_targets, load_target

    found = {name: load_target(name) for name in known_targets()}
    if as_json:
        emit({n: {"schemes": t.SCHEMES, "default": t.DEFAULT_SCHEME, "extra": t.EXTRA, "runs": t.RUNS} for n, t in found.items()})
        return
    rows = [(n, ", ".join(t.SCHEMES), t.DEFAULT_SCHEME, f"skinedge[{t.EXTRA}]" if t.EXTRA else "-") for n, t in found.items()]
    table(("target", "schemes", "default", "needs"), rows)


@app.command()
def devices(as_json: AsJson = False) -> None:
    """List the devices skinedge knows, and what it exports for each.

    Each name goes after --device: skinedge export --device rtx-4090
    """
    from skinedge.devices import known_devices, read_device

    found = [read_device(name) for name in known_devices()]
    if as_json:
        emit({d.name: asdict(d) for d in found})
        return
    rows = [(d.name, f"{d.memory_gb:g} GB", f"{d.bandwidth_gb_s:g} GB/s", d.target, d.scheme, d.title) for d in found]
    table(("device", "memory", "bandwidth", "target", "scheme", ""), rows)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can export to and run, and what is missing for the rest.

    Example: skinedge doctor
    """
    from skinedge.doctor import examine

    findings = examine()
    if as_json:
        emit({f.name: {"ok": f.ok, "found": f.found, "hint": f.hint} for f in findings})
        return
    table(("", "what", "found", "to get it"), [("ok" if f.ok else "--", f.name, f.found, f.hint) for f in findings])


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the bundles and the report.")] = Path("build/demo"),
    adapter: Adapters = None,
    as_json: AsJson = False,
) -> None:
    """The whole path on the embedded model: three bundles, verified, run and compared with PyTorch.

    Example: skinedge demo --out build/demo
    """
    from skinedge.demo import run_demo

    _existing(*(adapter or ()))
    passed = run_demo(out, adapter, quiet=as_json)
    if as_json:
        emit({"passed": passed, "report": str(out / "report.md")})
    if not passed:
        raise typer.Exit(1)


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


def _existing(*paths: Path) -> None:
    """Check that paths are there before anything slow begins.

    Raises:
        UsageError: one is not.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder.", hint="Check the spelling, or give the full path.")


def _source(model: Path | None, adapters: list[Path] | None, out: Path | None = None) -> AdapterCheckpoint:
    """The checkpoint named, or the embedded one; first of all, that there is room for a folder at ``out``."""
    from skinedge.artifacts import AdapterCheckpoint
    from skinedge.embedded import embedded_checkpoint
    from skinedge.staging import refuse_taken

    if out:
        refuse_taken(out)
    if model is None:
        _existing(*(adapters or ()))
        return embedded_checkpoint(adapters)
    if not model.exists() and not model.is_absolute() and len(model.parts) == 2 and not model.parent.exists():
        hub = (
            f"If it is a name on the Hugging Face hub, download it first: hf download {model.as_posix()} --local-dir {model.name}"
        )
        raise UsageError(f"{model}: no such folder, and skinedge fetches nothing from the network.", hint=hub)
    _existing(model, *(adapters or ()))
    if not model.is_dir():
        raise UsageError(f"{model} is a file, and a checkpoint is a folder.", hint=f"Did you mean {model.parent}?")
    return AdapterCheckpoint.find(model, adapters or ())


def _calibration(folder: Path | None) -> Calibration | None:
    if folder is None:
        return None
    from skinedge.calibration.statistics import Calibration

    _existing(folder)
    return Calibration.open(folder)


def _plan(file: Path | None, calibration: Path | None) -> BudgetPlan | None:
    from skinedge.calibration.budget import BudgetPlan

    if file is None:
        return None
    if calibration is None:
        raise UsageError(
            f"{file} was measured with a calibration, and none is given.",
            hint="Add --calibration with the folder it was made with.",
        )
    return BudgetPlan.read(file)


def _rounding(name: str | None) -> str | None:
    from skinedge.registry import check

    if name is not None:
        check("rounding", name, ("nearest", "scale", "gptq"))
    return name


def _model_name(model: Path | None) -> str:
    from skinedge.embedded import NAME

    return model.resolve().name if model else NAME


def _choose(target: str | None, scheme: str | None, activations: str | None, device: str | None) -> tuple[str, str, str | None]:
    """Target, scheme and activations from the options, with the device's choice where they are silent."""
    from skinedge.bundle import check_scheme
    from skinedge.devices import read_device
    from skinedge.registry import check

    if device:
        known = read_device(device)
        same = target in (None, known.target)
        target, scheme = target or known.target, scheme or (known.scheme if same else None)
        activations = activations or (known.activations if same else None)
    target = "onnx" if target is None else target
    scheme = check_scheme(target, scheme)
    if activations:
        check("activation type", activations, ("f32", "f16", "bf16"))
    return target, scheme, activations


def _options(scheme: str, activations: str | None, vision: str | None, context: int, workers: int | None) -> ExportOptions:
    from skinedge.targets._contract import ExportOptions

    return ExportOptions(scheme, activations, vision, context, workers)


def _export(
    source: AdapterCheckpoint,
    target: str,
    options: ExportOptions,
    out: Path,
    licence: str | None,
    allow_inert: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    from skinedge.bundle import export as export_bundle
    from skinedge.bundle import preflight
    from skinedge.describe import describe_manifest, describe_preflight
    from skinedge.weights.checkpoint import open_checkpoint

    if dry_run:
        flight = preflight(open_checkpoint(source.path, source.adapters), target, options, out)
        if as_json:
            emit({"out": str(out), "files": dict(flight.plan.files), "nbytes": flight.plan.nbytes, "memory": flight.plan.memory})
            return
        describe_preflight(out, flight)
        return
    with progress_bar(quiet=as_json) as progress:
        bundle = export_bundle(source, target, options, out, licence=licence, allow_inert=allow_inert, progress=progress)
    if as_json:
        emit({"bundle": str(out), "digest": bundle.digest, "target": target, "scheme": options.scheme})
    else:
        from skinedge.bundle import load_target
        from skinedge.manifest import read_manifest

        describe_manifest(out, read_manifest(out))
        if load_target(target).RUNS:
            say(f"Next: skinedge run {out} PHOTOGRAPH, or skinedge parity {out} --reference MODEL --images FOLDER")
