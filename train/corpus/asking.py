"""Many cases at once: each through all its steps, by ``skinedge.evaluation.asking``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from skinedge.errors import RefusedError
from skinedge.evaluation.asking import Asker, work_through
from skinedge.evaluation.cases import Case
from skinedge.evaluation.endpoint import Answer, Endpoint, EndpointSettings
from skinedge.evaluation.journal import Journal
from train.corpus.outcomes import Rejected, Rejection, Told
from train.corpus.steps import STEPS, Ask, Question, Step, TeacherSettings, tell

_BLIND = "Can this model see pictures? If not, give descriptions in the cases and --no-pictures."

Outcome = Told | Rejection


async def outcome_of(case: Case, image_digest: str, ask: Ask, settings: TeacherSettings) -> Outcome:
    """What becomes of one case."""
    try:
        return await tell(case, image_digest, ask, settings)
    except Rejected as e:
        return Rejection(case, e.reason, e.detail, e.words)


class _UnansweredError(Exception):
    def __init__(self, step: Step) -> None:
        super().__init__(step)
        self.step = step


async def still_to_ask(
    cases: Sequence[Case], digests: Mapping[str, str], journal: Journal, settings: TeacherSettings
) -> dict[str, tuple[Step, ...]]:
    """By case id, the steps a run would have to ask for: at most, for a rejection ends a case early."""

    async def ask(question: Question) -> Answer:
        if known := journal.get(question.key):
            return known
        raise _UnansweredError(question.step)

    missing: dict[str, tuple[Step, ...]] = {}
    for case in cases:
        try:
            await outcome_of(case, digests[case.id], ask, settings)
        except _UnansweredError as e:
            missing[case.id] = STEPS[STEPS.index(e.step) :]
    return missing


async def ask_all(
    cases: Sequence[Case],
    digests: Mapping[str, str],
    journal: Journal,
    where: EndpointSettings,
    settings: TeacherSettings,
    done: Callable[[Case], None],
) -> tuple[list[Outcome], Asker]:
    """Take every case through all steps, ``where.concurrency`` at a time.

    Cancelled (Ctrl-C), it asks nothing more, waits for the answers under way and keeps them, and lets go.

    Args:
        cases: in order; the outcomes come in the same order.
        digests: sha256 of each picture, by case id.
        journal: what was answered before, and where new answers go.
        where: the endpoint.
        settings: who is asked, and how.
        done: told of each case that has its outcome.

    Raises:
        EndpointError: the endpoint is gone, or refuses everything.
    """
    async with Endpoint(where) as endpoint:
        asker = Asker(journal, endpoint, _BLIND)
        outcomes: dict[str, Outcome] = {}

        async def ask(question: Question) -> Answer:
            try:
                return await asker(question)
            except RefusedError as e:
                raise Rejected("refused by the teacher", f"{question.step}: {e.message}") from e

        async def work(case: Case) -> None:
            outcomes[case.id] = await outcome_of(case, digests[case.id], ask, settings)
            done(case)

        await work_through(cases, work, endpoint, where.concurrency)
        return [outcomes[case.id] for case in cases], asker
