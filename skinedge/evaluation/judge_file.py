"""Narratives to be judged, from a JSON Lines file, and the order in which a judge sees them.

One object a line: ``id`` and ``text``; ``arm`` where several models wrote about each case; ``image`` (relative to the
file) or ``reference``, as the judge's form needs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from skinedge.errors import CasesError
from skinedge.evaluation.scorer import Scorable
from skinedge.weights.checkpoint import file_digest

LAYOUT = 'One object a line: {"id": "1", "text": "...", "arm": "a", "image": "1.jpg", "reference": "..."}.'


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    id: str
    text: str
    arm: str = ""
    image: str | None = None
    reference: str | None = None


@dataclass(frozen=True)
class Written:
    """A narrative and whose it is; ``arm`` is never told to a judge."""

    arm: str
    one: Scorable


@dataclass(frozen=True)
class WrittenFile:
    """All narratives of a file, and its sha256."""

    name: str
    digest: str
    written: tuple[Written, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms, in the order of first appearance."""
        return tuple(dict.fromkeys(w.arm for w in self.written))


def read_written(path: Path) -> WrittenFile:
    """Read narratives.

    Raises:
        CasesError: a line cannot be used, an arm has a case twice, or there is none.
    """
    written, seen = [], dict[tuple[str, str], int]()
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        found = _line(path, number, line)
        before = seen.setdefault((found.id, found.arm), number)
        if before != number:
            whose = f" of arm '{found.arm}'" if found.arm else ""
            raise CasesError(
                f"{path.name}, lines {before} and {number}: both are case '{found.id}'{whose}.",
                hint="Where two models wrote about one case, give each line its 'arm'.",
            )
        image = path.parent / found.image if found.image else None
        written.append(Written(found.arm, Scorable(found.id, found.text, image, found.reference)))
    if not written:
        raise CasesError(f"{path} has no narratives.", hint=LAYOUT)
    return WrittenFile(path.name, file_digest(path), tuple(written))


def blinded(written: Sequence[Written], seed: int) -> list[Written]:
    """Cases in order, the arms of each in an order drawn by ``seed`` and the case's id alone."""
    cases: dict[str, list[Written]] = {}
    for one in written:
        cases.setdefault(one.one.id, []).append(one)
    ordered = []
    for name, arms in cases.items():
        by_name = sorted(arms, key=lambda w: w.arm)
        ordered += [by_name[i] for i in np.random.default_rng([seed, *name.encode()]).permutation(len(by_name))]
    return ordered


def to_repeat(written: Sequence[Written], share: float, seed: int) -> list[Written]:
    """A share of the narratives, rounded up, drawn by ``seed``."""
    count = int(np.ceil(share * len(written)))
    return [written[i] for i in sorted(np.random.default_rng([seed, 1]).permutation(len(written))[:count])]


def _line(path: Path, number: int, line: bytes) -> _Line:
    try:
        return _Line.model_validate(json.loads(line))
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the line"
        raise CasesError(f"{path.name}, line {number}: {where} cannot be used ({first['msg'].lower()}).", hint=LAYOUT) from e
    except (ValueError, RecursionError) as e:
        raise CasesError(f"{path.name}, line {number}: it is not JSON.", hint=LAYOUT) from e
