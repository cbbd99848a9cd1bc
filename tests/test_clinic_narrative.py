"""An answer taken apart while it is written: the same parts however it was cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinedge.clinic.narrative import Parts, joined, split

TRAINED = (
    "<think>Observation: There is one lesion: round. Reasoning: Red speaks for it. The observation: fits. "
    "Differential: psoriasis or eczema.</think><answer>psoriasis</answer>"
)


def test_the_trained_form() -> None:
    assert split(TRAINED) == [
        ("observation", "There is one lesion: round."),
        ("reasoning", "Red speaks for it. The observation: fits."),
        ("differential", "psoriasis or eczema."),
        ("answer", "psoriasis"),
    ]


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        ("plain text", [("other", "plain text")]),
        ("**Observation:** x\n**Reasoning:** y", [("observation", "x"), ("reasoning", "y")]),
        (
            "<think>\n## Observation\nfoo\n\n## Reasoning\nbar</think>\n<answer>z",
            [("observation", "foo"), ("reasoning", "bar"), ("answer", "z")],
        ),
        ("<think>A thought. An observation is</think>a<b", [("thought", "A thought. An observation is"), ("other", "a<b")]),
        ("<answer>Observation: x</answer>", [("answer", "Observation: x")]),
        ("", []),
    ],
)  # fmt: skip
def test_other_forms(raw: str, parts: list[tuple[str, str]]) -> None:
    assert split(raw) == parts


WORDS = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "Observation",
    ":",
    ": ",
    "\n",
    ". ",
    "#",
    "**",
    "reasoning",
    "red",
    "<",
    " ",
    "é",
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=30).map("".join), st.data())
def test_however_it_is_cut(raw: str, data: st.DataObject) -> None:
    parts, pieces, rest = Parts(), [], raw
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces += parts.push(rest[:size])
        rest = rest[size:]
    assert joined([*pieces, *parts.finish()]) == split(raw)


def test_words_come_at_once() -> None:
    """Only what may be a tag or a heading waits."""
    parts = Parts()
    assert parts.push("<think>") == []
    assert parts.push("Obs") == []
    assert parts.push("tacles lie ") == [("thought", "Obstacles lie ")]
    assert parts.push("here") == [("thought", "here")]
