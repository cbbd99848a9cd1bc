"""A model through a benchmark: every question once, every answer on disk before it is used, then the figures.

An answer is found again by the digest of model, settings, question and photograph, so a run that was stopped or killed goes
on where it was, and one with another limit or judge asks only what is new.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from skinedge import __version__
from skinedge.console import counted
from skinedge.errors import SkinedgeError, UsageError
from skinedge.evaluation.datasets import Dataset
from skinedge.evaluation.datasets._contract import Item
from skinedge.evaluation.endpoint import Answer
from skinedge.evaluation.figures import figures_of
from skinedge.evaluation.journal import Journal
from skinedge.evaluation.models import Asked, Model
from skinedge.evaluation.result import (
    AnswerRecord,
    DatasetRecord,
    Evaluation,
    FailureRecord,
    ModelRecord,
    SelectionRecord,
)
from skinedge.evaluation.scorer import Scorable, Scored, Scorer
from skinedge.evaluation.selection import Chosen, Selection, choose
from skinedge.evaluation.served import check_identity, keep_identity, kept_identity
from skinedge.evaluation.structure import check_structure
from skinedge.weights.checkpoint import digest_of, file_digest

STEP, JUDGED = "evaluate", "score"
_LIBRARIES = ("numpy", "pillow", "tokenizers", "torch", "transformers", "onnxruntime", "xllamacpp", "httpx2")


@dataclass(frozen=True)
class Question:
    """An item as it is asked: ``key`` finds its answer again."""

    item: Item
    image: str  # sha256
    key: str


@dataclass(frozen=True)
class Plan:
    """What a run would ask; ``asked_already`` of the questions have their answer in the journal."""

    dataset: Dataset
    selection: Selection
    question: str | None
    chosen: Chosen
    questions: tuple[Question, ...]
    asked_already: int


def plan(model: Model, dataset: Dataset, selection: Selection, journal: Journal, *, question: str | None = None) -> Plan:
    """Choose the items and digest their photographs (reads each once).

    Args:
        model: who will be asked.
        dataset: the benchmark.
        selection: which of its items.
        journal: what was answered before.
        question: asked of every photograph instead of the benchmark's own.

    Raises:
        UsageError: nothing is left to ask.
    """
    chosen = choose(dataset.items, selection, dataset.images)
    if question:
        chosen = replace(chosen, items=tuple(replace(item, question=question) for item in chosen.items))
    who, how = dict(model.identity()), dict(model.settings())
    questions = []
    for item in chosen.items:
        image = file_digest(item.image)
        key = digest_of({"step": STEP, "model": who, "settings": how, "question": item.question, "image": image})
        questions.append(Question(item, image, key))
    known = sum(journal.get(q.key) is not None for q in questions)
    return Plan(dataset, selection, question, chosen, tuple(questions), known)


def evaluate(
    model: Model,
    todo: Plan,
    journal: Journal,
    *,
    scorer: Scorer | None = None,
    quiet: bool = True,
) -> Evaluation:
    """Ask what is not answered yet, judge every answer, and sum up.

    Args:
        model: as for ``plan``.
        todo: the plan.
        journal: where answers are kept.
        scorer: who gives the six dimensions; nobody by default.
        quiet: no progress bar.

    Raises:
        CasesError: the journal's answers are of another model that was served under the same name.
        SkinedgeError: the model or the scorer cannot be used, or nothing was answered; what was answered is kept.
    """
    begin = time.monotonic()
    if scorer:
        _check_needs(scorer, todo)
    failures = _ask(model, todo.questions, journal, quiet)
    answered = [(q, answer) for q in todo.questions if (answer := journal.get(q.key)) is not None]
    if not answered:
        raise SkinedgeError(f"not one of {len(failures)} questions was answered: {next(iter(failures.values()))}")
    scored = _score(scorer, answered, journal, quiet) if scorer else {}
    records = tuple(_record(q, answer, todo.dataset, scored.get(q.item.id)) for q, answer in answered)
    dataset = todo.dataset
    return Evaluation(
        skinedge=__version__,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - begin,
        reused=todo.asked_already,
        versions=_versions(),
        model=ModelRecord(name=model.name, identity=_identity(model, journal), settings=dict(model.settings())),
        dataset=DatasetRecord(
            layout=dataset.layout, task=dataset.task, title=dataset.title, licence=dataset.licence, citation=dataset.citation,
            digest=dataset.digest, items=len(dataset.items), labels=dataset.rule.labels, rule=dataset.rule.name,
            notes=dataset.notes,
        ),
        selection=SelectionRecord(
            split=todo.selection.split, limit=todo.selection.limit, seed=todo.selection.seed,
            left_out_as_seen=todo.chosen.left_out_as_seen, question=todo.question,
        ),
        judge=dict(scorer.identity()) if scorer else None,
        figures=figures_of(records, dataset.rule.labels),
        missing=todo.chosen.missing,
        failed=tuple(FailureRecord(id=name, why=why) for name, why in failures.items()),
        answers=records,
    )  # fmt: skip


def _check_needs(scorer: Scorer, todo: Plan) -> None:
    """Before anything is asked: a benchmark that gives no item what the scorer needs cannot be scored by it.

    Raises:
        UsageError: it does not.
    """
    for name in sorted(scorer.needs()):
        if all(getattr(q.item, name) is None for q in todo.questions):
            who = scorer_name(scorer.identity())
            raise UsageError(f"{who} needs {name} and {todo.dataset.title} gives none.", hint="Choose another --judge.")


def _ask(model: Model, questions: Sequence[Question], journal: Journal, quiet: bool) -> dict[str, str]:
    """Ask what has no answer yet; the failures by id.  Items that are one question (same picture) are asked once."""
    new = {q.key: q for q in questions if journal.get(q.key) is None}
    if not new:
        return {}
    by_id = {q.item.id: q for q in new.values()}
    failed: dict[str, str] = {}
    says = model.served()
    served = digest_of(says) if says else ""
    if served:
        check_identity(journal, _who(model), served)
    bar = iter(counted("answering", range(len(new)), quiet))
    next(bar, None)
    for reply in model.answer([Asked(q.item.id, q.item.image, q.item.question) for q in new.values()]):
        if reply.answer is None:
            failed[by_id[reply.id].key] = reply.failed
        else:
            if served:
                keep_identity(journal, _who(model), served)
            journal.add(by_id[reply.id].key, reply.answer, step=STEP, case=reply.id, model=model.name)
        next(bar, None)
    return {q.item.id: failed[q.key] for q in questions if q.key in failed}


def _who(model: Model) -> dict[str, str]:
    """By what a served model is found in a journal."""
    known = model.identity()
    return {**known, "who": known.get("model", model.name)}


def _identity(model: Model, journal: Journal) -> dict[str, str]:
    """The model's, with what its server said of it."""
    served = kept_identity(journal, _who(model))
    return {**model.identity(), **({"served": served} if served else {})}


def _score(scorer: Scorer, answered: Sequence[tuple[Question, Answer]], journal: Journal, quiet: bool) -> dict[str, Scored]:
    """The scores of every answer; those in the journal are not asked for again."""
    who, needs = dict(scorer.identity()), scorer.needs()
    keys: dict[str, str] = {}
    found: dict[str, Scored] = {}
    new: list[Scorable] = []
    for q, answer in answered:
        lacks = sorted(name for name in needs if getattr(q.item, name) is None)
        if lacks:
            found[q.item.id] = Scored(q.item.id, None, f"the benchmark gives no {' and no '.join(lacks)}")
            continue
        narrative = _scorable(q.item, answer.text, needs)
        keys[q.item.id] = digest_of({"step": JUDGED, "scorer": who, "image": q.image, "given": _given(narrative)})
        known = journal.get(keys[q.item.id])
        before = _read(q.item.id, known.text) if known else None
        if before is None or before.unanswered:
            new.append(narrative)
        else:
            found[q.item.id] = before
    bar = iter(counted("scoring", range(len(new)), quiet))
    next(bar, None)
    for one in scorer.score(new) if new else ():
        found[one.id] = one
        if not one.unanswered:
            journal.add(keys[one.id], Answer(_written(one), "stop"), step=JUDGED, case=one.id, model=scorer_name(who))
        next(bar, None)
    return found


def _scorable(item: Item, text: str, needs: frozenset[str]) -> Scorable:
    """What the scorer is shown: nothing that it does not need."""
    return Scorable(
        item.id,
        text,
        image=item.image if "image" in needs else None,
        reference=item.reference if "reference" in needs else None,
        diagnosis=item.diagnosis if "diagnosis" in needs else None,
        findings=item.findings if "findings" in needs else None,
    )


def _given(narrative: Scorable) -> list[object]:
    findings = sorted(narrative.findings.items()) if narrative.findings else None
    return [narrative.text, narrative.reference, narrative.diagnosis, findings, narrative.image is not None]


def _written(one: Scored) -> str:
    scores = dict(one.scores) if one.scores is not None else None
    return json.dumps({"scores": scores, "invalid": one.invalid, "answer": one.answer}, sort_keys=True)


def _read(name: str, text: str) -> Scored:
    value = json.loads(text)
    return Scored(name, value["scores"], value["invalid"], value["answer"])


def _record(q: Question, answer: Answer, dataset: Dataset, scored: Scored | None) -> AnswerRecord:
    verdict = dataset.rule(answer.text, q.item.truth)
    return AnswerRecord(
        id=q.item.id, key=q.key, image=q.image, unit=q.item.unit, skin=q.item.skin, truth=q.item.truth, said=verdict.said,
        correct=verdict.correct, reason=verdict.reason, finish=answer.finish_reason, prompt_tokens=answer.prompt_tokens,
        tokens=answer.completion_tokens, well_formed=check_structure(answer.text, finish=answer.finish_reason).valid,
        scores=dict(scored.scores) if scored and scored.scores is not None else None,
        unscored=(scored.invalid or "no reason given") if scored and scored.scores is None else None,
    )  # fmt: skip


def _versions() -> dict[str, str]:
    from skinedge.measure.machine import library_versions

    return {"python": platform.python_version(), **library_versions(_LIBRARIES)}


def scorer_name(identity: Mapping[str, str]) -> str:
    """What tables call a scorer."""
    return identity.get("name") or identity.get("scorer") or "a scorer"


def journal_beside(out: Path) -> Path:
    """Where the raw answers of a result go unless another place is named."""
    return out.with_name(f"{out.name}.journal.jsonl")
