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
        typer.Argument(
            help="Files of bench, plan --out, parity or a kit; a bundle stands for its certificate, a folder for its JSON files."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="What the page is called.")] = "Measurements",
    as_json: AsJson = False,
) -> None:
    """Write one self-contained page: latency, speed against the ceiling, memory, energy, quality, certificates, lineage.

    Example: skinedge report results/*.json bundle/ --out report.html
    """
    from skinedge.report.page import write_report

    found = write_report(documents, out, title)
    counts = {
        "measured": len(found.measured),
        "forecasts": len(found.forecasts),
        "parity": len(found.parities),
        "certificates": len(found.certificates),
        "kits": len(found.kits),
    }
    nbytes = out.stat().st_size
    if as_json:
        emit({"report": str(out), "nbytes": nbytes, **counts})
    else:
        say(f"{out}: {size(nbytes)}. {', '.join(f'{name} {n}' for name, n in counts.items())}.")
