"""The stages of a comparison, one after another, over some pictures; after the first bad one nothing is run.

pixels -> tokens -> weights -> vision features -> adapter bias -> prefill logits -> teacher-forced steps -> narrative -> answer
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skinedge.console import counted
from skinedge.errors import NotFiniteError, PromptError
from skinedge.evaluation.answer import read_answer
from skinedge.parity.bands import Rounding
from skinedge.parity.bisect import Block, Given, blocks
from skinedge.parity.metrics import LogitDistance, first_different, logit_distance
from skinedge.parity.reference_inputs import ReferenceInputs
from skinedge.parity.tolerances import Limit, limits_for
from skinedge.runtime.generate import GenerateOptions
from skinedge.runtime.image import load_photograph
from skinedge.runtime.pipeline import Pipeline
from skinedge.runtime.prompt import DEFAULT_QUESTION, ask
from skinedge.runtime.session import Float32, ImageEncoding, Pixels, Prompt, Session, combined_bias

if TYPE_CHECKING:
    from skinedge.console import Json
    from skinedge.model.reference import Reference

# Logits of every prompt position are compared while they fit; beyond that, those of the last position.
MAX_PREFILL_LOGITS = 64 << 20

# Of these the smallest is the worst.
_LEAST_IS_WORST = {"top1", "same_tokens", "read"}

Measured = dict[str, float]
_OVERFLOWED: Measured = {"overflowed": math.inf}


@dataclass(frozen=True)
class Stage:
    """One stage over all images: the worst of each metric, the limit if it is gated, the verdict.

    Infinity and NaN mark what cannot be compared (another shape, a missing bias, overflow): they fail any stage.  ``where``
    names what is worst inside the stage, where that is known.
    """

    name: str
    measured: Measured
    limit: Limit | None
    images: int
    where: str | None = None

    @property
    def passed(self) -> bool:
        """Comparable, and within tolerance if it is gated."""
        comparable = all(map(math.isfinite, self.measured.values()))
        return comparable and (self.limit is None or self.measured[self.limit.metric] <= self.limit.value)

    @property
    def verdict(self) -> str:
        """``ok``, ``FAIL``, or ``reported`` for a stage that is not gated."""
        return "FAIL" if not self.passed else "ok" if self.limit else "reported"

    def line(self) -> str:
        """The stage on one line."""
        figures = "  ".join(f"{name} {value:.3g}" for name, value in self.measured.items())
        bound = f"  ({self.limit.metric} <= {self.limit.value:g})" if self.limit else ""
        place = f"  worst: {self.where}" if self.where else ""
        return f"{self.name:9} {self.verdict:8} {figures}{bound}{place}"

    @property
    def finite(self) -> dict[str, float | None]:
        """What was measured; a figure that is not finite is ``None``."""
        return {name: value if math.isfinite(value) else None for name, value in self.measured.items()}

    def to_json(self) -> Json:
        """The stage."""
        return {**asdict(self), "measured": self.finite, "passed": self.passed}


class Comparer:
    """Runs the stages in order over all photographs, and stops after the first bad one."""

    def __init__(
        self,
        pipeline: Pipeline,
        reference: Reference,
        inputs: ReferenceInputs,
        photographs: Sequence[Path],
        steps: int,
        quiet: bool,
    ) -> None:
        self.pipeline, self.reference, self.photographs = pipeline, reference, photographs
        self.inputs, self.count, self.quiet = inputs, steps, quiet
        self.limits = limits_for(pipeline.manifest.target, pipeline.manifest.scheme.asked)

    def stages(self, stored: Callable[[], Iterable[Rounding]]) -> Iterator[Stage]:
        """The stages up to the first bad one; ``stored`` reads the weights, whose turn is after the tokens."""
        for stage in self._each(stored):
            yield stage
            if not stage.passed:
                return

    def _each(self, stored: Callable[[], Iterable[Rounding]]) -> Iterator[Stage]:
        ours = [self.pipeline.pixels(p) for p in self.photographs]
        theirs = [self.inputs.pixels(load_photograph(p)) for p in self.photographs]
        yield self._stage("pixels", [_pixel_distance(a, b) for a, b in zip(theirs, ours, strict=True)])
        references = [self.inputs.prompt(DEFAULT_QUESTION, [p.grid]) for p in theirs]
        try:
            prompts = [self.pipeline.prompts.build(ask(), [p.grid]) for p in ours]
        except PromptError as e:  # what the reference has just done the bundle cannot
            yield Stage("tokens", {"different": math.inf}, self.limits["tokens"], len(ours), e.message)
            return
        yield self._stage("tokens", [_token_distance(a, b) for a, b in zip(references, prompts, strict=True)])
        roundings = list(stored())
        worst = worst_rounding(r for r in roundings if not r.of_branch)
        yield Stage("weights", {"share": worst.share, "error": worst.error}, Limit("share", 1.0), 0, worst.name)
        exact = [self.reference.encode_image(p) for p in counted("features of the reference", theirs, self.quiet)]
        try:
            encoded = [self._encode(p) for p in counted("features of the bundle", ours, self.quiet)]
        except NotFiniteError as e:
            yield Stage("features", _OVERFLOWED, self.limits.get("features"), len(ours), e.message)
            return
        yield self._stage("features", [_distance(a.features, b.features) for a, b in zip(exact, encoded, strict=True)])
        if any(e.bias is not None for e in (*exact, *encoded)):
            branch = worst_rounding(r for r in roundings if r.of_branch)
            bias = self._stage("bias", [_bias_distance(a, b) for a, b in zip(exact, encoded, strict=True)])
            where = branch.name if branch.share > 1 else None
            yield replace(bias, measured={**bias.measured, "stored": branch.share}, where=where)
        rows = list(zip(references, prompts, exact, encoded, strict=True))
        runs = [_to_overflow(self._sequence(*row)) for row in counted("narratives", rows, self.quiet)]
        for number, name in enumerate(("prefill", "steps", "narrative", "answer")):
            yield self._stage(name, [run[number] for run in runs if number < len(run)])

    def blocks(self, folder: Path, stage: str) -> tuple[Block, ...]:
        """The blocks of a bad stage, on inputs that both sides share; none where the target does not show them.

        Args:
            folder: of the ONNX graphs.
            stage: its name.
        """
        cases = []
        for photograph in self.photographs:
            pixels = self.inputs.pixels(load_photograph(photograph))
            prompt = self.inputs.prompt(DEFAULT_QUESTION, [pixels.grid])
            cases.append(Given(pixels, prompt, self.reference.encode_image(pixels)))
        return blocks(folder, self.pipeline.manifest, stage, self.reference, cases)

    def _encode(self, pixels: Pixels) -> ImageEncoding:
        """What the bundle makes of an image, with the bias that it will apply."""
        encoded = self.pipeline.session.encode_image(pixels)
        return encoded if self.pipeline.manifest.decoding.bias == "every-step" else replace(encoded, bias=None)

    def _stage(self, name: str, measured: Sequence[Measured]) -> Stage:
        worst = worst_of(measured)
        nothing_read = worst.get("read") == worst.get("different") == 0.0  # that neither says anything proves nothing
        return Stage(name, worst, None if nothing_read else self.limits.get(name), len(measured))

    def _sequence(self, reference: Prompt, prompt: Prompt, exact: ImageEncoding, encoded: ImageEncoding) -> Iterator[Measured]:
        """Prefill, teacher-forced steps along the reference's greedy narrative, the bundle's own narrative, the answer."""
        size = len(prompt.token_ids) * self.pipeline.session.vocab_size
        every = size <= MAX_PREFILL_LOGITS
        truth = _prefill(self.reference, reference, exact, every)
        logits = _prefill(self.pipeline.session, prompt, encoded, every)
        yield _logit_measure(truth, logit_distance(truth, logits))
        tokens, expected = _greedy(self.reference, truth[-1], self.count)
        got = np.stack([self.pipeline.session.step(t) for t in tokens])
        yield _logit_measure(expected, logit_distance(expected, got))
        options = GenerateOptions(max_new_tokens=self.count + 1, ignore_eos=True)
        generation = self.pipeline.start([encoded], DEFAULT_QUESTION, options)
        words = [t.token_id for t in generation]
        narrative = [*tokens, int(expected[-1].argmax())]
        yield _text_distance(narrative, words)
        yield self._answer_distance(narrative, words)

    def _answer_distance(self, a: Sequence[int], b: Sequence[int]) -> Measured:
        """Whether another answer can be read, and whether one can be read of both before they are cut off."""
        said = [read_answer(self.inputs.decode(_until(ids, self.inputs.eos_token_ids))) for ids in (a, b)]
        return {"different": float(said[0] != said[1]), "read": float(None not in said)}


def worst_rounding(roundings: Iterable[Rounding]) -> Rounding:
    """The one with the largest share of what its scheme allows, or that is no number; one without error if there are none."""
    return max(roundings, key=lambda r: math.inf if math.isnan(r.share) else r.share, default=Rounding("", "f32", 0.0, 1.0))


def worst_of(measured: Sequence[Measured]) -> Measured:
    """The worst of each metric over all images that have it."""
    # numpy's extremes, because Python's own pass over a NaN that is not the first.
    return {
        m: float((np.min if m in _LEAST_IS_WORST else np.max)([row[m] for row in measured if m in row]))
        for m in dict.fromkeys(m for row in measured for m in row)
    }


def _to_overflow(measured: Iterator[Measured]) -> list[Measured]:
    """What could be measured; the stage in which the bundle's numbers overflowed is the last."""
    found: list[Measured] = []
    try:
        for each in measured:
            found.append(each)
    except NotFiniteError:
        found.append(_OVERFLOWED)
    return found


def _prefill(session: Session, prompt: Prompt, image: ImageEncoding, every: bool) -> Float32:
    logits = session.prefill(prompt, [image], bias=combined_bias([image]), all_positions=every)
    return logits if every else logits[None]


def _greedy(session: Session, logits: Float32, count: int) -> tuple[list[int], Float32]:
    """``count`` greedy tokens and the logits that follow each of them."""
    tokens, rows = [], []
    for _ in range(count):
        tokens.append(int(logits.argmax()))
        logits = session.step(tokens[-1])
        rows.append(logits)
    return tokens, np.stack(rows)


def _pixel_distance(a: Pixels, b: Pixels) -> Measured:
    if a.patches.shape != b.patches.shape or a.grid != b.grid:
        return {"max_abs": math.inf, "relative": math.inf}
    return _distance(a.patches, b.patches)


def _token_distance(a: Prompt, b: Prompt) -> Measured:
    """Tokens or positions that differ."""
    if len(a.token_ids) != len(b.token_ids):
        return {"different": float(max(len(a.token_ids), len(b.token_ids)))}
    bad = (a.token_ids != b.token_ids) | (a.positions != b.positions).any(0)
    return {"different": float(bad.sum() + (a.next_position != b.next_position))}


def _bias_distance(a: ImageEncoding, b: ImageEncoding) -> Measured:
    if a.bias is None or b.bias is None:
        worst = 0.0 if a.bias is b.bias else math.inf
        return {"max_abs": worst, "relative": worst}
    return _distance(a.bias, b.bias)


def _distance(a: Float32, b: Float32) -> Measured:
    if a.shape != b.shape:
        return {"max_abs": math.inf, "relative": math.inf}
    return _sized(a, float(np.abs(a.astype(np.float64) - b).max()))


def _sized(exact: Float32, max_abs: float) -> Measured:
    """The largest difference, and what it is of the largest value: sums of floats are off in proportion to that."""
    return {"max_abs": max_abs, "relative": max_abs / (float(np.abs(exact).max()) or 1.0)}


def _logit_measure(exact: Float32, d: LogitDistance) -> Measured:
    return {**_sized(exact, d.max_abs), "kl_mean": d.kl_mean, "kl_max": d.kl_max, "top1": d.top1}


def _text_distance(a: Sequence[int], b: Sequence[int]) -> Measured:
    """Tokens after the first one that differs; 0 if the narratives are the same."""
    different = first_different(a, b)
    same = len(a) if different is None else different
    return {"different": float(max(len(a), len(b)) - same), "same_tokens": float(same)}


def _until(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    return list(itertools.takewhile(lambda token: token not in ends, tokens))
