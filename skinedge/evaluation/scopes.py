"""What a sentence denies, doubts, or says of diseases in general: stretches of it with a polarity.

The method is NegEx with the scopes of ConText (Chapman et al. 2001, J Biomed Inform 34, 301-10; Harkema et al. 2009,
J Biomed Inform 42, 839-51), its triggers fitted to descriptions of skin: a trigger reaches forward or backward within a
sentence, up to a word that ends its scope.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from skinedge.evaluation.scope_ends import BE, NOT, SEEN, scope_end, stops
from skinedge.evaluation.vocabulary import Found

# ``general``: what a disease is said to do, not what this skin shows.
Polarity = Literal["present", "absent", "uncertain", "general"]


@dataclass(frozen=True)
class Scope:
    """Text from ``start`` to ``end`` in which findings have a polarity."""

    start: int
    end: int
    polarity: Polarity


_FORWARD: Sequence[tuple[Polarity, str]] = (
    ("absent", r"\b(?:no(?: (?:lesions?|rash|spots?|changes?|involvement|signs?)(?: (?:is|are) \w+)? (?:on|in|at|of)(?: the)?)?"
               r"|none (?:on|in|at|of)(?: the)?|not (?:on|in|at)(?: the)?"
               r"|without|absence of|absent|lack(?:s|ing|ed)?(?: of)?|free (?:of|from)|devoid of|negative for"
               r"|neither|nor(?: (?:is|are|was|were|does|do|has|have))?"
               r"|den(?:y|ies|ied|ying)|never|spar(?:es|ing|ed)|rather than|instead of|excluding"
               r"|rul(?:es?|ed|ing) out(?: (?:\w+ ){1,3}(?:that|which) \w+)?)\b"),
    ("absent", r"\b(?:(?:do|does|did|is|are|was|were|has|have|had|can|could|would|should)(?:\s+not|n't|n\u2019t)|cannot|not)\b"),
    ("uncertain", r"\b(?:possibl[ey]|perhaps|maybe|may|might|could|suspected|suspicion of|questionable|equivocal|whether|if"
                  r"|cannot exclude|can't exclude|difficult to (?:tell|judge|assess)|hard to (?:tell|judge|assess)"
                  r"|should there be)\b"),
)  # fmt: skip
_GENERAL = (
    r"\b(?:typical(?:ly)?|usual(?:ly)?|classic(?:al|ally)?|common(?:ly)?|generally|characteristically|often|frequently|rarely"
    r"|tends? to"
    r"|can (?:present|appear|cause|have|show|affect|occur|lead|be)|may (?:present|appear|show|affect)|characteri[sz]ed by"
    r"|would (?:show|have|present|be|typically|expect|appear)|presents? (?:with|as)|known for|expected|associated with)\b"
)
# What looks like a negation and is none.
_PSEUDO = re.compile(
    r"\b(?:not (?:only|just|merely|necessarily)|no (?:doubt|change|increase|longer|wonder)|cannot (?:exclude|be excluded)"
    r"|not (?:be )?(?:excluded|ruled out)|without (?:doubt|further|treatment)|if not)\b",
    re.IGNORECASE,
)
_BACKWARD: Sequence[tuple[Polarity, str]] = (
    ("uncertain", r"\b(?:cannot|can\s?not|can't|could not)\s+be\s+(?:\w+ly\s+)?"
                  r"(?:judged|assessed|determined|excluded|ruled out|evaluated|told)"
                  rf"|\b{BE}\s+(?:\w+ly\s+)?(?:uncertain|questionable|possible|equivocal|unclear|difficult to|hard to)"
                  rf"|\b{BE}{NOT}\s+(?:\w+ly\s+)?(?:excluded|ruled out|assessable)"
                  rf"|\b{BE}\s+(?:possibly|probably|perhaps|maybe|questionably)\s+{SEEN}|\b(?:may|might|could)\s+be\s+{SEEN}"),
    ("absent", rf"(?:,?\s*(?:which|that)\s+)?\b{BE}{NOT}\s+(?:\w+ly\s+)?{SEEN}|\bnot\s+(?:\w+ly\s+)?{SEEN}"
               rf"|(?:,?\s*(?:which|that)\s+)?\b{BE}\s+(?:\w+ly\s+)?(?:absent|missing|lacking|denied|ruled out|excluded|spared)"
               r"|\b(?:cannot|can't|could not)\s+be\s+(?:seen|found|made out|identified|observed)"
               r"|(?<=\w )(?<!and )absent\b|[,\u2013\u2014]\s*absent\b(?=\s+(?:here|in this|on this)|\W*$)"
               rf"|\W{{0,3}}:\W{{0,3}}(?:absent|none|nil|negative|no(?=\W*(?:$|[,;])))\b|\W{{0,3}}:\W{{0,3}}not\s+{SEEN}"
               r"|\s(?:is |are )?spar(?:ing|ed)\b(?! (?:of|the|his|her|both)\b)"),
)  # fmt: skip
# What may stand between the findings of a list that is denied together.
_LINK = re.compile(r"(?:[\s,/]|\b(?:and|or|nor|the|a|an|any|of|such|as|other|lesions?|changes?|signs?)\b)*", re.IGNORECASE)

_FORWARD_PATTERNS = tuple((polarity, re.compile(pattern, re.IGNORECASE)) for polarity, pattern in _FORWARD)
_BACKWARD_PATTERNS = tuple((polarity, re.compile(pattern, re.IGNORECASE)) for polarity, pattern in _BACKWARD)
# "**Psoriasis**: thick plaques with silvery scale" in a list of differentials speaks of the disease, unless it says "here".
_OF_A_DISEASE = re.compile(
    r"^[\s\d.*\-#]*[^:]{0,50}\b(?:\w*(?:itis|(?<!diagn)(?<!necr)osis|oma|iasis|eczema|ringworm)|tinea|acne"
    r"|lupus|lichen|n[ae]+vus|warts?|herpes"
    r"|rosacea|urticaria|vitiligo|scabies|pemphig\w+|impetigo|syphilis|eruptions?|annulare|rosea|zoster|infections?|exanthems?"
    r"|sarcoid|xerosis|melasma|vulgaris|migrans|disease|syndrome)\b[^:]{0,40}:",
    re.IGNORECASE,
)
_OF_THIS_SKIN = re.compile(
    r"\b(?:here|this|these|described|our|observed|noted|seen|current|the patient|strongly|fits?|aligns?|match\w*)\b",
    re.IGNORECASE,
)
_TURN = re.compile(r"\b(?:but|however|whereas|while|although|though)\b", re.IGNORECASE)
_HERE = re.compile(
    r"\b(?:here|in this (?:case|patient|image)|this (?:lesion|case|patient)|the patient|are observed|is observed)\b",
    re.IGNORECASE,
)
_GENERAL_PATTERN = re.compile(_GENERAL, re.IGNORECASE)


def scopes_of(sentence: str, words: Sequence[Found]) -> list[Scope]:
    """The strongest first: what is denied or doubted afterwards, what diseases do, what is denied, what is doubted."""
    pseudo = [m.span() for m in _PSEUDO.finditer(sentence)]
    inside = [(w.start, w.end) for w in words]  # "not well-defined" is one word
    found = list(_afterwards(sentence, words))
    afterwards, used = [scope for scope, _ in found], [span for _, span in found]
    general = [Scope(m.start(), _end_of_general(sentence, m.end()), "general") for m in _GENERAL_PATTERN.finditer(sentence)]
    if (heading := _OF_A_DISEASE.match(sentence)) and not _OF_THIS_SKIN.search(sentence, heading.end()):
        general.append(Scope(heading.start(), len(sentence), "general"))
    taken = (*pseudo, *inside, *used)  # "scale is absent" says nothing of what follows
    before = []
    for polarity, pattern in _FORWARD_PATTERNS:
        for trigger in pattern.finditer(sentence):
            if not any(trigger.start() < end and start < trigger.end() for start, end in taken):
                before.append(Scope(trigger.end(), scope_end(sentence, trigger, words), polarity))
    return [*afterwards, *general, *before]


def _end_of_general(sentence: str, begin: int) -> int:
    """What a disease does is said to the end of the sentence, or to a "but" after which this skin is spoken of again."""
    turn = _TURN.search(sentence, begin)
    return turn.start() if turn and _HERE.search(sentence, turn.end()) else len(sentence)


def _afterwards(sentence: str, words: Sequence[Found]) -> Iterator[tuple[Scope, tuple[int, int]]]:
    """Scopes of triggers that follow, and where these stand.

    A scope is the nearest finding, and those in one list with it unless the verb is singular.
    """
    for polarity, pattern in _BACKWARD_PATTERNS:
        for trigger in pattern.finditer(sentence):
            before = [w for w in words if w.end <= trigger.start()]
            if not before or not _near(sentence[before[-1].end : trigger.start()]):
                continue
            first = before[-1]
            singular = re.search(r"\b(?:is|was)\b", trigger.group(), re.IGNORECASE)
            for earlier in reversed(before[:-1]):
                between = sentence[earlier.end : first.start]
                if not _LINK.fullmatch(between) or (singular and re.search(r"\band\b|,", between)):
                    break
                first = earlier
            yield Scope(first.start, before[-1].end, polarity), trigger.span()


def _near(between: str) -> bool:
    """Whether a trigger may speak of a finding this far before it."""
    return len(between.split()) <= 4 and not stops(between)
