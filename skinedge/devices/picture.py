"""A forecast as a picture: one bar a device, as long as the answer takes, cut into its stages; plain SVG without scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from skinedge.measure.forecast import Forecast, ForecastRow, TimeParts

_WIDTH, _LABEL, _RIGHT, _ROW, _TOP = 900, 300, 190, 30, 96
# Told apart by lightness too, for print and for eyes that mix colours up (Okabe and Ito's palette).
_STAGES = (("photograph", "#000000"), ("vision tower", "#d55e00"), ("prompt", "#e69f00"), ("answer", "#56b4e9"))


def svg(found: Forecast, rows: Sequence[ForecastRow]) -> str:
    """The picture of ``rows``; those that do not fit are named with their reason."""
    height = _TOP + _ROW * len(rows) + 30
    longest = max((row.time.e2e_ms for row in rows if row.time), default=1.0)
    scale = (_WIDTH - _LABEL - _RIGHT) / longest
    load = found.workload
    title = f"{found.model.name}: seconds until {load.output_tokens} tokens about one photograph are written (estimated)"
    accuracy = found.accuracy
    foot = f"Estimated; on {accuracy.rows} published figures the median error is {100 * accuracy.median_error:.0f} %."
    question = f"{load.image_tokens} image and {load.text_tokens} text tokens, context {load.context}."
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="t" '
        'font-family="sans-serif" font-size="13">',
        f'<title id="t">{escape(title)}</title>',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="26" font-size="16">{escape(title)}</text>',
        f'<text x="12" y="48">{escape(f"{question} {foot}")}</text>',
        *_legend(),
        *(line for number, row in enumerate(rows) for line in _bar(row, _TOP + _ROW * number, scale)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _legend() -> Iterator[str]:
    for i, (name, colour) in enumerate(_STAGES):
        yield f'<rect x="{_LABEL + 130 * i}" y="62" width="14" height="14" fill="{colour}"/>'
        yield f'<text x="{_LABEL + 130 * i + 20}" y="74">{name}</text>'


def _bar(row: ForecastRow, y: int, scale: float) -> Iterator[str]:
    yield f'<text x="{_LABEL - 10}" y="{y + 17}" text-anchor="end">{escape(f"{row.device}, {row.target} {row.scheme}")}</text>'
    if row.time is None:
        yield f'<text x="{_LABEL}" y="{y + 17}" fill="#444444">{escape(f"{row.verdict}: {row.reason}")}</text>'
        return
    x = float(_LABEL)
    for (name, colour), ms in zip(_STAGES, _parts(row.time), strict=True):
        said = f"<title>{name}: {ms / 1e3:.2f} s</title>"
        yield f'<rect x="{x:.1f}" y="{y + 3}" width="{ms * scale:.1f}" height="20" fill="{colour}">{said}</rect>'
        x += ms * scale
    yield f'<text x="{x + 8:.1f}" y="{y + 17}">{row.time.e2e_ms / 1e3:.1f} s, {row.time.decode_tok_s:.1f} tokens/s</text>'


def _parts(time: TimeParts) -> tuple[float, float, float, float]:
    return time.preprocess_ms, time.image_encode_ms, time.prefill_ms, time.e2e_ms - time.ttft_ms + time.sample_ms
