"""What ``skinedge parity`` checks of what was typed, and what it would do, before it opens anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from skinedge.cli.scoring import at_endpoint
from skinedge.console import Json, emit, say
from skinedge.errors import UsageError

if TYPE_CHECKING:
    from skinedge.artifacts import AdapterCheckpoint
    from skinedge.cli.scoring import Scoring
    from skinedge.parity.certify import Pictures


def check_served(others: Mapping[str, object]) -> None:
    """Check that nothing was typed beside ``--served`` that has no part in it.

    Raises:
        UsageError: something was.
    """
    unused = next((name for name, value in others.items() if value), None)
    if unused:
        raise UsageError(
            f"--served holds an API against the bundle, and {unused} has no part in that.",
            hint=f"Leave out --served, or {unused}.",
        )


def check_judge(judge: str | None, certify: bool, of_an_endpoint: Mapping[str, object], folder: Path | None) -> None:
    """Check that what was typed of a judge is used.

    Raises:
        UsageError: it would be passed over.
    """
    served = judge is not None and at_endpoint(judge)
    unused = next((name for name, value in of_an_endpoint.items() if value and not served), None)
    if unused:
        raise UsageError(f"{unused} is for a judge at an endpoint.", hint="Name it: --judge http://127.0.0.1:8000/v1")
    if folder and judge != "dermeval":
        raise UsageError("--judge-folder holds DermEval's weights.", hint="Add --judge dermeval.")
    if judge and not certify:
        raise UsageError("--judge scores narratives for a certificate, and none is asked for.", hint="Add --certify.")


def who(scores: Scoring | None, pictures: Pictures | None) -> str | None:
    """Who would give the six scores, in words."""
    return scores.words if scores else "rubric" if pictures and pictures.findings else None


def describe_served(bundle: Path, url: str, pictures: Pictures | None, as_json: bool) -> None:
    """Say what would be asked of a running API."""
    from skinedge.manifest import read_manifest

    manifest, count = read_manifest(bundle), len(pictures.cases) if pictures else 0
    if as_json:
        emit({"target": manifest.target, "scheme": manifest.scheme.asked, "served": url, "pictures": count})
        return
    say(f"{bundle}: {manifest.target} {manifest.scheme.asked}, compared with what {url} says of {_shown(count)}.")
    say("Nothing was opened, sent or written.")


def describe(
    bundle: Path, source: AdapterCheckpoint, pictures: Pictures | None, rows: Path | None, scorer: str | None, as_json: bool
) -> None:
    """Say what would be compared with what, and who would score it.

    Raises:
        UsageError: the reference is a model of other sizes.
    """
    from skinedge.manifest import read_manifest
    from skinedge.parity.compare import check_sizes
    from skinedge.parity.rows import read_rows

    check_sizes(bundle, source)
    manifest, cases = read_manifest(bundle), pictures.cases if pictures else ()
    done = len(read_rows(rows)) if rows else 0
    plan: dict[str, Json] = {
        "target": manifest.target, "scheme": manifest.scheme.asked, "same_source": manifest.lineage[0].digest == source.digest,
        "pictures": len(cases), "rows": str(rows) if rows else None, "rows_there": done, "scorer": scorer,
    }  # fmt: skip
    if as_json:
        emit(plan)
        return
    say(f"{bundle}: {manifest.target} {manifest.scheme.asked}, compared with {source.path} on {_shown(len(cases))}.")
    if rows:
        say(f"{rows}: {done} rows are there, {len(cases) - done} would be made.")
    if scorer:
        say(f"Six dimensions of {2 * len(cases)} narratives: {scorer}.")
    say("Nothing was opened or written.")


def _shown(count: int) -> str:
    return f"{count} photographs" if count else "three generated pictures"
