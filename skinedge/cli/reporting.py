"""``skinedge report``: one page about everything that was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skinedge.cli.options import AsJson
from skinedge.console import emit, say, size


def report(
    documents: Annotated[
        list[Path],
        typer.Argument(help="Files of bench, plan --out, parity --report or a kit; a folder stands for its JSON files."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="What the page is called.")] = "Measurements",
    as_json: AsJson = False,
) -> None:
    """Write one self-contained page: latency, speed against the ceiling, memory, energy, quality, lineage.

    Example: skinedge report results/*.json --out report.html
    """
    from skinedge.report.page import write_report

    found = write_report(documents, out, title)
    measured, forecasts, parities, kits = len(found.measured), len(found.forecasts), len(found.parities), len(found.kits)
    nbytes = out.stat().st_size
    if as_json:
        emit(
            {"report": str(out), "nbytes": nbytes, "measured": measured, "forecasts": forecasts, "parity": parities, "kits": kits}
        )
    else:
        say(f"{out}: {size(nbytes)}. Measurements {measured}, forecasts {forecasts}, parity reports {parities}, kits {kits}.")
