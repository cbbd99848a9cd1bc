"""How far two distributions over the vocabulary are apart.

Definitions follow REFERENCE section 7 and ``llama-perplexity --kl-divergence``: natural logarithms, the
reference first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skinedge.runtime.session import Float32

_BLOCK = 1 << 22  # logits at a time: 32 MiB in 64 bits
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LogitDistance:
    """Over ``n`` positions: largest absolute logit difference, KL in nats, share of equal arg max."""

    n: int
    max_abs: float
    kl_mean: float
    kl_max: float
    top1: float


def log_softmax(logits: Float32) -> Float64:
    """Log-probabilities over the last axis, in float64."""
    x = logits.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    result: Float64 = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return result


def kl_divergence(reference: Float32, other: Float32) -> Float64:
    """KL(reference || other) per position, in nats; never below zero by rounding."""
    return _kl(log_softmax(reference), log_softmax(other))


def along(reference: Float32, other: Float32, chosen: Sequence[int]) -> tuple[Float64, npt.NDArray[np.bool_], Float64, Float64]:
    """Two arms along one text: KL(reference || other) in nats, same arg max, and what each gives to the ``chosen`` token.

    Args:
        reference: logits ``[n, vocabulary]``.
        other: those of the other arm.
        chosen: the token at each position, ``n``.
    """
    tokens, same = np.asarray(chosen), reference.argmax(-1) == other.argmax(-1)
    block = max(1, _BLOCK // reference.shape[-1])
    parts = []
    for first in range(0, len(reference), block):
        here = slice(first, first + block)
        p, q = log_softmax(reference[here]), log_softmax(other[here])
        rows = np.arange(len(p)), tokens[here]
        parts.append((_kl(p, q), np.exp(p[rows]), np.exp(q[rows])))
    kl, ours, theirs = (np.concatenate(column) for column in zip(*parts, strict=True))
    return kl, same, ours, theirs


def first_different(a: Sequence[int], b: Sequence[int]) -> int | None:
    """The number of the first token that is not the same, ``None`` if both are the same to the end."""
    different = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(different, None if len(a) == len(b) else min(len(a), len(b)))


def logit_distance(reference: Float32, other: Float32) -> LogitDistance:
    """Compare logits ``[n, vocabulary]`` position by position."""
    kl = kl_divergence(reference, other)
    return LogitDistance(
        n=len(reference),
        max_abs=float(np.abs(reference.astype(np.float64) - other).max()),
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        top1=float((reference.argmax(-1) == other.argmax(-1)).mean()),
    )


def _kl(p: Float64, q: Float64) -> Float64:
    """Of log-probabilities, over the last axis."""
    result: Float64 = np.maximum((np.exp(p) * (p - q)).sum(-1), 0.0)
    return result
