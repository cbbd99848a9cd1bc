"""What the reference makes of each picture, computed once and kept for every bundle that is compared with it.

Narratives are made for many pictures at once (equally long prompts together, nothing padded); the logits along each come
from one pass over prompt and narrative.  What is kept lies in a folder named by all that it depends on, one file a picture:
the narrative always, features, bias and logits where they are small (those of the embedded model are, those of a 7B are
computed again from its narrative in one pass).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skinedge.artifacts import AdapterCheckpoint
from skinedge.errors import OutputError
from skinedge.evaluation.cases import Case
from skinedge.model.config import read_config
from skinedge.parity.cases import image_digest
from skinedge.parity.reference_inputs import ReferenceInputs
from skinedge.runtime.image import load_photograph
from skinedge.runtime.prompt import DEFAULT_QUESTION
from skinedge.runtime.session import Float32, Grid, ImageEncoding, Pixels, Prompt, combined_bias
from skinedge.weights.checkpoint import digest_of

if TYPE_CHECKING:
    from skinedge.model.reference import Reference

KEEP = 1 << 20  # bytes of features, bias and logits: a picture with more keeps its narrative alone
WINDOW, BATCH_TOKENS = 32, 16384  # pictures gathered at a time, and prompt tokens read together


@dataclass(frozen=True)
class Asking:
    """How both arms are asked: greedily, with the bias at every step, up to ``most`` tokens."""

    question: str = DEFAULT_QUESTION
    most: int = 512

    def digest(self, source: AdapterCheckpoint) -> str:
        """A digest of all that the reference's answers depend on."""
        versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
        asked = {"question": self.question, "most": self.most, "decoding": "greedy, every-step", "precision": "f32"}
        return digest_of({"checkpoint": source.digest, "asked": asked, "versions": versions, "layout": 1})


@dataclass(frozen=True)
class Expected:
    """What the reference makes of one picture.

    ``tokens`` are those of its narrative, the end token too; ``logits`` ``[len(tokens), vocabulary]`` what it chose each
    from.  ``pixels`` and ``prompt`` are digests.
    """

    image_sha256: str
    pixels: str
    prompt: str
    encoding: ImageEncoding
    tokens: tuple[int, ...]
    logits: Float32
    ended: bool
    text: str


class ReferenceArm:
    """The PyTorch model of a checkpoint, opened when it is first needed.

    Args:
        source: the checkpoint and its adapters.
        asking: what is asked.
        folder: where results are kept; ``None`` keeps nothing.
        threads: CPU threads.
    """

    def __init__(self, source: AdapterCheckpoint, asking: Asking, folder: Path | None, threads: int | None) -> None:
        self._source, self.asking, self._threads = source, asking, threads
        self._ends = read_config(source.path).eos_token_ids
        self._folder = folder / asking.digest(source)[:24] if folder else None
        if self._folder:
            _make(self._folder)

    @cached_property
    def model(self) -> Reference:
        """The network."""
        from skinedge.model.reference import Reference

        return Reference.from_checkpoint(self._source.path, self._source.adapters, threads=self._threads)

    @cached_property
    def inputs(self) -> ReferenceInputs:
        """Its processor and tokenizer."""
        return ReferenceInputs(self._source.path, self.model)

    def close(self) -> None:
        """Free the model, if it was opened."""
        if "model" in self.__dict__:
            self.model.close()

    def seen(self, case: Case) -> tuple[Pixels, Prompt]:
        """A picture and the question about it, as the reference reads them."""
        pixels = self.inputs.pixels(load_photograph(case.image))
        return pixels, self.inputs.prompt(self.asking.question, [pixels.grid])

    def expectations(self, cases: Sequence[Case]) -> Iterator[Expected]:
        """One for each case, in order."""
        for start in range(0, len(cases), WINDOW):
            window = cases[start : start + WINDOW]
            digests = [image_digest(case.image) for case in window]
            kept = [self._kept(digest) for digest in digests]
            new = [i for i, found in enumerate(kept) if found is None or found.logits.size == 0]
            made = dict(zip(new, self._made([(window[i], digests[i], kept[i]) for i in new]), strict=True))
            yield from (made.get(i) or found for i, found in enumerate(kept) if made.get(i) or found)  # type: ignore[misc]

    def _made(self, asked: Sequence[tuple[Case, str, Expected | None]]) -> list[Expected]:
        """Those that are not kept whole; a narrative that is kept is not made again."""
        seen = [self.seen(case) for case, _, _ in asked]
        images = [self.model.encode_image(pixels) for pixels, _ in seen]
        tokens = [None if known is None else list(known.tokens) for _, _, known in asked]
        alike: dict[tuple[int, tuple[Grid, ...]], list[int]] = defaultdict(list)
        for i, (_, prompt) in enumerate(seen):
            if tokens[i] is None:
                alike[len(prompt.token_ids), prompt.grids].append(i)
        for (length, _), numbers in alike.items():
            step = max(1, BATCH_TOKENS // (length + self.asking.most))
            for first in range(0, len(numbers), step):
                some = numbers[first : first + step]
                for i, answer in zip(some, self._greedy([seen[i][1] for i in some], [images[i] for i in some]), strict=True):
                    tokens[i] = answer
        return [
            self._expected(asked[i][1], *seen[i], images[i], answer, kept=asked[i][2] is not None)
            for i, answer in enumerate(tokens)
            if answer is not None
        ]

    def _greedy(self, prompts: Sequence[Prompt], images: Sequence[ImageEncoding]) -> list[list[int]]:
        from skinedge.model.greedy import greedy

        room = self.model.context_length - len(prompts[0].token_ids) + 1
        return greedy(self.model, prompts, images, most=min(self.asking.most, room), ends=self._ends)

    def _expected(
        self, digest: str, pixels: Pixels, prompt: Prompt, image: ImageEncoding, tokens: list[int], *, kept: bool
    ) -> Expected:
        from skinedge.model.greedy import along

        logits = along(self.model, prompt, image, tokens, combined_bias([image]))[len(prompt.token_ids) - 1 :]
        ended = tokens[-1] in self._ends
        text = self.inputs.decode(tokens)
        made = Expected(digest, pixels_digest(pixels), prompt_digest(prompt), image, tuple(tokens), logits, ended, text)
        if not kept:
            self._keep(made)
        return made

    def _kept(self, digest: str) -> Expected | None:
        path = self._folder / f"{digest}.npz" if self._folder else None
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as held:
                grid = Grid(*(int(n) for n in held["grid"]))
                bias = held["bias"] if held["bias"].size else None
                encoding = ImageEncoding(grid, held["features"], bias, None)
                words = {name: str(held[name]) for name in ("pixels", "prompt", "text")}
                tokens = tuple(int(t) for t in held["tokens"])
                return Expected(digest, encoding=encoding, tokens=tokens, logits=held["logits"], ended=bool(held["ended"]), **words)
        except (ValueError, KeyError, OSError, EOFError):  # half a file of a machine that lost power
            return None

    def _keep(self, made: Expected) -> None:
        if not self._folder:
            return
        e, none = made.encoding, np.zeros(0, np.float32)
        bias = none if e.bias is None else e.bias
        small = e.features.nbytes + bias.nbytes + made.logits.nbytes <= KEEP
        beside = self._folder / f".{made.image_sha256}.{os.getpid()}.npz"
        try:
            np.savez(
                beside,
                grid=np.array([e.grid.frames, e.grid.height, e.grid.width]),
                features=e.features if small else none,
                bias=bias if small else none,
                logits=made.logits if small else none,
                tokens=np.array(made.tokens),
                ended=np.array(made.ended),
                pixels=np.array(made.pixels),
                prompt=np.array(made.prompt),
                text=np.array(made.text),
            )
            beside.replace(self._folder / f"{made.image_sha256}.npz")
        except OSError as e2:
            raise OutputError(f"{self._folder} could not be written: {e2.strerror}.", hint="Choose another --cache.") from e2
        finally:
            beside.unlink(missing_ok=True)


def pixels_digest(pixels: Pixels) -> str:
    """sha256 of the patch rows and their grid."""
    grid = pixels.grid
    head = f"{grid.frames} {grid.height} {grid.width} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(pixels.patches, np.float32).tobytes()).hexdigest()


def prompt_digest(prompt: Prompt) -> str:
    """sha256 of token ids, positions and the next position."""
    parts = (prompt.token_ids, prompt.positions, np.array([prompt.next_position]))
    return hashlib.sha256(b"".join(p.astype("<i8").tobytes() for p in parts)).hexdigest()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError(f"{folder} could not be made: {e.strerror}.", hint="Choose another --cache.") from e
