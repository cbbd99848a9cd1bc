"""``skinedge parity``: a bundle compared with PyTorch, stage by stage and picture by picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skinedge.cli.options import Adapters, AsJson, BundleDir, Side, Threads, existing, source_of
from skinedge.console import Json, emit, say
from skinedge.errors import UsageError

if TYPE_CHECKING:
    from skinedge.artifacts import AdapterCheckpoint
    from skinedge.evaluation.cases import Case
    from skinedge.parity.record import Row

# The stages hold what they compare in memory: with a file of cases they are shown the first few, the rows take them all.
STAGE_PICTURES = 8


def parity(
    bundle: BundleDir,
    reference: Annotated[Path | None, typer.Option(help="The checkpoint it was made from; left out: the embedded model.")] = None,
    adapter: Adapters = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of photographs, with --cases that of its image names; left out: three generated pictures."),
    ] = None,
    cases: Annotated[Path | None, typer.Option(help="CSV or JSON Lines: a photograph in each row, and what is known.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many photographs.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Teacher-forced steps.")] = 64,
    bisect: Annotated[bool, typer.Option("--bisect", help="Where a stage is bad, name the first bad block inside it.")] = False,
    rows: Annotated[
        Path | None, typer.Option(help="Also compare whole narratives, a row a photograph, in this folder; goes on after a stop.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="With --rows: a narrative is cut off there, on both sides.")] = 512,
    report: Annotated[Path | None, typer.Option(help="Write the whole comparison here as JSON.")] = None,
    side: Side = None,
    threads: Threads = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be compared; open no model, write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare a bundle with PyTorch stage by stage; exit 1 at the first stage out of tolerance.

    Example: skinedge parity bundle/ --reference SkinGPT-R1/ --cases cases.csv --rows rows/
    """
    from skinedge.parity.compare import compare, print_stages, write_report
    from skinedge.staging import refuse_taken_file

    existing(bundle)
    if report:
        refuse_taken_file(report)
    chosen = _cases(images, cases, limit, rows)
    source = source_of(reference, adapter)
    if dry_run:
        _describe(bundle, source, chosen, rows, as_json)
        return
    shown = _shown(chosen, cases is not None)
    made = None
    if rows:
        from skinedge.parity.rows import collect

        made = collect(bundle, source, chosen, rows, side=side, threads=threads, limit_tokens=max_new_tokens, quiet=as_json)
    result = compare(bundle, source, shown, steps=steps, side=side, threads=threads, bisect=bisect, quiet=as_json)
    if report:
        write_report(result, report)
    if not as_json:
        print_stages(result)
    summary = Summary.of(made) if made and result.passed else None
    if as_json:
        more: dict[str, Json] = {"rows": {"folder": str(rows), **vars(summary)}} if summary else {}
        emit({**result.to_json(), **more})
    elif summary:
        say(summary.line(rows))
    if not result.passed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Summary:
    """Rows in four figures, which are no verdict."""

    pictures: int
    same_narratives: int
    kl_mean: float | None
    same_top: float | None

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Summary:
        """Those of ``rows``; KL in nats and the share of equal likeliest tokens are means over all positions of all pictures."""
        pictures = same = positions = 0
        kl, top = 0.0, 0
        for row in rows:
            pictures, same = pictures + 1, same + (row.first_different is None)
            if row.forced:
                positions, kl, top = positions + len(row.forced.kl), kl + sum(row.forced.kl), top + sum(row.forced.same_top)
        return cls(pictures, same, kl / positions if positions else None, top / positions if positions else None)

    def line(self, folder: Path | None) -> str:
        """For people."""
        along = ""
        if self.kl_mean is not None:
            along = f"; along the reference's, KL {self.kl_mean:.3g} and the same likeliest token in {self.same_top:.2%}"
        return f"{self.pictures} narratives, {self.same_narratives} of them the same to the last token{along}. Rows: {folder}"


def _cases(images: Path | None, file: Path | None, limit: int | None, rows: Path | None) -> tuple[Case, ...]:
    from skinedge.parity.choosing import cases_in, cases_of

    if file:
        return cases_of(file, images, limit)
    if images:
        return cases_in(images, limit)
    if rows:
        raise UsageError("--rows needs photographs to compare narratives of.", hint="Add --images DIR or --cases FILE.")
    return ()


def _shown(cases: Sequence[Case], from_file: bool) -> list[Path] | None:
    pictures = [case.image for case in cases]
    return (pictures[:STAGE_PICTURES] if from_file else pictures) or None


def _describe(bundle: Path, source: AdapterCheckpoint, cases: Sequence[Case], rows: Path | None, as_json: bool) -> None:
    from skinedge.manifest import read_manifest
    from skinedge.parity.compare import check_sizes
    from skinedge.parity.rows import read_rows

    check_sizes(bundle, source)
    manifest = read_manifest(bundle)
    done = len(read_rows(rows)) if rows else 0
    plan: dict[str, Json] = {
        "target": manifest.target, "scheme": manifest.scheme.asked, "same_source": manifest.lineage[0].digest == source.digest,
        "pictures": len(cases), "rows": str(rows) if rows else None, "rows_there": done,
    }  # fmt: skip
    if as_json:
        emit(plan)
        return
    say(f"{bundle}: {manifest.target} {manifest.scheme.asked}, compared with {source.path} on "
        f"{f'{len(cases)} photographs' if cases else 'three generated pictures'}.")  # fmt: skip
    if rows:
        say(f"{rows}: {done} rows are there, {len(cases) - done} would be made.")
    say("Nothing was opened or written.")
