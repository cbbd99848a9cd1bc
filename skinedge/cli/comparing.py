"""``skinedge parity``: a bundle compared with PyTorch, stage by stage and picture by picture."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skinedge.cli.options import (
    Adapters,
    AllowRemote,
    AsJson,
    BundleDir,
    Concurrency,
    KeyVariable,
    PerMinute,
    Side,
    Threads,
    existing,
    source_of,
)
from skinedge.cli.parity_plan import check_judge, check_served, describe, describe_served, who
from skinedge.cli.scoring import JudgeFolder, JudgeModel, JudgeName, Scoring, place_of, scoring
from skinedge.console import Json, emit, say
from skinedge.errors import UsageError

if TYPE_CHECKING:
    from skinedge.artifacts import AdapterCheckpoint
    from skinedge.evaluation.endpoint import EndpointSettings
    from skinedge.parity.certificate import Certificate
    from skinedge.parity.certify import Pictures
    from skinedge.parity.compare import Comparison
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
    split: Annotated[str | None, typer.Option(help="With --cases: only those of this split.")] = None,
    drawn: Annotated[int | None, typer.Option(min=1, help="Draw so many SynthDerm pictures and compare on them.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many photographs.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Teacher-forced steps.")] = 64,
    bisect: Annotated[bool, typer.Option("--bisect", help="Where a stage is bad, name the first bad block inside it.")] = False,
    certify: Annotated[
        bool, typer.Option("--certify", help="Compare whole narratives and put the certificate into the bundle's folder.")
    ] = False,
    rows: Annotated[
        Path | None, typer.Option(help="Keep whole narratives here, a row a photograph; the same command goes on after a stop.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="A whole narrative is cut off there, on both sides.")] = 512,
    examples: Annotated[
        int | None, typer.Option(min=0, help="Cases that the page shows; by default four drawn ones, and no photograph.")
    ] = None,
    reviewed: Annotated[
        Path | None, typer.Option(help="CSV of image_sha256 and review: what a clinician says of flips from malignant to benign.")
    ] = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_folder: JudgeFolder = None,
    allow_remote: AllowRemote = False,
    key_variable: KeyVariable = "",
    concurrency: Concurrency = 4,
    per_minute: PerMinute = 0,
    report: Annotated[Path | None, typer.Option(help="Write the whole comparison here as JSON.")] = None,
    served: Annotated[
        str | None,
        typer.Option(
            metavar="<url>", help="Instead, hold the API of a running skinedge serve against the bundle, token by token."
        ),
    ] = None,
    side: Side = None,
    threads: Threads = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be compared; open no model, write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare a bundle with PyTorch stage by stage, and with --certify by what it says; exit 1 if it is out of tolerance.

    Six dimensions are scored by the rubric on drawn pictures and by nobody on photographs unless --judge names who.

    Example: skinedge parity bundle/ --reference SkinGPT-R1/ --cases cases.csv --certify --rows rows/
    """
    from skinedge.staging import refuse_taken_file

    existing(bundle)
    if served:
        check_served({
            "--certify": certify, "--rows": rows, "--report": report, "--bisect": bisect, "--reference": reference,
            "--adapter": adapter, "--examples": examples is not None, "--reviewed": reviewed, "--judge": judge,
        })  # fmt: skip
    if report:
        refuse_taken_file(report)
    said = _reviews(reviewed)

    def endpoint(url: str) -> EndpointSettings:
        from skinedge.evaluation.endpoint import EndpointSettings

        return place_of(EndpointSettings(url, key_variable, concurrency, per_minute), allow_remote, as_json)

    check_judge(judge, certify, {
        "--judge-model": judge_model, "--allow-remote": allow_remote, "--key-variable": key_variable,
    }, judge_folder)  # fmt: skip
    scores = scoring(judge, judge_model, judge_folder, threads, "free", endpoint) if judge else None
    with tempfile.TemporaryDirectory(prefix="skinedge-") as scratch:
        pictures = _pictures(images, cases, split, drawn, limit, Path(scratch))
        if pictures is None and (rows or certify):
            what = "--certify" if certify else "--rows"
            raise UsageError(
                f"{what} needs pictures to compare narratives on.", hint="Add --images DIR, --cases FILE or --drawn 600."
            )
        if served and dry_run:
            describe_served(bundle, served, pictures, as_json)
            return
        if served:
            _through_api(bundle, served, pictures, Path(scratch), side, threads, max_new_tokens, as_json)
            return
        source = source_of(reference, adapter)
        if dry_run:
            describe(bundle, source, pictures, rows, who(scores, pictures) if certify else None, as_json)
            return
        job = _Job(bundle, source, pictures, side, threads, max_new_tokens, as_json, scores)
        result = job.stages(_shown(pictures, images), steps, bisect, report)
        more: dict[str, Json] = {}
        passed = result.passed
        if certify and pictures:
            certificate = job.certify(result, rows or Path(scratch) / "rows", examples, said)
            scorer: dict[str, Json] = dict(certificate.context.scorer)
            more = {"certificate": {"verdict": certificate.verdict, "summary": certificate.summary, "scorer": scorer}}
            passed = passed and certificate.verdict != "fail"
        elif rows and result.passed:
            more = job.rows(rows)
        if as_json:
            emit({**result.to_json(), **more})
    if not passed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Job:
    """What is compared, and how."""

    bundle: Path
    source: AdapterCheckpoint
    pictures: Pictures | None
    side: str | None
    threads: int | None
    max_new_tokens: int
    quiet: bool
    scores: Scoring | None = None

    def stages(self, shown: list[Path] | None, steps: int, bisect: bool, report: Path | None) -> Comparison:
        from skinedge.parity.compare import compare, print_stages, write_report

        result = compare(
            self.bundle, self.source, shown, steps=steps, side=self.side, threads=self.threads, bisect=bisect, quiet=self.quiet
        )
        if report:
            write_report(result, report)
        if not self.quiet:
            print_stages(result)
        return result

    def certify(self, stages: Comparison, rows: Path, examples: int | None, reviewed: Mapping[str, str]) -> Certificate:
        from skinedge.parity.certify import certify
        from skinedge.parity.show import print_certificate

        assert self.pictures is not None
        certificate = certify(
            self.bundle, self.source, self.pictures, rows, stages=stages, side=self.side, threads=self.threads,
            limit_tokens=self.max_new_tokens, examples=examples, reviewed=reviewed,
            judge=self.scores.make if self.scores else None, quiet=self.quiet,
        )  # fmt: skip
        if not self.quiet:
            print_certificate(certificate)
            say(f"Next: skinedge show {self.bundle}, or open {self.bundle / 'certificate' / 'parity.html'}")
        return certificate

    def rows(self, folder: Path) -> dict[str, Json]:
        from skinedge.parity.rows import collect

        assert self.pictures is not None
        made = collect(
            self.bundle, self.source, self.pictures.cases, folder, side=self.side, threads=self.threads,
            limit_tokens=self.max_new_tokens, quiet=self.quiet,
        )  # fmt: skip
        summary = Summary.of(made)
        if not self.quiet:
            say(summary.line(folder))
        return {"rows": {"folder": str(folder), **vars(summary)}}


def _through_api(
    bundle: Path, url: str, pictures: Pictures | None, scratch: Path, side: str | None, threads: int | None, tokens: int,
    as_json: bool,
) -> None:  # fmt: skip
    from skinedge.parity.pictures import SIZES, make_picture
    from skinedge.parity.served import compare_served

    images = [case.image for case in pictures.cases] if pictures else [scratch / f"{name}.png" for name in SIZES]
    if pictures is None:
        for seed, (path, size) in enumerate(zip(images, SIZES.values(), strict=True)):
            make_picture(*size, seed).save(path)
    found = compare_served(bundle, url, images, side=side, threads=threads, tokens=tokens)
    if as_json:
        emit(found.to_json())
    for line in () if as_json else found.lines():
        say(line)
    if not found.passed:
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


def _pictures(
    images: Path | None, file: Path | None, split: str | None, drawn: int | None, limit: int | None, scratch: Path
) -> Pictures | None:
    from skinedge.parity.certify import Pictures, drawn_pictures
    from skinedge.parity.choosing import cases_in, cases_of, findings_of
    from skinedge.weights.checkpoint import file_digest

    if drawn and (images or file):
        raise UsageError("--drawn has pictures of its own.", hint="Leave out --images and --cases, or --drawn.")
    if split and not file:
        raise UsageError("--split chooses among cases, and there are none.", hint="Add --cases FILE.")
    if drawn:
        return drawn_pictures(drawn, scratch / "pictures", limit=limit)
    if file:
        found = cases_of(file, images, split=split, limit=limit)
        name, true = f"{file.name}{f', {split}' if split else ''}", findings_of(file, found)
        return Pictures(name, found, findings=true, source=file_digest(file))
    return Pictures("a folder of photographs", cases_in(images, limit)) if images else None


def _reviews(file: Path | None) -> dict[str, str]:
    """sha256 of a picture -> what was said of it."""
    from skinedge.evaluation.tables import read_table

    if file is None:
        return {}
    existing(file)
    table = read_table(file)
    for column in ("image_sha256", "review"):
        if column not in table.columns:
            raise UsageError(f"{file} has no column '{column}'.", hint="It needs image_sha256, as in parity.json, and review.")
    return {row.cells["image_sha256"].casefold(): row.cells["review"] for row in table.rows if row.cells["review"]}


def _shown(pictures: Pictures | None, images: Path | None) -> list[Path] | None:
    """What the stages are shown: a folder's photographs all, of cases the first few."""
    if pictures is None:
        return None
    paths = [case.image for case in pictures.cases]
    return paths if images and pictures.source is None else paths[:STAGE_PICTURES]
