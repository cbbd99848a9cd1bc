"""The sets of damaged narratives that DermEval is trained and tested on, read by the frozen model once and kept in a folder.

Three of the twelve diagnoses are in no training picture, narrative or page; neither is any damage of the form
``other`` nor any of its sentences.  The test sets cross the two: ``unseen`` has both.  Every set is a function of its seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from skinedge.console import note
from skinedge.evaluation.damage import FORMS, damage, draw_damages
from skinedge.evaluation.dermeval_model import Seen
from skinedge.evaluation.dermeval_reading import Reader
from skinedge.model.config import read_config
from skinedge.model.reference import Reference
from skinedge.runtime.image import read_processor_config
from skinedge.synthderm.findings import DIAGNOSES, draw_cases
from skinedge.synthderm.pages import textbook
from train.dermeval_data import Sample, Samples, Watched, see, watch

# One cancer, one of a pair that differs in arrangement alone, one of a colour that no other disease has.
HELD_OUT = ("squamous cell carcinoma", "tinea corporis", "vitiligo")


@dataclass(frozen=True)
class Sizes:
    """Pictures drawn for training and for tests, narratives of each, and the seed of all."""

    pictures: int = 2400
    each: int = 4
    tests: int = 800
    seed: int = 61
    batch: int = 32


@dataclass(frozen=True)
class TestSet:
    """Narratives of one kind of diagnoses and one form of damage, read with the picture and, the same ones, without."""

    samples: tuple[Sample, ...]
    watched: Watched
    blind: Watched


class Workshop:
    """A model, and the sets made with it."""

    def __init__(self, folder: Path, sizes: Sizes, *, quiet: bool) -> None:
        self.folder, self.sizes, self._quiet = folder, sizes, quiet
        self.config = read_config(folder)
        self.model = Reference.from_checkpoint(folder).model.requires_grad_(False)
        self.reader = Reader(folder, self.config)
        self._processor = read_processor_config(folder)

    def training(self, kept: Path, held_out: Sequence[str] = HELD_OUT) -> Watched:
        """The training set, taken from ``kept`` where it is there already."""
        if kept.is_file():
            note(f"{kept} is there already.")
            return load_watched(kept)
        cases = [c for c in draw_cases(self.sizes.pictures, self.sizes.seed) if c.diagnosis not in held_out]
        pictures = see(cases, self.model.model.visual, self.config, self._processor, quiet=self._quiet)
        book = {name: page for name, page in textbook().items() if name not in held_out}
        drawn = Samples(pictures, book, self.reader).draw_all(self.sizes.each, np.random.default_rng([self.sizes.seed, 1]))
        watched = watch(self.model, drawn, pictures.features, self.sizes.batch, quiet=self._quiet)
        save_watched(watched, kept)
        return watched

    def tests(self, each: int = 3, held_out: Sequence[str] = HELD_OUT) -> dict[str, TestSet]:
        """``familiar`` diagnoses and damage, new ``diagnoses`` only, new ``damage`` only, and both (``unseen``)."""
        cases = draw_cases(self.sizes.tests, self.sizes.seed + 1)
        found = {}
        for name, new, form in (("familiar", False, 0), ("diagnoses", True, 0), ("damage", False, 1), ("unseen", True, 1)):
            chosen = [c for c in cases if (c.diagnosis in held_out) == new]
            pictures = see(chosen, self.model.model.visual, self.config, self._processor, quiet=self._quiet)
            samples = Samples(pictures, textbook(), self.reader)
            rng = np.random.default_rng([self.sizes.seed, 2 + form, int(new)])
            made = [(row, self._damaged(samples, row, FORMS[form], rng)) for _ in range(each if new else 1) for row in range(len(chosen))]
            sets = [
                [samples.sample(row, m, m.answer.text(), blind=blind) for row, m in made] for blind in (False, True)
            ]
            watched = [watch(self.model, s, pictures.features, self.sizes.batch, quiet=self._quiet) for s in sets]
            found[name] = TestSet(tuple(sets[0]), *watched)
        return found

    def _damaged(self, samples: Samples, row: int, form: str, rng: np.random.Generator):  # type: ignore[no-untyped-def]
        case, book = samples.pictures.cases[row], textbook()
        others = [book[name] for name in DIAGNOSES if name != case.diagnosis]
        return damage(case.findings, book[case.diagnosis], others, draw_damages(rng, form=form), rng)


def save_watched(watched: Watched, path: Path) -> None:
    """Keep what was read."""
    tensors: dict[str, Tensor] = {}
    for i, (seen, scores, flaws) in enumerate(zip(watched.batches, watched.scores, watched.flaws, strict=True)):
        tensors |= {f"{i}/{f.name}": getattr(seen, f.name).contiguous() for f in fields(Seen)}
        tensors |= {f"{i}/scores": scores, f"{i}/flaws": flaws, f"{i}/order": torch.tensor(watched.order[i])}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    save_file(tensors, beside)
    beside.replace(path)


def load_watched(path: Path) -> Watched:
    """What ``save_watched`` kept."""
    with safe_open(path, "pt") as f:
        count = 1 + max(int(name.partition("/")[0]) for name in f.keys())

        def every(name: str) -> tuple[Tensor, ...]:
            return tuple(f.get_tensor(f"{i}/{name}") for i in range(count))

        columns: Mapping[str, tuple[Tensor, ...]] = {x.name: every(x.name) for x in fields(Seen)}
        batches = tuple(Seen(*(columns[x.name][i] for x in fields(Seen))) for i in range(count))
        order = tuple(tuple(t.tolist()) for t in every("order"))
        return Watched(batches, every("scores"), every("flaws"), order)
