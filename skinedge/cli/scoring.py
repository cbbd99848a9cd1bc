"""Who gives the six scores, from what was typed: ``--judge``, ``--judge-model``, ``--judge-folder``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from skinedge.cli.options import existing
from skinedge.console import note
from skinedge.errors import UsageError

if TYPE_CHECKING:
    from skinedge.evaluation.endpoint import EndpointSettings
    from skinedge.evaluation.journal import Journal
    from skinedge.evaluation.scorer import Scorer

JudgeName = Annotated[
    str | None, typer.Option(metavar="<name or url>", help="Six dimensions by: rubric, dermeval, or a judge at http://…/v1")
]
JudgeModel = Annotated[str | None, typer.Option(metavar="<name>", help="The judge's name at its endpoint.")]
JudgeFolder = Annotated[Path | None, typer.Option(metavar="<dir>", help="DermEval's folder.")]


@dataclass(frozen=True)
class Scoring:
    """A scorer that was asked for.

    ``make`` opens it, with the journal in which an endpoint's answers are kept; ``words`` are for people.
    """

    words: str
    make: Callable[[Journal], Scorer]


def at_endpoint(judge: str) -> bool:
    """Whether it is an address and no name."""
    return judge.startswith(("http://", "https://"))


def scoring(
    judge: str, served_as: str | None, folder: Path | None, threads: int | None, form: Literal["free", "reference"],
    endpoint: Callable[[str], EndpointSettings],
) -> Scoring:  # fmt: skip
    """The scorer named, or a judge at the address given; nothing is opened or asked yet.

    Args:
        judge: its name or address.
        served_as: the judge's name there.
        folder: DermEval's weights, if not skinedge's own.
        threads: DermEval's.
        form: whether a judge sees photographs or references.
        endpoint: checks an address, and that patient data may go there.

    Raises:
        UsageError: there is no such scorer, or what was typed beside it is not enough or not its own.
    """
    from skinedge.evaluation.scorers import load_scorer

    if at_endpoint(judge):
        if not served_as:
            raise UsageError(f"{judge} may serve several models.", hint="Say which is to judge: --judge-model NAME")
        from skinedge.evaluation.judge import Judge, JudgeSettings

        settings, where = JudgeSettings(served_as, form), endpoint(judge)
        return Scoring(f"{served_as} at {where.host}", lambda journal: Judge(settings, where, journal, remote=True))
    make = load_scorer(judge)
    if judge == "judge":
        raise UsageError("a judge is a model at an endpoint.", hint="Give its address: --judge http://127.0.0.1:8000/v1")
    if judge != "dermeval":
        return Scoring(judge, lambda _: make())
    existing(*filter(None, (folder,)))
    return Scoring("dermeval, offline", lambda _: make(folder, threads=threads) if folder else make(threads=threads))


def place_of(where: EndpointSettings, allow_remote: bool, silent: bool) -> EndpointSettings:
    """An endpoint that patient data may go to; that they leave the machine is said unless ``silent``.

    Raises:
        UsageError: they may not, or its address is none.
    """
    from skinedge.evaluation.judge import check_place

    check_place(where, allow_remote)
    if not where.at_home and not silent:
        note(f"note: photographs go to {where.host}{'' if where.encrypted else ', unencrypted'}.")
    return where
