"""A certificate in words: its figures with their units, for the terminal and for the page."""

from __future__ import annotations

from skinedge.console import say, table
from skinedge.parity.certificate import Certificate
from skinedge.parity.endpoint import ALL, Endpoint, Limits, Unit
from skinedge.parity.record import SKIN_GROUPS

MINUS = "−"
_UNITS: dict[Unit, str] = {"share": " %", "points": " points", "score": " of 5", "nats": " nats", "ratio": "", "tokens": ""}


def print_certificate(certificate: Certificate) -> None:
    """The verdict, every judged endpoint, the skin groups and what is only reported."""
    judged = [e for e in certificate.of(ALL) if e.gated]
    heads = ("endpoint", "n", "estimate", "interval", "margin", "verdict", "worst skin group")
    table(heads, [(*_cells(e), verdict_words(e), _worst(certificate, e)) for e in judged])
    say()
    reported = [e for e in certificate.of(ALL) if not e.gated and e.n]
    table(("reported", "n", "estimate", "interval", ""), [(*_cells(e)[:4], e.note) for e in reported])
    say()
    for reason in certificate.reasons:
        say(f"- {reason}")
    for group, names in certificate.underpowered.items():
        say(f"- skin {group} is underpowered with {certificate.data.by_skin[group]} cases: {', '.join(names)}")
    say(f"{len(certificate.flips)} diagnoses changed, {sum(f.dangerous for f in certificate.flips)} from malignant to benign.")
    say(f"parity: {certificate.verdict}; {certificate.reliability}")


def _cells(endpoint: Endpoint) -> tuple[str, str, str, str, str]:
    e = endpoint
    return e.name, f"{e.n:,}", figure(e.estimate, e.unit), interval_words(e), margin_words(e)


def _worst(certificate: Certificate, endpoint: Endpoint) -> str:
    group = certificate.worst.get(endpoint.name, "")
    found = certificate.endpoint(endpoint.name, group) if group else None
    return f"{group}: {figure(found.estimate, found.unit)}, {verdict_words(found, short=True)}" if found else "-"


def figure(value: float | None, unit: Unit) -> str:
    """A value with its unit; ``-`` where there is none.

    >>> figure(-0.0123, "points"), figure(0.995, "share"), figure(0.00012, "nats")
    ('−1.2 points', '99.5 %', '0.00012 nats')
    """
    return "-" if value is None else _number(value, unit) + _UNITS[unit]


def _number(value: float, unit: Unit) -> str:
    if unit in ("share", "points"):
        text = f"{100 * value:.1f}" if abs(value) >= 0.0005 or value == 0 else f"{100 * value:.2g}"
    elif unit == "nats":
        text = f"{value:.3g}"
    else:
        text = f"{value:.0f}" if unit == "tokens" else f"{value:.3f}" if unit == "ratio" else f"{value:.2f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def interval_words(endpoint: Endpoint) -> str:
    """Both ends, with the confidence where it is not 95 %."""
    ends = endpoint.interval
    if ends is None or ends.low is None or ends.high is None:
        return "-"
    rare = f" ({endpoint.confidence:.0%})" if endpoint.confidence and endpoint.confidence != 0.95 else ""
    return f"{_number(ends.low, endpoint.unit)} to {_number(ends.high, endpoint.unit)}{_UNITS[endpoint.unit]}{rare}"


def margin_words(endpoint: Endpoint) -> str:
    """What is acceptable."""
    margin, unit = endpoint.margin or Limits(), endpoint.unit
    if margin.low is not None and margin.high is not None:
        return f"{_number(margin.low, unit)} to {_number(margin.high, unit)}{_UNITS[unit]}"
    if margin.low is not None:
        return f"above {figure(margin.low, unit)}"
    if margin.high == 0:
        return "none without review"
    return f"below {figure(margin.high, unit)}" if margin.high is not None else "-"


def verdict_words(endpoint: Endpoint, *, short: bool = False) -> str:
    """The verdict, with the number that would do."""
    if endpoint.verdict != "not enough data":
        return endpoint.verdict or "-"
    few = "underpowered" if endpoint.group in SKIN_GROUPS else "not enough data"
    return few if short or not endpoint.needed else f"{few} ({endpoint.needed:,} would do)"
