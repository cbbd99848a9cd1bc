"""Options that several commands share, and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skinedge.errors import UsageError
from skinedge.registry import names

if TYPE_CHECKING:
    from skinedge.artifacts import AdapterCheckpoint
    from skinedge.calibration.statistics import Calibration
    from skinedge.targets._contract import ExportOptions


def among(folder: str, suffix: str = ".py") -> Callable[[str], list[str]]:
    """Shell completion from the names of the files in ``skinedge/<folder>``."""
    return lambda incomplete: [name for name in names(folder, suffix) if name.startswith(incomplete)]


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
        autocompletion=among("targets"),
        help="Open this side of the bundle instead: a trt bundle also holds an onnx one.",
    ),
]
AllowRemote = Annotated[bool, typer.Option("--allow-remote", help="Photographs and narratives may leave this machine.")]
KeyVariable = Annotated[str, typer.Option(metavar="<name>", help="Environment variable that holds the key.")]
Concurrency = Annotated[int, typer.Option(min=1, max=256, help="Requests under way at once.")]
PerMinute = Annotated[float, typer.Option(min=0, help="Requests a minute at most; 0 is no limit.")]
BundleDir = Annotated[Path, typer.Argument(help="A folder that skinedge export wrote.")]


def existing(*paths: Path) -> None:
    """Check that paths are there before anything slow begins.

    Raises:
        UsageError: one is not.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder.", hint="Check the spelling, or give the full path.")


def source_of(model: Path | None, adapters: list[Path] | None, out: Path | None = None) -> AdapterCheckpoint:
    """The checkpoint named, or the embedded one; first of all, that there is room for a folder at ``out``."""
    from skinedge.artifacts import AdapterCheckpoint
    from skinedge.embedded import embedded_checkpoint
    from skinedge.staging import refuse_taken

    if out:
        refuse_taken(out)
    if model is None:
        existing(*(adapters or ()))
        return embedded_checkpoint(adapters)
    if not model.exists() and not model.is_absolute() and len(model.parts) == 2 and not model.parent.exists():
        hub = (
            f"If it is a name on the Hugging Face hub, download it first: hf download {model.as_posix()} --local-dir {model.name}"
        )
        raise UsageError(f"{model}: no such folder, and skinedge fetches nothing from the network.", hint=hub)
    existing(model, *(adapters or ()))
    if not model.is_dir():
        raise UsageError(f"{model} is a file, and a checkpoint is a folder.", hint=f"Did you mean {model.parent}?")
    return AdapterCheckpoint.find(model, adapters or ())


def calibration_of(folder: Path | None) -> Calibration | None:
    """The calibration in ``folder``, if one is named."""
    if folder is None:
        return None
    from skinedge.calibration.statistics import Calibration

    existing(folder)
    return Calibration.open(folder)


def model_name(model: Path | None) -> str:
    """What folders made from the model are called after."""
    from skinedge.embedded import NAME

    return model.resolve().name if model else NAME


def export_options(scheme: str, activations: str | None, vision: str | None, context: int, workers: int | None) -> ExportOptions:
    """What is asked of a target; its module must not be imported for a command's help."""
    from skinedge.targets._contract import ExportOptions

    return ExportOptions(scheme, activations, vision, context, workers)
