"""``python -m train.teachers SPEC``: features computed once, into a folder that ``precomputed:DIR`` reads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from skinedge.console import emit, run_command, say, size
from skinedge.errors import UsageError

app = typer.Typer(
    name="python -m train.teachers",
    help="Compute a vision teacher's features once, into a folder that the teacher precomputed:DIR reads.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def precompute(
    spec: Annotated[str, typer.Argument(help="The teacher, as in --teacher of train.distill.")],
    out: Annotated[Path, typer.Option(help="Folder for the features; an interrupted run in it is resumed.")],
    data: Annotated[list[Path] | None, typer.Option(help="JSON Lines file of records; may be repeated.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of photographs, instead of records.")] = None,
    shard: Annotated[int, typer.Option(min=1, help="Pictures in one file.")] = 4096,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be computed; write nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")] = False,
) -> None:
    """Compute the features of every picture; run again after an interruption, it goes on.

    Example: python -m train.teachers efficientnet-lite0 --data records.jsonl --out features
    """
    from train.teachers import open_teacher
    from train.teachers._pictures import of_folder, of_records
    from train.teachers._store import Store, check, claim, fill

    if bool(data) == bool(images):
        raise UsageError("the pictures are given with --data FILE or with --images DIR, one of the two.")
    wanted = of_folder(images) if images else of_records(data or [])
    teacher = open_teacher(spec)
    store = Store.of(teacher, wanted, shard)
    check(out, store)
    missing = len(store.missing(out))
    if not dry_run:
        claim(out, store)
        fill(out, store, teacher, wanted, quiet or as_json)
    nbytes = store.count * store.width * 4
    if as_json:
        emit({**asdict(store), "out": str(out), "shards": store.shards, "missing": missing, "bytes": nbytes, "dry_run": dry_run})
        return
    say(f"{out}: {store.count} pictures, {store.width} features of each, {size(nbytes)} in {store.shards} files.")
    if dry_run:
        say(f"Files to be made: {missing}.")
    else:
        say(f"Next: python -m train.distill --teacher precomputed:{out} (and its other options)")


def main() -> None:
    """Entry point: a line for every mistake, never a traceback for one the user can mend."""
    run_command(app, stopped="stopped; the files that are finished are kept. Run the same command again to go on.")


if __name__ == "__main__":
    main()
