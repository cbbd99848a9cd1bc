"""The four steps from a photograph to a scored narrative, and the questions they ask.

1. describe: the picture alone; the teacher is not told the diagnosis, nor anything else about the case.
2. reason: its own description and the diagnosis; from findings to diagnosis, with differentials.
3. standardise: observation, reasoning and diagnosis, in one form.
4. score: six dimensions, by the teacher or another judge.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from skinedge.weights.checkpoint import digest_of
from train.corpus import prompts
from train.corpus.cases import Case
from train.corpus.endpoint import Answer
from train.corpus.outcomes import Narrative, Rejected, Told
from train.corpus.pictures import ENCODING
from train.corpus.scores import after_thinking, last_object, parse_scores

Step = Literal["describe", "reason", "standardise", "score"]
STEPS: tuple[Step, ...] = ("describe", "reason", "standardise", "score")
_LAYERS = ("observation", "reasoning", "diagnosis")


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
    return Told(case, image_digest, narrative, parse_scores(judged))


def settings_digest(settings: TeacherSettings) -> str:
    """What fixes every question: the settings and all the words of the prompts."""
    words = {name: getattr(value, "template", value) for name, value in vars(prompts).items() if name.isupper()}
    return digest_of({"teacher": asdict(settings), "encoding": ENCODING, "prompts": words})


def parse_layers(answer: str) -> Narrative:
    """The three layers from a JSON object or from tags of their names.

    Raises:
        Rejected: ``unparseable narrative``.
    """
    found = _from_object(answer) or _from_tags(after_thinking(answer))
    if found is None:
        why = "neither a JSON object nor tags with observation, reasoning and diagnosis"
        raise Rejected("unparseable narrative", why, answer)
    narrative = Narrative(*(" ".join(found[name].split()) for name in _LAYERS))
    for name, text in vars(narrative).items():
        if not text:
            raise Rejected("unparseable narrative", f"its {name} is empty", answer)
        if _TAG.search(text):
            raise Rejected("unparseable narrative", f"its {name} holds a tag", answer)
    return narrative


def parse_record(text: str) -> tuple[str, str]:
    """What stands in ``<think>`` and in ``<answer>`` of a whole narrative; empty if it is not one."""
    found = re.fullmatch(r"\s*<think>(.+)</think>\s*<answer>(.+)</answer>\s*", text.replace("\r\n", "\n"), re.DOTALL)
    if not found or any(map(_TAG.search, found.groups())):
        return "", ""
    return found[1].strip(), " ".join(found[2].split())


def checked_narrative(narrative: Narrative, label: str) -> Narrative:
    """``narrative`` with the label's own wording, if it comes to that diagnosis and does not give its source away.

    Raises:
        Rejected: ``diagnosis differs from the label`` or ``refers to its instructions``.
    """
    if _plain(narrative.diagnosis) != _plain(label):
        raise Rejected("diagnosis differs from the label", f"'{narrative.diagnosis[:80]}'", narrative.text)
    leak = reference_to_instructions(f"{narrative.observation} {narrative.reasoning}")
    if leak:
        raise Rejected("refers to its instructions", f"'{leak}'", narrative.text)
    return Narrative(narrative.observation, narrative.reasoning, label)


def reference_to_instructions(text: str) -> str:
    """The first words that speak of the label, the prompt or the description as things given; empty if there are none."""
    found = _LEAK.search(text)
    return found.group() if found else ""


# What would end a layer early, stand for a picture, or be a special token.
_TAG = re.compile(r"</?(?:think|answer|image|observation|reasoning|diagnosis)>|<\|", re.IGNORECASE)

_GIVEN = r"(?:given|provided|stated|supplied|specified|assigned|indicated|known|reference)"
_LABEL = r"(?:label|diagnosis|answer|classification|description)"
_LEAK = re.compile(
    rf"\b{_GIVEN}\s+{_LABEL}\b"
    rf"|\b{_LABEL}\s+(?:(?:that\s+)?(?:is|was|has\s+been|were)\s+|as\s+)?(?:given|provided|stated|supplied|specified|assigned)\b"
    r"|\bas\s+(?:given|stated|provided|told|instructed|labell?ed|specified)\b"
    r"|\b(?:according\s+to|per|from)\s+the\s+(?:label|description|prompt|metadata|instructions?|file\s*name|text)\b"
    r"|\b(?:the|this|its|image|case|true)\s+label\b|\blabell?ed\s+(?:as|with)\b|\bground[-\s]truth\b"
    r"|\b(?:I|we)\s+(?:was|were|am|are|have\s+been|had\s+been)\s+(?:told|given|informed|instructed|asked)\b"
    r"|\bthe\s+(?:prompt|user|metadata|instructions?|description)\b|\bturned\s+out\s+to\s+be\b",
    re.IGNORECASE,
)


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


def _from_object(answer: str) -> Mapping[str, str] | None:
    members = last_object(answer) or ()
    found = {key.strip().casefold(): value for key, value in members if isinstance(value, str)}
    return found if found.keys() >= set(_LAYERS) else None


def _from_tags(text: str) -> Mapping[str, str] | None:
    found = {name: re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL | re.IGNORECASE) for name in _LAYERS}
    return {name: texts[-1] for name, texts in found.items()} if all(found.values()) else None


def _plain(diagnosis: str) -> str:
    """A disease's name without case, punctuation, brackets and the words around it."""
    words = re.sub(r"\([^)]*\)", " ", diagnosis).casefold()
    return " ".join(re.findall(r"\w+", words))
