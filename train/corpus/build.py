"""From cases to a corpus: look at the pictures, ask the teacher, keep what passes, write it down."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from skinedge.console import Json, counted
from skinedge.errors import CasesError, ImageError, UsageError
from skinedge.evaluation.asking import Asker
from skinedge.evaluation.cases import SPLITS, Case, CaseFile
from skinedge.evaluation.endpoint import EndpointSettings
from skinedge.evaluation.journal import Journal, open_journal, read_journal
from skinedge.evaluation.pictures import Fingerprint, fingerprint
from skinedge.weights.checkpoint import digest_of
from train.corpus.asking import ask_all, still_to_ask
from train.corpus.bar import case_bar
from train.corpus.card import card
from train.corpus.outcomes import Rejection, Told
from train.corpus.records import About, Corpus, copy_name, record_of, refusal_of, write_corpus
from train.corpus.selection import Rules, distinct_pictures, in_turn, passing, split_by_patient
from train.corpus.steps import STEPS, TeacherSettings, settings_digest


@dataclass(frozen=True)
class Plan:
    """What a build is to do, all of it; ``limit`` 0 takes every case."""

    cases: CaseFile
    out: Path
    journal: Path
    teacher: TeacherSettings
    where: EndpointSettings
    rules: Rules
    limit: int = 0
    copy_images: bool = False


@dataclass(frozen=True)
class Prepared:
    """The cases worth asking about, the digests of their pictures, and those that already fell out."""

    cases: Sequence[Case]
    digests: Mapping[str, str]
    rejected: Sequence[Rejection]


@dataclass(frozen=True)
class Built:
    """A corpus as it was written, and what it took."""

    corpus: Corpus
    asker: Asker

    def to_json(self) -> dict[str, Json]:
        return {
            "records": {name: len(self.corpus.splits[name]) for name in SPLITS},
            "rejected": _plain(Counter(one.reason for one in self.corpus.rejected)),
            "asked": _plain(self.asker.asked),
            "from_journal": _plain(self.asker.replayed),
            "tokens": _plain(self.asker.tokens),
            "settings_digest": self.corpus.about.settings_digest,
        }


def _plain(counts: Mapping[str, int]) -> dict[str, Json]:
    return {str(name): count for name, count in counts.items()}


def prepare(plan: Plan, quiet: bool) -> Prepared:
    """Look at the pictures: each must be readable and there once.

    Raises:
        UsageError: pictures may not be sent and a case has no description.
        CasesError: not one picture is where it is said to be.
    """
    cases = _chosen(plan)
    silent = [case for case in cases if not case.description]
    if silent and not plan.teacher.pictures:
        why = f"without pictures the teacher has nothing to go on for {len(silent)} cases, '{silent[0].id}' the first."
        raise UsageError(why, hint="Give each a description in the column 'description', or let pictures be sent.")
    prints: dict[str, Fingerprint] = {}
    rejected: list[Rejection] = []
    for case in counted("looking at the pictures", cases, quiet):
        if not case.image.is_file():
            rejected.append(Rejection(case, "missing image", case.image.name))
            continue
        try:
            prints[case.id] = fingerprint(case.image)
        except ImageError as e:
            rejected.append(Rejection(case, "unreadable image", e.message))
    if len(rejected) == len(cases):
        raise CasesError(
            f"not one of {len(cases)} pictures can be read: {rejected[0].detail}", hint="Name their folder: --images."
        )
    kept, double = distinct_pictures([case for case in cases if case.id in prints], prints)
    return Prepared(kept, {name: one.sha256 for name, one in prints.items()}, [*rejected, *double])


def requests_to_make(plan: Plan, prepared: Prepared) -> dict[str, int]:
    """How many requests a build would make at most, by step.

    Raises:
        CasesError: the journal is damaged.
    """
    missing = asyncio.run(still_to_ask(prepared.cases, prepared.digests, read_journal(plan.journal), plan.teacher))
    by_step = Counter(step for steps in missing.values() for step in steps)
    return {step: by_step[step] for step in STEPS}


def build(plan: Plan, prepared: Prepared, quiet: bool) -> Built:
    """Ask, choose and write.

    Raises:
        OutputError: the place is taken or cannot be written.
        EndpointError: the teacher is gone; what was answered is in the journal.
        KeyboardInterrupt: somebody pressed Ctrl-C; what was answered is in the journal.
    """
    with open_journal(plan.journal) as journal:
        outcomes, asker = asyncio.run(_ask(plan, prepared, journal, quiet))
    told = [one for one in outcomes if isinstance(one, Told)]
    kept, failed = passing(told, plan.rules)
    unanswered = [one for one in outcomes if isinstance(one, Rejection)]
    corpus = _corpus(plan, kept, [*prepared.rejected, *unanswered, *failed])
    copies = {copy_name(one): one.case.image for one in kept} if plan.copy_images else {}
    write_corpus(plan.out, corpus, card(corpus), copies, {})
    return Built(corpus, asker)


async def _ask(plan: Plan, prepared: Prepared, journal: Journal, quiet: bool) -> tuple[list[Told | Rejection], Asker]:
    missing = await still_to_ask(prepared.cases, prepared.digests, journal, plan.teacher)
    with case_bar(len(missing), quiet) as advance:

        def done(case: Case) -> None:
            if case.id in missing:
                advance()

        return await ask_all(prepared.cases, prepared.digests, journal, plan.where, plan.teacher, done)


def _chosen(plan: Plan) -> list[Case]:
    """The cases of the file, or so many of them from every cell in turn; in the file's order."""
    cases = plan.cases.cases
    if not plan.limit:
        return list(cases)
    chosen = {case.id for case in in_turn(cases, plan.rules.seed)[: plan.limit]}
    return [case for case in cases if case.id in chosen]


def _corpus(plan: Plan, kept: Sequence[Told], rejected: Sequence[Rejection]) -> Corpus:
    splits = {
        name: [record_of(one, plan.out, plan.copy_images) for one in told]
        for name, told in split_by_patient(kept, plan.rules).items()
    }
    place = {case.id: number for number, case in enumerate(plan.cases.cases)}
    refusals = [refusal_of(one, plan.out) for one in sorted(rejected, key=lambda r: place[r.case.id])]
    return Corpus(_about(plan), splits, refusals)


def _about(plan: Plan) -> About:
    teacher, rules = asdict(plan.teacher), asdict(plan.rules)
    thresholds = {f"least_{name}": value for name, value in rules.pop("thresholds").items()}
    asked = {name: value for name, value in teacher.items() if name not in ("model", "judge", "seed")}
    settings = {**asked, **rules, **thresholds, "limit": plan.limit}
    return About(
        cases_file=plan.cases.name,
        cases_sha256=plan.cases.digest,
        cases=len(plan.cases.cases),
        descriptions_given=sum(bool(case.description) for case in plan.cases.cases),
        teacher=plan.teacher.model,
        judge=plan.teacher.judge,
        settings=settings,
        settings_digest=digest_of({"teacher": settings_digest(plan.teacher), "choice": settings}),
        notes=notes(plan.cases),
    )


def notes(cases: CaseFile) -> list[str]:
    """What a person should know of the cases before they trust a corpus made from them."""
    found = []
    if cases.unused:
        found.append(f"columns not used: {', '.join(cases.unused)}.")
    nameless = sum(not case.patient for case in cases.cases)
    if nameless:
        found.append(f"{nameless} cases name no patient: pictures of one person may be in two splits.")
    return found
