"""One case run on an open bundle and timed part by part; the same for every target.

``preprocess`` goes from the photographs' files and the question to pixels and token ids, ``image_encode`` over all
photographs, ``prefill`` from the prompt to its logits, ``sample`` is the choice of the first token.  Each is timed
by itself, and so is the time to the first token, so that they can be checked against each other.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skinedge.measure.result import CaseRecord, Mode, RunSample
from skinedge.runtime.generate import GenerateOptions, generate
from skinedge.runtime.pipeline import Ask, Pipeline, decoding_options
from skinedge.runtime.prompt import ask

if TYPE_CHECKING:
    from skinedge.runtime.session import Pixels, Prompt

# What makes a prompt as long as a suite wants it: the words of a referral, as often as it takes.
_REFERRAL = (
    "The patient is a gardener of 58 years who noticed the lesion about six months ago and says that it has grown a little "
    "since then. It itches now and then but has never bled. There is no family history of skin cancer, and no medicine is "
    "taken regularly. Earlier treatment with a mild cream brought no change."
)


@dataclass(frozen=True)
class Rules:
    """How often: full-shape runs that are not counted, counted runs, and how many seconds these must take together."""

    warmups: int = 3
    runs: int = 10
    seconds: float = 10.0

    def done(self, samples: Sequence[RunSample]) -> bool:
        """Whether ``samples`` are enough."""
        return len(samples) >= self.runs and sum(s.e2e_ms for s in samples) >= 1e3 * self.seconds


PROTOCOL = Rules()


@dataclass(frozen=True)
class Question:
    """What a case asks: photographs' files, the text or how long it is to be (``None``: the bundle's own), and how to answer."""

    name: str
    photographs: tuple[Path, ...]
    text_tokens: int | None
    new_tokens: int
    mode: Mode


@dataclass(frozen=True)
class Ready:
    """A case, settled for the bundle it is asked of."""

    record: CaseRecord
    photographs: tuple[Path, ...]
    text: str
    options: GenerateOptions

    @property
    def misfit(self) -> str | None:
        """Why it cannot be run, if it cannot."""
        r = self.record
        if r.prompt_tokens + r.max_new_tokens <= r.context:
            return None
        return f"{r.prompt_tokens} prompt tokens and {r.max_new_tokens} new ones do not fit the context of {r.context}"


@dataclass(frozen=True)
class Timed:
    """A run.  ``encoding``, ``first`` and ``end`` are when encoding began, the first token came, and the last; perf_counter."""

    sample: RunSample
    encoding: float
    first: float
    end: float


def prepare(pipeline: Pipeline, question: Question) -> Ready:
    """Settle what is asked, and describe it.

    Raises:
        PromptError: the prompt is longer than the model can read.
        ImageError: a photograph cannot be read.
    """
    decoding = pipeline.manifest.decoding.model_copy(update={"max_new_tokens": question.new_tokens})
    options = decoding_options(decoding, Ask())
    options = GenerateOptions(options.sampling, options.max_new_tokens, bias=options.bias, ignore_eos=question.mode == "fixed")
    pixels = [pipeline.pixels(p) for p in question.photographs]
    text, prompt = _prompt(pipeline, question.text_tokens, pixels)
    record = CaseRecord(
        name=question.name,
        mode=question.mode,
        images=tuple(hashlib.sha256(p.read_bytes()).hexdigest() for p in question.photographs),
        image_pixels=tuple((p.image.shape[1], p.image.shape[0]) for p in pixels),
        prompt=hashlib.sha256(prompt.text.encode()).hexdigest(),
        prompt_tokens=len(prompt.token_ids),
        image_tokens=_image_tokens(pipeline, pixels),
        max_new_tokens=question.new_tokens,
        decoding=decoding,
        context=pipeline.session.context_length,
    )
    return Ready(record, question.photographs, text, options)


def run_once(pipeline: Pipeline, ready: Ready) -> Timed:
    """Ask once, from the photographs' files to the last token.

    Raises:
        SkinedgeError: the model gave no usable answer.
    """
    clock, session = time.perf_counter, pipeline.session
    begin = clock()
    pixels = [pipeline.pixels(p) for p in ready.photographs]
    prompt = pipeline.prompts.build(ask(ready.text, images=len(pixels)), [p.grid for p in pixels])
    encoding = clock()
    images = [session.encode_image(p) for p in pixels]
    encoded = clock()
    answer = generate(session, pipeline.prompts, prompt, images, ready.options)
    next(answer)
    first = clock()
    for _ in answer:
        pass
    end = clock()
    told = answer.transcript
    sample = RunSample(
        preprocess_ms=1e3 * (encoding - begin),
        image_encode_ms=1e3 * (encoded - encoding),
        prefill_ms=1e3 * told.prefill_s,
        sample_ms=1e3 * told.sample_s[0],
        ttft_ms=1e3 * (first - begin),
        e2e_ms=1e3 * (end - begin),
        output_tokens=len(told.token_ids),
        step_ms=tuple(1e3 * s for s in told.step_s),
    )
    return Timed(sample, encoding, first, end)


def measure(pipeline: Pipeline, ready: Ready, rules: Rules) -> Iterator[tuple[bool, Timed]]:
    """Runs until ``rules`` are satisfied, each with whether it counts (the first ones do not)."""
    for _ in range(rules.warmups):
        yield False, run_once(pipeline, ready)
    samples: list[RunSample] = []
    while not rules.done(samples):
        timed = run_once(pipeline, ready)
        samples.append(timed.sample)
        yield True, timed


def _image_tokens(pipeline: Pipeline, pixels: Sequence[Pixels]) -> int:
    merged = pipeline.manifest.architecture.vision.spatial_merge_size**2
    return sum(p.grid.patches // merged for p in pixels)


def _prompt(pipeline: Pipeline, text_tokens: int | None, pixels: Sequence[Pixels]) -> tuple[str, Prompt]:
    """The bundle's own question, or as many words as make the longest prompt of at most ``text_tokens`` beside the images."""
    grids = [p.grid for p in pixels]

    def build(text: str) -> Prompt:
        return pipeline.prompts.build(ask(text, images=len(grids)), grids)

    if text_tokens is None:
        text = pipeline.manifest.prompt.question
        return text, build(text)
    most = text_tokens + _image_tokens(pipeline, pixels)
    low, high = 1, text_tokens  # a word is a token at least
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(build(_words(middle)).token_ids) <= most
        low, high = (middle, high) if fits else (low, middle - 1)
    return _words(low), build(_words(low))


def _words(count: int) -> str:
    words = _REFERRAL.split()
    return " ".join(words[i % len(words)] for i in range(count))
