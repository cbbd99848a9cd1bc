"""An evaluation for people: what would be asked, what to know beforehand, what came of it."""

from __future__ import annotations

from skinedge.console import Json, note, printable, say, table
from skinedge.evaluation.figures import NONE, OTHER
from skinedge.evaluation.models import Model
from skinedge.evaluation.result import Evaluation
from skinedge.evaluation.run import Plan
from skinedge.evaluation.table import compare


def remarks(todo: Plan) -> None:
    """What to know before the model is asked: what is left out or missing, whose data it is."""
    for text in (*todo.dataset.notes, f"{todo.dataset.title}: {todo.dataset.licence}; {todo.dataset.citation}."):
        note(f"note: {text}")
    if todo.chosen.missing:
        note(f"note: {_few(todo.chosen.missing)} not there: counted as missing.")
    if todo.chosen.left_out_as_seen:
        note(f"note: {todo.chosen.left_out_as_seen} photographs are left out: training saw the same lesion or patient.")
    if todo.asked_already:
        note(f"note: {todo.asked_already} of {len(todo.questions)} answers are in the journal.")


def _few(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3} more are" if len(names) > 3 else " is" if len(names) == 1 else " are"
    return ", ".join(names[:3]) + more


def plan_json(model: Model, todo: Plan) -> dict[str, Json]:
    """What would be asked, as one JSON object."""
    dataset, chosen = todo.dataset, todo.chosen
    return {
        "layout": dataset.layout, "task": dataset.task, "items": len(dataset.items), "chosen": len(chosen.items),
        "missing": list(chosen.missing), "left_out_as_seen": chosen.left_out_as_seen, "answered": todo.asked_already,
        "to_ask": len(todo.questions) - todo.asked_already, "labels": list(dataset.rule.labels),
        "model": dict(model.identity()), "settings": dict(model.settings()),
    }  # fmt: skip


def show_plan(model: Model, todo: Plan) -> None:
    """What would be asked, in words."""
    dataset, chosen = todo.dataset, todo.chosen
    say(f"{dataset.title} ({dataset.layout}, {dataset.task}): {len(chosen.items)} of {len(dataset.items)} items are chosen.")
    say(f"{model.name} would be asked {len(todo.questions) - todo.asked_already} questions; the journal has the rest.")
    say(f"The first: {chosen.items[0].question}")
    remarks(todo)


def result_json(found: Evaluation) -> dict[str, Json]:
    """Everything but the single answers."""
    summary: dict[str, Json] = found.model_dump(mode="json", exclude={"answers"})
    return summary


def show_result(found: Evaluation) -> None:
    """The tables of one result, its confusion, and why answers were wrong."""
    compare([found]).show()
    figures = found.figures
    if figures.confusion:
        there = {name for row in figures.confusion.values() for name in row}
        said = [name for name in (*sorted(found.dataset.labels), OTHER, NONE) if name in there]
        say("\nRows are the truth, columns what was said")
        rows = [
            (f"{truth} ({sum(row.values())})", *(str(row.get(name) or ".") for name in said))
            for truth, row in figures.confusion.items()
        ]
        table(("", *(printable(name) for name in said)), rows)
    if figures.reasons:
        say("\nwrong: " + "; ".join(f"{reason} {count}" for reason, count in figures.reasons.items()))
    if figures.cut_off:
        say(f"{figures.cut_off} answers met the limit of tokens.")
    for failure in found.failed[:5]:
        note(f"no answer: {printable(failure.id)}: {printable(failure.why)}")
    if len(found.failed) > 5:
        note(f"and {len(found.failed) - 5} more: see 'failed' in the result.")
