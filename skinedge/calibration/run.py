"""From a checkpoint and a place with conversations to a calibration folder: the steps of ``skinedge calibrate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skinedge.artifacts import AdapterCheckpoint
from skinedge.calibration.overflow_report import MARGIN, OverflowReport
from skinedge.calibration.plan import CalibrationPlan, plan
from skinedge.calibration.samples import Sample, SampleMaker, data_digest, read_conversations
from skinedge.calibration.statistics import Calibration, CalibrationRecord, write_layers
from skinedge.console import counted
from skinedge.errors import CalibrationError
from skinedge.records import Conversation
from skinedge.runtime.prompt import ask
from skinedge.staging import staged
from skinedge.weights.checkpoint import Checkpoint, open_checkpoint
from skinedge.weights.stream import Progress

IMATRIX_FILE = "imatrix.gguf"


@dataclass(frozen=True)
class Prepared:
    """Everything that can be checked and known before the model runs."""

    source: AdapterCheckpoint
    checkpoint: Checkpoint
    conversations: tuple[Conversation, ...]
    samples: tuple[Sample, ...]
    plan: CalibrationPlan
    block: int | None


def prepare(
    source: AdapterCheckpoint,
    data: Path,
    *,
    limit: int | None = None,
    block: int | None = None,
    text_only: bool = False,
    quiet: bool = True,
) -> Prepared:
    """Read and check the conversations; ``block`` asks for second moments.

    Raises:
        UsageError: see ``read_conversations``.
        CalibrationError: a record, narrative or photograph cannot be used; it is named.
        CheckpointError: the model is damaged.
    """
    conversations = read_conversations(data, limit=limit, text_only=text_only)
    checkpoint = open_checkpoint(source.path, source.adapters)
    make = SampleMaker(source.path, checkpoint.config)
    samples = tuple(make(c) for c in counted("checking photographs", conversations, quiet))
    return Prepared(source, checkpoint, conversations, samples, plan(checkpoint.config, samples, block), block)


def calibrate(
    prepared: Prepared, out: Path, progress: Progress, *, imatrix: bool = False, threads: int | None = None, quiet: bool = True
) -> CalibrationRecord:
    """Run the pass and write the folder ``out``, with llama.cpp's imatrix in it if asked.

    Raises:
        OutputError: ``out`` is taken or the disk ran full.
        MissingDependencyError: torch, transformers, or for the imatrix gguf, is not installed.
    """
    from skinedge.calibration.imatrix import write_imatrix
    from skinedge.calibration.layers import use_threads
    from skinedge.calibration.passes import calibrate as measure
    from skinedge.targets._gguf_tensors import import_gguf

    use_threads(threads)
    if imatrix:
        import_gguf()  # missed now, not after hours
    known = prepared.plan
    record = CalibrationRecord(
        model=prepared.source.digest,
        data=data_digest(prepared.conversations, quiet=quiet),
        records=len(prepared.samples),
        images=known.images,
        tokens=known.tokens,
        rows=known.rows,
    )
    with staged(out) as folder:
        layers = measure(prepared.checkpoint, prepared.samples, block=prepared.block, progress=progress)
        write_layers(folder, record, known.shapes, layers)
        if imatrix:
            write_imatrix(folder / IMATRIX_FILE, Calibration.open(folder), prepared.checkpoint.config)
    return record


def survey(
    source: AdapterCheckpoint,
    photographs: Sequence[Path],
    progress: Progress,
    threads: int | None = None,
    *,
    margin: float = MARGIN,
) -> OverflowReport:
    """The reach of every place inside a model (``skinedge.calibration.overflow``) on photographs and on the triggers.

    Raises:
        CalibrationError: a photograph cannot be read; it is named.
        MissingDependencyError: torch or transformers is not installed.
    """
    from skinedge.calibration import overflow
    from skinedge.calibration.layers import use_threads
    from skinedge.calibration.triggers import trigger_samples

    use_threads(threads)
    checkpoint = open_checkpoint(source.path, source.adapters)
    make = SampleMaker(source.path, checkpoint.config)
    asked = {str(path): make(Conversation(str(path), ask(), (path,)), answer=False) for path in photographs}
    samples = trigger_samples(make) | asked
    return OverflowReport(source.digest, margin, tuple(samples), overflow.survey(checkpoint, samples, progress))


def check_calibration(calibration: Calibration, source: AdapterCheckpoint) -> None:
    """Refuse a calibration of another checkpoint.

    Raises:
        CalibrationError: it was made of another model, or with other adapters.
    """
    made, wanted = calibration.record.model, source.digest
    if made != wanted:
        raise CalibrationError(
            f"{calibration.folder} was made of another checkpoint (digest {made[:16]}) than the one that is exported"
            f" ({wanted[:16]}).",
            hint="Give skinedge calibrate the same --model and --adapter as skinedge export.",
        )
