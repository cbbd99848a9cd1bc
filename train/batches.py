"""Batches, and where they come from: made anew at each step (the plain loop) or read from the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skinedge.runtime.session import Float32
from train.backbone import to_tensor
from train.data import NO_LABEL, Record
from train.examples import Counts, Example, ExampleMaker
from train.losses import Totals
from train.rows import UInt8, normalise


@dataclass(frozen=True)
class Batch:
    """``R`` records with ``I`` images, ``N`` patches and ``T`` supervised tokens, each one after another.

    ``hidden`` is ``None`` where the student makes it from ``examples``.
    """

    ids: tuple[str, ...]
    hidden: Tensor | None  # [T, hidden]
    labels: Tensor  # [T]
    tokens: tuple[int, ...]  # per record
    rows: Tensor  # [N, patch values of one frame]
    patches: tuple[int, ...]  # per image
    images: tuple[int, ...]  # per record
    skin: Tensor  # [I]
    teacher: Tensor | None  # [I, teacher]
    examples: tuple[Example, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on ``device``."""
        hidden, teacher = (None if t is None else t.to(device) for t in (self.hidden, self.teacher))
        labels, rows, skin = (t.to(device) for t in (self.labels, self.rows, self.skin))
        return replace(self, hidden=hidden, teacher=teacher, labels=labels, rows=rows, skin=skin)


class Source(Protocol):
    """A data set from which any records can be had as a batch."""

    @property
    def counts(self) -> Sequence[Counts]:
        """What each record holds."""
        ...

    @property
    def ids(self) -> Sequence[str]:
        """The records' ids."""
        ...

    @property
    def skin(self) -> Sequence[int]:
        """The records' skin types, -100 where there is none."""
        ...

    def batch(self, indices: Sequence[int]) -> Batch:
        """The records at ``indices``; called from a thread."""
        ...


class PlainSource:
    """Records made into examples whenever they are needed."""

    def __init__(
        self,
        records: Sequence[Record],
        counts: Sequence[Counts],
        maker: ExampleMaker,
        teacher: Mapping[str, Float32],
        table: npt.NDArray[np.generic],
    ) -> None:
        self._records, self._maker, self._teacher, self._table = records, maker, teacher, table
        self.counts = counts
        self.ids = [r.id for r in records]
        self.skin = [r.skin for r in records]

    def batch(self, indices: Sequence[int]) -> Batch:
        examples = tuple(self._maker(self._records[i]) for i in indices)
        features = [self._teacher[e.record.id] for e in examples] if self._teacher else None
        return assemble(
            [e.record.id for e in examples],
            None,
            [e.targets for e in examples],
            [e.rows for e in examples],
            [e.record.skin for e in examples],
            features,
            self._table,
            examples,
        )


def assemble(
    ids: Sequence[str],
    hidden: Sequence[npt.NDArray[np.generic]] | None,
    labels: Sequence[npt.NDArray[np.generic]],
    rows: Sequence[Sequence[UInt8]],
    skin: Sequence[int],
    teacher: Sequence[Float32] | None,
    table: npt.NDArray[np.generic],
    examples: tuple[Example, ...] = (),
) -> Batch:
    """A batch from its records' parts; bytes of pictures are normalised through ``table``."""
    return Batch(
        ids=tuple(ids),
        hidden=None if hidden is None else to_tensor(np.concatenate(hidden)),
        labels=torch.from_numpy(np.concatenate(labels).astype(np.int64)),
        tokens=tuple(map(len, labels)),
        rows=to_tensor(normalise(np.concatenate([r for record in rows for r in record]), table)),
        patches=tuple(len(r) for record in rows for r in record),
        images=tuple(map(len, rows)),
        skin=torch.tensor([label for label, record in zip(skin, rows, strict=True) for _ in record]),
        teacher=None if teacher is None else torch.from_numpy(np.concatenate(teacher)),
        examples=examples,
    )


def totals(source: Source, indices: Sequence[int], parts: int) -> Totals:
    """What the records at ``indices``, one whole step, hold."""
    images = [len(source.counts[i].patches) for i in indices]
    labelled = sum(n for n, i in zip(images, indices, strict=True) if source.skin[i] != NO_LABEL)
    return Totals(sum(source.counts[i].tokens for i in indices), sum(images), labelled, parts)
