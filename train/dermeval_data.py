"""What DermEval learns from: drawn pictures seen by the frozen vision tower once, and damaged narratives written anew.

A quarter of the narratives speak of diseases that have changed names with one another, and a third of invented diseases
whose pages are drawn around the patient's findings: so the page has to be read, and a disease that was never met can be
judged by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor

from skinedge.console import counted
from skinedge.evaluation.damage import FLAWS, KINDS, Damaged, damage, draw_damages
from skinedge.evaluation.dermeval_model import Seen, believe, look
from skinedge.evaluation.dermeval_reading import Reader, Reading, fill, fill_pages
from skinedge.evaluation.scores import DIMENSIONS
from skinedge.model.config import ModelConfig
from skinedge.runtime.image import ProcessorConfig
from skinedge.runtime.session import Grid
from skinedge.synthderm.dataset import render_all
from skinedge.synthderm.findings import VOCABULARY, Case, Findings
from skinedge.synthderm.pages import Page
from train.decoder import decode, rotary
from train.tiny_stages import Eye
from train.vision import UniformVision

SIDE = 168
_RENAMED, _INVENTED, _PAGELESS, _BLIND = 0.25, 0.35, 0.1, 0.08


@dataclass(frozen=True)
class Looks:
    """What the frozen model makes of pictures: ``features`` ``[N, merged patches, hidden]``, ``beliefs`` ``[N, values]``."""

    features: Tensor
    beliefs: Tensor


@torch.inference_mode()
def see(
    cases: Sequence[Case], model: transformers.PreTrainedModel, reader: Reader, config: ModelConfig, processor: ProcessorConfig,
    *, quiet: bool,
) -> Looks:  # fmt: skip
    """Draw the pictures of ``cases`` and look at each once."""
    eye = Eye(SIDE, config, processor)
    vision, tree = UniformVision(eye.grid, config.vision), reader.tree(eye.grid)
    drawing, features, beliefs = render_all(cases, size=SIDE, workers=1), [], []
    for first in counted("looking at pictures", range(0, len(cases), 16), quiet):
        drawn = np.stack([next(drawing) for _ in cases[first : first + 16]])
        features.append(vision.encode(model.model.visual, eye.patches(drawn)))
        beliefs.append(believe(model, tree, features[-1]))
    return Looks(torch.cat(features), torch.cat(beliefs))


@dataclass(frozen=True)
class Sample:
    """A damaged narrative as it is read, of picture ``row``; ``scores`` ``[6]``."""

    row: int
    blind: bool
    reading: Reading
    scores: npt.NDArray[np.float32]
    flaws: npt.NDArray[np.float32]  # of flaw_names
    made: Damaged


class Samples:
    """Draws samples of ``cases``, whose pictures have ``grid``; ``book`` holds the diseases that may be spoken of."""

    def __init__(
        self, cases: Sequence[Case], grid: Grid, book: Mapping[str, Page], reader: Reader, kinds: Sequence[str] = KINDS
    ) -> None:
        self.cases, self._grid, self._book, self._reader, self._kinds = cases, grid, book, reader, kinds

    def draw(self, row: int, rng: np.random.Generator, *, blind: bool) -> Sample:
        """One sample of a picture; ``blind`` reads it without the picture."""
        case = self.cases[row]
        truth, others, real = self._diseases(case, rng)
        made = damage(case.findings, truth, others, draw_damages(rng, kinds=self._kinds), rng)
        page = None if real and rng.random() < _PAGELESS else made.answer
        return self.sample(row, made, page, blind=blind)

    def sample(self, row: int, made: Damaged, page: Page | None, *, blind: bool) -> Sample:
        """A narrative of a picture as a sample."""
        reading = self._reader.read(made.text, () if blind else (self._grid,), page)
        scores = np.array([made.targets[name] for name in DIMENSIONS], np.float32)
        return Sample(row, blind, reading, scores, true_flaws(made), made)

    def true_book(self, row: int, form: str, rng: np.random.Generator) -> Damaged:
        """A narrative of a picture under the real names of the book."""
        case = self.cases[row]
        others = [page for name, page in self._book.items() if name != case.diagnosis]
        return damage(case.findings, self._book[case.diagnosis], others, draw_damages(rng, kinds=self._kinds, form=form), rng)

    def draw_all(self, each: int, rng: np.random.Generator, *, blind: float = _BLIND) -> list[Sample]:
        """``each`` samples of every picture, a share ``blind`` of them without it."""
        rows = range(len(self.cases))
        return [self.draw(row, rng, blind=bool(rng.random() < blind)) for _ in range(each) for row in rows]

    def _diseases(self, case: Case, rng: np.random.Generator) -> tuple[Page, list[Page], bool]:
        """The true page, the others, and whether they are those of the book."""
        kind, names = rng.random(), list(self._book)
        pages = [self._book[case.diagnosis], *(p for name, p in self._book.items() if name != case.diagnosis)]
        names = [names[i] for i in rng.permutation(len(names))]
        if kind < _INVENTED:
            return (*_invented(case, pages[0].cancer, names, rng), False)
        if kind < _INVENTED + _RENAMED:
            pages = [replace(p, name=n) for p, n in zip(pages, names, strict=True)]
        return pages[0], pages[1:], kind >= _INVENTED + _RENAMED


@dataclass(frozen=True)
class Watched:
    """Samples as the frozen model read them, in batches of like length, with ``scores`` ``[B, 6]`` and ``flaws`` ``[B, F]``."""

    batches: tuple[Seen, ...]
    scores: tuple[Tensor, ...]
    flaws: tuple[Tensor, ...]
    order: tuple[tuple[int, ...], ...]  # which sample each row is


def watch(model: transformers.PreTrainedModel, samples: Sequence[Sample], looks: Looks, size: int, *, quiet: bool) -> Watched:
    """Let the model read every sample once; what it had in mind is kept in bfloat16."""
    order = sorted(range(len(samples)), key=lambda i: (samples[i].blind, len(samples[i].reading.ids)))
    starts = [i for i in range(len(order)) if i % size == 0 or samples[order[i]].blind != samples[order[i - 1]].blind]
    groups = [order[a:b] for a, b in zip(starts, [*starts[1:], len(order)], strict=True)]
    table = model.get_input_embeddings().weight.detach()
    batches = []
    for group in counted("reading narratives", groups, quiet):
        rows, blind = [samples[i].row for i in group], samples[group[0]].blind
        picture, beliefs = (None, None) if blind else (looks.features[rows], looks.beliefs[rows])
        readings = [samples[i].reading for i in group]
        with torch.autocast("cpu", torch.bfloat16):
            states, words, surprise, told = look(model, fill(readings), picture, decode_plainly)
        page, written, about, agreement = fill_pages(readings, table, beliefs)
        shown = torch.zeros(len(group), 0, table.shape[1]) if picture is None else picture
        states, words, page, shown = (x.to(torch.bfloat16) for x in (states, words, page, shown))
        batches.append(Seen(states, words, surprise, told, page, written, about, agreement, shown))
    scores, flaws = (
        tuple(torch.from_numpy(np.stack([getattr(samples[i], name) for i in group])) for group in groups)
        for name in ("scores", "flaws")
    )
    return Watched(tuple(batches), scores, flaws, tuple(map(tuple, groups)))


def decode_plainly(language: transformers.PreTrainedModel, embeds: Tensor, positions: Tensor) -> Tensor:
    """The language model by plain products, which are faster for short texts on a CPU."""
    return decode(language, embeds, *rotary(language, embeds, positions))


def true_flaws(made: Damaged) -> npt.NDArray[np.float32]:
    """Which of ``flaw_names`` a narrative has, as 0 and 1."""
    of_findings = [finding in made.flaws[flaw] for finding in VOCABULARY for flaw in FLAWS]
    graded = [made.severity(kind) >= grade for kind in ("advice", "contradiction") for grade in (1, 2, 3)]
    return np.array([*of_findings, *graded, made.missed], np.float32)


def _invented(case: Case, cancer: bool, names: Sequence[str], rng: np.random.Generator) -> tuple[Page, list[Page]]:
    """A disease that shows what the patient shows, and others that show it but for one to four findings."""
    others = [Page(n, _around(case.findings, int(rng.integers(1, 5)), rng), bool(rng.random() < 0.25)) for n in names[1:]]
    return Page(names[0], _around(case.findings, 0, rng), cancer), others


def _around(findings: Findings, wrong: int, rng: np.random.Generator) -> dict[str, tuple[str, ...]]:
    """Values for a page, which leave ``wrong`` of the findings unexplained."""
    missed = {list(VOCABULARY)[i] for i in rng.permutation(len(VOCABULARY))[:wrong]}
    shows = {}
    for finding, value in findings.items():
        rest = [v for v in VOCABULARY[finding] if v != value]
        rest = [rest[i] for i in rng.permutation(len(rest))]
        count = int(rng.random() < 0.45) if len(rest) > 1 else int(rng.random() < 0.15)
        values = rest[: 1 + count] if finding in missed else [value, *rest[:count]]
        shows[finding] = tuple(values[i] for i in rng.permutation(len(values)))
    return shows
