"""Choosing the next token from logits, the same for every target.

Rules and their order are those of ``transformers`` (repetition penalty, temperature, top-k, top-p), so that an
answer here and an answer there are drawn from the same distribution.  Same logits, options and seed: same token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skinedge.errors import NotFiniteError, UsageError
from skinedge.runtime.session import Float32, Int64

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen; the defaults take the likeliest one, which is how parity is judged.

    ``temperature`` 0 is greedy, and ``top_p``, ``top_k`` and ``seed`` then have no effect.  The repetition
    penalty applies to every token of the prompt and of the answer so far.

    Raises:
        UsageError: a value outside its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        warm = 1e-6 <= self.temperature < math.inf  # less would overflow in float32
        _require("temperature", self.temperature, "0, or 1e-6 or more", warm or self.temperature == 0)
        _require("top-p", self.top_p, "above 0 and at most 1", 0 < self.top_p <= 1)
        _require("top-k", self.top_k, "1 or more", self.top_k is None or self.top_k >= 1)
        _require("repetition penalty", self.repetition_penalty, "above 0", 0 < self.repetition_penalty < math.inf)
        _require("seed", self.seed, "0 or more", self.seed >= 0)


class Sampler:
    """Chooses the tokens of one answer.

    Args:
        options: how.
        prompt: token ids of the prompt, for the repetition penalty.
    """

    def __init__(self, options: SamplingOptions, prompt: Int64 | Iterable[int] = ()) -> None:
        self._options = options
        self._seen = set(map(int, prompt))
        self._random = np.random.default_rng(options.seed)

    def sample(self, logits: Float32) -> int:
        """The next token; it counts as seen from now on.

        Args:
            logits: ``[vocabulary]``; left as they are.

        Raises:
            NotFiniteError: the logits hold NaN or infinity, or rule every token out.
        """
        highest = float(logits.max())  # NaN if there is any NaN
        if not math.isfinite(highest):
            raise NotFiniteError(
                f"the model gave {highest} instead of a logit, so no next token can be chosen.",
                hint="Its numbers overflowed: export with bf16 or f32 activations, or with --overflow.",
            )
        scores = self._penalised(logits)
        token = int(np.argmax(scores)) if self._options.temperature == 0 else self._draw(scores)
        self._seen.add(token)
        return token

    def _penalised(self, logits: Float32) -> Float32:
        """Positive logits of seen tokens divided by the penalty, negative ones multiplied (arXiv 1909.05858)."""
        penalty = np.float32(self._options.repetition_penalty)
        if penalty == 1 or not self._seen:
            return logits
        scores = logits.copy()
        seen = np.fromiter(self._seen, np.int64)
        values = scores[seen]
        scores[seen] = np.where(values < 0, values * penalty, values / penalty)
        return scores

    def _draw(self, scores: Float32) -> int:
        scaled = scores / np.float32(self._options.temperature)
        if self._options.top_k is not None:
            scaled = keep_top_k(scaled, self._options.top_k)
        if self._options.top_p < 1:
            scaled = keep_top_p(scaled, self._options.top_p)
        edges = np.cumsum(_softmax(scaled))
        # Strictly below the last edge, also after rounding: the first edge above it is a token that can be drawn.
        draw = min(self._random.random() * edges[-1], np.nextafter(edges[-1], 0))
        return int(np.searchsorted(edges, draw, side="right"))


def keep_top_k(scores: Float32, k: int) -> Float32:
    """All but the ``k`` highest scores, and those equal to the last of them, become -inf."""
    if k >= len(scores):
        return scores
    least = np.partition(scores, -k)[-k]
    return np.where(scores < least, np.float32(-np.inf), scores)


def keep_top_p(scores: Float32, p: float) -> Float32:
    """The smallest set of likeliest tokens whose probabilities sum to ``p`` or more; others become -inf (arXiv 1904.09751)."""
    probabilities = _softmax(scores)
    # Tokens below an equal share of 1 - p cannot sum to 1 - p: most of the vocabulary goes without being sorted.
    likely = probabilities >= (1 - p) / len(scores)
    candidates = np.flatnonzero(likely)
    rising = candidates[np.argsort(scores[candidates], kind="stable")]
    unlikely = probabilities[~likely].sum() + np.cumsum(probabilities[rising]) <= 1 - p
    unlikely[-1] = False
    chosen = rising[~unlikely]
    kept = np.full_like(scores, -np.inf)
    kept[chosen] = scores[chosen]
    return kept


def _softmax(scores: Float32) -> Float64:
    powers = np.exp(scores.astype(np.float64) - float(scores.max()))
    probabilities: Float64 = powers / powers.sum()
    return probabilities


def _require(name: str, value: object, range_: str, holds: bool) -> None:
    if not holds:
        raise UsageError(f"{name} is {value} and must be {range_}.")
