"""The certificate of a bundle, made and put into its folder: stages, rows, scores, endpoints, golden cases.

bundle + checkpoint + pictures -> rows -> endpoints -> ``certificate/``; the bundle's own answers -> ``golden/``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from skinedge.artifacts import AdapterCheckpoint
from skinedge.evaluation.cases import Case
from skinedge.evaluation.journal import Journal, open_journal
from skinedge.evaluation.rubric import Rubric
from skinedge.evaluation.scorer import Scorer
from skinedge.evaluation.structure import check_structure
from skinedge.manifest import read_manifest
from skinedge.measure.bench import bundle_record
from skinedge.measure.machine import describe_here
from skinedge.parity.certificate import FOLDER, Certificate, Context, ReferenceRecord, StageRecord, write_certificate
from skinedge.parity.certifying import make_certificate
from skinedge.parity.compare import Comparison, compare
from skinedge.parity.margins import narrowest_bits
from skinedge.parity.reading import Aside, Counts
from skinedge.parity.recheck import keep_golden
from skinedge.parity.record import Row
from skinedge.parity.rows import collect
from skinedge.parity.scoring import check_needs, scores_of
from skinedge.runtime.pipeline import open_pipeline
from skinedge.synthderm.findings import Findings, draw_cases
from skinedge.synthderm.narrative import score_findings

# Of pictures that nothing was trained on: distillation, calibration and the ablation's held-out set draw from other seeds.
HELD_OUT_SEED = 760_311
JUDGED_FILE = "judge.jsonl"  # in the folder of the rows


@dataclass(frozen=True)
class Pictures:
    """What is compared on.

    ``name`` is for people; ``synthetic`` says that they were drawn and show nobody; ``findings`` are what is true of each
    case by its id, where that is known; ``source`` is the sha256 of the file that lists them.
    """

    name: str
    cases: tuple[Case, ...]
    synthetic: bool = False
    findings: Mapping[str, Mapping[str, str]] | None = None
    source: str | None = None


def drawn_pictures(count: int, folder: Path, seed: int = HELD_OUT_SEED, *, limit: int | None = None) -> Pictures:
    """``count`` SynthDerm pictures, diagnoses and skin types in equal share; the first ``limit`` are drawn into ``folder``."""
    from PIL import Image

    from skinedge.synthderm.dataset import render_all

    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw_cases(count, seed)[:limit]
    paths = [folder / f"synth-{seed}-{count}-{number:05d}.png" for number in range(len(drawn))]
    missing = [(case, path) for case, path in zip(drawn, paths, strict=True) if not path.exists()]
    for (_, path), picture in zip(missing, render_all([case for case, _ in missing]), strict=True):
        Image.fromarray(picture).save(path, compress_level=1)
    cases = [Case(p.stem, p, d.diagnosis, "", fitzpatrick=d.fitzpatrick) for d, p in zip(drawn, paths, strict=True)]
    findings = {case.id: dict(d.findings.items()) for case, d in zip(cases, drawn, strict=True)}
    return Pictures(f"SynthDerm, seed {seed}", tuple(cases), synthetic=True, findings=findings)


def certify(
    bundle: Path,
    source: AdapterCheckpoint,
    pictures: Pictures,
    rows: Path,
    *,
    stages: Comparison | None = None,
    cache: Path | None = None,
    side: str | None = None,
    threads: int | None = None,
    limit_tokens: int = 512,
    examples: int | None = None,
    reviewed: Mapping[str, str] | None = None,
    judge: Callable[[Journal], Scorer] | None = None,
    quiet: bool = False,
) -> Certificate:
    """Compare a bundle with the PyTorch model of ``source`` and put certificate and golden cases into its folder.

    What was there of an earlier comparison is replaced.

    Args:
        bundle: what ``skinedge export`` wrote.
        source: the checkpoint and adapters it was made from.
        pictures: what to compare on.
        rows: folder of the rows; a stopped comparison goes on with those that are there.
        stages: what ``compare`` found, if it has been run already; left out: it is run on three generated pictures.
        cache: where the reference's narratives are kept for other bundles.
        side: open this side of the bundle instead of its own.
        threads: CPU threads for both.
        limit_tokens: a narrative is cut off there.
        examples: how many cases the page shows; by default four of drawn pictures and none of photographs.
        reviewed: what a clinician said of a flip from malignant to benign, by the picture's sha256.
        judge: opens who gives the six scores, with a journal in ``rows``; left out: the rubric, where the truth is known.
        quiet: show no progress.

    Raises:
        UsageError: ``rows`` holds another comparison, the reference is a model of other sizes, or the judge needs to know
            what is not known of the pictures.
        SkinedgeError: the bundle or the reference cannot be opened, or a photograph cannot be read.
    """
    with open_journal(rows / JUDGED_FILE) if judge else nullcontext() as journal:
        scorer = judge(journal) if judge and journal is not None else Rubric() if pictures.findings else None
        if scorer:
            check_needs(scorer, pictures.cases, pictures.findings)
        who = dict(scorer.identity()) if scorer else {}  # a judge that is not there is found out now and not after hours
        found = stages or compare(bundle, source, None, side=side, threads=threads, quiet=quiet)
        told = list(
            collect(
                bundle, source, pictures.cases, rows, cache=cache, side=side, threads=threads, limit_tokens=limit_tokens,
                quiet=quiet,
            )
        )  # fmt: skip
        aside = replace(aside_of(told, pictures, scorer, quiet=quiet), reviewed=dict(reviewed or {}))
    context = _context(bundle, source, pictures, found, side, threads, limit_tokens, who)
    paths = {case.id: case.image for case in pictures.cases}
    certificate = make_certificate(told, context, aside, examples=examples, pictures=paths)
    write_certificate(certificate, bundle / FOLDER, replace=True)
    with open_pipeline(bundle, side=side, threads=threads) as pipeline:
        keep_golden(bundle, pipeline, side)
    return certificate


def aside_of(rows: Sequence[Row], pictures: Pictures, scorer: Scorer | None = None, *, quiet: bool = True) -> Aside:
    """Structure always; findings by what is true where that is known; scores where there is a ``scorer``."""
    true = pictures.findings or {}
    counted = {r.id: (_counts(r.reference.text, true[r.id]), _counts(r.bundle.text, true[r.id])) for r in rows if r.id in true}
    scores = scores_of(rows, scorer, pictures.cases, pictures.findings, quiet=quiet) if scorer else {}
    return Aside(scores=scores, findings=counted, well_formed=_well_formed)


def _well_formed(text: str) -> bool:
    return check_structure(text).valid


def _counts(text: str, truth: Mapping[str, str]) -> Counts:
    return score_findings(text, Findings(**truth))


def _context(
    bundle: Path,
    source: AdapterCheckpoint,
    pictures: Pictures,
    stages: Comparison,
    side: str | None,
    threads: int | None,
    tokens: int,
    scorer: dict[str, str],
) -> Context:
    manifest = read_manifest(bundle)
    settings = {
        "question": manifest.prompt.question, "decoding": "greedy", "most new tokens": str(tokens),
        "opened as": side or manifest.target, "threads": str(threads or "one per core"), "bias": manifest.decoding.bias,
    }  # fmt: skip
    return Context(
        bundle=bundle_record(manifest),
        reference=ReferenceRecord(name="PyTorch", digest=source.digest, same_source=stages.same_source),
        machine=describe_here(),
        data=pictures.name,
        synthetic=pictures.synthetic,
        bits=narrowest_bits(manifest),
        data_source=pictures.source,
        settings=settings,
        scorer=scorer,
        stages=tuple(StageRecord(name=s.name, verdict=s.verdict, measured=s.finite) for s in stages.stages),
    )
