"""Pictures whose diagnosis changed, and of what kind the change is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from skinedge.evaluation.answer import read_answer, same_answer, same_diagnosis
from skinedge.manifest import Sha256
from skinedge.measure.document import Record
from skinedge.parity import margins
from skinedge.parity.endpoint import Endpoint, Limits
from skinedge.parity.malignancy import nature
from skinedge.parity.record import Row
from skinedge.parity.statistics import wilson

Change = Literal["lost", "won", "changed"]


class Flip(Record):
    """A picture on which the two arms name different diseases; ``None`` is no diagnosis.

    ``change`` is ``lost`` where only the reference was right, ``won`` where only the bundle was, and ``changed`` where
    neither was or the truth is not known.  ``dangerous``: the reference called it malignant, the bundle something else that is
    not known to be malignant, and the truth is not known to be benign.  ``review`` is what a clinician said of it.
    """

    image_sha256: Sha256
    skin: str
    truth: str | None
    reference: str | None
    bundle: str | None
    change: Change
    natures: tuple[str, str]
    dangerous: bool
    review: str = ""


def flips(rows: Sequence[Row], reviewed: Mapping[str, str]) -> Iterator[Flip]:
    """All of them, in the order of the rows."""
    for row in rows:
        a, b = read_answer(row.reference.text), read_answer(row.bundle.text)
        if same_answer(a, b):
            continue
        first, second = nature(a), nature(b)
        yield Flip(
            image_sha256=row.image_sha256,
            skin=row.skin,
            truth=row.truth,
            reference=a,
            bundle=b,
            change="lost" if same_diagnosis(row.truth, a) else "won" if same_diagnosis(row.truth, b) else "changed",
            natures=(first, second),
            dangerous=first == "malignant" and second != "malignant" and b is not None and nature(row.truth) != "benign",
            review=reviewed.get(row.image_sha256, ""),
        )


def malignant_flips(rows: Sequence[Row], group: str, reviewed: Mapping[str, str]) -> Endpoint:
    """Of the cases that the reference calls malignant, how many the bundle calls benign; none may be that nobody has reviewed.

    A name that is on no list of malignant ones counts as benign: whoever reads it will take it so, unless somebody looks.  One
    whose truth is known to be benign is a correction and does not count, nor does an answer without a name, which nobody can
    take for a benign one; the note tells how many there are.  That none was seen says little of few cases: at least
    ``margins.LEAST_MALIGNANT`` are asked for.
    """
    n = sum(nature(read_answer(r.reference.text)) == "malignant" for r in rows)
    found = list(flips(rows, reviewed))
    dangerous = [f for f in found if f.dangerous]
    mute = sum(f.natures[0] == "malignant" and f.bundle is None for f in found)
    open_ = sum(not f.review for f in dangerous)
    what = Endpoint(
        name="malignant to benign",
        topic="answer",
        group=group,
        unit="share",
        n=n,
        margin=Limits(high=0.0),
        verdict="not enough data",
    )
    if n:
        ends = wilson(len(dangerous), n)
        interval = Limits(low=ends.low, high=ends.high)
        what = what.model_copy(
            update={"estimate": len(dangerous) / n, "interval": interval, "confidence": 0.95, "method": "Wilson"}
        )
    seen = f"{len(dangerous)} of {n} cases that the reference calls malignant"
    seen += f"; in {mute} more the bundle names nothing" if mute else ""
    if open_:
        return what.model_copy(update={"verdict": "fail", "note": f"{seen}; {open_} not reviewed by a clinician"})
    note = f"{seen}; all reviewed" if dangerous else seen
    if n < margins.LEAST_MALIGNANT:
        return what.model_copy(update={"needed": margins.LEAST_MALIGNANT, "note": f"{note}; needed counts malignant cases"})
    return what.model_copy(update={"verdict": "pass", "note": note})
