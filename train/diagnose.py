"""Let a model with its adapters diagnose held-out pictures: ``python -m train.diagnose --model DIR --data FILE --out FILE``.

Every raw answer is kept, one JSON object a line; what is printed is made from those lines alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast

import typer

from skinedge.console import Json, counted, emit, run_command, say, table
from skinedge.errors import UsageError
from skinedge.parity.statistics import Share
from skinedge.registry import check
from skinedge.runtime.generate import BiasPolicy
from skinedge.staging import refuse_taken_file, staged_file
from train.held_out import HeldOut, Report, Verdict, judge, read_held_out, read_lines, summarise

PRECISIONS = ("f32", "bf16", "f16")


def answer(
    model: Path,
    adapters: Sequence[Path],
    records: Sequence[HeldOut],
    *,
    question: str | None = None,
    max_new_tokens: int = 512,
    batch: int = 64,
    bias: BiasPolicy = "every-step",
    precision: str = "f32",
    device: str = "auto",
    threads: int | None = None,
    quiet: bool = True,
) -> list[str]:
    """The greedy answer to every record, in order: exactly what ``skinedge.runtime.generate`` gives one by one.

    Args:
        model: checkpoint folder.
        adapters: PEFT LoRA folders, side-branch folders or files.
        records: what is asked.
        question: asked of every picture instead of the record's own.
        max_new_tokens: an answer is cut off there.
        batch: questions at once, at most; records with equally long prompts share a batch.
        bias: whether the side branch speaks.
        precision: ``f32``, ``bf16`` or ``f16``.
        device: a torch device, or ``auto``.
        threads: CPU threads.
        quiet: no progress bar.

    Raises:
        SkinedgeError: the model, an adapter, a photograph or a prompt cannot be used.
    """
    from skinedge.runtime.prompt import ask
    from train.answering import Answerer, Asked

    answerer = Answerer(model, adapters, precision=precision, device=device, threads=threads)
    asked = [Asked(r.messages if question is None else ask(question, images=len(r.images)), r.images) for r in records]
    texts = [""] * len(asked)
    bar = iter(counted("answering", range(len(asked)), quiet))
    next(bar, None)
    for number, text in answerer.answers(asked, max_new_tokens=max_new_tokens, batch=batch, bias=bias):
        texts[number] = text
        next(bar, None)
    return texts


def write_answers(file: Path, verdicts: Sequence[Verdict]) -> None:
    """Write one JSON object a line: the raw answer, what it was read as, and the truth.

    Raises:
        OutputError: ``file`` exists or cannot be written.
    """
    with staged_file(file) as f:
        for v in verdicts:
            line = {"id": v.id, "text": v.text, "said": v.said, "diagnosis": v.truth, "correct": v.correct}
            f.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


def read_answers(file: Path) -> dict[str, str]:
    """Record id -> raw answer, of a file that ``write_answers`` wrote."""
    return {str(row["id"]): str(row["text"]) for row in read_lines(file)}


def show(report: Report) -> None:
    """A report for people."""
    commonest = f"{100 * report.commonest.value:.1f} % by always naming the commonest"
    say(f"accuracy   {percent(report.accuracy)}; {commonest}")
    for group, share in report.groups.items():
        say(f"  skin {group:6} {percent(share)}{'  worst' if group == report.worst_group else ''}")
    if report.worst_group:
        say(f"  the worst group is {100 * report.worst_gap:.1f} points below the mean")
    say(f"structure  {percent(report.structure)} are <think>...</think><answer>...</answer>")
    if (whole := report.all_findings) is not None:
        scores = {**report.findings, "all": whole}
        say()
        table(
            ("finding", "precision", "recall", "always the commonest"),
            [(f, _number(s.precision), _number(s.recall), _number(s.commonest / s.possible)) for f, s in scores.items()],
        )
    say()
    _show_confusion(report)


def percent(share: Share) -> str:
    """A share for people.

    >>> percent(Share(7, 10))
    '70.0 % [39.7, 89.2] of 10'
    """
    return f"{100 * share.value:.1f} % [{100 * share.interval.low:.1f}, {100 * share.interval.high:.1f}] of {share.n}"


def _show_confusion(report: Report) -> None:
    """Rows are the truth, columns what was said, numbered in the order of the rows."""
    said = list(next(iter(report.confusion.values())))
    headers = ("truth \\ said", *(str(i) for i in range(1, len(said))), said[-1])
    rows = [
        (f"{i} {truth}", *(str(n or ".") for n in row.values())) for i, (truth, row) in enumerate(report.confusion.items(), 1)
    ]
    table(headers, rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


app = typer.Typer(
    name="python -m train.diagnose",
    help="Let a model with its adapters diagnose held-out pictures.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def diagnose(
    model: Annotated[Path, typer.Option("--model", "-m", help="Folder of the model.")],
    data: Annotated[Path, typer.Option(help="JSON Lines file of records with their diagnoses.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New file for the raw answers.")] = None,
    adapter: Annotated[list[Path] | None, typer.Option("--adapter", "-a", help="LoRA or side branch; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many records.")] = None,
    question: Annotated[str | None, typer.Option(help="Asked of every picture instead of the record's own.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    batch: Annotated[int, typer.Option(min=1, help="Questions at once.")] = 64,
    bias: Annotated[str, typer.Option(help="every-step or off: whether the side branch speaks.")] = "every-step",
    precision: Annotated[str, typer.Option(help="f32, bf16 or f16.")] = "f32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output and nothing else.")] = False,
) -> None:
    """Answer every record and say how many diagnoses are right."""
    check("bias", bias, ("every-step", "off"))
    check("precision", precision, PRECISIONS)
    if not model.is_dir():
        raise UsageError(f"{model}: there is no such folder.", hint="Give the folder of a model with --model.")
    if out:
        refuse_taken_file(out)
    records = read_held_out(data, limit)
    texts = answer(
        model, adapter or (), records, question=question, max_new_tokens=max_new_tokens, batch=batch,
        bias=cast(BiasPolicy, bias), precision=precision, device=device, threads=threads, quiet=quiet or as_json,
    )  # fmt: skip
    verdicts = [judge(r, text) for r, text in zip(records, texts, strict=True)]
    if out:
        write_answers(out, verdicts)
    report = summarise(verdicts)
    if as_json:
        settings: dict[str, Json] = {"bias": bias, "precision": precision, "max_new_tokens": max_new_tokens, "question": question}
        emit({**report.to_json(), "settings": settings})
    else:
        show(report)


def main() -> None:
    """Entry point: a line for every mistake, never a traceback for one the user can mend."""
    run_command(app, stopped="stopped; nothing was written.")


if __name__ == "__main__":
    main()
