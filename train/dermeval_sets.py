"""The sets of damaged narratives that DermEval is trained and tested on, read by the frozen model once and kept in a folder.

Three of the twelve diagnoses are in no training picture, narrative or page; neither is any damage of the form
``other`` nor any of its sentences.  The test sets cross the two: ``unseen`` has both.  Every set is a function of its seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from skinedge.console import Json
from skinedge.errors import UsageError
from skinedge.evaluation.damage import FORMS
from skinedge.evaluation.dermeval_model import Seen
from skinedge.evaluation.dermeval_reading import Reader
from skinedge.model.config import read_config
from skinedge.model.reference import Reference
from skinedge.runtime.image import read_processor_config
from skinedge.runtime.session import Grid
from skinedge.staging import staged_file
from skinedge.synthderm.findings import Case, draw_cases
from skinedge.synthderm.pages import textbook
from skinedge.weights.checkpoint import checkpoint_digest, digest_of
from train.dermeval_data import SIDE, Looks, Sample, Samples, Watched, see, watch

# One cancer, one of a pair that differs in arrangement alone, one of a colour that no other disease has.
HELD_OUT = ("squamous cell carcinoma", "tinea corporis", "vitiligo")


@dataclass(frozen=True)
class Sizes:
    """Pictures drawn for training and for tests, narratives of each, and the seed of all."""

    pictures: int = 1920
    each: int = 4
    tests: int = 480
    seed: int = 61
    batch: int = 32


@dataclass(frozen=True)
class TestSet:
    """Narratives of one kind of diagnoses and one form of damage, as the frozen model read them."""

    samples: tuple[Sample, ...]
    watched: Watched


LAYOUT = 3  # of what is kept; counts up with the damage and the readings
# Name of each test set: whether its diagnoses are new, and the form of its damage.
TESTS: Mapping[str, tuple[bool, str]] = {
    "familiar": (False, FORMS[0]), "diagnoses": (True, FORMS[0]), "damage": (False, FORMS[1]), "unseen": (True, FORMS[1]),
}  # fmt: skip
CHOICE = "choice"  # on it one of several trained judges is chosen: diagnoses seen, pictures and sentences in no other set


class Workshop:
    """A model and the sets made with it, kept in the folder ``work``: what is there already is not made again."""

    def __init__(self, folder: Path, sizes: Sizes, work: Path, *, held_out: Sequence[str] = HELD_OUT, quiet: bool) -> None:
        self.folder, self.sizes, self.held_out = folder, sizes, held_out
        self.config = read_config(folder)
        self.reader = Reader(folder, self.config)
        self._work, self._quiet = work, quiet
        self._processor = read_processor_config(folder)
        self.grid = Grid(1, SIDE // self.config.vision.patch_size, SIDE // self.config.vision.patch_size)
        _claim(work, {"model": checkpoint_digest(folder), "held_out": list(held_out), "layout": LAYOUT, **asdict(sizes)})

    @cached_property
    def model(self) -> transformers.PreTrainedModel:
        """The frozen model."""
        return Reference.from_checkpoint(self.folder).model.requires_grad_(False)

    def training(self) -> Watched:
        """The training set."""
        cases = [c for c in draw_cases(self.sizes.pictures, self.sizes.seed) if c.diagnosis not in self.held_out]
        book = {name: page for name, page in textbook().items() if name not in self.held_out}

        def draw() -> list[Sample]:
            rng = np.random.default_rng([self.sizes.seed, 1])
            return Samples(cases, self.grid, book, self.reader).draw_all(self.sizes.each, rng)

        return self._read("train", cases, draw)

    def tests(self, names: Sequence[str] = tuple(TESTS)) -> dict[str, TestSet]:
        """``familiar`` diagnoses and damage, new ``diagnoses`` only, new ``damage`` only, and both (``unseen``)."""
        return {name: self.test(name) for name in names}

    def test(self, name: str, *, blind: bool = False) -> TestSet:
        """One of ``TESTS``, or ``CHOICE``; ``blind`` reads the same narratives without their pictures."""
        new, form = (False, FORMS[2]) if name == CHOICE else TESTS[name]
        seed = self.sizes.seed + (2 if name == CHOICE else 1)
        cases = [c for c in draw_cases(self.sizes.tests, seed) if (c.diagnosis in self.held_out) == new]
        samples = Samples(cases, self.grid, textbook(), self.reader)
        rng = np.random.default_rng([self.sizes.seed, 2 + FORMS.index(form), int(new)])
        rows = [row for _ in range(3 if new else 1) for row in range(len(cases))]
        made = [(row, samples.true_book(row, form, rng)) for row in rows]

        def draw() -> list[Sample]:
            return [samples.sample(row, m, m.answer, blind=blind) for row, m in made]

        return TestSet(tuple(draw()), self._read(f"test-{name}{'-blind' * blind}", cases, draw))

    def _read(self, name: str, cases: Sequence[Case], draw: Callable[[], Sequence[Sample]]) -> Watched:
        path = self._work / f"{name}.safetensors"
        if not path.is_file():
            save_watched(watch(self.model, draw(), self._look(cases), self.sizes.batch, quiet=self._quiet), path)
        return load_watched(path)

    def _look(self, cases: Sequence[Case]) -> Looks:
        path = self._work / f"looks-{digest_of([c.seed for c in cases])[:12]}.safetensors"
        if not path.is_file():
            looks = see(cases, self.model, self.reader, self.config, self._processor, quiet=self._quiet)
            save_file({"features": looks.features.clone(), "beliefs": looks.beliefs.clone()}, path)
        return Looks(**load_file(path))


def _claim(work: Path, made_of: Mapping[str, Json]) -> None:
    """Make ``work`` the folder of these sets, or check that it is."""
    path = work / "made_of.json"
    if not path.is_file():
        with staged_file(path) as f:
            f.write(json.dumps(made_of, indent=1).encode())
    elif json.loads(path.read_text(encoding="utf-8")) != made_of:
        raise UsageError(f"{work} holds sets of another model, size or seed.", hint="Choose another --work, or remove it.")


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
        count = 1 + max(int(name.partition("/")[0]) for name in f.keys())  # noqa: SIM118  (it is no dict)

        def every(name: str) -> tuple[Tensor, ...]:
            return tuple(f.get_tensor(f"{i}/{name}") for i in range(count))

        columns: Mapping[str, tuple[Tensor, ...]] = {x.name: every(x.name) for x in fields(Seen)}
        batches = tuple(Seen(*(columns[x.name][i] for x in fields(Seen))) for i in range(count))
        order = tuple(tuple(t.tolist()) for t in every("order"))
        return Watched(batches, every("scores"), every("flaws"), order)
