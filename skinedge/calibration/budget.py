"""Bits where they matter: a scheme for each matrix, so that the whole fits a budget and hurts least.

Damage adds up well enough while it is small: every matrix is measured by itself (``skinedge.calibration.damage``), and
its other schemes follow from how much of its output they change.  What is left is a choice of one scheme per
matrix under a sum of bytes, solved on the lower convex hull of each matrix's choices, best gain per byte first.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from skinedge.console import size
from skinedge.errors import UsageError

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Choice:
    """A scheme for a group of matrices: what it takes, and the damage (KL of the final logits, nats a token)."""

    scheme: str
    nbytes: int
    damage: float


@dataclass(frozen=True)
class Group:
    """Matrices that must share a scheme (those that are stacked into one), by canonical names.

    ``answer`` is the share of the answers' tokens (of all, where none is marked) that became others in the scheme that was
    measured.
    """

    name: str
    members: tuple[str, ...]
    choices: tuple[Choice, ...]
    answer: float = 0.0


@dataclass(frozen=True)
class Entry:
    """A line of a plan; ``answer`` is that of its group."""

    name: str
    members: tuple[str, ...]
    scheme: str
    nbytes: int
    damage: float
    answer: float


@dataclass(frozen=True)
class BudgetPlan:
    """A scheme for every matrix of the language model.

    ``model`` and ``data`` are the digests of what it was measured on; ``fixed`` the bytes of everything that the plan
    does not touch (embedding, norms, vision tower, side branch).
    """

    target: str
    scheme: str
    budget: int
    fixed: int
    model: str
    data: str
    entries: tuple[Entry, ...]

    @property
    def mix(self) -> dict[str, str]:
        """Canonical tensor name to scheme, as ``ExportOptions.mix`` takes it."""
        return {member: entry.scheme for entry in self.entries for member in entry.members}

    @property
    def nbytes(self) -> int:
        """What the bundle's weights will take."""
        return self.fixed + sum(entry.nbytes for entry in self.entries)

    def check(self, model: str, data: str, target: str) -> None:
        """Refuse to be used for something else than it was measured on.

        Raises:
            UsageError: another model, calibration or target.
        """
        for what, mine, theirs in (
            ("model", self.model, model),
            ("calibration", self.data, data),
            ("target", self.target, target),
        ):
            if mine != theirs:
                raise UsageError(
                    f"the plan was made for another {what} ({mine[:12]}, and this is {theirs[:12]}).",
                    hint="Make a plan for this one: skinedge quantize --help",
                )

    def to_json(self) -> str:
        """The plan as ``--plan`` reads it."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> BudgetPlan:
        """Read a plan.

        Raises:
            UsageError: there is none, or it is damaged.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw.pop("schema_version") != SCHEMA_VERSION:
                raise ValueError("its schema is of another version")
            entries = tuple(Entry(**{**e, "members": tuple(map(str, e["members"]))}) for e in raw.pop("entries"))
            return cls(entries=entries, **raw)
        except OSError as e:
            raise UsageError(f"{path} cannot be read: {e.strerror}.", hint="Make a plan: skinedge quantize --help") from e
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise UsageError(f"{path} is not a plan of skinedge: {e}.", hint="Make one: skinedge quantize --help") from e


@dataclass(frozen=True)
class Menu:
    """What every group of matrices takes and spoils in each scheme: plans to any budget follow without measuring again.

    The fields are those of ``BudgetPlan``.
    """

    target: str
    scheme: str
    fixed: int
    model: str
    data: str
    groups: tuple[Group, ...]

    def plan(self, budget: int) -> BudgetPlan:
        """The plan that does the least damage within ``budget`` bytes of weights.

        Raises:
            UsageError: the budget is too small.
        """
        entries = choose(self.groups, budget - self.fixed)
        return BudgetPlan(self.target, self.scheme, budget, self.fixed, self.model, self.data, entries)


def parse_size(text: str) -> int:
    """Bytes of a size as people write it.

    >>> parse_size("4.2GiB"), parse_size("900 MB"), parse_size("1024")
    (4509715660, 900000000, 1024)

    Raises:
        UsageError: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if not found:
        raise UsageError(f"'{text}' is not a size.", hint="Write it like 4.2GiB or 900MB.")
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


def choose(groups: Sequence[Group], budget: int) -> tuple[Entry, ...]:
    """One choice for each group, together at most ``budget`` bytes.

    Raises:
        UsageError: even the smallest choices do not fit.
    """
    hulls = [_hull(group.choices) for group in groups]
    taken = [0] * len(groups)
    left = budget - sum(hull[0].nbytes for hull in hulls)
    if left < 0:
        raise UsageError(
            f"the smallest schemes of the matrices take {size(budget - left)} and the budget leaves {size(max(0, budget))}.",
            hint=f"Raise --budget by {size(-left)} at least.",
        )
    queue = [step for i, hull in enumerate(hulls) for step in _step(i, hull, 0)]
    heapq.heapify(queue)
    while queue:
        _, i, to = heapq.heappop(queue)
        cost = hulls[i][to].nbytes - hulls[i][taken[i]].nbytes
        if cost > left:
            continue  # a cheaper step of another matrix may still fit
        left -= cost
        taken[i] = to
        for step in _step(i, hulls[i], to):
            heapq.heappush(queue, step)
    chosen = [hull[k] for hull, k in zip(hulls, taken, strict=True)]
    return tuple(Entry(g.name, g.members, c.scheme, c.nbytes, c.damage, g.answer) for g, c in zip(groups, chosen, strict=True))


def _step(group: int, hull: Sequence[Choice], at: int) -> Iterable[tuple[float, int, int]]:
    """The next step on a hull as ``(-damage saved per byte, group, place)``."""
    if at + 1 < len(hull):
        yield -_slope(hull[at], hull[at + 1]), group, at + 1


def _hull(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that some price per byte makes the best, the smallest first."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.nbytes, c.damage)):
        if hull and choice.damage >= hull[-1].damage:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(small: Choice, large: Choice) -> float:
    return (small.damage - large.damage) / max(1, large.nbytes - small.nbytes)


def scaled(probe: Choice, errors: Mapping[str, float], sizes: Mapping[str, int]) -> tuple[Choice, ...]:
    """All choices of a group from the one that was measured: damage goes with the squared error of its outputs."""
    unit = probe.damage / max(errors[probe.scheme], 1e-30)
    return tuple(Choice(scheme, sizes[scheme], unit * errors[scheme]) for scheme in sizes)
