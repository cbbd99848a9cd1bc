"""Scorers by name; each module is imported when it is asked for and no sooner."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import cast

from skinedge.errors import UsageError
from skinedge.evaluation.scorer import Scorer
from skinedge.registry import check

SCORERS: Mapping[str, str] = {
    "rubric": "skinedge.evaluation.rubric:Rubric",
    "dermeval": "skinedge.evaluation.dermeval:DermEval",
    "judge": "skinedge.evaluation.judge:Judge",
}


def known_scorers() -> tuple[str, ...]:
    """Names of all scorers, whether their modules are there or not."""
    return tuple(SCORERS)


def load_scorer(name: str) -> Callable[..., Scorer]:
    """The class of a scorer, to be called with what it needs.

    Raises:
        UsageError: no scorer is called so, or this skinedge does not hold it.
    """
    module, _, attribute = SCORERS[check("scorer", name, known_scorers())].partition(":")
    if importlib.util.find_spec(module) is None:
        has = ", ".join(n for n, place in SCORERS.items() if importlib.util.find_spec(place.partition(":")[0])) or "none"
        raise UsageError(f"this skinedge has no scorer '{name}': {module} is missing.", hint=f"It has: {has}.")
    return cast(Callable[..., Scorer], getattr(importlib.import_module(module), attribute))
