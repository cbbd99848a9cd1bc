"""What a report computes from raw samples: spreads, the decode ceiling, joules per token, and whether the parts add up.

The ceiling is that of REFERENCE section 6: a decode step reads every weight it uses once and, for every position held, the
keys and values, so ``tokens/s <= bandwidth / (weight bytes + cache bytes x context)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skinedge.measure.ceiling import memory_gb_s
from skinedge.measure.result import CaseResult, EnergyRecord, Result, Status

STAGES = ("preprocess_ms", "image_encode_ms", "prefill_ms", "sample_ms")
ADDS_UP = 0.02  # of the time to the first token
# Weights that fit into a processor's cache (the largest: 384 MiB) are not read from memory: there is no ceiling then.
CACHED_BELOW = 768 << 20


@dataclass(frozen=True)
class Spread:
    """Median, quartiles, least and 90th percentile of ``n`` samples."""

    median: float
    q1: float
    q3: float
    p90: float
    least: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of the values, linearly interpolated; ``None`` of none."""
        import numpy as np

        if not values:
            return None
        q1, median, q3, p90 = (float(v) for v in np.percentile(values, (25, 50, 75, 90)))
        return cls(median, q1, q3, p90, float(min(values)), len(values))


@dataclass(frozen=True)
class Ceiling:
    """The most tokens a second that memory allows, and what it was computed from.

    ``cache_bytes`` is per position and ``None`` where the result does not say: the ceiling then counts the weights alone,
    which makes it higher.
    """

    tok_s: float
    bandwidth_gb_s: float
    source: str
    weight_bytes: int
    cache_bytes: int | None
    context: float


@dataclass(frozen=True)
class Energy:
    """Joules per token of one phase, as drawn and above idle."""

    gross: float
    net: float
    source: str

    @classmethod
    def of(cls, record: EnergyRecord | None) -> Energy | None:
        """Per token."""
        return cls(record.gross_j / record.tokens, record.net_j / record.tokens, record.source) if record else None


@dataclass(frozen=True)
class CaseFigures:
    """One case of one result, ready to be shown.  ``problems`` are what the figures themselves betray."""

    result: Result
    case: CaseResult
    status: Status
    reason: str | None
    stages: dict[str, Spread]
    ttft: Spread | None
    tpot: Spread | None
    tok_s: Spread | None
    e2e: Spread | None
    output_tokens: Spread | None
    ceiling: Ceiling | None
    prefill_energy: Energy | None
    decode_energy: Energy | None
    problems: tuple[str, ...]

    @property
    def shown(self) -> bool:
        """Whether its figures count: neither invalid nor skipped, and there are some."""
        return self.status in ("measured", "estimated") and self.ttft is not None

    @property
    def share(self) -> float | None:
        """Of the ceiling."""
        return self.tok_s.median / self.ceiling.tok_s if self.tok_s and self.ceiling else None

    @property
    def above_ceiling(self) -> bool:
        """Faster than memory allows: not a result but a bug."""
        return self.share is not None and self.share > 1


def case_figures(result: Result, case: CaseResult) -> CaseFigures:
    """Everything about one case."""
    status, reason = effective_status(result, case)
    samples = case.samples
    stages = {name: Spread.of([getattr(s, name) for s in samples]) for name in STAGES}
    tok_s = Spread.of([s.decode_tok_s for s in samples if s.decode_tok_s is not None])
    return CaseFigures(
        result=result,
        case=case,
        status=status,
        reason=reason,
        stages={name: spread for name, spread in stages.items() if spread},
        ttft=Spread.of([s.ttft_ms for s in samples]),
        tpot=Spread.of([s.tpot_ms for s in samples if s.tpot_ms is not None]),
        tok_s=tok_s,
        e2e=Spread.of([s.e2e_ms for s in samples]),
        output_tokens=Spread.of([s.output_tokens for s in samples]),
        ceiling=ceiling(result, case) if tok_s else None,
        prefill_energy=Energy.of(case.prefill_energy),
        decode_energy=Energy.of(case.decode_energy),
        problems=_parts_that_do_not_add_up(case),
    )


def effective_status(result: Result, case: CaseResult) -> tuple[Status, str | None]:
    """A case is what it says unless its whole run was disturbed, left out or estimated."""
    if result.status in ("invalid", "skipped"):
        return result.status, result.reason or "no reason was recorded"
    if case.status in ("invalid", "skipped"):
        return case.status, case.reason
    if result.throttling:
        return "invalid", f"throttled: {', '.join(result.throttling)}"
    return ("estimated" if "estimated" in (result.status, case.status) else "measured"), case.reason


def ceiling(result: Result, case: CaseResult) -> Ceiling | None:
    """The ceiling of a case's decoding; ``None`` if the result says too little, or a cache can hold the weights.

    The time of a step grows linearly with the context, so the mean context of the steps gives the exact mean.
    """
    memory = memory_gb_s(result)
    weights, cache = result.weight_bytes_per_token or 0, result.cache_bytes_per_position
    if memory is None or weights < CACHED_BELOW or not case.samples:
        return None
    steps = [(s.output_tokens - 1) / 2 for s in case.samples]
    context = case.case.prompt_tokens + sum(steps) / len(steps)
    nbytes = weights + (cache or 0) * context
    return Ceiling(memory[0] * 1e9 / nbytes, *memory, weights, cache, context)


def _parts_that_do_not_add_up(case: CaseResult) -> tuple[str, ...]:
    """What is wrong with the samples themselves: a time to the first token that is not the sum of its parts."""
    # The median, because a busy machine may stop any single run between two stages.
    off = Spread.of([abs(sum(getattr(s, name) for name in STAGES) - s.ttft_ms) / s.ttft_ms for s in case.samples if s.ttft_ms])
    if off and off.median > ADDS_UP:
        return (
            f"in half of its runs the stages miss the time to first token by {off.median:.1%} or more, of {ADDS_UP:.0%} allowed",
        )
    return ()
