"""Where a denial or a doubt ends because the sentence goes on to say something else.

"There is no scale, and crusting is present": the negation reaches "scale", and not "crusting", which has a predicate of its
own.  "No scale, crust or ulceration is present": the predicate is that of the list.  Which it is, is told by what stands
between the findings before the predicate (a comma, "and", "or") and by whether the denial is itself the subject.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from skinedge.evaluation.vocabulary import Found

BE = r"(?:is|are|was|were|be|been)"
NOT = r"(?:\s+not|n't|n\u2019t)"
SEEN = (
    r"(?:seen|present|visible|observed|noted|found|identified|evident|apparent|mentioned|described|detected|reported|shown"
    r"|documented|appreciated|discernible|noticeable|depicted|noticed)"
)
_STOP = re.compile(
    r"[;:()]|\b(?:but|however|although|though|yet|except|while|whereas|which|that|because|since|with|instead|(?<!such )as"
    r"|no|rather(?! than)|suggest\w*"
    r"|consistent|indicat\w*|and (?:the|a|an|there|is|are|has|have|it|its|they|shows?)|(?:,|and) (?:it|there|they|the))\b"
    r"|,\s*(?:the|a|an|it|there|they|and (?:the|a|an)|making|ruling|so|thus)\b"
    rf"|(?<!not )(?<!n't )\b(?:is|are|was|were|shows?|has|have)\b(?!{NOT})|\bon (?:a|an|the) ",
    re.IGNORECASE,
)
_VERB = re.compile(r"\b(?:is|are|was|were|appears?|remains?|exists?|predominates?)\b", re.IGNORECASE)
_PREDICATE = re.compile(rf"{_VERB.pattern}|\b{SEEN}\b", re.IGNORECASE)
_SEVERAL = re.compile(r"are|were|appear|remain|exist|predominate", re.IGNORECASE)
_CLAUSE = re.compile(r"[,;:]|\bbut\b", re.IGNORECASE)
# With one of these before it, or in it, a denial is what is said, and not what something is said of.
_SAYS = re.compile(
    r"\b(?:there|is|are|was|were|shows?|has|have|had|exhibits?|demonstrates?|reveals?|displays?|presents?|see|sees|notes?"
    r"|observes?|finds?|lacks?|lacked|den(?:y|ies|ied)|does|do|did|can|cannot|could|may|might|would|should)\b|n't\b|n\u2019t\b",
    re.IGNORECASE,
)
_LINK = re.compile(r",|\b(?:and|or|nor)\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Item:
    """Findings of one phrase ("fine white scale"): from ``start`` to ``end``; ``link`` joins it to the one before."""

    start: int
    end: int
    link: str = ""
    link_at: int = 0


def scope_end(sentence: str, trigger: re.Match[str], words: Sequence[Found]) -> int:
    """Where what ``trigger`` denies or doubts ends.

    Args:
        sentence: the sentence.
        trigger: the words that deny or doubt what follows them.
        words: the findings of the sentence, in order.
    """
    stop = _STOP.search(sentence, trigger.end())
    end = stop.start() if stop else len(sentence)
    last = stop.end() if stop and _VERB.fullmatch(stop.group()) else end
    for predicate in _PREDICATE.finditer(sentence, trigger.end(), last):
        items = _items(sentence, [w for w in words if trigger.end() <= w.start and w.end <= predicate.start()])
        if len(items) < 2 or _LINK.search(sentence, items[-1].end, predicate.start()):
            continue
        cut = _own_subject(items, predicate.group(), spoken=_spoken(sentence, trigger))
        if cut is not None:
            return cut
    return end


def stops(text: str) -> bool:
    """Whether a denial ends somewhere in ``text``."""
    return _STOP.search(text) is not None


def _spoken(sentence: str, trigger: re.Match[str]) -> bool:
    """Whether the clause has its verb before, or in, the denial: "there is no", "it lacks"; not "no scale is seen"."""
    begin = max((m.end() for m in _CLAUSE.finditer(sentence, 0, trigger.start())), default=0)
    return _SAYS.search(sentence, begin, trigger.end()) is not None


def _items(sentence: str, words: Sequence[Found]) -> list[_Item]:
    items: list[_Item] = []
    for word in words:
        links = list(_LINK.finditer(sentence, items[-1].end, word.start)) if items else []
        if items and not links:
            items[-1] = _Item(items[-1].start, word.end, items[-1].link, items[-1].link_at)
            continue
        said = {m.group().casefold() for m in links}
        joint = "or" if said & {"or", "nor"} else ", and" if said >= {",", "and"} else "".join(said)
        items.append(_Item(word.start, word.end, joint, links[0].start() if links else 0))
    return items


def _own_subject(items: Sequence[_Item], predicate: str, *, spoken: bool) -> int | None:
    """Where the subject of ``predicate`` begins, if it is not what is denied; items before it are."""
    finite = _VERB.fullmatch(predicate) is not None
    several = finite and _SEVERAL.fullmatch(predicate) is not None
    first = len(items) - 1
    while first > 1 and (items[first].link == "or" or (several and items[first].link == "and")):
        first -= 1
    subject, link = items[first], items[first].link
    alone = first == 1  # one thing is denied, and the next begins
    if link == "or":
        return None
    if any(i.link == "or" for i in items[first + 1 :]) and link != ", and":
        return None  # "no scale, crust or ulceration present" is one list
    if spoken and finite:
        return subject.link_at
    new = link == ", and" or (link == "," and first == len(items) - 1)
    return subject.link_at if alone and new else None
