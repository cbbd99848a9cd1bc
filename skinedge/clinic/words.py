"""The words of the page and of the report, and a certificate's sentences in them.

A certificate is written in English.  Its sentences are known by the forms that ``en.json`` has of them and are said again in
another language; one that has none of these forms stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

_PAGE = Path(__file__).parent / "page"
_RELIABILITY = ("reliability.agree", "reliability.neither", "reliability.unknown", "reliability.few", "reliability.none")
_LIMITS = (
    "limit.original", "limit.device", "limit.pictures", "limit.no_diagnoses", "limit.drawn", "limit.source", "limit.scores",
    "limit.dermeval", "limit.structure", "limit.tokens",
)  # fmt: skip


@cache
def words(language: Language) -> Mapping[str, str]:
    """The words by key."""
    found: dict[str, str] = json.loads((_PAGE / f"{language}.json").read_text(encoding="utf-8"))
    return found


def reliability(sentence: str, language: Language) -> str:
    """How far answers can be relied on (``Certificate.reliability``).

    >>> reliability("agreed with the original in 597 of 600 test cases", "en")
    'This model agreed with the original in 597 of 600 test cases.'
    """
    known = words(language)
    said = [_said(piece, _RELIABILITY, language) for piece in sentence.split("; ")]
    if None in said:
        return f"{sentence[:1].upper()}{sentence[1:]}."
    return known["reliability.sentence"].format(said=known["reliability.join"].join(s for s in said if s))


def limit(sentence: str, language: Language) -> str:
    """What a certificate does not show (one of ``Certificate.limits``).

    >>> limit("The narratives were not scored in the six dimensions.", "zh")
    '没有对推理过程作六个维度的评分。'
    """
    return _said(sentence, _LIMITS, language) or sentence


def in_all(say: Callable[[str, Language], str], sentence: str) -> dict[Language, str]:
    """A sentence in every language, for a page that can change between them."""
    return {language: say(sentence, language) for language in LANGUAGES}


def _said(piece: str, forms: Sequence[str], language: Language) -> str | None:
    known = words(language)
    for key in forms:
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(words("en")[key]))
        if found := re.fullmatch(pattern, piece):
            values = found.groupdict()
            if "groups" in values:  # of skin, with a word between them
                values["groups"] = values["groups"].replace(" and ", known["reliability.and"])
            return known[key].format(**values)
    return None
