"""From a prompt to an answer, token by token, over any ``Session``.

What every target shares lives here: choosing tokens, turning them into text, and knowing when to stop.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from skinedge.errors import UsageError
from skinedge.runtime.prompt import PromptBuilder
from skinedge.runtime.sampling import Sampler, SamplingOptions
from skinedge.runtime.session import ImageEncoding, Prompt, Session, combined_bias
from skinedge.runtime.text import StopTexts

BiasPolicy = Literal["every-step", "off"]
FinishReason = Literal["stop", "eos", "length", "cancelled"]


@dataclass(frozen=True)
class GenerateOptions:
    """How an answer is generated.

    ``stop`` are texts that end the answer and are not part of it.  ``bias`` says whether the side branch speaks
    at every position, as it was trained, or not at all, as the released scripts run it.  ``ignore_eos`` goes on
    to ``max_new_tokens``, for measurements of fixed length.

    Raises:
        UsageError: a value that cannot be meant.
    """

    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    max_new_tokens: int = 4096
    stop: tuple[str, ...] = ()
    bias: BiasPolicy = "every-step"
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"the number of new tokens is {self.max_new_tokens} and must be 1 or more.")
        if "" in self.stop:
            raise UsageError("a stop text is empty, so every answer would be.", hint="Leave it out.")
        if self.bias not in get_args(BiasPolicy):
            raise UsageError(f"unknown bias policy '{self.bias}'.", hint=f"Known: {', '.join(get_args(BiasPolicy))}.")


@dataclass(frozen=True)
class GeneratedToken:
    """One token of an answer; ``text`` is what it adds, which is often nothing or that of earlier tokens held back."""

    token_id: int
    text: str


@dataclass(frozen=True)
class Transcript:
    """An answer and how it came about.

    ``token_ids`` holds every token chosen, an end token too.  ``text`` is what was given out, joined: without
    special tokens and without the stop text.  ``prefill_s`` runs from the prompt to its logits, ``step_s`` holds
    the seconds of each later step, ``sample_s`` those of choosing each token; decoding text is in none of them.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    prefill_s: float
    step_s: tuple[float, ...]
    biased: bool
    options: GenerateOptions
    sample_s: tuple[float, ...] = ()


def generate(
    session: Session,
    builder: PromptBuilder,
    prompt: Prompt,
    images: Sequence[ImageEncoding] = (),
    options: GenerateOptions = GenerateOptions(),
) -> Generation:
    """Start an answer; nothing is computed before the first token is asked for.

    Args:
        session: the model.
        builder: its tokenizer, and its end tokens.
        prompt: from ``builder.build``.
        images: encodings of the prompt's images, in order.
        options: how.
    """
    return Generation(session, builder, prompt, images, options)


@dataclass
class _Progress:
    token_ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    finish_reason: FinishReason = "cancelled"  # until it ends by itself
    prefill_s: float = 0.0
    step_s: list[float] = field(default_factory=list)
    sample_s: list[float] = field(default_factory=list)


class Generation(Iterator[GeneratedToken]):
    """An answer in the making: iterate for its tokens, ``close`` to cancel it, read ``transcript`` at any time."""

    def __init__(
        self,
        session: Session,
        builder: PromptBuilder,
        prompt: Prompt,
        images: Sequence[ImageEncoding],
        options: GenerateOptions,
    ) -> None:
        self._session = session
        self._builder = builder
        self._prompt = prompt
        self._images = images
        self._options = options
        self._bias = combined_bias(images) if options.bias == "every-step" else None
        self._progress = _Progress()
        self._tokens = self._run()

    def __next__(self) -> GeneratedToken:
        """The next token of the answer.

        Raises:
            PromptError: the prompt is longer than the session's context, or its images are not those given.
            SkinedgeError: the model gave no usable logits.
        """
        return next(self._tokens)

    def close(self) -> None:
        """Compute no more.  An answer that has not ended is then ``cancelled``."""
        self._tokens.close()

    @property
    def transcript(self) -> Transcript:
        """The answer so far."""
        p = self._progress
        return Transcript(
            token_ids=tuple(p.token_ids),
            text="".join(p.texts),
            finish_reason=p.finish_reason,
            prompt_tokens=len(self._prompt.token_ids),
            prefill_s=p.prefill_s,
            step_s=tuple(p.step_s),
            biased=self._bias is not None,
            options=self._options,
            sample_s=tuple(p.sample_s),
        )

    def _run(self) -> Generator[GeneratedToken]:
        sampler = Sampler(self._options.sampling, self._prompt.token_ids)
        stream, stops = self._builder.stream(), StopTexts(self._options.stop)
        end_tokens = () if self._options.ignore_eos else self._builder.eos_token_ids
        begin = time.perf_counter()
        logits = self._session.prefill(self._prompt, self._images, bias=self._bias)
        self._progress.prefill_s = time.perf_counter() - begin
        while True:
            begin = time.perf_counter()
            token = sampler.sample(logits)
            self._progress.sample_s.append(time.perf_counter() - begin)
            ended = token in end_tokens
            text = stops.push("" if ended else stream.push(token))
            reason = self._reason(ended=ended, stopped=stops.found)
            if reason is not None and not stops.found:
                text += stops.push(stream.finish()) + stops.finish()
                reason = "stop" if stops.found else reason
            yield self._record(token, text, reason)
            if reason is not None:
                return
            begin = time.perf_counter()
            logits = self._session.step(token)
            self._progress.step_s.append(time.perf_counter() - begin)

    def _reason(self, *, ended: bool, stopped: bool) -> FinishReason | None:
        """Why the token just chosen is the last one, if it is."""
        if stopped:
            return "stop"
        if ended:
            return "eos"
        # The last token needs no place in the cache: nothing is computed from it.
        generated = len(self._progress.token_ids) + 1
        room = self._session.context_length - len(self._prompt.token_ids) + 1
        return "length" if generated >= min(self._options.max_new_tokens, room) else None

    def _record(self, token: int, text: str, reason: FinishReason | None) -> GeneratedToken:
        self._progress.token_ids.append(token)
        self._progress.texts.append(text)
        if reason is not None:
            self._progress.finish_reason = reason
        return GeneratedToken(token, text)
