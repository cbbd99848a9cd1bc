"""Does the bundle say what PyTorch says?  Stage by stage, so that a difference names its stage.

pixels -> tokens -> vision features -> adapter bias -> prefill logits -> teacher-forced steps -> greedy text

The reference sees the photograph through ``transformers``' own processor and tokenizer, runs the base
model with PEFT and our side branch in float32, and shares no code with the bundle's runtime.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skinedge.artifacts import AdapterCheckpoint, ParityReport
from skinedge.console import counted, say
from skinedge.errors import UsageError
from skinedge.manifest import read_manifest
from skinedge.model.config import read_config
from skinedge.parity.metrics import LogitDistance, logit_distance
from skinedge.parity.pictures import write_pictures
from skinedge.parity.reference_inputs import ReferenceInputs
from skinedge.parity.tolerances import Limit, limits_for
from skinedge.runtime.generate import GenerateOptions
from skinedge.runtime.image import load_photograph
from skinedge.runtime.pipeline import Pipeline, open_pipeline
from skinedge.runtime.prompt import DEFAULT_QUESTION, ask
from skinedge.runtime.session import Float32, ImageEncoding, Pixels, Prompt, Session, combined_bias
from skinedge.staging import staged_file

if TYPE_CHECKING:
    from skinedge.console import Json
    from skinedge.model.reference import Reference

# Logits of every prompt position are compared while they fit; beyond that, those of the last position.
MAX_PREFILL_LOGITS = 64 << 20
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}

# Of these the smallest is the worst.
_LEAST_IS_WORST = {"top1", "same_tokens"}

Measured = dict[str, float]


@dataclass(frozen=True)
class Stage:
    """One stage over all images: the worst of each metric, the limit if it is gated, the verdict.

    Infinity and NaN mark what cannot be compared (another shape, a missing bias, overflow): they fail any stage.
    """

    name: str
    measured: Measured
    limit: Limit | None
    images: int

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
        return f"{self.name:9} {self.verdict:8} {figures}{bound}"

    def to_json(self) -> Json:
        """The stage; a figure that is not finite is null."""
        measured = {name: value if math.isfinite(value) else None for name, value in self.measured.items()}
        return {**asdict(self), "measured": measured, "passed": self.passed}


@dataclass(frozen=True)
class Comparison:
    """A bundle against its reference; stops at the first stage out of tolerance.

    ``same_source`` says whether the reference is, byte for byte, what the bundle was made from.
    """

    bundle: str
    reference: str
    same_source: bool
    target: str
    scheme: str
    images: tuple[str, ...]  # sha256 of each photograph, never its name
    stages: tuple[Stage, ...]

    @property
    def passed(self) -> bool:
        """Every stage was reached and is within tolerance."""
        return all(s.passed for s in self.stages)

    @property
    def first_bad(self) -> str | None:
        """The first stage out of tolerance."""
        return next((s.name for s in self.stages if not s.passed), None)

    def to_json(self) -> Json:
        """The whole comparison."""
        stages = [s.to_json() for s in self.stages]
        return {**asdict(self), "stages": stages, "passed": self.passed, "first_bad_stage": self.first_bad}


def compare(
    bundle: Path,
    source: AdapterCheckpoint,
    images: Path | None,
    *,
    limit: int | None = None,
    steps: int = 64,
    side: str | None = None,
    threads: int | None = None,
    quiet: bool = False,
) -> Comparison:
    """Compare ``bundle`` with the PyTorch model of ``source``.

    Args:
        bundle: what ``skinedge export`` wrote.
        source: the checkpoint and adapters it was made from.
        images: a folder of photographs, or ``None`` for three generated pictures.
        limit: use only the first so many photographs.
        steps: teacher-forced steps, and length of the greedy text.
        side: open this side of the bundle instead of its own.
        threads: CPU threads for both.
        quiet: do not say which stage is running.

    Raises:
        UsageError: the reference is a model of other sizes.
        SkinedgeError: the bundle or the reference cannot be opened, or a photograph cannot be read.
    """
    _check_sizes(bundle, source)
    from skinedge.model.reference import Reference

    with (
        tempfile.TemporaryDirectory(prefix="skinedge-") as scratch,
        open_pipeline(bundle, side=side, threads=threads) as pipeline,
    ):
        photographs = _photographs(images, limit) if images else write_pictures(Path(scratch))
        reference = Reference.from_checkpoint(source.path, source.adapters, threads=threads)
        try:
            comparer = _Comparer(pipeline, reference, ReferenceInputs(source.path, reference), photographs, steps, quiet)
            stages = tuple(comparer.stages())
        finally:
            reference.close()
    return Comparison(
        bundle=pipeline.manifest.digest,
        reference=source.digest,
        same_source=pipeline.manifest.lineage[0].digest == source.digest,
        target=pipeline.manifest.target,
        scheme=pipeline.manifest.scheme.asked,
        images=tuple(hashlib.sha256(p.read_bytes()).hexdigest() for p in photographs)
        if images
        else tuple(p.stem for p in photographs),
        stages=stages,
    )


def write_report(result: Comparison, path: Path) -> ParityReport:
    """Write the comparison as JSON.

    Raises:
        OutputError: it cannot be written.
    """
    text = json.dumps(result.to_json(), indent=1, sort_keys=True) + "\n"
    with staged_file(path) as f:
        f.write(text.encode())
    return ParityReport(path, hashlib.sha256(text.encode()).hexdigest(), result.bundle, result.passed)


def print_stages(result: Comparison) -> None:
    """One line per stage, then the verdict."""
    for stage in result.stages:
        say(stage.line())
    if not result.same_source:
        say("The bundle was made from another checkpoint, or other adapters, than this reference.")
    if result.passed:
        pictures = "1 picture" if len(result.images) == 1 else f"{len(result.images)} pictures"
        say(f"{pictures}: every gated stage is within tolerance.")
    else:
        say(f"stage '{result.first_bad}' is out of tolerance; the stages after it were not compared.")


def _photographs(folder: Path, limit: int | None) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder.", hint="Give --images a folder of photographs, or leave it out.")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))[:limit]
    if not found:
        raise UsageError(f"{folder} holds no photograph.", hint=f"Looked for {', '.join(sorted(_SUFFIXES))}.")
    return found


def _check_sizes(bundle: Path, source: AdapterCheckpoint) -> None:
    ours, theirs = read_manifest(bundle).architecture.config(), read_config(source.path)
    if (ours.text, ours.vision) != (theirs.text, theirs.vision):
        raise UsageError(
            f"{bundle} and {source.path} are models of different sizes.", hint="Give --reference the checkpoint it was made from."
        )


class _Comparer:
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

    def stages(self) -> Iterator[Stage]:
        for stage in self._each():
            yield stage
            if not stage.passed:
                return

    def _each(self) -> Iterator[Stage]:
        ours = [self.pipeline.pixels(p) for p in self.photographs]
        theirs = [self.inputs.pixels(load_photograph(p)) for p in self.photographs]
        yield self._stage("pixels", [_pixel_distance(a, b) for a, b in zip(theirs, ours, strict=True)])
        prompts = [self.pipeline.prompts.build(ask(), [p.grid]) for p in ours]
        references = [self.inputs.prompt(DEFAULT_QUESTION, [p.grid]) for p in theirs]
        yield self._stage("tokens", [_token_distance(a, b) for a, b in zip(references, prompts, strict=True)])
        exact = [self.reference.encode_image(p) for p in counted("features of the reference", theirs, self.quiet)]
        encoded = [self.pipeline.session.encode_image(p) for p in counted("features of the bundle", ours, self.quiet)]
        yield self._stage("features", [_distance(a.features, b.features) for a, b in zip(exact, encoded, strict=True)])
        if any(e.bias is not None for e in (*exact, *encoded)):
            yield self._stage("bias", [_bias_distance(a, b) for a, b in zip(exact, encoded, strict=True)])
        rows = list(zip(references, prompts, exact, encoded, strict=True))
        runs = [self._sequence(*row) for row in counted("narratives", rows, self.quiet)]
        for number, name in enumerate(("prefill", "steps", "text")):
            yield self._stage(name, [run[number] for run in runs])

    def _stage(self, name: str, measured: Sequence[Measured]) -> Stage:
        return Stage(name, worst_of(measured), self.limits.get(name), len(measured))

    def _sequence(self, reference: Prompt, prompt: Prompt, exact: ImageEncoding, encoded: ImageEncoding) -> tuple[Measured, ...]:
        """Prefill, teacher-forced steps along the reference's greedy narrative, the bundle's own narrative."""
        size = len(prompt.token_ids) * self.pipeline.session.vocab_size
        every = size <= MAX_PREFILL_LOGITS
        truth = _prefill(self.reference, reference, exact, every)
        logits = _prefill(self.pipeline.session, prompt, encoded, every)
        prefill = _logit_measure(logit_distance(truth, logits))
        tokens, expected = _greedy(self.reference, truth[-1], self.count)
        got = np.stack([self.pipeline.session.step(t) for t in tokens])
        steps = _logit_measure(logit_distance(expected, got))
        options = GenerateOptions(max_new_tokens=self.count + 1, ignore_eos=True)
        generation = self.pipeline.start([encoded], DEFAULT_QUESTION, options)
        words = [t.token_id for t in generation]
        narrative = [*tokens, int(expected[-1].argmax())]
        return prefill, steps, _text_distance(narrative, words)


def worst_of(measured: Sequence[Measured]) -> Measured:
    """The worst of each metric over all images."""
    # numpy's extremes, because Python's own pass over a NaN that is not the first.
    return {m: float((np.min if m in _LEAST_IS_WORST else np.max)([row[m] for row in measured])) for m in measured[0]}


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
        return {"max_abs": float("inf")}
    return _distance(a.patches, b.patches)


def _token_distance(a: Prompt, b: Prompt) -> Measured:
    """Tokens or positions that differ."""
    if len(a.token_ids) != len(b.token_ids):
        return {"different": float(max(len(a.token_ids), len(b.token_ids)))}
    bad = (a.token_ids != b.token_ids) | (a.positions != b.positions).any(0)
    return {"different": float(bad.sum() + (a.next_position != b.next_position))}


def _bias_distance(a: ImageEncoding, b: ImageEncoding) -> Measured:
    if a.bias is None or b.bias is None:
        return {"max_abs": 0.0 if a.bias is b.bias else float("inf")}
    return _distance(a.bias, b.bias)


def _distance(a: Float32, b: Float32) -> Measured:
    if a.shape != b.shape:
        return {"max_abs": float("inf")}
    return {"max_abs": float(np.abs(a.astype(np.float64) - b).max())}


def _logit_measure(d: LogitDistance) -> Measured:
    return {"max_abs": d.max_abs, "kl_mean": d.kl_mean, "kl_max": d.kl_max, "top1": d.top1}


def _text_distance(a: Sequence[int], b: Sequence[int]) -> Measured:
    """Tokens after the first one that differs; 0 if the narratives are the same."""
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return {"different": float(max(len(a), len(b)) - same), "same_tokens": float(same)}
