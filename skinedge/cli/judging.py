"""``skinedge judge``: narratives scored by a model at an OpenAI-compatible endpoint, or offline by DermEval."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skinedge.cli.options import AllowRemote, AsJson, Concurrency, KeyVariable, PerMinute, existing
from skinedge.console import emit, live, note, say, table
from skinedge.errors import UsageError
from skinedge.registry import check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skinedge.console import Json
    from skinedge.evaluation.endpoint import EndpointSettings
    from skinedge.evaluation.judge import JudgeSettings, Judging
    from skinedge.evaluation.judge_file import Written, WrittenFile
    from skinedge.evaluation.judged import Findings, Paired
    from skinedge.evaluation.scorer import Scored

_JUDGES = ("endpoint", "dermeval")


def judge(
    file: Annotated[Path, typer.Argument(help="JSON Lines: id and text; arm; image or reference.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New JSON file for the scores, with every raw answer.")],
    endpoint: Annotated[str, typer.Option(help="An OpenAI-compatible address, such as http://127.0.0.1:8000/v1")] = "",
    model: Annotated[str, typer.Option(help="The judge's name there.")] = "",
    judge: Annotated[str, typer.Option(help="Who judges: endpoint, or dermeval (offline, by the photographs).")] = "endpoint",
    judge_folder: Annotated[Path | None, typer.Option(metavar="<dir>", help="DermEval's weights, if not skinedge's own.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of DermEval.")] = None,
    reference_free: Annotated[
        bool, typer.Option("--reference-free", help="Show the judge the photograph instead of a reference.")
    ] = False,
    repeat_share: Annotated[float, typer.Option(min=0, max=1, help="Share judged twice, to see the judge's own noise.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the judge, of the order of the arms and of what is repeated.")] = 0,
    allow_remote: AllowRemote = False,
    key_variable: KeyVariable = "",
    journal: Annotated[Path | None, typer.Option(help="Where answers are kept; by default OUT.journal.jsonl.")] = None,
    concurrency: Concurrency = 4,
    per_minute: PerMinute = 0,
    retries: Annotated[int, typer.Option(min=0, max=20, help="How often to ask again when the server is busy or away.")] = 6,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for an answer.")] = 300,
    max_tokens: Annotated[int, typer.Option(min=16, help="Length of an answer at most.")] = 1024,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")] = 0,
    structured: Annotated[bool, typer.Option("--structured", help="Hold the endpoint to a JSON schema.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many requests it would take; ask nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score narratives by a judge: six dimensions, invalid answers counted, the judge's own noise beside the margin.

    Example: skinedge judge narratives.jsonl --endpoint http://127.0.0.1:8000/v1 --model qwen-vl --out scores.json
    """
    from skinedge.evaluation.endpoint import EndpointSettings
    from skinedge.evaluation.judge import JudgeSettings, check_place, questions
    from skinedge.evaluation.judge_file import blinded, read_written, to_repeat
    from skinedge.staging import refuse_taken_file

    existing(file, *filter(None, (judge_folder,)))
    check("judge", judge, _JUDGES)
    if judge == "dermeval":
        if endpoint or model:
            raise UsageError("DermEval needs no endpoint.", hint="Leave out --endpoint and --model, or --judge dermeval.")
        _offline(file, out, seed, judge_folder, threads, dry_run, as_json)
        return
    if not endpoint or not model:
        raise UsageError(
            "a judge is a model at an endpoint.",
            hint="Name both: --endpoint URL --model NAME, or judge offline: --judge dermeval",
        )
    settings = JudgeSettings(model, "free" if reference_free else "reference", max_tokens, temperature, seed, structured)
    where = EndpointSettings(endpoint, key_variable, concurrency, per_minute, timeout, retries)
    place = journal or out.with_name(f"{out.name}.journal.jsonl")
    if not dry_run:
        refuse_taken_file(out)
        check_place(where, allow_remote)
    read = read_written(file)
    order = blinded(read.written, seed)
    again = to_repeat(order, repeat_share, seed)
    asked = questions(settings, [w.one for w in order]) + questions(settings, [w.one for w in again], again=1)
    if dry_run:
        _say_plan(asked, place, as_json)
        return
    found, who = _judged(settings, where, place, allow_remote, order, again, asked, as_json)
    summary: dict[str, Json] = {"judge": who, "file": read.name, "sha256": read.digest, "seed": seed, **found.to_json()}
    _finish(out, summary, found, read, as_json)


def _offline(
    file: Path, out: Path, seed: int, folder: Path | None, threads: int | None, dry_run: bool, as_json: bool
) -> None:  # fmt: skip
    """Let DermEval judge by the photographs; the same narrative always has the same scores, so nothing is judged twice."""
    from skinedge.evaluation.judge_file import blinded, read_written
    from skinedge.evaluation.judged import Findings, Judged
    from skinedge.evaluation.scorers import load_scorer
    from skinedge.staging import refuse_taken_file

    read = read_written(file)
    order = blinded(read.written, seed)
    if dry_run:
        if as_json:
            emit({"judgements": len(order), "of_them_again": 0, "same_questions": 0, "requests": 0})
        else:
            say(f"{len(order)} judgements, offline; no requests.")
        return
    refuse_taken_file(out)
    make = load_scorer("dermeval")
    scorer = make(folder, threads=threads) if folder else make(threads=threads)
    found: dict[int, Scored] = {}
    with live(as_json) as show:
        for scored in scorer.score([replace(w.one, id=str(i)) for i, w in enumerate(order)]):
            found[int(scored.id)] = scored
            show(f"judged: {len(found)} of {len(order)}")
    findings = Findings([Judged(w, replace(found[i], id=w.one.id)) for i, w in enumerate(order)])
    who: dict[str, Json] = dict(scorer.identity())
    summary: dict[str, Json] = {"judge": who, "file": read.name, "sha256": read.digest, "seed": seed, **findings.to_json()}
    _finish(out, summary, findings, read, as_json)


def _finish(out: Path, summary: Mapping[str, Json], found: Findings, read: WrittenFile, as_json: bool) -> None:
    """Write and say what was found; exit 1 if that is nothing."""
    _write(out, summary, found)
    _say(out, summary, found, read, as_json)
    if found.invalid == len(found.judged):
        note("no answer held six scores: see 'invalid' in the file.")
        raise typer.Exit(1)


def _say_plan(asked: Sequence[Judging], place: Path, as_json: bool) -> None:
    from skinedge.evaluation.journal import read_journal

    known = read_journal(place)
    keys = {q.key for q in asked}
    left = sum(known.get(key) is None for key in keys)
    again = sum(q.again > 0 for q in asked)
    if as_json:
        emit({"judgements": len(asked), "of_them_again": again, "same_questions": len(asked) - len(keys), "requests": left})
        return
    say(f"{len(asked)} judgements, {again} of them a second time; {len(keys) - left} answers are in the journal already.")
    say(f"requests: {left}")


def _judged(
    settings: JudgeSettings, where: EndpointSettings, place: Path, remote: bool, order: Sequence[Written],
    again: Sequence[Written], asked: Sequence[Judging], quiet: bool,
) -> tuple[Findings, dict[str, Json]]:  # fmt: skip
    from skinedge.evaluation.journal import open_journal
    from skinedge.evaluation.judge import Judge
    from skinedge.evaluation.judged import Findings, Judged

    with open_journal(place) as kept, live(quiet) as show:
        ready = itertools.count(1)
        judge = Judge(settings, where, kept, remote=remote, done=lambda: show(f"judged: {next(ready)} of {len(asked)}"))
        try:
            scored = judge.judge(asked)
        except KeyboardInterrupt:
            if not quiet:
                note(f"stopped; what was answered is in {place}, and the same command goes on from there.")
            raise
        second = dict(zip(((w.arm, w.one.id) for w in again), scored[len(order) :], strict=True))
        judged = [Judged(w, s, second.get((w.arm, w.one.id))) for w, s in zip(order, scored[: len(order)], strict=True)]
        who: dict[str, Json] = {**judge.identity(), "says": json.loads(json.dumps(judge.served))}
        return Findings(judged), who


def _write(out: Path, summary: Mapping[str, Json], found: Findings) -> None:
    from skinedge.staging import staged_file

    whole = {**summary, "judgements": [one.to_json() for one in found.judged]}
    with staged_file(out) as f:
        f.write((json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode())


def _say(out: Path, summary: Mapping[str, Json], found: Findings, read: WrittenFile, as_json: bool) -> None:
    from skinedge.evaluation.judged import MEAN
    from skinedge.evaluation.scores import DIMENSIONS
    from skinedge.parity.margins import WIDTH_OF_SCORES

    if as_json:
        emit({**summary, "result": str(out)})
        return
    means, noise, apart = found.means(), found.noise(), found.differences()
    headers = ["", *(arm or "mean" for arm in means)]
    headers += (["difference"] if apart else []) + (["judge's noise"] if noise else [])
    rows = []
    for name in (*DIMENSIONS, MEAN):
        row = [name, *(_figure(by_name[name]) for by_name in means.values())]
        row += [_paired(apart[name], apart[name].n)] if apart else []
        row += [_noise(noise[name], found.cases())] if noise else []
        rows.append(row)
    table(headers, rows)
    say(f"{len(found.judged)} narratives of {read.name}; {found.invalid} judgements are invalid and in no mean.")
    if noise:
        margin = f"the margin is ±{WIDTH_OF_SCORES:.2f}"
        say(f"Noise: by how much a mean difference may stray through the judge alone (95 %); {margin}.")
    say(f"{out} has every judgement with its raw answer.")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _paired(paired: Paired, n: int) -> str:
    half = paired.half_width(n)
    return "-" if paired.mean is None else f"{paired.mean:+.2f}" + ("" if half is None else f" ±{half:.2f}")


def _noise(paired: Paired, n: int) -> str:
    half = paired.half_width(n)
    return "not known" if half is None else f"±{half:.2f}"
