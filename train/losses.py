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


def vocabulary_loss(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy of ``softmax(hidden @ head.T)``, never holding all logits.

    Args:
        hidden: ``[T, hidden]``, at the positions that predict ``labels``.
        head: ``[vocabulary, hidden]``, frozen.
        labels: ``[T]``.
    """
    result: Tensor = _VocabularyLoss.apply(hidden, head, labels)  # type: ignore[no-untyped-call]
    return result


def biased_vocabulary_loss(hidden: Tensor, head: Tensor, labels: Tensor, bias: Tensor, tokens: Sequence[int]) -> Tensor:
    """Summed cross-entropy of ``softmax(hidden @ head.T + bias)``, the hidden states as frozen as the head.

    Args:
        hidden: ``[T, hidden]``, at the positions that predict ``labels``.
        head: ``[vocabulary, hidden]``.
        labels: ``[T]``.
        bias: ``[R, vocabulary]``, one for each record; it alone has a gradient.
        tokens: how many of the ``T`` each record has, in order.

    With ``p = softmax(hidden @ head.T)`` a token's loss is ``log(sum(p * exp(bias))) - log p[label] - bias[label]``:
    the exponentials of the bias are taken once a record, not once a token, and both the loss and its gradient
    are a weighted sum over ``p``.
    """
    result: Tensor = _BiasedVocabularyLoss.apply(hidden, head, labels, bias, tuple(tokens))  # type: ignore[no-untyped-call]
    return result


class _VocabularyLoss(torch.autograd.Function):
    """The gradient is made in the forward pass, chunk by chunk."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for start in range(0, len(hidden), step := _rows(head)):
            part = slice(start, start + step)
            logs = (hidden[part].to(head.dtype) @ head.T).float().log_softmax(-1)
            wanted = labels[part, None]
            total -= logs.gather(1, wanted).sum(dtype=torch.float64)
            if gradient is not None:
                error = logs.exp_().scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=logs.dtype))
                gradient[part] = error.to(head.dtype) @ head
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        return total.float()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * grad, None, None


class _BiasedVocabularyLoss(torch.autograd.Function):
    """The gradient of a bias is a sum over its record's tokens: the way back through the head is one row a record."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        head: Tensor,
        labels: Tensor,
        bias: Tensor,
        tokens: tuple[int, ...],
    ) -> Tensor:
        bias = bias.float()
        gradient = torch.zeros_like(bias)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        peaks = bias.amax(-1, keepdim=True)
        factors = (bias - peaks).exp()
        # Memory that is had once: the first touch of fresh pages costs as much as the softmax.
        most = min(len(hidden), _rows(head))
        products, exponentials = head.new_empty(2, most, len(head))
        for start, stop, runs in _chunks(tokens, most):
            part = slice(stop - start)
            logits = torch.mm(hidden[start:stop].to(head.dtype), head.T, out=products[part])
            shares = torch.softmax(logits, -1, out=exponentials[part])
            own = logits.gather(1, labels[start:stop, None]).squeeze(1).float()
            whole = logits.amax(-1).float() - shares.amax(-1).float().log()  # of the exponentials of all logits
            total += (whole - own).sum(dtype=torch.float64)
            for record, i, j in runs:
                of_record = shares[i - start : j - start]
                mass = (of_record @ factors[record].to(head.dtype)).float()
                total += (mass.log() + peaks[record] - bias[record, labels[i:j]]).sum(dtype=torch.float64)
                gradient[record] += factors[record] * (mass.reciprocal().to(head.dtype) @ of_record)
                gradient[record].index_add_(0, labels[i:j], bias.new_full((j - i,), -1))
        ctx.save_for_backward(gradient)
        return total.float()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return None, None, None, gradient * grad, None


def _rows(head: Tensor) -> int:
    """How many tokens' logits are held at a time."""
    return max(1, CHUNK_BYTES // (4 * len(head)))


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
