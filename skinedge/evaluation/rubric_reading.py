"""What a narrative about a SynthDerm picture claims, cites, chooses and leaves empty: read for the rubric.

Only the closed language of ``skinedge.synthderm.narrative`` is understood, with a few headings and turns of phrase
around it.  Nothing here knows what is true.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from skinedge.evaluation.structure import Structure, check_structure
from skinedge.synthderm.findings import DIAGNOSES
from skinedge.synthderm.narrative import CLAUSES, JOINTS, NOUNS, read_findings

_HEADING = re.compile(r"(?:^|(?<=[\s.]))\W*(observation|reasoning|differential|advice)s?\W*:", re.IGNORECASE)
_CLAUSE = {
    finding: [(re.compile(rf"\b{re.escape(clause)}\b"), value) for value, clauses in values.items() for clause in clauses]
    for finding, values in CLAUSES.items()
}
_NOUN = sorted(
    ((noun, finding, value) for finding, nouns in NOUNS.items() for value, noun in nouns.items()), key=lambda n: -len(n[0])
)
_DISEASE = re.compile(rf"\b(?:{'|'.join(sorted(DIAGNOSES, key=len, reverse=True))})\b")
_DENIAL = re.compile(
    r"\s*(?:is|are|was|were)\s+(?:not\b|absent|missing|nowhere)"
    r"|\s*(?:cannot|can not|can't|could not)\s+be\s+(?:seen|found|made out)"
)
# Words that say that something is there and not what.
_EMPTY = re.compile(
    r"\b(?:some|something|somehow|somewhat|certain|unusual|strange|different|special|peculiar|odd|such|abnormal|unclear"
    r"|not normal|as (?:usual|expected)|what it is|hard to|of (?:a|some) kind|a little)\b"
)
_JOINED = re.compile(r"^\s*,?\s*(?:and|while)\b")
_SEPARATORS = re.compile("|".join(map(re.escape, sorted({*JOINTS, ". ", ".", "\n"}, key=len, reverse=True))))


@dataclass(frozen=True)
class Reading:
    """One narrative, read.

    ``claims``: finding -> the values that the observation claims, one or (contradicting itself) more; ``cited``: finding
    and value of what the reasoning refers to, ``denied``: those that it says are not there; ``chosen``: the disease that
    the reasoning ends with, ``others``: those that are weighed besides; ``vague``: clauses of the observation that name
    no value; ``answer`` in lower case.
    """

    structure: Structure
    claims: Mapping[str, tuple[str, ...]]
    cited: tuple[tuple[str, str], ...]
    denied: tuple[tuple[str, str], ...]
    chosen: str
    others: tuple[str, ...]
    vague: tuple[str, ...]
    answer: str


def read_narrative(text: str) -> Reading:
    """Read a narrative; parts that are not there come out empty."""
    structure = check_structure(text)
    thought = structure.thought or text.partition("<answer>")[0]
    parts = _sections(thought.casefold())
    observation, reasoning = parts.get("observation", ""), parts.get("reasoning", "")
    cited, denied = _cited(reasoning)
    named = _DISEASE.findall(reasoning)
    return Reading(
        structure=structure,
        claims=_claims(observation, text),
        cited=cited,
        denied=denied,
        chosen=named[-1] if named else "",
        others=tuple(dict.fromkeys(_DISEASE.findall(parts.get("differential", "")))),
        vague=_vague(observation),
        answer=structure.answer.casefold().rstrip(".").strip(),
    )


def _sections(thought: str) -> dict[str, str]:
    """By heading; what stands before the first is observation."""
    headings = list(_HEADING.finditer(thought))
    ends = [*(h.start() for h in headings), len(thought)]
    parts = {"observation": thought[: ends[0]]}
    for heading, end in zip(headings, ends[1:], strict=True):
        name = heading[1].lower()
        parts[name] = f"{parts.get(name, '')} {thought[heading.end() : end]}"
    return parts


def _claims(observation: str, text: str) -> dict[str, tuple[str, ...]]:
    """All values claimed, that of ``read_findings`` first."""
    first = read_findings(text)
    claims = {}
    for finding, patterns in _CLAUSE.items():
        values = [value for pattern, value in patterns if pattern.search(observation)]
        if finding in first or values:
            claims[finding] = tuple(dict.fromkeys(([first[finding]] if finding in first else []) + values))
    return claims


def _cited(reasoning: str) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """Findings cited, and those among them that are also denied; a noun inside a longer one does not count again."""
    cited, denied, left = [], [], reasoning
    for noun, finding, value in _NOUN:
        for match in re.finditer(rf"\b{re.escape(noun)}\b", left):
            cited.append((finding, value))
            if _DENIAL.match(left, match.end()):
                denied.append((finding, value))
        left = re.sub(rf"\b{re.escape(noun)}\b", lambda m: "#" * len(m.group()), left)
    return tuple(dict.fromkeys(cited)), tuple(dict.fromkeys(denied))


def _vague(observation: str) -> tuple[str, ...]:
    """Clauses that are not of the closed language and whose words are empty."""
    left = observation
    for pattern, _ in itertools.chain(*_CLAUSE.values()):
        left = pattern.sub("", left)
    return tuple(_JOINED.sub("", clause).strip() for clause in _SEPARATORS.split(left) if _EMPTY.search(clause))
