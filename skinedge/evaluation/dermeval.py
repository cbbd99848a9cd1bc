"""DermEval of our own: six scores of a narrative from the picture and the narrative alone, offline.

The weights that come with skinedge (``skinedge/embedded/dermeval``) stand on the embedded tiny model and have learnt from
drawn pictures and damaged narratives (``train.dermeval``).  They judge SynthDerm narratives; of a real patient's they
know nothing.  ``train.dermeval`` trains others on any checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinedge.embedded import BASE
from skinedge.errors import CheckpointError, ImageError, PromptError, UsageError
from skinedge.evaluation.scorer import Scorable, Scored
from skinedge.evaluation.scores import DIMENSIONS, LOWEST
from skinedge.staging import staged
from skinedge.synthderm.pages import Page, textbook
from skinedge.weights.checkpoint import checkpoint_digest, file_digest

if TYPE_CHECKING:
    from skinedge.evaluation.dermeval_model import Judge
    from skinedge.evaluation.dermeval_reading import Reading
    from skinedge.runtime.session import Grid, Pixels

EMBEDDED = Path(__file__).parents[1] / "embedded" / "dermeval"
WEIGHTS_FILE, ABOUT_FILE = "judge.safetensors", "dermeval.json"
LAYOUT = 3
_NAMED = 0.5  # a flaw as likely as this is named in the critique


class DermEval:
    """Implements ``skinedge.evaluation.scorer.Scorer``.

    Args:
        weights: a folder that ``train.dermeval`` wrote.
        model: the checkpoint that those weights were trained on.
        picture: whether narratives are read beside their pictures; without, what is not on the picture cannot be told.
        book: pages of the diseases that narratives may name, by name in lower case.
        batch: narratives at once, at most.
        threads: CPU threads, for the whole process.

    Raises:
        CheckpointError: the weights are missing, damaged, or belong to another model.
        MissingDependencyError: torch is not installed.
    """

    def __init__(
        self,
        weights: Path = EMBEDDED,
        model: Path = BASE,
        *,
        picture: bool = True,
        book: Mapping[str, Page] | None = None,
        batch: int = 16,
        threads: int | None = None,
    ) -> None:
        from skinedge.evaluation.dermeval_reading import Reader
        from skinedge.model.config import read_config
        from skinedge.model.reference import Reference
        from skinedge.runtime.image import read_processor_config

        if batch < 1:
            raise UsageError(f"{batch} narratives at once is no batch.", hint="Give 1 or more.")
        digest = checkpoint_digest(model)
        self._judge, about = read_judge(weights, digest)
        self._identity = {"scorer": "dermeval", "weights": about["sha256"], "model": digest, "picture": str(picture).lower()}
        self._reference = Reference.from_checkpoint(model, threads=threads)
        self._reader = Reader(model, read_config(model))
        self._processor = read_processor_config(model)
        self._picture, self._batch = picture, batch
        self._book = textbook() if book is None else book

    def identity(self) -> Mapping[str, str]:
        """Name, digests of weights, model and pages, and whether pictures are looked at."""
        pages = "\n".join(self._book[name].text() for name in sorted(self._book))
        return {**self._identity, "pages": hashlib.sha256(pages.encode()).hexdigest()}

    def needs(self) -> frozenset[str]:
        """The picture, unless it was made to read without."""
        return frozenset({"image"} if self._picture else ())

    def score(self, narratives: Sequence[Scorable]) -> Iterator[Scored]:
        """Score narratives, as batches fill; one that cannot be read is invalid and says why.  An empty one has 0 throughout."""
        waiting: dict[Grid | None, list[tuple[Scorable, Reading, Pixels | None]]] = defaultdict(list)
        for narrative in narratives:
            if not narrative.text.strip():
                yield Scored(narrative.id, dict.fromkeys(DIMENSIONS, LOWEST), answer="The narrative is empty.")
                continue
            try:
                reading, pixels = self._read(narrative)
            except (ImageError, PromptError) as e:
                yield Scored(narrative.id, None, invalid=e.message)
                continue
            group = waiting[pixels.grid if pixels else None]
            group.append((narrative, reading, pixels))
            if len(group) == self._batch:
                yield from self._score(group)
                group.clear()
        for group in waiting.values():
            if group:
                yield from self._score(group)

    def _read(self, narrative: Scorable) -> tuple[Reading, Pixels | None]:
        from skinedge.evaluation.dermeval_reading import page_of
        from skinedge.runtime.image import load_photograph, to_pixels

        pixels = None
        if self._picture:
            if narrative.image is None:
                raise ImageError("there is no picture to judge it by.")
            pixels = to_pixels(load_photograph(narrative.image), self._processor)
        page = page_of(narrative.text, self._book)
        return self._reader.read(narrative.text, [pixels.grid] if pixels else [], page), pixels

    def _score(self, group: Sequence[tuple[Scorable, Reading, Pixels | None]]) -> Iterator[Scored]:
        import numpy as np
        import torch

        from skinedge.evaluation.dermeval_model import Seen, believe, look, settled
        from skinedge.evaluation.dermeval_reading import fill, fill_pages

        model = self._reference.model
        table = model.get_input_embeddings().weight.detach()
        with torch.inference_mode():
            pictures = [self._reference.encode_image(p).features for _, _, p in group if p is not None]
            features = torch.from_numpy(np.stack(pictures)) if pictures else None
            readings = [reading for _, reading, _ in group]
            states, words, surprise, told = look(model, fill(readings), features)
            grid = None if group[0][2] is None else group[0][2].grid
            beliefs = None if features is None or grid is None else believe(model, self._reader.tree(grid), features)
            shown = torch.zeros(len(group), 0, table.shape[1]) if features is None else features
            judged = self._judge(Seen(states, words, surprise, told, *fill_pages(readings, table, beliefs), shown))
            scores, flaws = settled(judged.scores), judged.flaws.sigmoid()
        for (narrative, _, _), row, likely in zip(group, scores.tolist(), flaws.tolist(), strict=True):
            yield Scored(narrative.id, dict(zip(DIMENSIONS, row, strict=True)), answer=critique(likely))


def critique(likely: Sequence[float]) -> str:
    """The flaws that are likelier than not, in words."""
    from skinedge.evaluation.dermeval_model import flaw_names

    named: dict[str, list[str]] = defaultdict(list)
    for name, chance in zip(flaw_names(), likely, strict=True):
        if chance >= _NAMED:
            what, _, which = name.partition(" ")
            named[what].append(which)
    graded = {what: which[-1:] if what in ("advice", "contradiction") else which for what, which in named.items()}
    return "; ".join(f"{what}: {', '.join(which)}" for what, which in graded.items()) or "no flaw found"


def write_judge(folder: Path, judge: Judge, model_digest: str, card: str, figures: Mapping[str, Any]) -> None:
    """Write weights (float16), what they are, and their card as a new folder.

    Raises:
        OutputError: ``folder`` is taken or cannot be written.
    """
    import torch
    from safetensors.torch import save_file

    with staged(folder) as beside:
        tensors = {name: t.detach().to(torch.float16).contiguous() for name, t in judge.state_dict().items()}
        save_file(tensors, beside / WEIGHTS_FILE, {"format": "pt"})
        sha256 = file_digest(beside / WEIGHTS_FILE)
        about = {"layout": LAYOUT, "sha256": sha256, "model": model_digest, "shape": asdict(judge.shape), "figures": figures}
        (beside / ABOUT_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8", newline="\n")
        (beside / "README.md").write_text(card, encoding="utf-8", newline="\n")


def read_judge(folder: Path, model_digest: str) -> tuple[Judge, dict[str, Any]]:
    """The judge in ``folder`` and what is said of it.

    Raises:
        CheckpointError: it is missing or damaged, or was trained on another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from skinedge.evaluation.dermeval_model import Judge, Shape

    for name in (WEIGHTS_FILE, ABOUT_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} holds no {name}.", hint="Give a folder that `python -m train.dermeval` wrote.")
    data = (folder / WEIGHTS_FILE).read_bytes()
    try:
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        found, trained_on, shape = about["sha256"], about["model"], Shape(**about["shape"])
        if about["layout"] != LAYOUT or found != hashlib.sha256(data).hexdigest():
            raise CheckpointError(f"{folder / WEIGHTS_FILE} is not what {ABOUT_FILE} describes.", hint="Copy the folder anew.")
        judge = Judge(shape)
        judge.load_state_dict({name: t.float() for name, t in load(data).items()})
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as e:
        raise CheckpointError(f"{folder} is damaged: {e}.", hint="Copy the folder anew, or train again.") from e
    if trained_on != model_digest:
        raise CheckpointError(
            f"{folder} was trained on another model.", hint="Give the checkpoint that it was trained on, or train on this one."
        )
    return judge.eval(), about
