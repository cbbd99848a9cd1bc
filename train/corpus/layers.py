"""The three layers of a narrative: read from an answer, checked against the label, and searched for what gives it away."""

from __future__ import annotations

import re
from collections.abc import Mapping

from skinedge.evaluation.scores import after_thinking, last_object
from train.corpus import prompts
from train.corpus.outcomes import Narrative, Rejected

_LAYERS = ("observation", "reasoning", "diagnosis")


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
    """The first words that speak of the label, the prompt or the description as things given, or that echo a prompt.

    Returns: those words; empty if there are none.
    """
    found = _LEAK.search(text)
    return found.group() if found else next((" ".join(run) for run in _runs(text) if run in _PROMPTED), "")


def _runs(text: str) -> list[tuple[str, ...]]:
    """Each run of six words."""
    words = re.findall(r"\w+", text.casefold())
    return [tuple(words[i : i + _ECHO]) for i in range(len(words) - _ECHO + 1)]


# A small model repeats its instructions ("a dermatologist who had only the photograph"); six words are no coincidence.
_ECHO = 6
_PROMPTED = {run for p in (prompts.DESCRIBE, prompts.REASON.template, prompts.STANDARDISE.template) for run in _runs(p)}


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
