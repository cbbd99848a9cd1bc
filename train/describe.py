"""What a run would train, before it does."""

from __future__ import annotations

import math

from skinedge.console import Json, say, size
from skinedge.model.names import expected_shapes
from skinedge.model.reference import DTYPES
from train.cache_build import survey
from train.examples import Counts
from train.job import Job
from train.losses import CHUNK_BYTES

SAMPLE = 64  # records that are looked at to guess how much all of them hold
_PER_WEIGHT = 16  # bytes: the weight, its gradient and AdamW's two averages, all float32


def describe(job: Job) -> dict[str, Json]:
    """Parameters, steps, and estimates in bytes of the cache, the frozen model and the memory; nothing is written."""
    job.run.check(job.identity, job.adapter_file)
    looked = survey(job.records[:SAMPLE], job.sources.maker, quiet=True)
    counts = [looked[i % len(looked)] for i in range(len(job.records))]
    module = job.student().module
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = 0 if job.recipe.cached else _model(job)
    head = job.head.numel() * job.head.element_size()
    return {
        "adapter": job.recipe.adapter.kind,
        "parameters": trained,
        "records": len(job.records),
        "tokens": sum(c.tokens for c in counts),
        "steps": job.schedule.steps,
        "step_records": job.schedule.step_records,
        "processes": job.schedule.processes,
        "cache": job.sources.builder(job.cache_folder, counts).nbytes() if job.recipe.cached else 0,
        "model": _model(job),
        "memory": trained * _PER_WEIGHT + frozen + head + min(CHUNK_BYTES, _logits(job, looked)),
        "out": str(job.run.out),
    }


def show(job: Job) -> None:
    """``describe`` for people."""
    found = describe(job)
    cache = f"{size(_int(found['cache']))} in {job.cache_folder}" if job.recipe.cached else "none: the model runs at every step"
    say(f"{found['adapter']} of {_int(found['parameters']):,} weights on {job.folder}")
    say(f"data      {found['records']} records, about {_int(found['tokens']):,} supervised tokens")
    say(f"steps     {found['steps']}, each of {found['step_records']} records on {found['processes']} process(es)")
    say(f"cache     {cache}")
    filling = f"{size(_int(found['model']))} and a batch while the cache is filled, then " if job.recipe.cached else ""
    say(f"memory    about {filling}{size(_int(found['memory']))} and a batch")


def _model(job: Job) -> int:
    """Bytes of the frozen model's weights in the precision of the run."""
    shapes = expected_shapes(job.config).values()
    return sum(math.prod(shape) for shape in shapes) * DTYPES[job.recipe.train.precision].itemsize


def _logits(job: Job, counts: list[Counts]) -> int:
    return max(c.tokens for c in counts) * job.recipe.train.batch * job.config.text.vocab_size * 4


def _int(value: Json) -> int:
    assert isinstance(value, int)
    return value
