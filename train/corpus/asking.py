"""Many cases at once: questions to the journal first, then to the endpoint, and an orderly end when somebody says stop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from skinedge.console import note
from skinedge.errors import EndpointError, RefusedError
from skinedge.evaluation.cases import Case
from skinedge.evaluation.endpoint import Answer, Endpoint, EndpointSettings, StoppedError
from skinedge.evaluation.journal import Journal
from skinedge.evaluation.pictures import data_uri
from train.corpus.outcomes import Rejected, Rejection, Told
from train.corpus.steps import STEPS, Ask, Question, Step, TeacherSettings, tell

# So many refusals in a row are the endpoint's fault and not the cases': at the very beginning, and later on.
PATIENCE_AT_FIRST, PATIENCE = 5, 25

Outcome = Told | Rejection


class Asker:
    """Answers questions: from the journal, or by asking once and writing the answer down."""

    def __init__(self, journal: Journal, endpoint: Endpoint) -> None:
        self._journal = journal
        self._endpoint = endpoint
        self._under_way: dict[str, asyncio.Task[Answer]] = {}
        self._refusals = 0
        self.asked: Counter[Step] = Counter()
        self.replayed: Counter[Step] = Counter()
        self.tokens: Counter[str] = Counter()

    async def __call__(self, question: Question) -> Answer:
        """The answer to ``question``; two cases with the same one wait for the same answer.

        Raises:
            Rejected: the endpoint refuses it.
            EndpointError: the endpoint is gone, or refuses everything.
            StoppedError: the run is ending.
        """
        key = question.key
        if known := self._journal.get(key):
            self.replayed[question.step] += 1
            return known
        if key not in self._under_way:
            self._under_way[key] = asyncio.create_task(self._fetch(question, key))
        try:
            return await asyncio.shield(self._under_way[key])
        except RefusedError as e:
            raise Rejected("refused by the teacher", f"{question.step}: {e.message}") from e
        finally:
            self._under_way.pop(key, None)

    async def _fetch(self, question: Question, key: str) -> Answer:
        image = await asyncio.to_thread(data_uri, question.image) if question.image else ""
        try:
            answer = await self._endpoint.complete(question.body(image))
        except RefusedError as e:
            self._refusals += 1
            patience = PATIENCE if len(self._journal) else PATIENCE_AT_FIRST
            if self._refusals >= patience:
                raise EndpointError(
                    f"{patience} requests in a row were refused: {e.message}",
                    hint="Can this model see pictures? If not, give descriptions in the cases and --no-pictures.",
                ) from e
            raise
        self._refusals = 0
        self._journal.add(key, answer, step=question.step, case=question.case, model=question.model)
        self.asked[question.step] += 1
        self.tokens.update(prompt=answer.prompt_tokens, completion=answer.completion_tokens)
        return answer


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
        asker = Asker(journal, endpoint)
        outcomes: dict[str, Outcome] = {}
        waiting = iter(cases)

        async def work() -> None:
            try:
                for case in waiting:
                    outcomes[case.id] = await outcome_of(case, digests[case.id], asker, settings)
                    done(case)
            except BaseException:
                endpoint.stop()
                raise

        workers = [asyncio.create_task(work()) for _ in range(where.concurrency)]
        try:
            await asyncio.wait(workers)
        except asyncio.CancelledError:
            endpoint.stop()
            note("stopping: waiting for the answers under way; Ctrl-C again leaves them.")
            await asyncio.wait(workers)
            raise
        finally:
            await _retrieve(workers)
        return [outcomes[case.id] for case in cases], asker


async def _retrieve(workers: Sequence[asyncio.Task[None]]) -> None:
    """Let the workers' errors be known: the first that is not just the echo of another's."""
    errors = [e for e in await asyncio.gather(*workers, return_exceptions=True) if isinstance(e, BaseException)]
    for error in errors:
        if not isinstance(error, StoppedError | asyncio.CancelledError):
            raise error
