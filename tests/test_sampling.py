"""The next token is chosen as ``transformers`` chooses it, and always the same for the same seed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinedge.errors import SkinedgeError, UsageError
from skinedge.runtime.sampling import Sampler, SamplingOptions, keep_top_k, keep_top_p
from skinedge.runtime.session import Float32


def logits(seed: int, size: int = 500, scale: float = 3.0) -> Float32:
    return np.random.default_rng(seed).normal(0, scale, size).astype(np.float32)


def processed(name: str, scores: Float32, argument: float, seen: list[int] | None = None) -> Float32:
    """What a logits processor of ``transformers`` makes of ``scores``."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("transformers.generation.logits_process")
    result: Any = getattr(module, name)(argument)(torch.tensor([seen or [0]]), torch.from_numpy(scores[None].copy()))
    return result[0].numpy()


def test_greedy_takes_the_highest_and_of_equals_the_first() -> None:
    scores = np.zeros(9, np.float32)
    scores[[3, 7]] = 2
    assert Sampler(SamplingOptions()).sample(scores) == 3
    assert Sampler(SamplingOptions()).sample(np.zeros(9, np.float32)) == 0


@pytest.mark.parametrize("penalty", [1.05, 1.3, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_repetition_penalty_is_that_of_transformers(penalty: float, seed: int) -> None:
    scores, prompt = logits(seed), np.random.default_rng(seed).integers(0, 500, 300)
    expected = processed("RepetitionPenaltyLogitsProcessor", scores, penalty, prompt.tolist())
    before = scores.copy()
    assert np.array_equal(Sampler(SamplingOptions(repetition_penalty=penalty), prompt)._penalised(scores), expected)
    assert Sampler(SamplingOptions(repetition_penalty=penalty), prompt).sample(scores) == int(expected.argmax())
    assert np.array_equal(scores, before)


def test_the_penalty_counts_the_answer_too() -> None:
    sampler = Sampler(SamplingOptions(repetition_penalty=2.0))
    scores = np.array([3.0, 2.0, 1.0, -1.0], np.float32)
    assert [sampler.sample(scores) for _ in range(4)] == [0, 1, 0, 0]  # 3 -> 1.5 < 2; then 2 -> 1 and 1.5 leads


@pytest.mark.parametrize("k", [1, 2, 40, 499, 500, 9000])
def test_top_k_is_that_of_transformers(k: int) -> None:
    for seed in range(4):
        scores = np.round(logits(seed), 1)  # many equal scores: those equal to the last one kept stay too
        assert np.array_equal(keep_top_k(scores, k), processed("TopKLogitsWarper", scores, k))


@given(seed=st.integers(0, 1000), p=st.floats(0.01, 0.99), scale=st.sampled_from([0.1, 1.0, 5.0]).map(np.float32))
@settings(max_examples=80, deadline=None)
def test_top_p_is_that_of_transformers(seed: int, p: float, scale: np.float32) -> None:
    scores = scale * np.random.default_rng(seed).permutation(np.linspace(-3, 3, 300, dtype=np.float32))
    ours, theirs = keep_top_p(scores, p), processed("TopPLogitsWarper", scores, p)
    differ = ours != theirs
    # Theirs sums in float32: a token that lies within its rounding of the edge may fall on either side.
    probabilities = np.exp(scores.astype(np.float64) - scores.max())
    rising = np.argsort(scores)
    sums = np.empty(len(scores))
    sums[rising] = np.cumsum(probabilities[rising] / probabilities.sum())
    assert np.all(np.abs(sums[differ] - (1 - p)) < 1e-5)
    assert np.isfinite(ours).any()


def test_top_p_keeps_at_least_one() -> None:
    assert np.flatnonzero(np.isfinite(keep_top_p(np.array([0.0, 9.0, 1.0], np.float32), 1e-9))).tolist() == [1]


def test_draws_follow_the_probabilities() -> None:
    wanted = np.array([0.5, 0.3, 0.0, 0.2])
    scores = np.log(np.where(wanted > 0, wanted, 1)).astype(np.float32)
    scores[2] = -np.inf
    sampler = Sampler(SamplingOptions(temperature=1.0, seed=3))
    counts = np.bincount([sampler.sample(scores) for _ in range(20_000)], minlength=4)
    assert counts[2] == 0
    assert np.allclose(counts / 20_000, wanted, atol=4 * np.sqrt(0.25 / 20_000))


def test_temperature_sharpens_and_flattens() -> None:
    scores = np.array([1.0, 0.0], np.float32)

    def share(temperature: float) -> float:
        sampler = Sampler(SamplingOptions(temperature=temperature))
        return float(np.mean([sampler.sample(scores) == 0 for _ in range(4000)]))

    assert abs(share(0.5) - 1 / (1 + np.exp(-2))) < 0.03
    assert abs(share(2.0) - 1 / (1 + np.exp(-0.5))) < 0.03
    assert share(1e-6) == 1.0


def test_top_k_and_top_p_bound_what_is_drawn() -> None:
    scores = logits(1, 200, 1.0)
    sampler = Sampler(SamplingOptions(temperature=1.5, top_k=20, top_p=0.6))
    scaled = processed("TemperatureLogitsWarper", scores, 1.5)
    allowed = np.isfinite(processed("TopPLogitsWarper", processed("TopKLogitsWarper", scaled, 20), 0.6))
    drawn = {sampler.sample(scores) for _ in range(800)}
    assert drawn == set(np.flatnonzero(allowed))


def test_the_seed_decides() -> None:
    def answer(seed: int) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.0, top_p=0.9, seed=seed))
        return [sampler.sample(logits(i)) for i in range(50)]

    assert answer(7) == answer(7)
    assert answer(7) != answer(8)


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "the model gave nan instead of a logit"), (np.inf, "the model gave inf instead of a logit")]
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_overflowed_logits_are_refused(value: float, said: str, temperature: float) -> None:
    scores = logits(0)
    scores[123] = value
    with pytest.raises(SkinedgeError, match=said) as caught:
        Sampler(SamplingOptions(temperature=temperature)).sample(scores)
    assert "bf16 or f32" in caught.value.hint


def test_a_vocabulary_ruled_out_is_refused() -> None:
    with pytest.raises(SkinedgeError, match="the model gave -inf"):
        Sampler(SamplingOptions()).sample(np.full(4, -np.inf, np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0 and must be 0, or 1e-6 or more."),
        ({"temperature": 1e-9}, "temperature is 1e-09 and must be"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top-p is 0.0 and must be above 0 and at most 1."),
        ({"top_p": 1.1}, "top-p is 1.1"),
        ({"top_k": 0}, "top-k is 0 and must be 1 or more."),
        ({"repetition_penalty": 0.0}, "repetition penalty is 0.0 and must be above 0."),
        ({"seed": -1}, "seed is -1 and must be 0 or more."),
    ],
)
def test_options_outside_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        SamplingOptions(**options)
