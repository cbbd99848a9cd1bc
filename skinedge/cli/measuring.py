"""``skinedge bench``: a bundle measured on this machine, or two of them against each other."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skinedge.cli.options import AsJson, BundleDir, Context, Side, Threads, among, existing
from skinedge.console import emit, live

if TYPE_CHECKING:
    from skinedge.measure.bench import Subject
    from skinedge.measure.harness import Question, Rules
    from skinedge.measure.suites import Suite


def bench(
    bundle: BundleDir,
    suite: Annotated[
        str | None,
        typer.Option(
            autocompletion=among("measure/suites", ".toml"),
            help="What to ask: a name (quick, standard, lengths, compare) or a TOML file; standard, or compare for two bundles.",
        ),
    ] = None,
    against: Annotated[Path | None, typer.Option(help="Another bundle B: is it faster or slower than this one, A?")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write everything here, raw samples too, as JSON.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of photographs; left out: pictures are drawn.")] = None,
    processor: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    device: Annotated[
        str | None,
        typer.Option(
            autocompletion=among("devices", ".toml"), help="What this machine is, for the record: see skinedge devices."
        ),
    ] = None,
    side: Side = None,
    threads: Threads = None,
    context: Context = None,
    blocks: Annotated[int | None, typer.Option(min=1, help="With --against: blocks of six processes; by default 8.")] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="Fewer than 10 runs or seconds make the result invalid.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="All counted runs of a case take at least this long.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a bundle here: time to the first token and its parts, tokens/s, memory, energy. Exit 1 if it was disturbed.

    Example: skinedge bench bundle/ --suite standard --out result.json
    """
    from skinedge.devices import known_devices
    from skinedge.measure.bench import Opening, Subject, questions
    from skinedge.measure.harness import PROTOCOL, Rules
    from skinedge.measure.suites import read_suite
    from skinedge.registry import check
    from skinedge.staging import refuse_taken_file

    existing(bundle, *filter(None, (against, images)))
    if out:
        refuse_taken_file(out)
    if device:
        check("device", device, known_devices())
    opening = Opening(side, threads, context, processor)
    asked = read_suite(suite or ("compare" if against else "standard"))
    rules = None
    if runs is not None or seconds is not None:
        rules = Rules(PROTOCOL.warmups, runs or PROTOCOL.runs, PROTOCOL.seconds if seconds is None else seconds)
    with tempfile.TemporaryDirectory(prefix="skinedge-") as scratch:
        cases = questions(asked, Path(scratch), images)
        if against:
            other = Subject(against, opening)
            valid = _compare(Subject(bundle, opening), other, asked, cases, blocks, rules, device, out, as_json)
        else:
            valid = _bench(Subject(bundle, opening), asked, cases, rules or PROTOCOL, device, out, as_json)
    if not valid:
        raise typer.Exit(1)


def _bench(
    subject: Subject, suite: Suite, cases: tuple[Question, ...], rules: Rules, device: str | None, out: Path | None, as_json: bool
) -> bool:
    from skinedge.manifest import read_manifest
    from skinedge.measure.bench import bench
    from skinedge.measure.show import result_json, show_result
    from skinedge.staging import staged_file

    with live(as_json) as show:
        result = bench(subject, suite, cases, rules, device=device, show=show)
    if out:
        with staged_file(out) as f:
            f.write(result.to_json().encode())
    if as_json:
        emit(result_json(result, out))
    else:
        show_result(result, read_manifest(subject.bundle))
    return result.status == "measured"


def _compare(
    a: Subject, b: Subject, suite: Suite, cases: tuple[Question, ...], blocks: int | None, rules: Rules | None,
    device: str | None, out: Path | None, as_json: bool,
) -> bool:  # fmt: skip
    from skinedge.measure.compare import BLOCKS, compare
    from skinedge.measure.show import show_comparison
    from skinedge.staging import staged_file

    with live(as_json) as show:
        found = compare(a, b, suite, cases, blocks or BLOCKS, rules=rules, device=device, show=show)
    if out:
        results = {"a": found.a.model_dump(mode="json"), "b": found.b.model_dump(mode="json")}
        with staged_file(out) as f:
            f.write((json.dumps({**found.to_json(), "results": results}, indent=1, sort_keys=True) + "\n").encode())
    if as_json:
        emit({**found.to_json(), "result": str(out) if out else None})
    else:
        show_comparison(found)
    return found.status == "measured"
