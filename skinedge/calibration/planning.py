"""From a budget in bytes to a scheme for every matrix: the steps of ``skinedge quantize``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import load_target
from skinedge.calibration.budget import BudgetPlan, Choice, Group, choose, scaled
from skinedge.calibration.candidates import Candidates, GgufCandidates, matrices, output_error
from skinedge.calibration.samples import Conversation, SampleMaker
from skinedge.calibration.statistics import Calibration
from skinedge.console import counted
from skinedge.errors import UsageError
from skinedge.registry import check
from skinedge.runtime.prompt import Message
from skinedge.targets._contract import ExportOptions
from skinedge.weights.checkpoint import open_checkpoint
from skinedge.weights.stream import Progress

if TYPE_CHECKING:
    from skinedge.calibration.damage import Asked

ANSWER = "<answer>"


def candidates(target: str, calibration: Calibration, schemes: Sequence[str] | None = None) -> Candidates:
    """What ``target`` offers for single matrices.

    Raises:
        UsageError: the target mixes no schemes, or has no such one.
    """
    if target != "gguf":
        raise UsageError(f"{target} takes one scheme for all matrices.", hint="A budget is for --target gguf.")
    found = GgufCandidates(calibration)
    for scheme in schemes or ():
        check(f"scheme of {target} for single matrices", scheme, found.schemes)
    return replace(found, schemes=tuple(s for s in found.schemes if s in schemes)) if schemes else found


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
    """Measure every group of matrices and choose.

    Args:
        source: the checkpoint and its adapters.
        options: with the calibration; ``scheme`` is that of what the plan does not touch.
        offered: the target's schemes.
        conversations: narratives with photographs; the damage is measured on them.
        budget: bytes of all files of weights.
        progress: told of the weights that are read.

    Raises:
        UsageError: the budget is too small.
        CalibrationError: a conversation cannot be used; it is named.
    """
    from skinedge.calibration.damage import measure

    assert options.calibration is not None
    checkpoint = open_checkpoint(source.path, source.adapters)
    groups, shapes = offered.groups(checkpoint.config), matrices(checkpoint.config)
    sizes = {
        name: {s: sum(offered.nbytes(shapes[m], s) for m in members) for s in offered.schemes} for name, members in groups.items()
    }
    smallest = {name: min(offered.schemes, key=lambda s: sizes[name][s]) for name in groups}
    base = {member: smallest[name] for name, members in groups.items() for member in members}
    fixed = load_target(target).plan(checkpoint, replace(options, mix=base)).nbytes
    fixed -= sum(sizes[name][smallest[name]] for name in groups)
    asked = asked_of(source, conversations, quiet)
    probe = offered.schemes[0]
    found = measure(checkpoint, asked, groups, lambda name: offered.restore(checkpoint.weights, name, probe), progress)
    choices = []
    for name, members in counted("comparing schemes", list(groups.items()), quiet):
        errors = dict.fromkeys(offered.schemes, 0.0)
        for scheme in offered.schemes:
            for member in members:
                inputs = options.calibration.inputs(member)
                if inputs is None:
                    raise UsageError(f"the calibration has not seen '{member}'.", hint="Calibrate this model.")
                restored = offered.restore(checkpoint.weights, member, scheme)
                errors[scheme] += output_error(checkpoint.weights, member, restored, inputs.mean_square)
        measured = Choice(probe, sizes[name][probe], found[name].kl)
        choices.append(Group(name, members, scaled(measured, errors, sizes[name])))
    entries = choose(choices, budget - fixed)
    return BudgetPlan(target, options.scheme, budget, fixed, source.digest, options.calibration.record.data, entries)


def asked_of(source: AdapterCheckpoint, conversations: Sequence[Conversation], quiet: bool) -> list[Asked]:
    """Each narrative as the model reads it, and where in it the answer stands."""
    from skinedge.calibration.damage import Asked

    checkpoint = open_checkpoint(source.path, source.adapters)
    make = SampleMaker(source.path, checkpoint.config)
    found = []
    for conversation in counted("reading narratives", conversations, quiet):
        whole = make(conversation)
        before = replace(conversation, messages=conversation.messages[:-1])
        first = len(make(before, answer=False).token_ids) - 1
        found.append(Asked(whole, first, _answer_tokens(make, conversation)))
    return found


def _answer_tokens(make: SampleMaker, conversation: Conversation) -> int:
    """How many tokens at the end belong to the answer, the tag that closes it and the end of the turn included."""
    said = conversation.messages[-1]
    text = said.content if isinstance(said.content, str) else ""
    before, tag, after = text.rpartition(ANSWER)
    if not tag:
        return 0
    shorter = replace(conversation, messages=(*conversation.messages[:-1], Message(said.role, before + tag)))
    return max(0, len(make(conversation).token_ids) - len(make(shorter).token_ids)) if after else 0


__all__ = ["BudgetPlan", "candidates", "plan_to_budget"]
