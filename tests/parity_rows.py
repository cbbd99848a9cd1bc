"""Rows of a comparison made from a seed: SynthDerm narratives, some of which the bundle changes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from skinedge.evaluation.scorer import Scored
from skinedge.evaluation.scores import DIMENSIONS
from skinedge.parity.certificate import Context, ReferenceRecord, StageRecord
from skinedge.parity.record import SKIN_GROUPS, Forced, Narrative, Row
from skinedge.synthderm.findings import draw_cases
from skinedge.synthderm.narrative import draw_differentials, narrate
from tests.measured import OFFICE, bundle, sha

NOW = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)


def make_rows(
    count: int, *, lost: int = 0, won: int = 0, wrong: int = 0, reworded: float = 0.3, seed: int = 7, forced: bool = False
) -> list[Row]:
    """``count`` rows, with distributions over the vocabulary if ``forced``.

    The reference is wrong on the last ``wrong`` and the bundle on them and the first ``lost``, except for ``won`` of the
    ``wrong``, which it gets right.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number, case in enumerate(draw_cases(count, seed)):
        others = draw_differentials(case.diagnosis, rng)
        text = narrate(case.findings, case.diagnosis, others, np.random.default_rng([seed, number]))
        bad = text.replace(f"<answer>{case.diagnosis}<", f"<answer>{others[0]}<")
        first, second = text, text
        if number >= count - wrong:
            first, second = bad, text if number >= count - won else bad
        elif number < lost:
            second = bad
        if rng.random() < reworded:
            second = second.replace("The border is", "The margin is rather").replace("Less likely", "Much less likely")
        rows.append(_row(number, case.diagnosis, SKIN_GROUPS[case.skin_label], first, second, rng, forced))
    return rows


def _row(number: int, truth: str, skin: str, first: str, second: str, rng: np.random.Generator, with_forced: bool) -> Row:
    a, b = first.split(), second.split()
    different = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    kl = rng.exponential(0.002, len(a))
    p = rng.uniform(0.3, 1, len(a))
    q = np.clip(p + rng.normal(0, 0.01, len(a)), 1e-6, 1)
    forced = Forced(tuple(kl.tolist()), tuple((kl < 0.008).tolist()), tuple(p.tolist()), tuple(q.tolist()))
    arms = Narrative(first, len(a), "stop"), Narrative(second, len(b), "stop")
    return Row(f"case-{number:04d}", sha(f"picture {number}"), truth, skin, *arms, different, forced if with_forced else None)


def make_scores(rows: list[Row], shift: float = 0.0, seed: int = 1) -> Mapping[str, tuple[Scored, Scored]]:
    """Six scores of both arms; the bundle's lower by ``shift``, and one case in fifty invalid."""
    rng = np.random.default_rng(seed)
    scores = {}
    for number, row in enumerate(rows):
        first = {name: float(rng.integers(30, 48)) / 10 for name in DIMENSIONS}
        second = {name: float(np.clip(v - shift + rng.normal(0, 0.2), 0, 5)) for name, v in first.items()}
        invalid = "no JSON object" if number % 50 == 49 else ""
        scores[row.id] = Scored(row.id, first), Scored(row.id, None if invalid else second, invalid)
    return scores


def make_context(bits: float = 4.5, **changes: object) -> Context:
    """A context for ``make_rows``."""
    context = Context(
        bundle=bundle("gguf", "q4_k_m", 4.8, 512 << 20),
        reference=ReferenceRecord(name="embedded/tiny", digest=sha("reference"), same_source=True),
        machine=OFFICE,
        data="SynthDerm, seed 7",
        synthetic=True,
        bits=bits,
        settings={"question": "by default", "most new tokens": "512", "decoding": "greedy", "bias": "every-step"},
        scorer={"name": "rubric", "version": "1"},
        stages=(
            StageRecord(name="pixels", verdict="ok", measured={"max_abs": 0.0}),
            StageRecord(name="steps", verdict="reported", measured={"kl_mean": 0.0021, "top1": 0.985}),
        ),
    )
    return context.model_copy(update=changes)
