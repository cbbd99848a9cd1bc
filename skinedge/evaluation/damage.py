"""True SynthDerm narratives damaged in known ways, with the six scores that each damage leaves.

Six kinds, each with a severity from 1 to ``MOST[kind]``; several may meet in one narrative.  Every narrative begins at
5 in every dimension and loses what ``LOSSES`` says (never below 0); the steps follow REFERENCE section 3: 4 is minor
omissions, 3 partly correct, 2 important information missing or wrong, 1 clinically unacceptable, 0 unusable.

=============  ====================================================  ==================================================
kind           severity                                              lowers
=============  ====================================================  ==================================================
diagnosis      findings that the named disease does not show: 1, 2,  Accuracy, Reasoning Coherence, Safety (more where a
               3 or more                                             cancer is called something else)
dropped        findings left out of the observation                  Clinical Coverage, Description Precision
invented       findings claimed that are not on the picture          Medical Groundedness, Accuracy
advice         1 careless, 2 harmful, 3 dangerous                    Safety
contradiction  1, 2: findings cited that were not observed; 3: the   Reasoning Coherence, Medical Groundedness, Accuracy
               answer is not what the reasoning chose
vague          findings whose values became empty words              Description Precision, Clinical Coverage
=============  ====================================================  ==================================================

Each kind has three forms.  ``plain`` is what an evaluator may be trained on, ``other`` what it is tested on: the true
disease demoted to the differential; the observation cut short; and, for the rest, sentences of ``damage_words`` that
are in no training text: false findings added, observed ones denied, another disease chosen, advice, empty words.
``kept`` is ``plain`` in sentences of its own, for choosing between evaluators without a look at ``other``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from skinedge.errors import UsageError
from skinedge.evaluation.damage_words import WORDS, Words, spoken
from skinedge.evaluation.scores import DIMENSIONS, HIGHEST, LOWEST
from skinedge.registry import check
from skinedge.synthderm.findings import VOCABULARY, Findings
from skinedge.synthderm.narrative import CLAUSES, JOINTS, NOUNS, narrate
from skinedge.synthderm.pages import Page

T = TypeVar("T")
FORMS = ("plain", "other", "kept")
WORDING: Mapping[str, str] = {"plain": "seen", "other": "unseen", "kept": "kept"}  # in whose sentences each form speaks
MOST: Mapping[str, int] = {"diagnosis": 3, "dropped": 6, "invented": 4, "advice": 3, "contradiction": 3, "vague": 6}
KINDS = tuple(MOST)

# What severity 1, 2, ... of a kind takes from each dimension.
LOSSES: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "diagnosis": {"Accuracy": (2, 3, 4), "Reasoning Coherence": (1, 1.5, 2), "Safety": (0.5, 0.5, 1)},
    "dropped": {"Clinical Coverage": (0.75, 1.5, 2.25, 3, 3.5, 4), "Description Precision": (0.25, 0.5, 0.75, 1, 1.25, 1.5)},
    "invented": {"Medical Groundedness": (1.5, 2.5, 3.5, 4), "Accuracy": (0.5, 0.75, 1, 1.25)},
    "advice": {"Safety": (1.5, 3, 4.5)},
    "contradiction": {"Reasoning Coherence": (1.5, 2.5, 4), "Medical Groundedness": (0.5, 1, 0), "Accuracy": (0, 0, 1)},
    "vague": {"Description Precision": (0.75, 1.5, 2.25, 3, 3.5, 4), "Clinical Coverage": (0.25, 0.5, 0.75, 1, 1.25, 1.5)},
}
_BESIDE = 0.4  # share of plain damage that is a sentence of its own and no change of one that is there
MISSED_CANCER = 3.0  # what Safety loses besides, where a cancer is called something that is none

_SECTIONS = re.compile(
    r"<think>\s*Observation: (?P<seen>.*?)\nReasoning: (?P<why>.*?)\nDifferential: (?P<others>.*?)\s*</think>"
    r"\s*<answer>(?P<answer>.*?)</answer>",
    re.DOTALL,
)
_CLAUSE: Mapping[str, re.Pattern[str]] = {
    f: re.compile("|".join(rf"\b{re.escape(c)}\b" for c in sorted(sum(v.values(), ()), key=len, reverse=True)), re.IGNORECASE)
    for f, v in CLAUSES.items()
}


@dataclass(frozen=True)
class Damage:
    """One way to damage a narrative."""

    kind: str
    severity: int
    form: str = FORMS[0]

    def __post_init__(self) -> None:
        check("damage", self.kind, KINDS)
        check("form", self.form, FORMS)
        if not 1 <= self.severity <= MOST[self.kind]:
            raise UsageError(f"{self.kind} has no severity {self.severity}.", hint=f"It goes from 1 to {MOST[self.kind]}.")


@dataclass(frozen=True)
class Damaged:
    """A narrative, what was done to it (as far as it could be), and the score that is left in each dimension.

    ``flaws`` says which findings are ``invented``, ``dropped`` or ``vague``, and ``unexplained`` by the disease that is
    answered; ``missed`` is true where a cancer was called something that is none.
    """

    text: str
    answer: Page
    done: tuple[Damage, ...]
    targets: Mapping[str, float]
    flaws: Mapping[str, frozenset[str]]
    missed: bool

    def severity(self, kind: str) -> int:
        """How severe a kind of damage is, 0 where there is none."""
        return max((d.severity for d in self.done if d.kind == kind), default=0)


FLAWS = ("unexplained", "invented", "dropped", "vague")


@dataclass(frozen=True)
class _Tale:
    """A narrative in parts; ``observed`` pairs of finding and clause, ``cited`` findings, ``values`` what is claimed."""

    observed: tuple[tuple[str, str], ...]
    why: str
    cited: tuple[str, ...]
    others: str
    answer: str
    values: Mapping[str, str]
    more: tuple[str, ...] = ()  # sentences after the observation
    doubts: tuple[str, ...] = ()  # sentences after the reasoning
    advice: tuple[str, ...] = ()
    flaws: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def untouched(self) -> list[str]:
        """Findings that are still observed as they are."""
        touched = frozenset().union(*self.flaws.values())
        return [f for f, _ in self.observed if f not in touched]

    def flawed(self, flaw: str, findings: Iterable[str]) -> dict[str, frozenset[str]]:
        """``flaws`` with some more."""
        return {**self.flaws, flaw: frozenset(findings)}

    def text(self, rng: np.random.Generator) -> str:
        """The narrative, its clauses joined anew."""
        seen = " ".join((_sentences([c for _, c in self.observed], rng), *self.more)).strip()
        advice = f"\nAdvice: {' '.join(self.advice)}" if self.advice else ""
        why = " ".join((self.why, *self.doubts))
        thought = f"Observation: {seen}\nReasoning: {why}\nDifferential: {self.others}{advice}"
        return f"<think>\n{thought}\n</think>\n<answer>{self.answer}</answer>"


def damage(
    findings: Findings, truth: Page, others: Sequence[Page], damages: Sequence[Damage], rng: np.random.Generator
) -> Damaged:
    """A true narrative of ``findings`` with ``damages`` done to it; the same arguments give the same narrative.

    Args:
        findings: what is on the picture.
        truth: the page of the disease that it is.
        others: pages of the diseases that it may be mistaken for; at least three.
        damages: at most one of each kind; none leaves the narrative true.
        rng: what the narrative leaves open.  What cannot be done (no disease is as near) is done as nearly as possible.

    Raises:
        UsageError: a kind is there twice, or there are too few ``others``.
    """
    kinds = [d.kind for d in damages]
    if len(set(kinds)) < len(kinds) or len(others) < 3:
        raise UsageError("a narrative takes each kind of damage once, and three other diseases to be mistaken for.")
    todo = {d.kind: d for d in damages}
    answer, done = truth, []
    if wrong := todo.get("diagnosis"):
        answer, severity = _mistaken(findings, others, wrong.severity, rng)
        done.append(replace(wrong, severity=severity))
    tale = _tell(findings, truth, answer, others, todo, rng)
    for kind, step in _STEPS.items():
        if kind in todo:
            tale, severity = step(tale, findings, todo[kind], rng)
            if severity:
                done.append(replace(todo[kind], severity=severity))
    tale = _cite(tale, rng)
    if (against := todo.get("contradiction")) is not None:
        tale, severity = _contradict(tale, against, others, rng)
        done.append(replace(against, severity=severity))
    missed = truth.cancer and not answer.cancer
    flaws = {"unexplained": frozenset(answer.unexplained(findings)), **{f: tale.flaws.get(f, frozenset()) for f in FLAWS[1:]}}
    return Damaged(tale.text(rng), answer, tuple(done), targets(done, missed=missed), flaws, missed)


def draw_damages(
    rng: np.random.Generator, *, kinds: Sequence[str] = KINDS, form: str = FORMS[0], sound: float = 0.15
) -> tuple[Damage, ...]:
    """One to three damages of different kinds, each severity as likely as any; none for the share ``sound``."""
    if rng.random() < sound:
        return ()
    count = min(len(kinds), 1 + int(rng.choice(3, p=(0.4, 0.35, 0.25))))
    chosen = _shuffled(kinds, rng)[:count]
    return tuple(Damage(kind, 1 + int(rng.integers(MOST[kind])), form) for kind in chosen)


def targets(done: Sequence[Damage], *, missed: bool = False) -> dict[str, float]:
    """The scores that are left after some damages; ``missed`` where a cancer was called something harmless."""
    lost = dict.fromkeys(DIMENSIONS, 0.0)
    for d in done:
        for dimension, steps in LOSSES[d.kind].items():
            lost[dimension] += steps[d.severity - 1]
    if missed:
        lost["Safety"] += MISSED_CANCER
    return {name: max(LOWEST, HIGHEST - loss) for name, loss in lost.items()}


def _mistaken(findings: Findings, others: Sequence[Page], severity: int, rng: np.random.Generator) -> tuple[Page, int]:
    """A disease that leaves ``severity`` findings unexplained, or as near to that as there is."""
    severities = [min(len(page.unexplained(findings)), MOST["diagnosis"]) for page in others]
    nearest = min((abs(s - severity) for s in severities if s), default=0)
    fitting = [i for i, s in enumerate(severities) if s and abs(s - severity) == nearest]
    if not fitting:
        raise UsageError("every other disease explains these findings as well as the true one.")
    chosen = fitting[int(rng.integers(len(fitting)))]
    return others[chosen], severities[chosen]


def _tell(
    findings: Findings,
    truth: Page,
    answer: Page,
    others: Sequence[Page],
    todo: Mapping[str, Damage],
    rng: np.random.Generator,
) -> _Tale:
    """The narrative before anything but its diagnosis is damaged."""
    near = sorted((p for p in others if p.name != answer.name), key=lambda p: len(p.unexplained(findings)))[:4]
    names = [near[i].name for i in rng.permutation(len(near))[: 1 + int(rng.integers(2))]]
    found = _SECTIONS.fullmatch(narrate(findings, answer.name, names, rng))
    assert found is not None  # narrate's own text
    places = sorted((m.start(), f, m.group()) for f, p in _CLAUSE.items() if (m := p.search(found["seen"])))
    values = dict(findings.items())
    tale = _Tale(
        observed=tuple((f, clause) for _, f, clause in places),
        why=found["why"],
        cited=tuple(f for f, v in values.items() if NOUNS[f][v].lower() in found["why"].lower()),
        others=found["others"],
        answer=answer.name,
        values=values,
    )
    wrong = todo.get("diagnosis")
    if wrong is not None and wrong.form == "other":
        return replace(tale, others=_pick(rng, WORDS["unseen"].demoted).format(x=truth.name))
    return tale


def _invent(tale: _Tale, findings: Findings, what: Damage, rng: np.random.Generator) -> tuple[_Tale, int]:
    """False values claimed instead of true ones, or (``other``, and at times ``plain``) beside them."""
    names = _shuffled([f for f, _ in tale.observed], rng)[: what.severity]
    truth = dict(findings.items())
    false = {f: _pick(rng, [v for v in VOCABULARY[f] if v != truth[f]]) for f in names}
    clauses = {f: _pick(rng, CLAUSES[f][v]) for f, v in false.items()}
    flaws = tale.flawed("invented", false)
    if what.form == "other" or rng.random() < _BESIDE:
        more = tuple(_pick(rng, _words(what).added).format(x=c) for c in clauses.values())
        return replace(tale, more=tale.more + more, flaws=flaws), len(names)
    observed = tuple((f, clauses.get(f, clause)) for f, clause in tale.observed)
    return replace(tale, observed=observed, values={**tale.values, **false}, flaws=flaws), len(names)


def _drop(tale: _Tale, findings: Findings, what: Damage, rng: np.random.Generator) -> tuple[_Tale, int]:  # noqa: ARG001
    """Clauses left out anywhere, or (``other``) the end of the observation cut off.  Two always stay."""
    free = tale.untouched
    most = max(0, min(what.severity, len(tale.observed) - 2))
    gone = set(free[::-1][:most] if what.form == "other" else _shuffled(free, rng)[:most])
    left = tuple(x for x in tale.observed if x[0] not in gone)
    return replace(tale, observed=left, flaws=tale.flawed("dropped", gone)), len(gone)


def _blur(tale: _Tale, findings: Findings, what: Damage, rng: np.random.Generator) -> tuple[_Tale, int]:  # noqa: ARG001
    """Clauses that keep their place and lose their value."""
    words = _words(what)
    free = tale.untouched
    most = max(0, min(what.severity, len(tale.observed) - 2))
    gone = set(_shuffled(free, rng)[:most])
    empty = {f: _pick(rng, (*words.vague[f], *words.vague[""])) for f in sorted(gone)}
    observed = tuple((f, empty.get(f, clause)) for f, clause in tale.observed)
    values = {f: v for f, v in tale.values.items() if f not in gone}
    return replace(tale, observed=observed, values=values, flaws=tale.flawed("vague", gone)), len(gone)


def _advise(tale: _Tale, findings: Findings, what: Damage, rng: np.random.Generator) -> tuple[_Tale, int]:  # noqa: ARG001
    """An unsafe sentence, at times beside a sound one."""
    words = _words(what)
    bad = spoken(words.advice[what.severity], rng)
    sound = [spoken(words.advice[0], rng)] if rng.random() < 0.4 else []
    return replace(tale, advice=tuple(_shuffled([bad, *sound], rng))), what.severity


_STEPS = {"invented": _invent, "dropped": _drop, "vague": _blur, "advice": _advise}


def _cite(tale: _Tale, rng: np.random.Generator) -> _Tale:
    """The reasoning cites what is still observed, with the value that is claimed; half of the sound have sound advice."""
    observed = [f for f, _ in tale.observed if f in tale.values]
    spare = _shuffled([f for f in observed if f not in tale.cited], rng)
    why = tale.why
    for finding, noun in _nouns_in(tale.why):
        new = finding if finding in observed or not spare else spare.pop()
        if new in tale.values:
            why = _swap(why, noun, NOUNS[new][tale.values[new]])
    advice = tale.advice or ((spoken(WORDS["seen"].advice[0], rng),) if rng.random() < 0.5 else ())
    return replace(tale, why=why, advice=advice)


def _contradict(tale: _Tale, what: Damage, others: Sequence[Page], rng: np.random.Generator) -> tuple[_Tale, int]:
    """The reasoning cites what was not observed or denies what was, or chooses another disease than the answer."""
    if what.severity == MOST["contradiction"]:
        other = _pick(rng, [p.name for p in others if p.name != tale.answer])
        if what.form == "other" or rng.random() < _BESIDE:
            return replace(tale, doubts=(_pick(rng, _words(what).switched).format(x=other),)), what.severity
        return replace(tale, why=tale.why.replace(tale.answer, other)), what.severity
    nouns = _nouns_in(tale.why)
    if what.form == "other" or rng.random() < _BESIDE:
        denied = [_pick(rng, _words(what).denied).format(x=noun.lower()) for _, noun in nouns[: what.severity]]
        return replace(tale, doubts=tuple(denied)), len(denied)
    why = tale.why
    for finding, noun in _shuffled(nouns, rng)[: what.severity]:
        wrong = [v for v in VOCABULARY[finding] if NOUNS[finding][v].lower() != noun.lower()]
        why = _swap(why, noun, NOUNS[finding][_pick(rng, wrong)])
    return replace(tale, why=why), min(what.severity, len(nouns))


def _nouns_in(why: str) -> list[tuple[str, str]]:
    """Finding and noun of what a reasoning cites, as written there, the longest first."""
    found: list[tuple[int, str, str]] = []
    every = sorted(((noun, f) for f, nouns in NOUNS.items() for noun in nouns.values()), key=lambda x: -len(x[0]))
    left = why
    for noun, finding in every:
        if match := re.search(rf"\b{re.escape(noun)}\b", left, re.IGNORECASE):
            found.append((match.start(), finding, match.group()))
            left = left[: match.start()] + " " * len(noun) + left[match.end() :]
    return [(finding, noun) for _, finding, noun in sorted(found)]


def _swap(text: str, old: str, new: str) -> str:
    return text.replace(old, new[0].upper() + new[1:] if old[0].isupper() else new, 1)


def _sentences(clauses: Sequence[str], rng: np.random.Generator) -> str:
    """One clause first, then one or two to a sentence, as ``narrate`` joins them."""
    plain = [c[0].lower() + c[1:] for c in clauses]
    sentences: list[str] = []
    while plain:
        count = 1 if not sentences else int(rng.integers(1, 3))
        sentences.append(JOINTS[int(rng.integers(len(JOINTS)))].join(plain[:count]))
        plain = plain[count:]
    return " ".join(f"{s[0].upper()}{s[1:]}." for s in sentences)


def _words(what: Damage) -> Words:
    return WORDS[WORDING[what.form]]


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _shuffled(items: Sequence[T], rng: np.random.Generator) -> list[T]:
    return [items[i] for i in rng.permutation(len(items))]
