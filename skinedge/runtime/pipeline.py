"""A bundle, opened: photographs and a question in, an answer out.

This is what ``skinedge run``, the parity check and the workstation sit on.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from skinedge.bundle import check_files, load_target
from skinedge.errors import BundleError, UsageError
from skinedge.runtime.generate import BiasPolicy, GenerateOptions, Generation, Transcript, generate
from skinedge.runtime.image import ProcessorConfig, load_photograph, read_processor_config, to_pixels
from skinedge.runtime.prompt import PromptBuilder, ask
from skinedge.runtime.sampling import SamplingOptions
from skinedge.runtime.session import ImageEncoding, Pixels, Session
from skinedge.targets._contract import OpenOptions

if TYPE_CHECKING:
    from skinedge.console import Json
    from skinedge.manifest import DecodingRecord, Manifest
    from skinedge.model.config import VisionConfig


@dataclass(frozen=True)
class Ask:
    """One question about some photographs; ``overrides`` replace the bundle's decoding defaults by name.

    ``question`` may be left out where there is a photograph: the model is then asked to describe it.
    """

    photographs: tuple[Path, ...] = ()
    question: str | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()
    overrides: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """An answer with what a record of it needs; photographs appear as digests only."""

    transcript: Transcript
    bundle_digest: str
    image_sha256: tuple[str, ...]
    preprocess_s: float
    encode_s: float

    def to_json(self) -> Json:
        """One JSON object."""
        t = self.transcript
        return {
            "text": t.text,
            "finish_reason": t.finish_reason,
            "token_ids": list(t.token_ids),
            "prompt_tokens": t.prompt_tokens,
            "biased": t.biased,
            "bundle": self.bundle_digest,
            "images": list(self.image_sha256),
            "seconds": {
                "preprocess": self.preprocess_s,
                "image_encode": self.encode_s,
                "prefill": t.prefill_s,
                "decode": sum(t.step_s),
            },
        }

    def summary(self) -> str:
        """One line for people."""
        t = self.transcript
        speed = f", {len(t.step_s) / sum(t.step_s):.1f} tokens/s" if t.step_s else ""
        bias = "with the adapter's bias" if t.biased else "without the adapter's bias"
        first = self.preprocess_s + self.encode_s + t.prefill_s
        return f"[{len(t.token_ids)} tokens, {t.finish_reason}; first after {first:.2f} s{speed}; {bias}]"


class Pipeline:
    """A bundle ready to answer.  Not thread-safe, as its session is not."""

    def __init__(self, folder: Path, manifest: Manifest, session: Session) -> None:
        config = manifest.architecture.config()
        self.manifest = manifest
        self.session = session
        self.prompts = PromptBuilder.from_folder(folder, config)
        self.processor: ProcessorConfig = read_processor_config(folder)
        _check_patches(folder, self.processor, config.vision)

    def pixels(self, photograph: Path) -> Pixels:
        """A photograph as the model sees it.

        Raises:
            ImageError: it cannot be read or is outside the limits.
        """
        return to_pixels(load_photograph(photograph), self.processor)

    def start(self, images: Sequence[ImageEncoding], question: str, options: GenerateOptions) -> Generation:
        """Begin an answer about images that are encoded already."""
        prompt = self.prompts.build(ask(question, images=len(images)), [i.grid for i in images])
        return generate(self.session, self.prompts, prompt, images, options)

    def run(self, request: Ask, on_text: Callable[[str], None] | None = None) -> Answer:
        """Answer a request; ``on_text`` is given the text as it comes.

        Raises:
            UsageError: nothing to answer, or a decoding setting that cannot be meant.
            ImageError: a photograph cannot be read.
            PromptError: the prompt does not fit.
        """
        options, question = decoding_options(self.manifest.decoding, request), question_of(request, self.manifest.prompt.question)
        begin = time.perf_counter()
        pixels = [self.pixels(p) for p in request.photographs]
        read = time.perf_counter()
        images = [self.session.encode_image(p) for p in pixels]
        encoded = time.perf_counter()
        generation = self.start(images, question, options)
        for token in generation:
            if on_text and token.text:
                on_text(token.text)
        digests = tuple(hashlib.sha256(p.read_bytes()).hexdigest() for p in request.photographs)
        return Answer(generation.transcript, self.manifest.digest, digests, read - begin, encoded - read)


@contextmanager
def open_pipeline(
    folder: Path, *, side: str | None = None, threads: int | None = None, context: int | None = None, device: str = "auto"
) -> Iterator[Pipeline]:
    """Open a bundle for the length of a block.

    Args:
        folder: the bundle.
        side: open it as this target instead of its own (a trt bundle holds an onnx one).
        threads: CPU threads.
        context: positions of context.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        BundleError: not a bundle, or a file is missing or has another size.
        TargetError: it cannot run on this machine.
        UsageError: the bundle has no such side.
    """
    manifest = check_files(folder)
    session = _open_session(folder, manifest, side, OpenOptions(threads, context, device))
    try:
        yield Pipeline(folder, manifest, session)
    finally:
        session.close()


def _check_patches(folder: Path, processor: ProcessorConfig, vision: VisionConfig) -> None:
    ours = (processor.patch_size, processor.temporal_patch_size, processor.merge_size)
    theirs = (vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)
    if ours != theirs:
        raise BundleError(
            f"{folder}: the image processor cuts patches of {ours} (size, frames, merge) and the model reads {theirs}.",
            hint="The processor's settings belong to another model; export again with the right ones.",
        )


def _open_session(folder: Path, manifest: Manifest, side: str | None, options: OpenOptions) -> Session:
    if side in (None, manifest.target):
        return load_target(manifest.target).open_session(folder, manifest, options)
    if side == "onnx" and (folder / "onnx" / "decoder.onnx").is_file():
        return load_target("onnx").open_session(folder / "onnx", manifest, options)
    sides = [manifest.target, *(["onnx"] if (folder / "onnx").is_dir() else [])]
    raise UsageError(
        f"{folder} has no side '{side}': it was exported for {manifest.target}.",
        hint=f"It can be opened as {' or '.join(sides)}; for another target export it again.",
    )


def question_of(request: Ask, default: str) -> str:
    """What is asked, ``default`` if it is left open.

    Raises:
        UsageError: nothing; asked to describe a photograph it was not given, a model would invent one.
    """
    if request.question is None and not request.photographs:
        raise UsageError("there is neither a photograph nor a question.", hint="Give a photograph, or ask with --question.")
    if request.question is not None and not request.question.strip():
        raise UsageError("the question is empty.", hint="Leave --question out to have the photograph described.")
    return default if request.question is None else request.question


def decoding_options(defaults: DecodingRecord, request: Ask) -> GenerateOptions:
    """The bundle's decoding defaults with the request's overrides.

    Raises:
        UsageError: a value that cannot be meant.
    """
    asked = replace_all(defaults, request.overrides)
    sampling = SamplingOptions(
        temperature=asked.temperature, top_p=asked.top_p, repetition_penalty=asked.repetition_penalty, seed=request.seed
    )
    return GenerateOptions(sampling, asked.max_new_tokens, request.stop, cast(BiasPolicy, asked.bias))


def replace_all(defaults: DecodingRecord, overrides: Mapping[str, float | int | str]) -> DecodingRecord:
    """A copy of ``defaults`` with some fields set (their values are checked where they are used)."""
    return defaults.model_copy(update=dict(overrides))
