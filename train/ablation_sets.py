"""The pictures that an ablation trains on and is judged by: SynthDerm, drawn here or given, and PAD-UFES-20."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from skinedge.errors import UsageError
from skinedge.evaluation.cases import Case, read_cases
from skinedge.staging import staged_file
from skinedge.weights.checkpoint import file_digest
from train.arms import PAD, SYNTHDERM, Benchmark, SynthDerm
from train.data import read_records
from train.errors import DataError

# PAD-UFES-20 has diagnoses and no narratives.  None is made up for it: the supervised text is the answer alone, so
# nothing is learned there about how to describe a photograph, and the reasoning is not asked for either.
PAD_QUESTION = "Name the most likely diagnosis."
PAD_NOTE = (
    "PAD-UFES-20 (Pacheco et al. 2020, CC BY 4.0) has diagnoses and no narratives, and none was made up: every arm was "
    "fine-tuned on `<answer>diagnosis</answer>` alone, so structure is not to be expected of a trained arm. Its own "
    "patient-disjoint `train` and `val` were used. The base model has seen drawings only, never a photograph."
)


def synthderm(work: Path, settings: SynthDerm, train: Path | None, test: Path | None, *, quiet: bool = False) -> Benchmark:
    """SynthDerm: the records given, or drawn into ``work`` as ``settings`` say unless they are there already.

    Raises:
        UsageError: only one of the two files is given.
    """
    if (train is None) != (test is None):
        raise UsageError("records are given for one half only.", hint="Give both --train and --test, or neither.")
    if train is not None and test is not None:
        return Benchmark(SYNTHDERM, train.resolve(), test.resolve(), "Records given on the command line.")
    parts = ((settings.train, settings.train_seed), (settings.test, settings.test_seed))
    trained, held_out = (f"{count} pictures of seed {seed}" for count, seed in parts)
    note = f"SynthDerm: {trained} to train on, {held_out} held out."
    drawn, kept = (_draw(work / SYNTHDERM / f"pictures-{count}-{seed}", count, seed, quiet) for count, seed in parts)
    return Benchmark(SYNTHDERM, drawn, kept, note)


def pad_ufes_20(work: Path, folder: Path) -> Benchmark:
    """PAD-UFES-20's own ``train`` and ``val``: records written to ``work`` that name the photographs where they lie.

    Raises:
        CasesError: the metadata cannot be read.
        DataError: a photograph is missing.
    """
    cases = read_cases(folder / "metadata.csv", folder / "images").cases
    train, val = (_write(work / PAD / f"{split}.jsonl", [c for c in cases if c.split == split]) for split in ("train", "val"))
    return Benchmark(PAD, train, val, PAD_NOTE)


def check_apart(benchmark: Benchmark) -> None:
    """Refuse to judge a model by a photograph that it was trained on.

    Raises:
        DataError: the same photograph is in both halves.
    """
    seen = {file_digest(path): record.id for record in read_records([benchmark.train]) for path in record.images}
    for record in read_records([benchmark.test]):
        for path in record.images:
            if (known := seen.get(file_digest(path))) is not None:
                raise DataError(f"{record.where}: the photograph {path.name} is also that of '{known}', which is trained on.")


def _draw(folder: Path, count: int, seed: int, quiet: bool) -> Path:
    from skinedge.synthderm.dataset import write_dataset

    if not (folder / "records.jsonl").is_file():
        write_dataset(folder, count, seed, quiet=quiet)
    return folder / "records.jsonl"


def _write(file: Path, cases: Sequence[Case]) -> Path:
    lines = "".join(json.dumps(_record(case)) + "\n" for case in cases).encode()
    if not file.is_file() or file.read_bytes() != lines:
        file.unlink(missing_ok=True)
        with staged_file(file) as f:
            f.write(lines)
    return file


def _record(case: Case) -> dict[str, object]:
    said = f"<answer>{case.diagnosis}</answer>"
    record: dict[str, object] = {
        "id": case.id,
        "messages": [{"role": "user", "content": f"<image>{PAD_QUESTION}"}, {"role": "assistant", "content": said}],
        "images": [str(case.image.resolve())],
        "diagnosis": case.diagnosis,
    }
    return record if case.fitzpatrick is None else {**record, "skin_labels": (case.fitzpatrick - 1) // 2}
