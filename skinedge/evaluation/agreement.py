"""Two narratives about one picture: which findings both report, and what was dropped, invented, contradicted or mirrored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skinedge.evaluation.findings import SITE, Finding, Side, extract_findings
from skinedge.evaluation.vocabulary import Term


@dataclass(frozen=True)
class Said:
    """What a whole text says of one finding: whether it is there, and on which sides (sites only; none said is empty)."""

    present: bool
    sides: frozenset[Side]


_ONE_SIDE: frozenset[frozenset[Side]] = frozenset({frozenset({"left"}), frozenset({"right"})})


@dataclass(frozen=True)
class Agreement:
    """The findings of ``b`` against those of ``a``.

    ``agreed``: both say that it is there, or both that it is not.  ``dropped``: only ``a`` speaks of it; ``invented``:
    only ``b`` does.  ``contradicted``: one says that it is there, the other that it is not.  ``swapped``: sites on
    opposite sides; they are in none of the others.  ``sided``: sites that both put on one side alone, the same or not.
    """

    agreed: tuple[Term, ...]
    dropped: tuple[Term, ...]
    invented: tuple[Term, ...]
    contradicted: tuple[Term, ...]
    swapped: tuple[Term, ...]
    sided: tuple[Term, ...] = ()

    @property
    def precision(self) -> float | None:
        """Share of what ``b`` says that ``a`` says too; ``None`` where ``b`` says nothing."""
        return _share(len(self.agreed), len(self.invented) + len(self.contradicted) + len(self.swapped))

    @property
    def recall(self) -> float | None:
        """Share of what ``a`` says that ``b`` says too; ``None`` where ``a`` says nothing."""
        return _share(len(self.agreed), len(self.dropped) + len(self.contradicted) + len(self.swapped))


def compare_findings(a: str, b: str) -> Agreement:
    """Compare the findings of two texts; ``a`` is what ``b`` is measured against."""
    return _compare(summarise(extract_findings(a)), summarise(extract_findings(b)))


def _compare(said_a: Mapping[Term, Said], said_b: Mapping[Term, Said]) -> Agreement:
    both = [term for term in said_a if term in said_b]
    contradicted = [term for term in both if said_a[term].present != said_b[term].present]
    swapped = [term for term in both if term not in contradicted and _opposite(said_a[term], said_b[term])]
    return Agreement(
        agreed=tuple(term for term in both if term not in contradicted and term not in swapped),
        dropped=tuple(term for term in said_a if term not in said_b),
        invented=tuple(term for term in said_b if term not in said_a),
        contradicted=tuple(contradicted),
        swapped=tuple(swapped),
        sided=tuple(t for t in both if t not in contradicted and {said_a[t].sides, said_b[t].sides} <= _ONE_SIDE),
    )


def changes(a: str, b: str) -> tuple[tuple[str, str], ...]:
    """What became of the findings of ``a`` in ``b``, in words: pairs of ``lost``, ``invented`` or ``turned`` and the finding.

    >>> changes("No scale. A plaque on the left arm.", "Scale. A plaque on the right arm. Crust.")
    (('turned', 'scale: absent, then present'), ('turned', 'arm: left, then right'), ('invented', 'crust'))
    """
    said_a, said_b = summarise(extract_findings(a)), summarise(extract_findings(b))
    found = _compare(said_a, said_b)

    def sides(term: Term) -> str:
        return ", then ".join(next(iter(said[term].sides)) for said in (said_a, said_b))

    return (
        *(("lost", _in_words(term, said_a[term])) for term in found.dropped),
        *(("turned", f"{_name(term)}: {_there(said_a[term])}, then {_there(said_b[term])}") for term in found.contradicted),
        *(("turned", f"{_name(term)}: {sides(term)}") for term in found.swapped),
        *(("invented", _in_words(term, said_b[term])) for term in found.invented),
    )


def _name(term: Term) -> str:
    return term.name.replace("_", " ")


def _there(said: Said) -> str:
    return "present" if said.present else "absent"


def _in_words(term: Term, said: Said) -> str:
    return _name(term) if said.present else f"no {_name(term)}"


def summarise(findings: tuple[Finding, ...]) -> Mapping[Term, Said]:
    """What a text says of each finding, in the order of first mention.

    A finding is there if any mention says so: a text that denies it elsewhere speaks of another lesion or another
    disease.  What is only doubted, or said of diseases in general, is not said of this skin.
    """
    told: dict[Term, list[Finding]] = {}
    for finding in findings:
        if finding.polarity in ("present", "absent"):
            told.setdefault(Term(finding.group, finding.name), []).append(finding)
    return {term: _said(mentions) for term, mentions in told.items()}


def _said(mentions: list[Finding]) -> Said:
    present = any(f.polarity == "present" for f in mentions)
    return Said(
        present, frozenset(f.side for f in mentions if f.group == SITE and f.side and (f.polarity == "present") == present)
    )


def _opposite(a: Said, b: Said) -> bool:
    """Whether one says only left and the other only right."""
    return {a.sides, b.sides} == _ONE_SIDE


def _share(good: int, bad: int) -> float | None:
    return good / (good + bad) if good + bad else None
