"""The four losses of the distillation, each apart (REFERENCE section 2).

======== =====================================================================================
ce       cross-entropy of the supervised tokens, mean over the tokens of a step
cosine   ``10 * mean(1 - cos(out_proj(v), teacher))``, mean over its images
balance  ``experts * sum_e mean_prob_e * mean_selected_e``, summed over the layers
skin     cross-entropy of the skin type, mean over its images that have one
======== =====================================================================================

A step may be cut into parts (accumulation, processes).  Every part knows how much the whole step holds
(``Totals``), gives its share of each mean, and the shares add up to the step's losses however it is cut.
The router balance is no mean: it is taken over what all processes see at once, and averaged over the
accumulated parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from train.data import NO_LABEL

CHUNK_BYTES = 256 << 20  # of float32 logits at a time: 441 tokens at the vocabulary of 7B
NAMES = ("ce", "cosine", "balance", "skin")


@dataclass(frozen=True)
class Totals:
    """What a whole step holds, over all its parts."""

    tokens: int
    images: int
    labelled: int  # images with a skin type
    parts: int  # accumulated parts, those of all processes counted once


class Losses(NamedTuple):
    """One part's shares, scalars in float32 that carry the gradient."""

    ce: Tensor
    cosine: Tensor
    balance: Tensor
    skin: Tensor


def vocabulary_loss(
    hidden: Tensor, head: Tensor, labels: Tensor, bias: Tensor | None = None, tokens: Sequence[int] = ()
) -> Tensor:
    """Summed cross-entropy of ``softmax(hidden @ head.T + bias)``, never holding all logits.

    Args:
        hidden: ``[T, hidden]``, at the positions that predict ``labels``.
        head: ``[vocabulary, hidden]``, frozen.
        labels: ``[T]``.
        bias: ``[R, vocabulary]``, one for each record, or ``None``.
        tokens: how many of the ``T`` each record has, in order; only read with a bias.

    The gradients are made in the forward pass, chunk by chunk.  That of a bias is a sum over its record's
    tokens, so its way back through the head costs one row of logits a record instead of one a token.
    """
    runs = tuple(tokens) if bias is not None else (len(labels),)
    result: Tensor = _VocabularyLoss.apply(hidden, head, labels, bias, runs)  # type: ignore[no-untyped-call]
    return result


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        head: Tensor,
        labels: Tensor,
        bias: Tensor | None,
        tokens: tuple[int, ...],
    ) -> Tensor:
        wants_hidden, _, _, wants_bias, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_bias = torch.zeros_like(bias) if bias is not None and wants_bias else None
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for start, stop, runs in _chunks(tokens, max(1, CHUNK_BYTES // (4 * len(head)))):
            chunk = hidden[start:stop].to(head.dtype) @ head.T
            for record, i, j in runs:
                logits = chunk[i - start : j - start]
                logs = (logits.float() if bias is None else torch.add(bias[record], logits)).log_softmax(-1)
                wanted = labels[i:j, None]
                total -= logs.gather(1, wanted).sum(dtype=torch.float64)
                if d_hidden is None and d_bias is None:
                    continue
                error = logs.exp_().scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=logs.dtype))
                if d_bias is not None:
                    d_bias[record] += error.sum(0)
                if d_hidden is not None:
                    d_hidden[i:j] = error.to(head.dtype) @ head
        ctx.save_for_backward(*(g for g in (d_hidden, d_bias) if g is not None))
        ctx.wants = (d_hidden is not None, d_bias is not None)  # type: ignore[attr-defined]
        return total.float()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = list(ctx.saved_tensors)  # type: ignore[attr-defined]
        d_hidden, d_bias = (saved.pop(0) * grad if wanted else None for wanted in ctx.wants)  # type: ignore[attr-defined]
        return d_hidden, None, None, d_bias, None


def _chunks(tokens: Sequence[int], most: int) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
    """Spans of at most ``most`` tokens, each with its runs ``(record, start, stop)`` of one record's tokens."""
    ends = torch.tensor(tokens).cumsum(0).tolist()
    total = ends[-1] if ends else 0
    record = 0
    for start in range(0, total, most):
        stop, runs = min(total, start + most), []
        at = start
        while at < stop:
            while ends[record] <= at:
                record += 1
            runs.append((record, at, min(stop, ends[record])))
            at = runs[-1][2]
        yield start, stop, runs


def cosine_loss(embedding: Tensor, teacher: Tensor) -> Tensor:
    """``10 * sum(1 - cos)`` over the images ``[I, teacher]``."""
    return 10 * (1 - functional.cosine_similarity(embedding.float(), teacher.float(), dim=-1)).sum()


def balance_loss(probability: Tensor, selected: Tensor, patches: float, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """The router balance, from sums over patches ``[layers, experts]``; ``reduce`` adds up over all processes.

    Only the probabilities carry a gradient, so each process differentiates its own and the others' choices
    are constants: the shares add up to the loss of all.
    """
    layers, experts = selected.shape
    if not experts:
        return probability.sum()
    seen = reduce(torch.cat([selected.detach().flatten(), selected.new_tensor([patches])]))
    chosen = (seen[:-1] / seen[-1]).view(layers, experts)
    return experts * ((probability / seen[-1]) * chosen).sum()


def skin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy of the skin types ``[I, 3]``; images labelled -100 are left out."""
    return functional.cross_entropy(logits.float(), labels, ignore_index=NO_LABEL, reduction="sum")
