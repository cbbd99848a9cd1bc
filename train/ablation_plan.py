"""What an ablation would train, and about how long it would take here; nothing is written."""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skinedge.console import Json, say, table
from train.arms import PAD, Ablation, Arm, Place
from train.held_out import read_held_out, read_lines
from train.recipe import read_recipe
from train.schedule import Schedule
from train.settings import LoraSection, Recipe

_SAMPLE = 32  # records that are timed
_SHORT = 40  # tokens of their answers
_LONG = 120  # tokens of an answer of SynthDerm
# A record's turn in training, in forward passes of the frozen model over it; measured on the tiny base with two cores.
_CACHED_TURN, _LORA_TURN = 0.2, 3.5


@dataclass(frozen=True)
class Counts:
    """Records to train on and to be judged by."""

    train: int
    test: int


@dataclass(frozen=True)
class Speed:
    """Seconds of this machine: one record through the frozen model, one token of one answer."""

    forward: float
    token: float


@dataclass(frozen=True)
class Planned:
    """One arm of the plan; ``steps`` is 0 where nothing is trained."""

    arm: Arm
    steps: int
    records: int
    seconds: float


def count_records(name: str, what: Ablation, train: Path | None, test: Path | None, pad: Path) -> Counts:
    """How many records a benchmark has, without drawing or writing any."""
    if name == PAD:
        with (pad / "metadata.csv").open(encoding="utf-8-sig", newline="") as f:
            splits = [row["split"] for row in csv.DictReader(f)]
        return Counts(splits.count("train"), splits.count("val"))
    if train is None or test is None:
        return Counts(what.synthderm.train, what.synthderm.test)
    return Counts(*(sum(1 for _ in read_lines(file)) for file in (train, test)))


def measure(what: Ablation, place: Place) -> Speed:
    """Time a few records of SynthDerm on this machine."""
    import torch

    from skinedge.model.config import read_config
    from skinedge.synthderm.dataset import write_dataset
    from train.backbone import Backbone
    from train.data import read_records
    from train.diagnose import answer
    from train.examples import ExampleMaker

    if place.threads:
        torch.set_num_threads(place.threads)
    with tempfile.TemporaryDirectory() as scratch:
        file = write_dataset(Path(scratch) / "few", _SAMPLE, 0, workers=1)
        config = read_config(place.base)
        maker = ExampleMaker(place.base, config, 4096)
        examples = [maker(record) for record in read_records([file])]
        backbone = Backbone.frozen(place.base, config, "bf16", torch.device("cpu"))
        with torch.inference_mode():
            backbone.hidden(examples)  # the first pass is slower than any other
            begin = time.perf_counter()
            backbone.hidden(examples)
        forward = (time.perf_counter() - begin) / _SAMPLE
        asked, how = read_held_out(file), what.answers
        tokens = min(_SHORT, how.max_new_tokens)
        begin = time.perf_counter()
        answer(place.base, [], asked, max_new_tokens=tokens, batch=how.batch, precision=how.precision, device="cpu")
        token = (time.perf_counter() - begin) / (_SAMPLE * tokens)
    return Speed(forward, token)


def plan(name: str, what: Ablation, counts: Counts, speed: Speed, seed: int | None) -> list[Planned]:
    """The arms of one benchmark with their steps and a guess of their seconds."""
    asking = counts.test * min(_LONG, what.answers.max_new_tokens) * speed.token
    planned, cached = [], False
    for arm in what.arms:
        if not arm.recipe:
            planned.append(Planned(arm, 0, 0, asking))
            continue
        recipe = read_recipe(arm.recipe, arm.changes(what, name, seed))
        schedule = Schedule.of(recipe, counts.train, 1)
        turns = schedule.steps * schedule.step_records
        building = 0 if cached or not recipe.cached else counts.train * speed.forward
        cached |= recipe.cached
        planned.append(Planned(arm, schedule.steps, counts.train, asking + building + turns * _turn(recipe) * speed.forward))
    return planned


def show(name: str, planned: Sequence[Planned], counts: Counts) -> None:
    """The plan for people."""
    say(f"{name}: {counts.train} records to train on, {counts.test} held out")
    rows = [
        (p.arm.name, p.arm.recipe or "-", p.arm.shown, str(p.steps or "-"), p.arm.against or "-", _minutes(p.seconds))
        for p in planned
    ]
    table(("arm", "recipe", "changes", "steps", "against", "guess"), rows)
    say(f"All arms: {_minutes(sum(p.seconds for p in planned))}, guessed from {_SAMPLE} records timed on this machine.")
    say()


def to_json(name: str, planned: Sequence[Planned], counts: Counts) -> Json:
    """The plan as JSON."""
    arms: list[Json] = [
        {"name": p.arm.name, "recipe": p.arm.recipe, "steps": p.steps, "against": p.arm.against, "guessed_seconds": p.seconds}
        for p in planned
    ]
    return {"benchmark": name, "train": counts.train, "test": counts.test, "arms": arms}


def _turn(recipe: Recipe) -> float:
    if isinstance(recipe.adapter, LoraSection):
        return _LORA_TURN
    return _CACHED_TURN if recipe.cached else 1 + _CACHED_TURN


def _minutes(seconds: float) -> str:
    return f"about {max(1, round(seconds / 60))} min"
