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


class Vocabulary:
    """The frozen head ``[vocabulary, hidden]`` and room for the logits of some tokens, never of all.

    The room is kept from step to step: on a CPU the first touch of fresh memory costs half as much as the product.
    """

    def __init__(self, head: Tensor) -> None:
        self.head = head
        self._room = head.new_empty(0, len(head))
        self._exponentials = self._room.float()

    def loss(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Summed cross-entropy of ``softmax(hidden @ head.T)``.

        Args:
            hidden: ``[T, hidden]``, at the positions that predict ``labels``.
            labels: ``[T]``.
        """
        result: Tensor = _Loss.apply(hidden, self, labels)  # type: ignore[no-untyped-call]
        return result

    def biased_loss(self, hidden: Tensor, labels: Tensor, bias: Tensor, tokens: Sequence[int]) -> Tensor:
        """Summed cross-entropy of ``softmax(hidden @ head.T + bias)``, the hidden states as frozen as the head.

        Args:
            hidden: ``[T, hidden]``, at the positions that predict ``labels``.
            labels: ``[T]``.
            bias: ``[R, vocabulary]``, one for each record; it alone has a gradient.
            tokens: how many of the ``T`` each record has, in order.

        With ``e = exp(hidden @ head.T)`` a token's loss is ``log(sum(e * exp(bias))) - log e[label] - bias[label]``:
        the exponentials of the bias are taken once a record, not once a token, and both the loss and its gradient
        are a weighted sum over ``e``.
        """
        result: Tensor = _BiasedLoss.apply(hidden, self, labels, bias, tuple(tokens))  # type: ignore[no-untyped-call]
        return result

    @property
    def rows(self) -> int:
        """Of how many tokens logits are held at a time."""
        return max(1, CHUNK_BYTES // (4 * len(self.head)))

    def logits(self, hidden: Tensor) -> Tensor:
        """``[T, vocabulary]`` of at most ``rows`` tokens; valid until the next call."""
        if len(self._room) < len(hidden):
            self._room = self.head.new_empty(len(hidden), len(self.head))
        return torch.mm(hidden.to(self.head.dtype), self.head.T, out=self._room[: len(hidden)])

    def exponentials(self, logits: Tensor, highest: Tensor) -> Tensor:
        """``exp(logits - highest)`` of each row, in float32; valid until the next call.

        A token that is all but certain leaves a gradient of 1 - p, which 16 bits would round away.
        """
        if len(self._exponentials) < len(logits):
            self._exponentials = torch.empty_like(logits, dtype=torch.float32)
        return torch.sub(logits, highest[:, None], out=self._exponentials[: len(logits)]).exp_()


class _Loss(torch.autograd.Function):
    """The gradient is made in the forward pass, chunk by chunk."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, hidden: Tensor, vocabulary: Vocabulary, labels: Tensor) -> Tensor:
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for start in range(0, len(hidden), vocabulary.rows):
            part = slice(start, start + vocabulary.rows)
            logs = vocabulary.logits(hidden[part]).float().log_softmax(-1)
            wanted = labels[part, None]
            total -= logs.gather(1, wanted).sum(dtype=torch.float64)
            if gradient is not None:
                error = logs.exp_().scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=logs.dtype))
                gradient[part] = error.to(vocabulary.head.dtype) @ vocabulary.head
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        return total.float()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * grad, None, None


class _BiasedLoss(torch.autograd.Function):
    """The gradient of a bias is a sum over its record's tokens: the way back through the head is one row a record."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        vocabulary: Vocabulary,
        labels: Tensor,
        bias: Tensor,
        tokens: tuple[int, ...],
    ) -> Tensor:
        bias = bias.float()
        gradient = torch.zeros_like(bias)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        peaks = bias.amax(-1, keepdim=True)
        factors = (bias - peaks).exp()
        for start, stop, runs in _chunks(tokens, vocabulary.rows):
            logits = vocabulary.logits(hidden[start:stop])
            own = logits.gather(1, labels[start:stop, None]).float().squeeze(1)
            highest = logits.amax(-1).float()
            total += (highest - own).sum(dtype=torch.float64)
            exponentials = vocabulary.exponentials(logits, highest)
            for record, i, j in runs:
                of_record = exponentials[i - start : j - start]
                mass = of_record @ factors[record]
                total += (mass.log() + peaks[record] - bias[record, labels[i:j]]).sum(dtype=torch.float64)
                gradient[record] += factors[record] * (mass.reciprocal() @ of_record)
                gradient[record].index_add_(0, labels[i:j], bias.new_full((j - i,), -1))
        ctx.save_for_backward(gradient)
        return total.float()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return None, None, None, gradient * grad, None


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
