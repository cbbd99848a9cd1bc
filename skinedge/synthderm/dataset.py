"""SynthDerm in numbers: many pictures at once, and data sets in the layout of the training records."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from skinedge.console import counted
from skinedge.staging import staged
from skinedge.synthderm.findings import Case, draw_cases
from skinedge.synthderm.narrative import QUESTIONS, draw_differentials, narrate
from skinedge.synthderm.picture import SIZE, render


def render_all(cases: Sequence[Case], *, size: int = SIZE, workers: int | None = None) -> Iterator[npt.NDArray[np.uint8]]:
    """The pictures of ``cases`` in order, ``[size, size, 3]`` each, drawn by ``workers`` processes (all cores)."""
    workers = min(workers or os.cpu_count() or 1, 1 + len(cases) // 64)
    if workers == 1:
        yield from (render(case, size) for case in cases)
        return
    # spawn: the only way on Windows, and safe beside torch's threads everywhere
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(render, cases, [size] * len(cases), chunksize=32)


def write_dataset(
    folder: Path, count: int, seed: int, *, size: int = SIZE, workers: int | None = None, quiet: bool = True
) -> Path:
    """Write ``images/*.png`` and ``records.jsonl``: true findings, diagnosis and narrative of ``count`` cases.

    Raises:
        OutputError: ``folder`` is taken or cannot be written.
    """
    cases = draw_cases(count, seed)
    with staged(folder) as partial:
        (partial / "images").mkdir()
        lines = []
        pictures = render_all(cases, size=size, workers=workers)
        for number, case in enumerate(counted("drawing pictures", cases, quiet)):
            name = f"images/{number:07d}.png"
            Image.fromarray(next(pictures)).save(partial / name, compress_level=1)
            lines.append(json.dumps(record(case, f"synth-{seed}-{number:07d}", name)))
        (partial / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return folder / "records.jsonl"


def record(case: Case, name: str, image: str) -> dict[str, object]:
    """A case as a training record (the authors' layout, with what is known of the case beside it)."""
    rng = np.random.default_rng([case.seed, 4])
    question = QUESTIONS[rng.integers(len(QUESTIONS))]
    narrative = narrate(case.findings, case.diagnosis, draw_differentials(case.diagnosis, rng), rng)
    return {
        "id": name,
        "messages": [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": narrative}],
        "images": [image],
        "skin_labels": case.skin_label,
        "diagnosis": case.diagnosis,
        "fitzpatrick": case.fitzpatrick,
        "findings": asdict(case.findings),
    }
