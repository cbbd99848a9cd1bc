"""What is minimised: a batch through the student, its four losses, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.backbone import Backbone
from train.batches import Batch
from train.losses import Losses, Totals, Vocabulary, balance_loss, cosine_loss, skin_loss
from train.settings import LossSection
from train.students import Said


class Objective:
    """The losses of a student.

    Args:
        weights: those of the recipe.
        head: ``[vocabulary, hidden]``, frozen.
        backbone: makes the hidden states of a plain loop whose student does not; ``None`` otherwise.
        reduce: adds a tensor up over all processes.
    """

    def __init__(self, weights: LossSection, head: Tensor, backbone: Backbone | None, reduce: Callable[[Tensor], Tensor]) -> None:
        self._weights, self._vocabulary, self._backbone, self._reduce = weights, Vocabulary(head), backbone, reduce

    def shares(self, student: nn.Module, batch: Batch, whole: Totals) -> Losses:
        """What ``batch`` adds to each loss of the step that it is a part of."""
        if self._backbone is not None:
            with torch.no_grad():
                batch = replace(batch, hidden=self._backbone.hidden(batch.examples))
        said: Said = student(batch)
        if said.branch is None:
            ce = self._vocabulary.loss(_given(said.hidden), batch.labels)
            return Losses(ce / whole.tokens, *ce.new_zeros(3))
        branch = said.branch
        head = self._vocabulary.head
        bias = functional.linear(branch.shift.to(head.dtype), head).float()
        ce = self._vocabulary.biased_loss(_given(batch.hidden), batch.labels, bias, batch.tokens)
        # Without a teacher it is 0, but of the embedding: DDP waits for a gradient of every weight.
        cosine = 0 * branch.embedding.sum() if batch.teacher is None else cosine_loss(branch.embedding, batch.teacher)
        balance = balance_loss(branch.probability, branch.selected, sum(batch.patches), self._reduce)
        skin = skin_loss(branch.skin_logits, batch.skin)
        return Losses(ce / whole.tokens, cosine / whole.images, balance / whole.parts, skin / max(1, whole.labelled))

    def total(self, losses: Losses) -> Tensor:
        """The weighted sum."""
        w = self._weights
        return losses.ce * w.ce + losses.cosine * w.cosine + losses.balance * w.balance + losses.skin * w.skin


def _given(hidden: Tensor | None) -> Tensor:
    assert hidden is not None, "a batch without hidden states needs a backbone or a student that makes them"
    return hidden
