"""From rows to a certificate: every endpoint, over all cases and by skin group, and what they come to together.

All judged endpoints must pass (an intersection-union test): a bundle that is really beyond a margin passes that endpoint with
a chance of at most alpha, and so passes all of them with no more, so no alpha is divided among them (Berger 1982,
Technometrics 24:295; Berger and Hsu 1996, Statistical Science 11:283).  A skin group that fails fails the whole; one with too
few cases is said to be underpowered and does not, since otherwise no set of photographs could ever pass.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from skinedge.errors import UsageError
from skinedge.evaluation.answer import read_answer, same_answer, same_diagnosis, usual_name
from skinedge.parity.certificate import Certificate, Context, DataRecord, Example, StageRecord
from skinedge.parity.endpoint import ALL, Endpoint, Limits
from skinedge.parity.equivalence import Margin, Verdict
from skinedge.parity.flips import flips
from skinedge.parity.margins import answer_margin
from skinedge.parity.reading import Aside, endpoints
from skinedge.parity.record import SKIN_GROUPS, UNKNOWN_SKIN, Row
from skinedge.runtime.photograph import load_photograph
from skinedge.weights.checkpoint import digest_of

FEW = 40  # cases of a skin group: fewer are said to be few wherever reliability is stated
_FEW = f"fewer than {FEW} tests"
EXAMPLES = 4
_DERMEVAL = (
    "The six scores are DermEval's, which has learnt from drawn pictures alone and sees no damage in texts about real patients: "
    "that they are alike shows little."
)
_PICTURE_PX = 320


def make_certificate(
    rows: Sequence[Row],
    context: Context,
    aside: Aside | None = None,
    *,
    examples: int | None = None,
    pictures: Mapping[str, Path] | None = None,
    now: datetime | None = None,
) -> Certificate:
    """Judge ``rows``.

    Args:
        rows: one a picture, both arms.
        context: what was compared, where and how.
        aside: scores, findings, structure and reviews, where there are any.
        examples: how many cases to show with their narratives; by default four of drawn pictures and none of photographs.
        pictures: where the pictures of the examples are, by the row's id; without them the narratives stand alone.
        now: when it is made.

    Raises:
        UsageError: there are no rows, or an id is there twice.
        ImageError: a picture that is to be shown cannot be read.
    """
    if not rows or len({r.id for r in rows}) != len(rows):
        raise UsageError(f"{len(rows)} rows with {len({r.id for r in rows})} different ids make no certificate.")
    aside = aside or Aside()
    margin = Margin(low=-answer_margin(context.bits).margin)
    found = tuple(e for group, some in _groups(rows) for e in endpoints(some, group, margin, aside))
    shown = examples if examples is not None else EXAMPLES if context.synthetic else 0
    verdict, reasons = _together(found, context.stages)
    return Certificate(
        time=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        context=context,
        data=_data(rows, context),
        verdict=verdict,
        reasons=reasons,
        reliability=reliability(rows),
        endpoints=found,
        worst=_worst(found),
        underpowered=_underpowered(found),
        flips=tuple(flips(rows, aside.reviewed)),
        examples=tuple(_example(row, pictures or {}) for row in _worth_showing(rows)[:shown]),
        limits=_limits(rows, context, aside),
    )


def reliability(rows: Sequence[Row]) -> str:
    """How far an answer can be trusted to be the original's, in one sentence for the person who reads the answer."""
    said = [(read_answer(r.reference.text), read_answer(r.bundle.text)) for r in rows]
    named = [pair for pair in said if pair != (None, None)]
    sentence = f"agreed with the original in {sum(itertools.starmap(same_diagnosis, named))} of {len(named)} test cases"
    if len(named) < len(rows):
        sentence = f"{sentence}; in {len(rows) - len(named)} more neither named a diagnosis"
    counts = Counter(r.skin for r in rows)
    if counts[UNKNOWN_SKIN] == len(rows):
        return f"{sentence}; skin type not known in any of them"
    few = [group.replace("-", "–") for group in SKIN_GROUPS if 0 < counts[group] < FEW]
    none = [group.replace("-", "–") for group in SKIN_GROUPS if not counts[group]]
    counted = [f"{how} on skin types {' and '.join(groups)}" for how, groups in ((_FEW, few), ("no tests", none)) if groups]
    return "; ".join([sentence, *counted])


def _groups(rows: Sequence[Row]) -> Iterator[tuple[str, Sequence[Row]]]:
    yield ALL, rows
    for group in (*SKIN_GROUPS, UNKNOWN_SKIN):
        some = [r for r in rows if r.skin == group]
        if some or group != UNKNOWN_SKIN:  # a group without one case is said to have none
            yield group, some


def _together(found: Sequence[Endpoint], stages: Sequence[StageRecord]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict on all judged endpoints and stages, and in words what is not a pass."""
    broken = [f"stage {s.name} is out of tolerance" for s in stages if s.verdict == "FAIL"]
    whole = [e for e in found if e.gated and e.group == ALL]
    failed = [e for e in found if e.verdict == "fail"]
    open_ = [e for e in whole if e.verdict == "not enough data"]
    named = {e.name for e in failed if e.group == ALL}
    beyond = [e for e in failed if e.group == ALL or e.name not in named]
    reasons = (*broken, *(f"{e.name}{_where(e)} is beyond its margin" for e in beyond), *(_open(e) for e in open_))
    return ("fail" if failed or broken else "not enough data" if open_ else "pass"), reasons


def _where(endpoint: Endpoint) -> str:
    return "" if endpoint.group == ALL else f" on skin {endpoint.group}"


def _open(endpoint: Endpoint) -> str:
    if not endpoint.n and endpoint.note:
        return f"{endpoint.name}: {endpoint.note}"
    enough = f"{endpoint.needed} would do" if endpoint.needed else "more would do only if what was seen is chance"
    return f"{endpoint.name}: {endpoint.n} cases are not enough to tell, {enough}"


def _worst(found: Sequence[Endpoint]) -> dict[str, str]:
    """For each judged endpoint the skin group with the worst estimate."""
    worst: dict[str, Endpoint] = {}
    for e in found:
        known = e.gated and e.group in SKIN_GROUPS and e.estimate is not None
        if known and (e.name not in worst or _badness(e) > _badness(worst[e.name])):
            worst[e.name] = e
    return {name: e.group for name, e in worst.items()}


def _badness(endpoint: Endpoint) -> tuple[float, float]:
    """How far toward, or past, its margin the estimate lies, and then the interval."""
    ends = endpoint.interval or Limits()
    estimate = endpoint.estimate or 0.0
    low, high = (estimate if v is None else v for v in (ends.low, ends.high))
    return _past(endpoint, estimate, estimate), _past(endpoint, low, high)


def _past(endpoint: Endpoint, low: float, high: float) -> float:
    margin = endpoint.margin or Limits()
    below = -math.inf if margin.low is None else margin.low - low
    return max(below, -math.inf if margin.high is None else high - margin.high)


def _underpowered(found: Sequence[Endpoint]) -> dict[str, tuple[str, ...]]:
    few: dict[str, tuple[str, ...]] = {}
    for e in found:
        if e.group in SKIN_GROUPS and e.verdict == "not enough data":
            few[e.group] = (*few.get(e.group, ()), e.name)
    return few


def _data(rows: Sequence[Row], context: Context) -> DataRecord:
    skin, truth = Counter(r.skin for r in rows), Counter(usual_name(r.truth) if r.truth else "not known" for r in rows)
    return DataRecord(
        name=context.data,
        synthetic=context.synthetic,
        source=context.data_source,
        images=hashlib.sha256("\n".join(sorted(r.image_sha256 for r in rows)).encode()).hexdigest(),
        rows=digest_of([asdict(r) for r in rows]),
        n=len(rows),
        by_skin={group: skin[group] for group in (*SKIN_GROUPS, UNKNOWN_SKIN) if skin[group] or group in SKIN_GROUPS},
        by_diagnosis=dict(truth.most_common()),
    )


def _worth_showing(rows: Sequence[Row]) -> list[Row]:
    """Flips first, then the narratives that part soonest, then those that are the same."""

    def rank(row: Row) -> tuple[int, int]:
        a, b = read_answer(row.reference.text), read_answer(row.bundle.text)
        return (0 if not same_answer(a, b) else 1 if row.first_different is not None else 2, row.first_different or 0)

    return sorted(rows, key=rank)


def _example(row: Row, pictures: Mapping[str, Path]) -> Example:
    path = pictures.get(row.id)
    return Example(
        image_sha256=row.image_sha256,
        skin=row.skin,
        truth=row.truth,
        picture=_data_uri(path) if path else "",
        reference=row.reference.text,
        bundle=row.bundle.text,
    )


def _data_uri(path: Path) -> str:
    """The picture as the models saw it, made small and written anew: nothing that a camera put beside it comes along."""
    picture = load_photograph(path)
    picture.thumbnail((_PICTURE_PX, _PICTURE_PX))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _limits(rows: Sequence[Row], context: Context, aside: Aside) -> tuple[str, ...]:
    """What this certificate does not show."""
    kinds = len({usual_name(r.truth) for r in rows if r.truth})
    said = [
        "It compares a bundle with the model it was made from. It does not show that either of them is right.",
        "It holds for this bundle, these settings, this device and these versions; another driver or library may move it.",
        f"It was made on {len(rows)} pictures of {context.data}"
        + (f" with {kinds} diagnoses; others were not tested." if kinds else "; their diagnoses are not known."),
    ]
    if context.synthetic:
        said.append("The pictures were drawn by a program. What it shows of them need not hold for photographs of people.")
    if not context.reference.same_source:
        said.append("The reference is not, byte for byte, the checkpoint that the bundle was made from.")
    if not aside.scores:
        said.append("The narratives were not scored in the six dimensions.")
    elif context.scorer.get("scorer") == "dermeval" and not context.synthetic:
        said.append(_DERMEVAL)
    if aside.well_formed is None:
        said.append("The structure of the narratives was not checked.")
    if all(r.forced is None for r in rows):
        said.append("The distributions over the vocabulary were not compared.")
    return tuple(said)
