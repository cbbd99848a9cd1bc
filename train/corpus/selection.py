"""Which cases a corpus keeps: one of each picture, one of each narrative, a cap for each cell, a split for each patient.

Everything here is a function of the cases and a seed: the same in, the same out, in input order.  Which cases a
cap keeps and where a patient goes is decided by a digest, so more cases move nobody from one split to another.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from skinedge.evaluation.cases import SPLITS, Case
from skinedge.evaluation.pictures import Fingerprint, earlier_likeness
from skinedge.evaluation.scores import Thresholds
from train.corpus.outcomes import Reason, Rejection, Told

# Two narratives are one if they share this much of their runs of five words (Jaccard).
TWIN = 0.8
_RUN = 5


@dataclass(frozen=True)
class Rules:
    """What passes; ``cap`` cases a cell of category and site (0: no cap); shares of patients for val and test."""

    thresholds: Thresholds = field(default_factory=Thresholds)
    cap: int = 0
    val: float = 0.1
    test: float = 0.1
    seed: int = 0


def lot(seed: int, *words: str) -> float:
    """A number in [0, 1) that is fixed by the words."""
    digest = hashlib.sha256("\0".join((str(seed), *words)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def in_turn(cases: Sequence[Case], seed: int) -> list[Case]:
    """The cases, one from each cell of category and site in turn: any beginning of the list is balanced."""
    cells: dict[Hashable, list[Case]] = defaultdict(list)
    for case in sorted(cases, key=lambda c: lot(seed, "turn", c.id)):
        cells[case.category, case.site].append(case)
    return [case for turn in zip_longest(*cells.values()) for case in turn if case is not None]


def distinct_pictures(cases: Sequence[Case], prints: Mapping[str, Fingerprint]) -> tuple[list[Case], list[Rejection]]:
    """The first case of each picture; none of a picture that is there under two diagnoses.

    Args:
        cases: in order.
        prints: by case id, one for each.
    """
    like = earlier_likeness([prints[case.id].bits for case in cases])
    groups: dict[int, list[Case]] = defaultdict(list)
    for place, (case, earlier) in enumerate(zip(cases, like, strict=True)):
        groups[place if earlier is None else earlier].append(case)
    fate = {case.id: reason for group in groups.values() for case, reason in _one_of(group, prints)}
    kept = [case for case in cases if fate[case.id] is None]
    return kept, [Rejection(case, reason[0], reason[1]) for case in cases if (reason := fate[case.id])]


def _one_of(group: Sequence[Case], prints: Mapping[str, Fingerprint]) -> list[tuple[Case, tuple[Reason, str] | None]]:
    """Each case of a group of like pictures, and why it is not the one that stays."""
    diagnoses = sorted({case.diagnosis for case in group})
    if len(diagnoses) > 1:
        return [(case, ("conflicting labels", " / ".join(diagnoses))) for case in group]
    fates: list[tuple[Case, tuple[Reason, str] | None]] = []
    first_of: dict[str, str] = {}
    for case in group:
        digest = prints[case.id].sha256
        if not fates:
            fates.append((case, None))
        elif digest in first_of:
            fates.append((case, ("duplicate image", f"of {first_of[digest]}")))
        else:
            fates.append((case, ("near-duplicate image", f"of {group[0].id}")))
        first_of.setdefault(digest, case.id)
    return fates


def passing(told: Sequence[Told], rules: Rules) -> tuple[list[Told], list[Rejection]]:
    """What a corpus keeps of what was told: good enough, said once, no more than the cap."""
    kept, rejected = _split_off(told, [_low(one, rules.thresholds) for one in told])
    twins = earlier_twin([f"{one.narrative.observation} {one.narrative.reasoning}" for one in kept])
    kept_once, twice = _split_off(
        kept, [None if i is None else ("near-duplicate narrative", f"of {kept[i].case.id}") for i in twins]
    )
    capped, over = _split_off(kept_once, _over_the_cap(kept_once, rules))
    return capped, [*rejected, *twice, *over]


def _low(one: Told, thresholds: Thresholds) -> tuple[Reason, str] | None:
    shortfall = thresholds.shortfall(one.scores)
    return ("low score", shortfall) if shortfall else None


def _over_the_cap(told: Sequence[Told], rules: Rules) -> list[tuple[Reason, str] | None]:
    if not rules.cap:
        return [None] * len(told)
    taken: Counter[Hashable] = Counter()
    inside: set[str] = set()
    for one in sorted(told, key=lambda t: lot(rules.seed, "cap", t.case.id)):
        cell = one.case.category, one.case.site
        taken[cell] += 1
        if taken[cell] <= rules.cap:
            inside.add(one.case.id)
    return [None if one.case.id in inside else ("over the cap", f"of {rules.cap}") for one in told]


def _split_off(told: Sequence[Told], why: Sequence[tuple[Reason, str] | None]) -> tuple[list[Told], list[Rejection]]:
    kept = [one for one, reason in zip(told, why, strict=True) if reason is None]
    gone = [
        Rejection(one.case, reason[0], reason[1], one.narrative.text, one.scores)
        for one, reason in zip(told, why, strict=True)
        if reason
    ]
    return kept, gone


def earlier_twin(texts: Sequence[str]) -> list[int | None]:
    """For each text the first before it that is nearly the same; one that has a twin itself does not count.

    Exact, without comparing all pairs: two sets with a Jaccard index of ``TWIN`` share an element among the rarest
    ``1 - TWIN`` of each (prefix filtering; Chaudhuri, Ganti and Kaushik 2006).
    """
    runs = [_runs(text) for text in texts]
    common = Counter(run for text in runs for run in text)
    holders: dict[int, list[int]] = defaultdict(list)
    twins: list[int | None] = []
    for place, mine in enumerate(runs):
        rarest = sorted(mine, key=lambda run: (common[run], run))[: len(mine) - math.ceil(TWIN * len(mine)) + 1]
        candidates = {other for run in rarest for other in holders[run]}
        twin = min((other for other in candidates if _jaccard(runs[other], mine) >= TWIN), default=None)
        twins.append(twin)
        if twin is None:
            for run in rarest:
                holders[run].append(place)
    return twins


def _runs(text: str) -> frozenset[int]:
    words = text.casefold().split()
    return frozenset(hash(tuple(words[i : i + _RUN])) for i in range(max(1, len(words) - _RUN + 1)))


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    both = len(a & b)
    return both / (len(a) + len(b) - both)


def split_by_patient(told: Sequence[Told], rules: Rules) -> dict[str, list[Told]]:
    """Train, val and test; a patient, or a picture without one, is in one of them, where the input says so in that one."""
    said = {one.case.patient: one.case.split for one in told if one.case.patient and one.case.split}
    splits: dict[str, list[Told]] = {name: [] for name in SPLITS}
    for one in told:
        known = one.case.split or said.get(one.case.patient, "")
        splits[known or _drawn(one.case.patient or one.case.id, rules)].append(one)
    return splits


def _drawn(patient: str, rules: Rules) -> str:
    place = lot(rules.seed, "split", patient)
    return "test" if place < rules.test else "val" if place < rules.test + rules.val else "train"
