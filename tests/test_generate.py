"""An answer, token by token: when it ends, what of it is given out, and what is recorded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinedge.errors import PromptError, SkinedgeError, UsageError
from skinedge.model.config import read_config
from skinedge.runtime.generate import GenerateOptions, Transcript, generate
from skinedge.runtime.prompt import PromptBuilder, ask
from skinedge.runtime.sampling import SamplingOptions
from skinedge.runtime.session import Float32, Grid, ImageEncoding, Pixels, Prompt
from skinedge.runtime.text import StopTexts

VOCABULARY = 2048
GRID = Grid(1, 4, 4)


class ScriptedSession:
    """A model that says what it was told to, and remembers what it was asked."""

    vocab_size = VOCABULARY

    def __init__(self, script: Sequence[int], context_length: int = 4096) -> None:
        self.context_length, self.on_gpu = context_length, False
        self._script = list(script)
        self._filled = 0
        self.bias: Float32 | None = None
        self.stepped: list[int] = []

    def encode_image(self, pixels: Pixels) -> ImageEncoding:
        raise NotImplementedError

    def prefill(
        self,
        prompt: Prompt,
        images: Sequence[ImageEncoding] = (),
        *,
        bias: Float32 | None = None,
        all_positions: bool = False,
        keep: int = 0,
    ) -> Float32:
        self._filled = len(prompt.token_ids)
        if self._filled > self.context_length:
            raise PromptError("the prompt is too long.")
        self.bias, self.stepped = bias, []
        return self._logits()

    def step(self, token: int) -> Float32:
        self._filled += 1
        assert self._filled <= self.context_length, "a step into a full context"
        self.stepped.append(token)
        return self._logits()

    def close(self) -> None: ...

    def _logits(self) -> Float32:
        logits = np.zeros(VOCABULARY, np.float32)
        logits[self._script[len(self.stepped) % len(self._script)]] = 9
        return logits if self.bias is None else logits + self.bias


@pytest.fixture(scope="module")
def builder(tiny_model: Path) -> PromptBuilder:
    return PromptBuilder.from_folder(tiny_model, read_config(tiny_model))


@pytest.fixture(scope="module")
def prompt(builder: PromptBuilder) -> Prompt:
    return builder.build(ask("?", images=0))


def spelled(builder: PromptBuilder, text: str) -> list[int]:
    """Tokens of ``text``, one per byte, so that every boundary is a token's boundary."""
    return [t for c in text for t in builder._tokenizer.encode(c, add_special_tokens=False).ids]


def run(builder: PromptBuilder, prompt: Prompt, script: list[int], **options: object) -> tuple[Transcript, list[str]]:
    generation = generate(ScriptedSession(script), builder, prompt, options=GenerateOptions(**options))  # type: ignore[arg-type]
    pieces = [token.text for token in generation]
    assert "".join(pieces) == generation.transcript.text
    assert len(pieces) == len(generation.transcript.token_ids) == len(generation.transcript.step_s) + 1
    return generation.transcript, pieces


# ---- where an answer ends ------------------------------------------------------------------------------------


def test_it_ends_at_an_end_token_which_is_kept_and_not_shown(builder: PromptBuilder, prompt: Prompt) -> None:
    for eos in builder.eos_token_ids:
        script = [*spelled(builder, "nevus ✓"), eos]
        transcript, _ = run(builder, prompt, script)
        assert transcript.token_ids == tuple(script)
        assert (transcript.text, transcript.finish_reason) == ("nevus ✓", "eos")


def test_end_tokens_can_be_ignored_for_a_fixed_length(builder: PromptBuilder, prompt: Prompt) -> None:
    script = [*spelled(builder, "ab"), builder.eos_token_ids[0]]
    transcript, _ = run(builder, prompt, script, ignore_eos=True, max_new_tokens=8)
    assert (transcript.token_ids, transcript.finish_reason) == (tuple((script * 3)[:8]), "length")
    assert transcript.text == "ababab"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_ends_at_the_number_asked_for_without_a_step_too_many(count: int, builder: PromptBuilder, prompt: Prompt) -> None:
    session = ScriptedSession(spelled(builder, "abcdefgh"))
    generation = generate(session, builder, prompt, options=GenerateOptions(max_new_tokens=count))
    assert "".join(token.text for token in generation) == "abcdefgh"[:count]
    assert generation.transcript.finish_reason == "length"
    assert len(session.stepped) == count - 1


@pytest.mark.parametrize("room", [0, 1, 3])
def test_a_full_context_ends_it(room: int, builder: PromptBuilder, prompt: Prompt) -> None:
    session = ScriptedSession(spelled(builder, "abcdefgh"), context_length=len(prompt.token_ids) + room)
    generation = generate(session, builder, prompt)
    assert "".join(token.text for token in generation) == "abcdefgh"[: room + 1]  # the last one needs no place
    assert (generation.transcript.finish_reason, len(session.stepped)) == ("length", room)


def test_a_prompt_that_does_not_fit_is_the_sessions_error(builder: PromptBuilder, prompt: Prompt) -> None:
    session = ScriptedSession([0], context_length=len(prompt.token_ids) - 1)
    with pytest.raises(PromptError, match="the prompt is too long"):
        next(generate(session, builder, prompt))


def test_the_last_character_is_given_out_even_if_unfinished(builder: PromptBuilder, prompt: Prompt) -> None:
    transcript, pieces = run(builder, prompt, spelled(builder, "🩺"), max_new_tokens=2)
    assert pieces == ["", "\ufffd"]
    assert transcript.text == builder.decode(transcript.token_ids)


# ---- stop texts ----------------------------------------------------------------------------------------------


def test_a_stop_text_across_tokens_ends_it_and_is_not_shown(builder: PromptBuilder, prompt: Prompt) -> None:
    script = spelled(builder, "The answer is nevus.</answer> And more")
    transcript, pieces = run(builder, prompt, script, stop=("</answer>", "###"))
    assert (transcript.text, transcript.finish_reason) == ("The answer is nevus.", "stop")
    assert builder.decode(transcript.token_ids).startswith("The answer is nevus.</answer")
    assert not any("<" in piece for piece in pieces)


def test_what_only_looked_like_a_stop_text_is_shown(builder: PromptBuilder, prompt: Prompt) -> None:
    script = [*spelled(builder, "a <</answ b </ans"), builder.eos_token_ids[0]]
    transcript, _ = run(builder, prompt, script, stop=("</answer>",))
    assert (transcript.text, transcript.finish_reason) == ("a <</answ b </ans", "eos")


def test_a_stop_text_inside_a_character_waits_for_it(builder: PromptBuilder, prompt: Prompt) -> None:
    transcript, _ = run(builder, prompt, spelled(builder, "é🩺x"), stop=("🩺",))
    assert (transcript.text, transcript.finish_reason) == ("é", "stop")


@given(
    text=st.text("ab<", max_size=30),
    stops=st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
@settings(max_examples=400, deadline=None)
def test_how_text_is_cut_does_not_change_where_it_stops(text: str, stops: list[str], cuts: list[int]) -> None:
    """Against the definition: cut before the stop text that is complete first, the longest of those that end together."""
    end, stop = min(((n, -len(s)) for s in stops for n in range(len(text) + 1) if text[:n].endswith(s)), default=(None, 0))
    expected = text if end is None else text[: end + stop]
    watcher = StopTexts(stops)
    edges = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    pieces = [watcher.push(text[a:b]) for a, b in itertools.pairwise(edges)]
    assert "".join([*pieces, watcher.finish()]) == expected
    assert watcher.found == (end is not None)


def test_text_is_not_held_back_without_need() -> None:
    watcher = StopTexts(("</answer>",))
    assert [watcher.push(piece) for piece in ("a<", "b</", "ans", "x")] == ["a", "<b", "", "</ansx"]


# ---- bias, sampling, timing ----------------------------------------------------------------------------------


def encoding(seed: int, *, biased: bool = True) -> ImageEncoding:
    bias = np.random.default_rng(seed).normal(0, 1, VOCABULARY).astype(np.float32) if biased else None
    return ImageEncoding(GRID, np.zeros((4, 256), np.float32), bias, None)


def test_the_bias_is_the_mean_over_images_at_every_step_or_off(builder: PromptBuilder) -> None:
    prompt, images = builder.build(ask("?", images=2), [GRID, GRID]), [encoding(1), encoding(2)]
    session = ScriptedSession([5])
    on = generate(session, builder, prompt, images, GenerateOptions(max_new_tokens=1))
    list(on)
    assert session.bias is not None
    assert np.allclose(session.bias, (images[0].bias + images[1].bias) / 2)  # type: ignore[operator]
    assert on.transcript.biased
    off = generate(session, builder, prompt, images, GenerateOptions(max_new_tokens=1, bias="off"))
    list(off)
    assert session.bias is None
    assert (off.transcript.biased, off.transcript.options.bias) == (False, "off")


def test_a_model_without_a_side_branch_has_no_bias(builder: PromptBuilder) -> None:
    prompt = builder.build(ask("?"), [GRID])
    generation = generate(ScriptedSession([5]), builder, prompt, [encoding(0, biased=False)], GenerateOptions(max_new_tokens=1))
    list(generation)
    assert not generation.transcript.biased


def test_sampling_options_reach_the_sampler(builder: PromptBuilder, prompt: Prompt) -> None:
    def tokens(seed: int) -> tuple[int, ...]:
        sampling = SamplingOptions(temperature=5.0, seed=seed)
        return run(builder, prompt, [3, 4], sampling=sampling, max_new_tokens=20, ignore_eos=True)[0].token_ids

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_the_penalty_knows_the_prompt(builder: PromptBuilder) -> None:
    prompt, other = builder.build(ask("?"), [GRID]), 2000
    bias = np.zeros(VOCABULARY, np.float32)
    bias[other] = 8  # second to the 9 of a token that the prompt holds
    image = ImageEncoding(GRID, np.zeros((4, 256), np.float32), bias, None)
    for penalty, expected in ((1.0, int(prompt.token_ids[-1])), (1.5, other)):
        options = GenerateOptions(SamplingOptions(repetition_penalty=penalty), max_new_tokens=1)
        generation = generate(ScriptedSession([int(prompt.token_ids[-1])]), builder, prompt, [image], options)
        assert next(generation).token_id == expected


def test_times_are_recorded(builder: PromptBuilder, prompt: Prompt) -> None:
    transcript, _ = run(builder, prompt, spelled(builder, "abc"), max_new_tokens=3)
    assert transcript.prefill_s > 0
    assert len(transcript.step_s) == 2
    assert min(transcript.step_s) > 0
    assert transcript.prompt_tokens == len(prompt.token_ids)


# ---- cancelling, failing -------------------------------------------------------------------------------------


def test_closing_cancels(builder: PromptBuilder, prompt: Prompt) -> None:
    session = ScriptedSession(spelled(builder, "abcdef"))
    generation = generate(session, builder, prompt)
    assert [next(generation).text, next(generation).text] == ["a", "b"]
    generation.close()
    generation.close()
    with pytest.raises(StopIteration):
        next(generation)
    assert (generation.transcript.text, generation.transcript.finish_reason) == ("ab", "cancelled")
    assert len(session.stepped) == 1


def test_closing_after_the_end_changes_nothing(builder: PromptBuilder, prompt: Prompt) -> None:
    generation = generate(ScriptedSession([builder.eos_token_ids[0]]), builder, prompt)
    next(generation)
    generation.close()
    assert generation.transcript.finish_reason == "eos"


def test_nothing_is_computed_before_the_first_token_is_asked_for(builder: PromptBuilder, prompt: Prompt) -> None:
    session = ScriptedSession([1])
    generation = generate(session, builder, prompt)
    assert session._filled == 0
    assert generation.transcript.token_ids == ()


def test_logits_that_overflow_end_it_with_the_reason(builder: PromptBuilder, prompt: Prompt) -> None:
    class Overflowing(ScriptedSession):
        def _logits(self) -> Float32:
            return np.full(VOCABULARY, np.nan, np.float32) if self.stepped else super()._logits()

    generation = generate(Overflowing(spelled(builder, "ab")), builder, prompt)
    assert next(generation).text == "a"
    with pytest.raises(SkinedgeError, match="the model gave nan instead of a logit"):
        next(generation)
    assert generation.transcript.text == "a"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "the number of new tokens is 0 and must be 1 or more"),
        ({"stop": ("",)}, "a stop text is empty"),
        ({"bias": "first-step"}, "unknown bias policy 'first-step'. Known: every-step, off."),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GenerateOptions(**options)  # type: ignore[arg-type]
