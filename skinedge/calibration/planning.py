"""From a budget in bytes to a scheme for every matrix: the steps of ``skinedge quantize``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import load_target
from skinedge.calibration.budget import BudgetPlan, Choice, Group, Menu, scaled
from skinedge.calibration.candidates import Candidates, GgufCandidates, OnnxCandidates, output_error
from skinedge.calibration.samples import Sample, SampleMaker
from skinedge.calibration.statistics import Calibration
from skinedge.console import counted, size
from skinedge.errors import UsageError
from skinedge.model.config import read_config
from skinedge.records import Conversation
from skinedge.registry import check
from skinedge.runtime.prompt import Message
from skinedge.targets._contract import ExportOptions
from skinedge.weights.checkpoint import Checkpoint, open_checkpoint
from skinedge.weights.source import Float32
from skinedge.weights.stream import Progress

if TYPE_CHECKING:
    from skinedge.calibration.damage import Asked

ANSWER = "<answer>"
TRT_SCHEMES = ("int4_b128", "int4_b64", "int4", "int8")


def candidates(target: str, calibration: Calibration, schemes: Sequence[str] | None = None) -> Candidates:
    """What ``target`` offers for single matrices.

    Raises:
        UsageError: the target mixes no schemes, or has no such one.
    """
    offers: dict[str, Candidates] = {
        "gguf": GgufCandidates(calibration),
        "onnx": OnnxCandidates(calibration),
        # TensorRT's head is in eight bits, its activations in sixteen, and it has no four-bit zero points.
        "trt": OnnxCandidates(calibration, TRT_SCHEMES, activations="f16", head=False),
    }
    if target not in offers:
        raise UsageError(f"{target} takes one scheme for all matrices.", hint=f"A budget is for {', '.join(offers)}.")
    found = offers[target]
    for scheme in schemes or ():
        check(f"scheme of {target} for single matrices", scheme, found.schemes)
    return found.only(tuple(s for s in found.schemes if s in schemes)) if schemes else found


@dataclass(frozen=True)
class Sizes:
    """What the groups of a checkpoint's matrices take in each scheme, and ``fixed``, what everything else takes."""

    groups: Mapping[str, tuple[str, ...]]
    nbytes: Mapping[str, Mapping[str, int]]
    fixed: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, options: ExportOptions, offered: Candidates, target: str) -> Sizes:
        """From the configuration alone; no weight is read."""
        weights, groups = checkpoint.weights, offered.groups(checkpoint.config)
        nbytes = {
            name: {s: sum(offered.nbytes(weights, m, s) for m in members) for s in offered.schemes}
            for name, members in groups.items()
        }
        mix = {m: min(nbytes[name], key=nbytes[name].__getitem__) for name, members in groups.items() for m in members}
        whole = load_target(target).plan(checkpoint, replace(options, mix=mix)).nbytes
        return cls(groups, nbytes, whole - sum(min(sizes.values()) for sizes in nbytes.values()))

    @property
    def smallest(self) -> int:
        """All weights, every matrix in its smallest scheme."""
        return self.fixed + sum(min(sizes.values()) for sizes in self.nbytes.values())

    @property
    def largest(self) -> int:
        """All weights, every matrix in its largest scheme."""
        return self.fixed + sum(max(sizes.values()) for sizes in self.nbytes.values())

    def check(self, budget: int) -> None:
        """Refuse a budget in which not even the smallest schemes have room.

        Raises:
            UsageError: it is too small.
        """
        if self.smallest > budget:
            raise UsageError(
                f"with every matrix in its smallest scheme the weights take {size(self.smallest)}"
                f" and the budget is {size(budget)}.",
                hint=f"Raise --budget by {size(self.smallest - budget)} at least.",
            )


def plan_to_budget(
    source: AdapterCheckpoint,
    options: ExportOptions,
    offered: Candidates,
    conversations: Sequence[Conversation],
    budget: int,
    progress: Progress,
    *,
    target: str = "gguf",
    quiet: bool = True,
) -> BudgetPlan:
    """Measure every group of matrices (``menu``) and choose; a budget that is too small is refused before that.

    Raises:
        UsageError: the budget is too small.
        CalibrationError: a conversation cannot be used; it is named.
    """
    sizes = Sizes.of(open_checkpoint(source.path, source.adapters), options, offered, target)
    sizes.check(budget)
    return menu(source, options, offered, sizes, conversations, progress, target=target, quiet=quiet).plan(budget)


def menu(
    source: AdapterCheckpoint,
    options: ExportOptions,
    offered: Candidates,
    sizes: Sizes,
    conversations: Sequence[Conversation],
    progress: Progress,
    *,
    target: str = "gguf",
    quiet: bool = True,
) -> Menu:
    """Measure every group of matrices in every scheme.

    Args:
        source: the checkpoint and its adapters.
        options: with the calibration; ``scheme`` is that of what a plan does not touch.
        offered: the target's schemes.
        sizes: what they take.
        conversations: narratives with photographs; the damage is measured on them.
        progress: told of the weights that are read.
        target: whose candidates ``offered`` are.
        quiet: no word of which step is running.

    Raises:
        CalibrationError: a conversation cannot be used; it is named.
    """
    from skinedge.calibration.damage import measure

    assert options.calibration is not None
    checkpoint = open_checkpoint(source.path, source.adapters)
    weights = checkpoint.weights
    importances = {m: _importances(options.calibration, m) for members in sizes.groups.values() for m in members}
    asked = asked_of(source, conversations, quiet)
    probe = offered.schemes[0]
    errors: dict[tuple[str, str], float] = {}

    def restore(member: str, scheme: str = probe) -> Float32:
        """What is left of a matrix; how much that changes the outputs of its layer is noted."""
        restored = offered.restore(weights, member, scheme)
        errors[member, scheme] = output_error(weights, member, restored, importances[member])
        return restored

    found = measure(checkpoint, asked, sizes.groups, restore, progress)
    groups = []
    for name, members in counted("comparing schemes", list(sizes.groups.items()), quiet):
        for scheme in offered.schemes[1:]:
            for member in members:
                restore(member, scheme)
        measured = Choice(probe, sizes.nbytes[name][probe], found[name].kl)
        sums = {s: sum(errors[m, s] for m in members) for s in offered.schemes}
        groups.append(Group(name, members, scaled(measured, sums, sizes.nbytes[name]), found[name].answer))
    return Menu(target, options.scheme, sizes.fixed, source.digest, options.calibration.record.data, tuple(groups))


def _importances(calibration: Calibration, name: str) -> Float32:
    inputs = calibration.inputs(name)
    if inputs is None:
        raise UsageError(f"the calibration has not seen '{name}'.", hint="Calibrate this model.")
    return inputs.mean_square


def asked_of(source: AdapterCheckpoint, conversations: Sequence[Conversation], quiet: bool) -> list[Asked]:
    """Each narrative as the model reads it, and where in it the answer stands."""
    from skinedge.calibration.damage import Asked

    make = SampleMaker(source.path, read_config(source.path))
    found = []
    for conversation in counted("reading narratives", conversations, quiet):
        whole = make(conversation)
        *before, said = conversation.messages
        asking = make.sample(before, whole.grids, whole.pixels, answer=False)
        found.append(Asked(whole, len(asking.token_ids) - 1, _answer_tokens(make, whole, before, said)))
    return found


def _answer_tokens(make: SampleMaker, whole: Sample, earlier: Sequence[Message], said: Message) -> int:
    """How many tokens at the end belong to the answer, the tag that closes it and the end of the turn included."""
    text = said.content if isinstance(said.content, str) else ""
    before, tag, after = text.rpartition(ANSWER)
    if not (tag and after):
        return 0
    shorter = make.sample((*earlier, Message(said.role, before + tag)), whole.grids, whole.pixels, answer=True)
    return max(0, len(whole.token_ids) - len(shorter.token_ids))


__all__ = ["BudgetPlan", "Menu", "Sizes", "candidates", "menu", "plan_to_budget"]
