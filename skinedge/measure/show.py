"""Measurements on the screen and as one line for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skinedge.console import note, say, size, table
from skinedge.measure.bench import case_figures, ceiling_share
from skinedge.measure.statistics import Summary, summarise

if TYPE_CHECKING:
    from skinedge.console import Json
    from skinedge.manifest import Manifest
    from skinedge.measure.compare import Comparison
    from skinedge.measure.result import CaseResult, EnergyRecord, Result

_PARTS = ("preprocess_ms", "image_encode_ms", "prefill_ms", "sample_ms")


def show_result(result: Result, manifest: Manifest) -> None:
    """Medians of every case, with the spread of the two that people feel; then the start, memory and the ceiling."""
    head = (
        "case",
        "prompt",
        "image",
        "output",
        "preprocess",
        "encode",
        "prefill",
        "sample",
        "first token (IQR)",
        "a token (IQR)",
    )
    measured = [c for c in result.cases if c.samples]
    if measured:
        table((*head, "tokens/s", "of ceiling", "all", "n"), [_row(c, result, manifest) for c in measured])
        say("Medians of n runs, milliseconds where nothing else is said; preprocess to sample add up to the first token.")
    for found in result.cases:
        if found.status != "measured":
            say(f"{found.case.name}: {found.status}: {found.reason}")
        for phase, energy in (("prompt", found.prefill_energy), ("answer", found.decode_energy)):
            if energy:
                say(f"{found.case.name}: {_energy(phase, energy)}")
    for line in _summary(result):
        say(line)
    if result.status != "measured":
        note(f"{result.status}: {result.reason}")


def _row(found: CaseResult, result: Result, manifest: Manifest) -> list[str]:
    figures = {name: summarise(values) for name, values in case_figures(found).items()}
    share = ceiling_share(found, result, manifest)
    case = found.case
    return [
        case.name, str(case.prompt_tokens), str(case.image_tokens), _plain(figures["output_tokens"], 0),
        *(_plain(figures[p], 1) for p in _PARTS), _spread(figures["ttft_ms"], 1), _spread(figures["tpot_ms"], 2),
        _plain(figures["decode_tok_s"], 1), "-" if share is None else f"{share:.0%}", _plain(figures["e2e_ms"], 0),
        str(len(found.samples)),
    ]  # fmt: skip


def _plain(found: Summary | None, digits: int) -> str:
    return "-" if found is None else f"{found.median:.{digits}f}"


def _spread(found: Summary | None, digits: int) -> str:
    return "-" if found is None else f"{found.median:.{digits}f} ({found.iqr:.{digits}f})"


def _energy(phase: str, e: EnergyRecord) -> str:
    each = f"{e.gross_j / e.tokens:.3g} J a token, {e.net_j / e.tokens:.3g} J above rest"
    return f"{phase} {each} ({e.source}, {e.tokens} tokens in {e.seconds:.1f} s)"


def _summary(result: Result) -> list[str]:
    starts = [f"{s:.2f} s {what}" for what, s in (("cold", result.load_cold_s), ("warm", result.load_warm_s)) if s is not None]
    memory = [
        f"{size(n)} {what}"
        for what, n in (
            ("resident", result.peak_resident_bytes),
            ("of it private", result.peak_private_bytes),
            ("on the GPU", result.peak_device_bytes),
        )
        if n is not None
    ]
    lines = [f"{result.bundle.target} {result.bundle.scheme}, {size(result.bundle.nbytes)}, on {result.machine.processor}"]
    lines += [f"opened in {' and '.join(starts)}"] if starts else []
    lines += [f"memory at most {', '.join(memory)}"] if memory else []
    lines += [f"throttling {result.flags['throttling']}"] if "throttling" in result.flags else []
    if result.bandwidth_gb_s and result.weight_bytes_per_token:
        lines.append(
            f"{size(result.weight_bytes_per_token)} of weights a token; memory is read at {result.bandwidth_gb_s:.1f} GB/s"
        )
    return lines


def result_json(result: Result, out: Path | None) -> dict[str, Json]:
    """A result in one object: every metric's numbers, not its samples."""
    return {
        "kind": "result", "status": result.status, "reason": result.reason, "result": str(out) if out else None,
        "digest": result.digest, "bundle": result.bundle.digest, "suite": result.suite, "load_cold_s": result.load_cold_s,
        "load_warm_s": result.load_warm_s, "peak_resident_bytes": result.peak_resident_bytes,
        "peak_private_bytes": result.peak_private_bytes, "peak_device_bytes": result.peak_device_bytes,
        "bandwidth_gb_s": result.bandwidth_gb_s, "weight_bytes_per_token": result.weight_bytes_per_token,
        "cases": [_case_json(c) for c in result.cases],
    }  # fmt: skip


def _case_json(found: CaseResult) -> dict[str, Json]:
    case = found.case
    summaries = {name: summarise(values) for name, values in case_figures(found).items()}
    energies = {"prefill": found.prefill_energy, "decode": found.decode_energy}
    return {
        "name": case.name, "status": found.status, "reason": found.reason, "prompt_tokens": case.prompt_tokens,
        "image_tokens": case.image_tokens, "ttft_parts": parts_of_ttft(found),
        **{name: s.to_json() for name, s in summaries.items() if s},
        **{f"{phase}_j_per_token": e.gross_j / e.tokens for phase, e in energies.items() if e},
        **{f"{phase}_net_j_per_token": e.net_j / e.tokens for phase, e in energies.items() if e},
    }  # fmt: skip


def parts_of_ttft(found: CaseResult) -> float | None:
    """The sum of the parts over the time to the first token, median of the runs: 1 within 2 %, or something is not timed."""
    ratios = summarise([sum(float(getattr(s, p)) for p in _PARTS) / s.ttft_ms for s in found.samples if s.ttft_ms])
    return ratios.median if ratios else None


def show_comparison(found: Comparison) -> None:
    """What differs and what does not."""
    for judgement in found.judgements:
        say(judgement.sentence())
    if found.reason:
        note(f"{found.status}: {found.reason}")
