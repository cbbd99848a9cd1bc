"""The four steps from a photograph to a scored narrative, and the questions they ask.

1. describe: the picture alone; the teacher is not told the diagnosis, nor anything else about the case.
2. reason: its own description and the diagnosis; from findings to diagnosis, with differentials.
3. standardise: observation, reasoning and diagnosis, in one form.
4. score: six dimensions, by the teacher or another judge.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from skinedge.errors import InvalidScoresError
from skinedge.evaluation.cases import Case
from skinedge.evaluation.endpoint import Answer
from skinedge.evaluation.pictures import ENCODING
from skinedge.evaluation.scores import after_thinking, parse_scores
from skinedge.weights.checkpoint import digest_of
from train.corpus import prompts
from train.corpus.layers import checked_narrative, parse_layers
from train.corpus.outcomes import Rejected, Told

Step = Literal["describe", "reason", "standardise", "score"]
STEPS: tuple[Step, ...] = ("describe", "reason", "standardise", "score")
_LAST_WORDS = 200


@dataclass(frozen=True)
class TeacherSettings:
    """Who is asked, and how; all of it decides what an answer is the answer to.

    ``structured`` holds steps 3 and 4 to a JSON schema.  ``temperature`` is that of steps 1 and 2: the form and
    the score are always asked for greedily.
    """

    model: str
    judge: str
    max_tokens: int = 1024
    temperature: float = 0.7
    seed: int = 0
    pictures: bool = True
    structured: bool = False


@dataclass(frozen=True)
class Question:
    """One request; ``image`` and its digest are empty for one without a picture."""

    step: Step
    case: str
    model: str
    text: str
    settings: TeacherSettings
    image: Path | None = None
    image_digest: str = ""

    @property
    def key(self) -> str:
        """The digest of everything that is sent."""
        shown = {"sha256": self.image_digest, "encoding": ENCODING} if self.image else None
        return digest_of({"step": self.step, "body": self._body(self.text), "image": shown})

    def body(self, image: str = "") -> dict[str, object]:
        """The request of the chat completions API; ``image`` is a ``data:`` URI."""
        if not self.image:
            return self._body(self.text)
        return self._body([{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": self.text}])

    def _body(self, content: object) -> dict[str, object]:
        body: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": "system", "content": prompts.SYSTEM}, {"role": "user", "content": content}],
            "temperature": self.settings.temperature if self.step in ("describe", "reason") else 0.0,
            "max_tokens": self.settings.max_tokens,
            "seed": self.settings.seed,
        }
        if self.settings.structured and self.step in prompts.SCHEMAS:
            schema = {"name": self.step, "strict": True, "schema": prompts.SCHEMAS[self.step]}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


Ask = Callable[[Question], Awaitable[Answer]]


async def tell(case: Case, image_digest: str, ask: Ask, settings: TeacherSettings) -> Told:
    """Take a case through all four steps.

    Raises:
        Rejected: an answer is cut short, empty, cannot be read, or is not about this diagnosis.
    """
    picture = (case.image, image_digest) if settings.pictures else (None, "")

    async def asked(step: Step, text: str, image: Path | None = None, digest: str = "") -> str:
        model = settings.judge if step == "score" else settings.model
        return _checked(step, await ask(Question(step, case.id, model, text, settings, image, digest)))

    description = case.description or await asked("describe", prompts.DESCRIBE, *picture)
    facts = {"description": description, "diagnosis": case.diagnosis}
    reasoning = await asked("reason", prompts.REASON.substitute(facts))
    layers = await asked("standardise", prompts.STANDARDISE.substitute(facts, reasoning=reasoning))
    narrative = checked_narrative(parse_layers(layers), case.diagnosis)
    known = {"diagnosis": case.diagnosis, "narrative": narrative.text, "form": prompts.SCORE_FORM}
    judged = await asked("score", prompts.SCORE.substitute(known), *picture)
    try:
        return Told(case, image_digest, narrative, parse_scores(judged))
    except InvalidScoresError as e:
        raise Rejected("invalid scores", f"{e.message}; the judge ended with '{judged[-_LAST_WORDS:]}'", narrative.text) from e


def settings_digest(settings: TeacherSettings) -> str:
    """What fixes every question: the settings and all the words of the prompts."""
    words = {name: getattr(value, "template", value) for name, value in vars(prompts).items() if name.isupper()}
    return digest_of({"teacher": asdict(settings), "encoding": ENCODING, "prompts": words})


def _checked(step: Step, answer: Answer) -> str:
    """An answer's words, without the model's own thinking.

    Raises:
        Rejected: ``cut short`` or ``empty answer``.
    """
    if answer.finish_reason == "length":
        raise Rejected("cut short", f"{step}: after {answer.completion_tokens} tokens", answer.text)
    if answer.finish_reason == "content_filter":
        raise Rejected("refused by the teacher", f"{step}: content filter")
    text = after_thinking(answer.text).strip()
    if not text:
        raise Rejected("empty answer", step)
    return text
