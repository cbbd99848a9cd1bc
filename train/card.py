"""The card of a trained adapter: what it was trained on and how, its losses, and their curves.

It names digests, never a photograph, a path or a patient, and holds no time of day: training the same thing
again on the same machine gives the same files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from skinedge.errors import MissingDependencyError
from skinedge.staging import staged_file
from train.losses import NAMES
from train.recipe import to_toml
from train.run_folder import Row
from train.settings import Recipe

CURVES_FILE = "curves.png"
_MEANING = {
    "ce": "cross-entropy of the supervised tokens",
    "cosine": "10 x mean(1 - cos) to the teacher's features",
    "balance": "router balance, summed over the layers",
    "skin": "cross-entropy of the skin type",
}


def write_card(out: Path, recipe: Recipe, identity: Mapping[str, str], rows: Sequence[Row], records: int) -> None:
    """Write ``README.md``, ``recipe.toml`` and ``curves.png`` into ``out``; each appears whole, or replaces the old."""
    for name, data in {
        CURVES_FILE: _curves(rows),
        "recipe.toml": to_toml(recipe).encode(),
        "README.md": _text(recipe, identity, rows, records).encode(),
    }.items():
        (out / name).unlink(missing_ok=True)
        with staged_file(out / name) as f:
            f.write(data)


def _text(recipe: Recipe, identity: Mapping[str, str], rows: Sequence[Row], records: int) -> str:
    last = rows[-1]
    lines = [
        "# Adapter",
        "",
        f"A {recipe.adapter.kind} for a frozen Qwen2.5-VL, trained by `python -m train.distill` (skinedge) for "
        f"{last['step']} steps over {records} records, {last['epoch']:.4g} epochs, in {recipe.train.precision}. "
        "`recipe.toml` holds every setting.",
        "",
        "It was made for research: it supports a clinician and does not replace one.",
        "",
        "| made from | sha256 |",
        "|---|---|",
        *(f"| {name} | `{value}` |" for name, value in identity.items() if len(value) == 64),
        "",
        "| loss | weight | first | last | what it is |",
        "|---|---|---|---|---|",
        *(_loss_line(recipe, name, rows) for name in NAMES),
        "",
        "First and last are means over a twentieth of the steps.",
        "",
        f"![losses]({CURVES_FILE})",
        "",
    ]
    return "\n".join(lines)


def _loss_line(recipe: Recipe, name: str, rows: Sequence[Row]) -> str:
    few = max(1, len(rows) // 20)
    first, last = (sum(r[name] for r in part) / few for part in (rows[:few], rows[-few:]))
    return f"| {name} | {getattr(recipe.loss, name):g} | {first:.4g} | {last:.4g} | {_MEANING[name]} |"


def _curves(rows: Sequence[Row]) -> bytes:
    import io

    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as e:
        raise MissingDependencyError(
            "the card's curves need matplotlib, which is not installed.", hint="Install it: pip install 'skinedge[train]'."
        ) from e
    shown = [name for name in NAMES if any(r[name] for r in rows)]
    figure = Figure(figsize=(3.6 * max(1, len(shown)), 3), layout="constrained")
    steps = [r["step"] for r in rows]
    for axes, name in zip(figure.subplots(1, max(1, len(shown)), squeeze=False)[0], shown, strict=False):
        axes.plot(steps, [r[name] for r in rows], linewidth=1)
        axes.set_title(name)
        axes.set_xlabel("step")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
