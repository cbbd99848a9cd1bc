"""Filling a cache: every record once through the frozen model and the teacher, shard by shard."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from skinedge.console import counted, size
from skinedge.errors import OutputError
from skinedge.model.reference import DTYPES
from skinedge.runtime.session import Float32
from skinedge.weights.source import BF16, Array
from train.ahead import ahead
from train.backbone import Backbone
from train.cache import Shard, plan_shards, write_shard
from train.data import Record
from train.errors import DataError
from train.examples import Counts, Example, ExampleMaker

if TYPE_CHECKING:
    from train.teachers import Teacher


def survey(records: Sequence[Record], maker: ExampleMaker, quiet: bool) -> list[Counts]:
    """What each record holds; every photograph is opened and every text tokenised, before anything long begins.

    Raises:
        DataError: one of them cannot be used.
    """
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(maker.counts, records)
        return [next(results) for _ in counted("checking records", records, quiet)]


class Builder:
    """Fills the shards of a cache."""

    def __init__(
        self,
        folder: Path,
        records: Sequence[Record],
        counts: Sequence[Counts],
        maker: ExampleMaker,
        precision: str,
        hidden_size: int,
        patch_values: int,
        teacher: Teacher | None,
    ) -> None:
        self._folder, self._records, self._counts, self._maker, self._teacher = folder, records, counts, maker, teacher
        self._type, self._hidden_size, self._patch_values = precision, hidden_size, patch_values

    def plan(self, most: int) -> tuple[Shard, ...]:
        """The shards, of at most ``most`` bytes."""
        width = self._teacher.width if self._teacher else 0
        item = DTYPES[self._type].itemsize
        return plan_shards(self._counts, self._hidden_size * item + 8, self._patch_values, width * 4, most)

    def nbytes(self, records: Sequence[int] | None = None) -> int:
        """Bytes of the whole cache, or of some of its records."""
        counts = self._counts if records is None else [self._counts[i] for i in records]
        tokens, patches = sum(c.tokens for c in counts), sum(sum(c.patches) for c in counts)
        return tokens * (self._hidden_size * DTYPES[self._type].itemsize + 8) + patches * self._patch_values

    def check_room(self, missing: Sequence[Shard]) -> None:
        """Refuse to begin what cannot be finished.

        Raises:
            OutputError: the disk has less room than the cache needs.
        """
        needed = self.nbytes([i for shard in missing for i in range(shard.first, shard.stop)])
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise OutputError(
                f"{self._folder}: the cache needs {size(needed)} and the disk has {size(free)}.",
                hint="Choose another disk with --cache, or train without one (--no-cache).",
            )

    def build(self, shards: Sequence[Shard], backbone: Callable[[], Backbone], batch: int, quiet: bool) -> None:
        """Make ``shards``, ``batch`` records at a time."""
        if not shards:
            return
        model = backbone()
        work = {shard: self._groups(shard, batch) for shard in shards}
        bar = iter(counted("computing hidden states", [g for groups in work.values() for g in groups], quiet))
        for shard, groups in work.items():
            write_shard(self._folder / shard.file, self._arrays(shard, groups, model, bar))
        for _ in bar:  # so that it is seen to end
            pass

    def _groups(self, shard: Shard, batch: int) -> list[list[int]]:
        """The records of a shard in batches of like length, so that little is padded."""
        order = sorted(range(shard.first, shard.stop), key=lambda i: (self._counts[i].patches, self._counts[i].tokens))
        return [order[i : i + batch] for i in range(0, len(order), batch)]

    def _arrays(self, shard: Shard, groups: Sequence[list[int]], model: Backbone, bar: Iterator[object]) -> dict[str, Array]:
        parts: dict[int, dict[str, Array]] = {}
        with ThreadPoolExecutor(1) as pool:
            made = ahead(pool, lambda group: [self._maker(self._records[i]) for i in group], groups)
            for group, examples in zip(groups, made, strict=True):
                parts |= zip(group, self._pass(examples, model), strict=True)
                next(bar)
        ordered = [parts[i] for i in range(shard.first, shard.stop)]
        return {name: np.concatenate([p[name] for p in ordered]) for name in ordered[0]}

    def _pass(self, examples: Sequence[Example], model: Backbone) -> list[dict[str, Array]]:
        with torch.inference_mode():
            hidden = to_array(model.hidden(examples))
        ends = np.cumsum([len(e.targets) for e in examples])[:-1]
        result: list[dict[str, Array]] = []
        for example, states in zip(examples, np.split(hidden, ends), strict=True):
            if not np.isfinite(states).all():
                raise DataError(
                    f"{example.record.where}: the model's hidden states of it are not finite numbers.",
                    hint="Leave this record out, or compute in f32 (--precision f32).",
                )
            result.append({"hidden": states, "labels": example.targets, "rows": np.concatenate(example.rows)})
        if self._teacher is not None:
            for part, features in zip(result, teacher_features(self._teacher, [e.record for e in examples]), strict=True):
                part["teacher"] = features
        return result


def teacher_features(teacher: Teacher, records: Sequence[Record]) -> list[Float32]:
    """``[images, width]`` of each record.

    Raises:
        DataError: the teacher gave another number of values, or one that is not finite.
    """
    asked = [(record.id, path) for record in records for path in record.images]
    found = np.asarray(teacher.features(asked), np.float32)
    if found.shape != (len(asked), teacher.width):
        raise DataError(
            f"the teacher {teacher.name} gave features of shape {found.shape} where {(len(asked), teacher.width)} was due."
        )
    for (identity, _), row in zip(asked, found, strict=True):
        if not np.isfinite(row).all():
            raise DataError(f"the teacher {teacher.name} gave a feature of record '{identity}' that is not a finite number.")
    return np.split(found, np.cumsum([len(r.images) for r in records])[:-1])


def to_array(values: torch.Tensor) -> Array:
    """A numpy array of the same type, bfloat16 included."""
    values = values.cpu()
    return values.view(torch.int16).numpy().view(BF16) if values.dtype == torch.bfloat16 else values.numpy()
