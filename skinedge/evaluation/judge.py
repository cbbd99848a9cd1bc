"""A judge at an OpenAI-compatible endpoint: six scores for each narrative, or why there are none.

An answer is read strictly (``skinedge.evaluation.scores``); what cannot be read is invalid, is counted, and is never
repaired or asked for again.  Every answer is in the journal before it is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from skinedge.errors import InvalidScoresError, RefusedError, UsageError
from skinedge.evaluation import judge_prompts as prompts
from skinedge.evaluation.asking import Asker, work_through
from skinedge.evaluation.endpoint import Answer, Endpoint, EndpointSettings, check_endpoint
from skinedge.evaluation.journal import Journal
from skinedge.evaluation.pictures import ENCODING
from skinedge.evaluation.scorer import REFUSED, Scorable, Scored
from skinedge.evaluation.scores import parse_scores
from skinedge.evaluation.served import keep_identity, who_is
from skinedge.weights.checkpoint import digest_of, file_digest

_BLIND = "Can this model see pictures? If not, judge against references: leave out --reference-free."


@dataclass(frozen=True)
class JudgeSettings:
    """Who judges, and how; all of it decides what a score is the score of.

    ``structured`` holds the answer to a JSON schema.
    """

    model: str
    form: prompts.Form
    max_tokens: int = 1024
    temperature: float = 0.0
    seed: int = 0
    structured: bool = False

    @property
    def digest(self) -> str:
        """What fixes every question but the narrative: the settings and all the words."""
        return digest_of({"settings": asdict(self), "prompts": prompts.words(self.form), "encoding": ENCODING})


@dataclass(frozen=True)
class Judging:
    """One narrative to be judged; ``again`` counts from 1 where the same is asked anew to see the judge's own noise."""

    one: Scorable
    settings: JudgeSettings
    image_digest: str = ""
    again: int = 0
    step: str = field(default="score", init=False)

    @property
    def case(self) -> str:
        return self.one.id

    @property
    def model(self) -> str:
        return self.settings.model

    @property
    def image(self) -> Path | None:
        return self.one.image if self.settings.form == "free" else None

    @property
    def key(self) -> str:
        """The digest of everything that is sent, and of which time it is."""
        shown = {"sha256": self.image_digest, "encoding": ENCODING} if self.image else None
        return digest_of({"judge": self._body(self._text), "image": shown, "again": self.again})

    def body(self, image: str = "") -> dict[str, object]:
        """The request of the chat completions API; ``image`` is a ``data:`` URI."""
        if not self.image:
            return self._body(self._text)
        return self._body([{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": self._text}])

    @property
    def _text(self) -> str:
        known = {"narrative": self.one.text, "reference": self.one.reference or "", "form": prompts.SCORE_FORM}
        return prompts.TEMPLATES[self.settings.form].substitute(known)

    def _body(self, content: object) -> dict[str, object]:
        body: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": "system", "content": prompts.SYSTEM}, {"role": "user", "content": content}],
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
            "seed": self.settings.seed + self.again,
        }
        if self.settings.structured:
            schema = {"name": "marks", "strict": True, "schema": prompts.SCHEMA}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


class Judge:
    """Implements ``skinedge.evaluation.scorer.Scorer``."""

    def __init__(
        self, settings: JudgeSettings, where: EndpointSettings, journal: Journal, *, remote: bool = False,
        done: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Make ready to judge; nothing is sent yet.

        Args:
            settings: who judges, and how.
            where: the endpoint.
            journal: what was answered before, and where new answers go.
            remote: whether narratives and photographs may leave this machine.
            done: told of each judgement.

        Raises:
            UsageError: the endpoint is on another machine and ``remote`` is not set, or see ``check_endpoint``.
        """
        check_place(where, remote)
        self.settings = settings
        self._where = where
        self._journal = journal
        self._done = done
        self._served: Mapping[str, object] | None = None

    def identity(self) -> Mapping[str, str]:
        """The model, what the endpoint says of it, and the digest of prompts and settings; asks the endpoint once.

        Raises:
            EndpointError: it cannot be reached.
            CasesError: the journal was begun with another model of the same name.
        """
        if self._served is None:
            self._served = who_is(self._where, self.settings.model)
            keep_identity(self._journal, {"who": self.settings.model}, digest_of(self._served))
        return {
            "name": f"judge, {'reference-free' if self.settings.form == 'free' else 'against a reference'}",
            "model": self.settings.model,
            "endpoint": self._where.host,
            "served": digest_of(self._served),
            "digest": self.settings.digest,
        }

    @property
    def served(self) -> Mapping[str, object]:
        """What the endpoint's ``/models`` says of the model, as far as it does not change by the hour; after ``identity``."""
        return self._served or {}

    def needs(self) -> frozenset[str]:
        """The photograph, or the reference."""
        return frozenset({"image" if self.settings.form == "free" else "reference"})

    def score(self, narratives: Sequence[Scorable]) -> Iterator[Scored]:
        """One result each, in order.

        Raises:
            UsageError: one lacks its photograph or its reference.
            EndpointError: the endpoint is gone, or refuses everything; what was answered is in the journal.
        """
        yield from self.judge(self.questions(narratives))

    def questions(self, narratives: Sequence[Scorable], again: int = 0) -> list[Judging]:
        """What would be asked.

        Raises:
            UsageError: one lacks its photograph or its reference.
        """
        return questions(self.settings, narratives, again)

    def judge(self, asked: Sequence[Judging]) -> list[Scored]:
        """Judgements in the order of the questions."""
        self.identity()
        return asyncio.run(self._judge_all(asked))

    async def _judge_all(self, asked: Sequence[Judging]) -> list[Scored]:
        async with Endpoint(self._where) as endpoint:
            ask = Asker(self._journal, endpoint, _BLIND)
            found: dict[int, Scored] = {}

            async def work(item: tuple[int, Judging]) -> None:
                place, question = item
                try:
                    found[place] = _read(question.case, await ask(question))
                except RefusedError as e:
                    found[place] = Scored(question.case, None, f"{REFUSED}{e.message}")
                self._done()

            await work_through(enumerate(asked), work, endpoint, self._where.concurrency)
            return [found[place] for place in range(len(asked))]


def questions(settings: JudgeSettings, narratives: Sequence[Scorable], again: int = 0) -> list[Judging]:
    """What a judge would be asked.

    Raises:
        UsageError: a narrative lacks its photograph or its reference.
    """
    asked = []
    for one in narratives:
        if settings.form == "reference" and not (one.reference or "").strip():
            raise UsageError(f"{one.id} has no reference.", hint="Give one, or judge by the photographs: --reference-free.")
        if settings.form == "free" and (one.image is None or not one.image.is_file()):
            what = f"its photograph {one.image} is missing" if one.image else "it has no photograph"
            raise UsageError(f"{one.id}: {what}.", hint="Without --reference-free, narratives are judged against references.")
        digest = file_digest(one.image) if settings.form == "free" and one.image else ""
        asked.append(Judging(one, settings, digest, again))
    return asked


def check_place(where: EndpointSettings, remote: bool) -> None:
    """Check an endpoint's address, and that patient data may go there.

    Raises:
        UsageError: they may not, or the address is none.
    """
    check_endpoint(where)
    if not where.at_home and not remote:
        raise UsageError(
            f"{where.host} is another machine, and photographs and narratives are patient data.",
            hint="If they may go there: --allow-remote.",
        )


def _read(case: str, answer: Answer) -> Scored:
    if answer.finish_reason == "length":
        return Scored(case, None, f"cut short after {answer.completion_tokens} tokens", answer.text)
    if answer.finish_reason == "content_filter":
        return Scored(case, None, "refused: content filter", answer.text)
    try:
        return Scored(case, parse_scores(answer.text), answer=answer.text)
    except InvalidScoresError as e:
        return Scored(case, None, e.message, answer.text)
