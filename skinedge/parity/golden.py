"""Golden cases: what a bundle said where it was compared or packed, and whether it says the same here.

A case is a drawn picture (or none), a question, the bundle's greedy tokens, and the likeliest log-probabilities before each
of them.  Whoever repeats it reads the same prompt and is told the same tokens, so that one rounding does not decide the rest; the
divergence (KL) of its probabilities from the kept ones must stay below a tolerance at every step.  That finds kernels,
resizing or drivers that are wrong; how much quality a scheme costs is the parity report's business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, ValidationError

from skinedge.errors import BundleError
from skinedge.manifest import InsidePath, Sha256
from skinedge.measure.document import Record
from skinedge.parity.metrics import log_softmax
from skinedge.parity.pictures import make_picture
from skinedge.runtime.prompt import ask
from skinedge.runtime.session import Float32, ImageEncoding, Prompt, combined_bias

if TYPE_CHECKING:
    from skinedge.runtime.pipeline import Pipeline

GOLDEN_FILE = "golden.json"
STEPS = 16
KEPT = 8
# name -> width, height: one that is stretched a little, one that is shrunk, each small enough for a slow machine
PICTURES = {"wide": (320, 210), "tall": (196, 301)}
WORDS = "What is a macule?"
# Nats.  Floats differ in the order of their sums; few bits also in the kernel that a processor gets.  int4 made on x86 and
# repeated on an (emulated) aarch64 is off by 4.3e-4 at most; all that 4 bits cost an 8B is 0.03 (REFERENCE section 7).
_TOLERANCE = {"f32": 1e-4}
_TOLERANCE_ROUNDED = 0.02
_TINY = 1e-9  # of probability: what is left for all other tokens may round to nothing


class GoldenCase(Record):
    """One case; ``likeliest`` has ``len(tokens)`` rows of (token, log-probability), each before the token of its place."""

    name: str
    image: InsidePath | None
    pixels: Sha256 | None
    question: str
    prompt: Sha256
    tokens: tuple[int, ...] = Field(min_length=1)
    likeliest: tuple[tuple[tuple[int, float], ...], ...]
    tolerance: float = Field(gt=0)


class GoldenCases(Record):
    """``golden.json``; ``side`` is what the bundle was opened as when the cases were made."""

    side: str
    cases: tuple[GoldenCase, ...] = Field(min_length=1)

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


class GoldenOutcome(Record):
    """One golden case here.

    ``kl`` is the largest divergence (nats) of the probabilities of a teacher-forced step from the kept ones, ``same_tokens`` of
    ``tokens`` how many greedy tokens came before the first other one.  ``pixels_same`` says whether the photograph was resized
    to the same bytes.
    """

    name: str
    passed: bool
    reason: str | None = None
    pixels_same: bool | None = None
    kl: float | None = None
    tolerance: float = Field(gt=0)
    same_tokens: int = Field(ge=0)
    tokens: int = Field(ge=1)


def tolerance_of(scheme: str, activations: str | None) -> float:
    """How far the probabilities of a step may diverge, in nats."""
    return _TOLERANCE.get(scheme if activations in (None, "f32") else activations, _TOLERANCE_ROUNDED)


def make_cases(pipeline: Pipeline, folder: Path, side: str) -> GoldenCases:
    """Draw the pictures into ``folder`` and ask the bundle about them.

    Args:
        pipeline: the bundle, opened.
        folder: of the golden cases.
        side: what it is opened as.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scheme = pipeline.manifest.scheme
    tolerance = tolerance_of(scheme.asked, scheme.activations)
    cases = []
    for seed, (name, (width, height)) in enumerate(PICTURES.items(), 100):
        make_picture(width, height, seed).save(folder / f"{name}.png")
        cases.append(_case(pipeline, name, folder / f"{name}.png", pipeline.manifest.prompt.question, tolerance))
    cases.append(_case(pipeline, "words", None, WORDS, tolerance))
    return GoldenCases(side=side, cases=tuple(cases))


def _case(pipeline: Pipeline, name: str, picture: Path | None, question: str, tolerance: float) -> GoldenCase:
    pixels, prompt, images = _read(pipeline, picture, question)
    logits = pipeline.session.prefill(prompt, images, bias=combined_bias(images))
    tokens, likeliest = [], []
    for number in range(STEPS):
        row = log_probabilities(logits)
        best = np.argsort(-row, kind="stable")[:KEPT]
        likeliest.append(tuple((int(i), float(row[i])) for i in best))
        tokens.append(int(best[0]))
        if number + 1 < STEPS:
            logits = pipeline.session.step(tokens[-1])
    return GoldenCase(
        name=name,
        image=picture.name if picture else None,
        pixels=pixels,
        question=question,
        prompt=_prompt_digest(prompt),
        tokens=tuple(tokens),
        likeliest=tuple(likeliest),
        tolerance=tolerance,
    )


def read_cases(folder: Path) -> GoldenCases:
    """Read ``golden.json``.

    Raises:
        BundleError: it is missing or damaged.
    """
    path = folder / GOLDEN_FILE
    try:
        return GoldenCases.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as e:
        raise BundleError(f"{path} cannot be read as golden cases.", hint="Copy it again, or make it anew.") from e


def repeat(pipeline: Pipeline, folder: Path, cases: GoldenCases) -> Iterator[GoldenOutcome]:
    """Each case, asked again here."""
    for case in cases.cases:
        yield _outcome(pipeline, folder, case)


def _outcome(pipeline: Pipeline, folder: Path, case: GoldenCase) -> GoldenOutcome:
    pixels, prompt, images = _read(pipeline, folder / case.image if case.image else None, case.question)
    same_pixels = None if case.pixels is None else pixels == case.pixels
    reason, off, same = None, None, 0
    if _prompt_digest(prompt) != case.prompt:
        reason = "the prompt has other tokens"
    else:
        rows = _told(pipeline, prompt, images, case.tokens)
        # numpy's maximum, because Python's own passes over a NaN that is not the first.
        off = float(np.max([divergence(row, kept) for row, kept in zip(rows, case.likeliest, strict=True)]))
        same = next((n for n, (r, t) in enumerate(zip(rows, case.tokens, strict=True)) if int(r.argmax()) != t), len(case.tokens))
        if not off <= case.tolerance:  # not a number is off too
            reason = f"its probabilities diverge by {off:.3g} nats and {case.tolerance:g} is the limit"
        elif same_pixels is False:
            reason = "the picture was resized to other pixels"
    return GoldenOutcome(
        name=case.name,
        passed=reason is None,
        reason=reason,
        pixels_same=same_pixels,
        kl=off if off is None or np.isfinite(off) else None,
        tolerance=case.tolerance,
        same_tokens=same,
        tokens=len(case.tokens),
    )


def _told(pipeline: Pipeline, prompt: Prompt, images: list[ImageEncoding], tokens: tuple[int, ...]) -> list[Float32]:
    """Log-probabilities before each token, the token then told."""
    rows = [log_probabilities(pipeline.session.prefill(prompt, images, bias=combined_bias(images)))]
    rows += [log_probabilities(pipeline.session.step(token)) for token in tokens[:-1]]
    return rows


def divergence(row: Float32, kept: Sequence[tuple[int, float]]) -> float:
    """KL in nats of the probabilities here from the kept ones, all tokens that were not kept taken as one.

    Args:
        row: log-probabilities here, ``[vocabulary]``.
        kept: (token, log-probability) where the case was made.
    """
    there = np.array([value for _, value in kept], np.float64)
    here = row[[token for token, _ in kept]].astype(np.float64)
    rest, rest_here = (max(_TINY, 1 - float(np.exp(p).sum())) for p in (there, here))
    return float((np.exp(there) * (there - here)).sum() + rest * np.log(rest / rest_here))


def _read(pipeline: Pipeline, picture: Path | None, question: str) -> tuple[str | None, Prompt, list[ImageEncoding]]:
    pixels = [pipeline.pixels(picture)] if picture else []
    images = [pipeline.session.encode_image(p) for p in pixels]
    prompt = pipeline.prompts.build(ask(question, images=len(images)), [i.grid for i in images])
    digests = [hashlib.sha256(p.image.tobytes()).hexdigest() for p in pixels]
    return (digests[0] if digests else None), prompt, images


def _prompt_digest(prompt: Prompt) -> str:
    return hashlib.sha256(prompt.token_ids.astype("<i8").tobytes() + prompt.positions.astype("<i8").tobytes()).hexdigest()


def log_probabilities(logits: Float32) -> Float32:
    """``[vocabulary]`` in nats, computed in 64 bits."""
    return log_softmax(logits).astype(np.float32)
