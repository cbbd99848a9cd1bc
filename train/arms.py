"""The arms of an ablation: what each is, and how it is trained and asked.

An arm's folder is named by a digest of everything that its result depends on, so that a finished arm is found
again, and one that was changed is not mistaken for it::

    WORK/<benchmark>/<arm>-<digest>/adapter/            what train.distill wrote
    WORK/<benchmark>/<arm>-<digest>/answers-<digest>.jsonl
    WORK/<benchmark>/cache-<digest>/                    shared by the arms with a side branch
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from skinedge.console import STOPPED, note
from skinedge.errors import SkinedgeError, UsageError
from skinedge.registry import check
from skinedge.weights.checkpoint import checkpoint_digest, digest_of
from train.data import data_digest, read_records
from train.diagnose import PRECISIONS, answer, read_answers, write_answers
from train.held_out import HeldOut, Verdict, judge, read_held_out, read_lines
from train.recipe import read_recipe
from train.settings import Recipe

ROOT = Path(__file__).parents[1]
SYNTHDERM, PAD = "synthderm", "pad_ufes_20"
BENCHMARKS = (SYNTHDERM, PAD)
Changes = Mapping[str, object]
T = TypeVar("T", "Arm", "Answers", "SynthDerm")
# Where something lies, and how often it is kept, changes no result.
_NO_MATTER = {("model", "folder"), ("data", "files"), ("cache", "folder"), ("cache", "shard_mb"), ("train", "save_every")}


@dataclass(frozen=True)
class Arm:
    """One way to adapt the base; no recipe: the base itself.  ``set`` replaces keys of the recipe."""

    name: str
    title: str = ""
    recipe: str = ""
    set: Changes = field(default_factory=dict)
    against: str = ""

    def changes(self, ablation: Ablation, benchmark: str, seed: int | None = None) -> Changes:
        """Keys of the recipe to replace on ``benchmark``, which has the last word but for the seed."""
        changes = {**self.set, **ablation.changes.get(benchmark, {})}
        return changes if seed is None else {**changes, "train.seed": seed}

    @property
    def shown(self) -> str:
        """Its changes for people."""
        return ", ".join(f"{key} = {json.dumps(value)}" for key, value in self.set.items()) or "-"


@dataclass(frozen=True)
class Answers:
    """How the arms are asked."""

    max_new_tokens: int = 256
    batch: int = 64
    precision: str = "f32"


@dataclass(frozen=True)
class SynthDerm:
    """How many pictures are drawn, from which seeds."""

    train: int = 4320
    train_seed: int = 101
    test: int = 720
    test_seed: int = 202


@dataclass(frozen=True)
class Ablation:
    """What is compared; ``changes`` replaces keys of every arm's recipe on one benchmark."""

    arms: tuple[Arm, ...]
    answers: Answers
    synthderm: SynthDerm
    changes: Mapping[str, Changes]


@dataclass(frozen=True)
class Benchmark:
    """A data set, cut into records to train on and records to be judged by; ``note`` is for the reader of the result."""

    name: str
    train: Path
    test: Path
    note: str = ""

    @cached_property
    def train_digest(self) -> str:
        """sha256 over records and photographs to train on."""
        return data_digest(read_records([self.train]))

    @cached_property
    def test_digest(self) -> str:
        """sha256 over records and photographs to be judged by."""
        return data_digest(read_records([self.test]))

    @cached_property
    def held_out(self) -> tuple[HeldOut, ...]:
        """What is asked."""
        return read_held_out(self.test)


@dataclass(frozen=True)
class Place:
    """Where an ablation runs."""

    base: Path
    work: Path
    device: str = "auto"
    threads: int | None = None
    quiet: bool = False

    @cached_property
    def base_digest(self) -> str:
        """sha256 over the base model."""
        return checkpoint_digest(self.base)


@dataclass(frozen=True)
class Outcome:
    """An arm's verdicts in the order of the records, or why there are none."""

    arm: Arm
    verdicts: tuple[Verdict, ...] = ()
    failure: str = ""
    model_digest: str = ""
    train_seconds: float = 0.0


class Trial:
    """One arm on one benchmark."""

    def __init__(self, arm: Arm, benchmark: Benchmark, ablation: Ablation, place: Place, *, seed: int | None = None) -> None:
        self.arm, self.benchmark, self.place = arm, benchmark, place
        self._answers = ablation.answers
        self._changes = arm.changes(ablation, benchmark.name, seed)
        self.recipe: Recipe | None = read_recipe(arm.recipe, self._changes) if arm.recipe else None

    @cached_property
    def folder(self) -> Path:
        """Where the arm is kept."""
        made_of = [self.place.base_digest, self._trained_on, self._settings, self._teacher_digest]
        return self.place.work / self.benchmark.name / f"{self.arm.name}-{digest_of(made_of)[:12]}"

    @property
    def adapter(self) -> Path:
        """The folder of the trained adapter."""
        return self.folder / "adapter"

    @property
    def trained(self) -> bool:
        """Whether there is nothing left to train."""
        weights = any(self.adapter.glob("adapter*.safetensors"))
        return self.recipe is None or (weights and not (self.adapter / "checkpoints").exists())

    @cached_property
    def answers_file(self) -> Path:
        """Where its answers are kept."""
        asked = digest_of([self.benchmark.test_digest, self._answers.max_new_tokens, self._answers.precision])
        return self.folder / f"answers-{asked[:12]}.jsonl"

    def command(self) -> list[str]:
        """The command that trains the arm, or goes on where it stopped."""
        flags: dict[str, object] = {
            "--recipe": self.arm.recipe, "--model": self.place.base, "--data": self.benchmark.train, "--out": self.adapter,
            "--cache": self._cache, "--device": self.place.device,
        }  # fmt: skip
        if self.place.threads:
            flags["--threads"] = self.place.threads
        pairs = [*flags.items(), *(("--set", f"{key}={json.dumps(value)}") for key, value in self._changes.items())]
        words = [str(word) for pair in pairs for word in pair]
        return [sys.executable, "-m", "train.distill", *words, *(["--quiet"] if self.place.quiet else [])]

    def run(self) -> Outcome:
        """Train and ask, as far as that is not done yet; what goes wrong is in the outcome.

        Raises:
            KeyboardInterrupt: somebody asked to stop; what is done is kept.
        """
        title = f"{self.benchmark.name}, {self.arm.title or self.arm.name}"
        try:
            note(f"{title}: {self.folder}")
            if not self.trained:
                self._train()
            texts = self._ask()
        except SkinedgeError as e:
            note(f"{title} failed: {e}")
            return Outcome(self.arm, failure=str(e))
        verdicts = tuple(judge(r, texts[r.id]) for r in self.benchmark.held_out)
        digest = checkpoint_digest(self.place.base, [self.adapter]) if self.recipe else self.place.base_digest
        return Outcome(self.arm, verdicts, "", digest, self._train_seconds())

    def _train(self) -> None:
        """In a process of its own, so that one arm that dies takes no other with it."""
        with subprocess.Popen(self.command(), stdout=subprocess.DEVNULL, cwd=ROOT) as process:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                process.wait()  # it was asked to stop too, and saves a checkpoint
                raise
        if code == STOPPED:
            raise KeyboardInterrupt
        if code:
            raise SkinedgeError(f"training ended with exit code {code}; its own words are above.")

    def _ask(self) -> dict[str, str]:
        if not self.answers_file.is_file():
            how, records = self._answers, self.benchmark.held_out
            texts = answer(
                self.place.base, [self.adapter] if self.recipe else [], records, max_new_tokens=how.max_new_tokens,
                batch=how.batch, precision=how.precision, device=self.place.device, threads=self.place.threads,
                quiet=self.place.quiet,
            )  # fmt: skip
            write_answers(self.answers_file, [judge(r, text) for r, text in zip(records, texts, strict=True)])
        return read_answers(self.answers_file)

    def _train_seconds(self) -> float:
        log = self.adapter / "log" / "metrics.jsonl"
        return sum(float(str(row["seconds"])) for row in read_lines(log)) if log.is_file() else 0.0

    @property
    def _trained_on(self) -> str:
        return self.benchmark.train_digest if self.recipe else ""

    @property
    def _settings(self) -> list[list[object]]:
        tables = self.recipe.tables() if self.recipe else {}
        return [[s, k, v] for s, keys in tables.items() for k, v in keys.items() if (s, k) not in _NO_MATTER]

    @cached_property
    def _teacher_digest(self) -> str:
        if self.recipe is None or not self.recipe.teacher.spec:
            return ""
        from train.teachers import open_teacher

        return open_teacher(self.recipe.teacher.spec).digest

    @property
    def _cache(self) -> Path:
        assert self.recipe is not None
        kept = [self.recipe.train.precision, self.recipe.data.cutoff, self._teacher_digest]
        made_of = [self.place.base_digest, self.benchmark.train_digest, *kept]
        return self.place.work / self.benchmark.name / f"cache-{digest_of(made_of)[:12]}"


def read_ablation(path: Path) -> Ablation:
    """An ablation from its TOML file.

    Raises:
        UsageError: not there, not TOML, or a key or value that is not known; the recipes themselves are read later.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UsageError(f"{path}: there is no such ablation.", hint="Give a TOML file with --recipe.") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: not TOML ({e}).") from e
    for section in tables:
        check(f"section in {path}", section, ("arm", "answers", "synthderm", "benchmark"))
    arms = tuple(_section(Arm, table, path) for table in tables.get("arm", ()))
    answers = _section(Answers, tables.get("answers", {}), path)
    check(f"precision in {path}", answers.precision, PRECISIONS)
    changes = {
        check(f"benchmark in {path}", n, BENCHMARKS): dict(t.get("set", {})) for n, t in tables.get("benchmark", {}).items()
    }
    _check_arms(arms, path)
    return Ablation(arms, answers, _section(SynthDerm, tables.get("synthderm", {}), path), changes)


def _check_arms(arms: tuple[Arm, ...], path: Path) -> None:
    names = tuple(arm.name for arm in arms)
    if not names or len(set(names)) < len(names):
        raise UsageError(
            f"{path}: it must have arms, each with a name of its own.", hint='Write [[arm]] and name = "..." below it.'
        )
    for number, arm in enumerate(arms):
        if arm.against:  # what an arm is tested against comes before it, as a reader expects
            check(f"arm before '{arm.name}' in {path}", arm.against, names[:number])


def _section(cls: type[T], table: Mapping[str, object], path: Path) -> T:
    for key in table:
        check(f"key in {path}", key, tuple(f.name for f in fields(cls)))
    if cls is Arm and "name" not in table:
        raise UsageError(f"{path}: an arm has no name.", hint='Write name = "..." below [[arm]].')
    made = cls(**table)  # type: ignore[arg-type]
    for name, value in asdict(made).items():
        wanted = type({f.name: f.default for f in fields(cls)}.get(name))
        if wanted in (int, str) and type(value) is not wanted:
            raise UsageError(f"{path}: {name} is {value!r} and must be {'a whole number' if wanted is int else 'a text'}.")
    return made
