"""Both narratives of every case given to one scorer, blinded as ``skinedge judge`` does it.

A scorer is shown nothing that it does not need and never whose narrative it reads: the arms of a case come in an order drawn
from the case's id, under names that are numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from skinedge.console import counted
from skinedge.errors import UsageError
from skinedge.evaluation.cases import Case
from skinedge.evaluation.judge_file import Written, blinded
from skinedge.evaluation.scorer import Scorable, Scored, Scorer
from skinedge.parity.record import Row

_SEED = 0  # of the order of the arms
_Truth = Mapping[str, Mapping[str, str]]


def check_needs(scorer: Scorer, cases: Sequence[Case], findings: _Truth | None) -> None:
    """Check that what a scorer must know is known of the pictures.

    Raises:
        UsageError: it is not.
    """
    known = {"image", *(["diagnosis"] if any(c.diagnosis for c in cases) else []), *(["findings"] if findings else [])}
    lacking = sorted(scorer.needs() - known)
    if lacking:
        who = scorer.identity().get("name") or scorer.identity().get("scorer")
        raise UsageError(
            f"{who} needs {' and '.join(lacking)}, and nothing says what they are on these pictures.",
            hint="Judge by the photographs: --judge dermeval, or --judge http://127.0.0.1:8000/v1",
        )


def scores_of(
    rows: Sequence[Row], scorer: Scorer, cases: Sequence[Case], findings: _Truth | None, *, quiet: bool = True
) -> dict[str, tuple[Scored, Scored]]:
    """The reference's and the bundle's six scores by the row's id.

    Args:
        rows: what both said.
        scorer: who scores.
        cases: where the photographs are.
        findings: what is true of each case by its id; a scorer that must know it scores those cases alone.
        quiet: show no progress.

    Raises:
        SkinedgeError: the scorer cannot go on; a judge's answers are in its journal.
    """
    needs, images = scorer.needs(), {case.id: case.image for case in cases}
    true = findings or {}
    known = [r for r in rows if "findings" not in needs or r.id in true]
    written = [
        Written(arm, _shown(r, text, needs, images, true))
        for r in known
        for arm, text in (("bundle", r.bundle.text), ("reference", r.reference.text))
    ]
    order = blinded(written, _SEED)
    asked = [replace(w.one, id=str(number)) for number, w in enumerate(order)]
    found: dict[tuple[str, str], Scored] = {}
    bar = iter(counted("scoring", range(len(asked)), quiet))
    next(bar, None)
    for scored in scorer.score(asked) if asked else ():
        whose = order[int(scored.id)]
        found[whose.one.id, whose.arm] = replace(scored, id=whose.one.id)
        next(bar, None)
    return {r.id: (found[r.id, "reference"], found[r.id, "bundle"]) for r in known}


def _shown(row: Row, text: str, needs: frozenset[str], images: Mapping[str, Path], true: _Truth) -> Scorable:
    return Scorable(
        row.id,
        text,
        image=images[row.id] if "image" in needs else None,
        diagnosis=row.truth if "diagnosis" in needs else None,
        findings=true[row.id] if "findings" in needs else None,
    )
