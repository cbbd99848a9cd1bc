"""Where a run's batches come from: the cache, filled first if need be, or the records themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import accelerate
from accelerate.utils import gather_object

from skinedge.console import counted, note
from skinedge.model.config import ModelConfig
from skinedge.runtime.session import Float32
from skinedge.weights.source import BF16, Array
from train.backbone import Backbone
from train.batches import PlainSource, Source
from train.cache import CachedSource, Index, MadeOf, claim, missing_shards, read_index, verify, write_index
from train.cache_build import Builder, survey, teacher_features
from train.data import Record
from train.examples import Counts, ExampleMaker
from train.rows import CHANNELS, value_table
from train.settings import Recipe

if TYPE_CHECKING:
    from train.teachers import Teacher


class Sources:
    """The data of a run, on all its processes."""

    def __init__(
        self,
        recipe: Recipe,
        config: ModelConfig,
        records: Sequence[Record],
        teacher: Teacher | None,
        accelerator: accelerate.Accelerator,
        quiet: bool,
    ) -> None:
        self._recipe, self._config, self._records, self._teacher = recipe, config, records, teacher
        self._accelerator, self._quiet = accelerator, quiet
        self._share = slice(accelerator.process_index, None, accelerator.num_processes)
        self._folder, self._precision = Path(recipe.model.folder), recipe.train.precision
        self.maker = ExampleMaker(self._folder, config, recipe.data.cutoff)

    def cached(self, folder: Path, made_of: MadeOf) -> Source:
        """The cache in ``folder``, made or completed if need be; without the model if not.

        Raises:
            CacheError: the folder holds another cache, or a damaged one.
            DataError: a record cannot be used.
            OutputError: the disk has too little room.
        """
        main = self._accelerator.is_main_process
        if main:
            claim(folder, made_of)
        self._wait()
        index = read_index(folder)
        if index is None or missing_shards(folder, index.shards):
            index = self._fill(folder, index)
        if main:
            verify(folder, index, quiet=self._quiet)
        self._wait()
        return CachedSource(folder, index, self._table)

    def plain(self) -> Source:
        """Records made into examples at each step; the teacher is asked once, before the first.

        Raises:
            DataError: a record cannot be used.
        """
        counts = self._survey()
        features: dict[str, Float32] = {}
        if self._teacher is not None:
            size = self._recipe.cache.batch
            groups = [self._records[i : i + size] for i in range(0, len(self._records), size)]
            for group in counted("asking the teacher", groups, self._quiet):
                features |= zip((r.id for r in group), teacher_features(self._teacher, group), strict=True)
        return PlainSource(self._records, counts, self.maker, features, self._table)

    def backbone(self) -> Backbone:
        """The frozen model."""
        return Backbone.frozen(self._folder, self._config, self._precision, self._accelerator.device)

    def builder(self, folder: Path, counts: Sequence[Counts]) -> Builder:
        """What fills a cache, given what each record holds."""
        values = CHANNELS * self._config.vision.patch_size**2
        hidden = self._config.text.hidden_size
        return Builder(folder, self._records, counts, self.maker, self._precision, hidden, values, self._teacher)

    def _fill(self, folder: Path, index: Index | None) -> Index:
        """Compute what the cache lacks; every process does its share."""
        counts = self._survey()
        builder = self.builder(folder, counts)
        plan = index.shards if index else builder.plan(self._recipe.cache.shard_mb << 20)
        missing = missing_shards(folder, plan)
        builder.check_room(missing)
        self._wait()
        builder.build(missing[self._share], self.backbone, self._recipe.cache.batch, self._quiet)
        self._wait()
        if self._accelerator.is_main_process:
            write_index(folder, plan, [r.id for r in self._records], counts, [r.skin for r in self._records])
        self._wait()
        finished = read_index(folder)
        assert finished is not None
        return finished

    def _survey(self) -> list[Counts]:
        """What each record holds; every process looks at its share."""
        mine = survey(self._records[self._share], self.maker, self._quiet)
        places = range(len(self._records))[self._share]
        found: list[tuple[int, Counts]] = gather_object(list(zip(places, mine, strict=True)))
        counts = [count for _, count in sorted(found, key=lambda pair: pair[0])]
        if (cut := sum(c.cut for c in counts)) and not self._quiet:
            note(f"{cut} of {len(counts)} records are longer than {self._recipe.data.cutoff} tokens and are cut off there.")
        return counts

    @property
    def _table(self) -> Array:
        """What a byte of a picture becomes; in bf16 it is rounded here, once, and not by the first product."""
        table = value_table(self.maker.processor)
        return table.astype(BF16) if self._precision == "bf16" else table

    def _wait(self) -> None:
        self._accelerator.wait_for_everyone()
