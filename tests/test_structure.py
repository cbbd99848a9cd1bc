"""The form of a narrative: every departure by its name, in linear time, on anything."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinedge.evaluation.structure import LOOP_TIMES, SECTIONS, check_structure, find_loop
from skinedge.synthderm.findings import draw_cases
from skinedge.synthderm.narrative import draw_differentials, narrate, read_answer

DERMBENCH = Path("/work/shared/data/dermbench/references.jsonl")
GOOD = "<think>\nObservation: a red plaque.\nReasoning: scale.\nDifferential: eczema.\n</think>\n<answer>psoriasis</answer>"
# What train.held_out meant by it before there was one meaning for all.
FORMER = re.compile(r"\s*<think>(?P<thought>.+?)</think>\s*<answer>(?P<answer>[^<]+)</answer>\s*", re.DOTALL)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", ["no think", "no answer"]),
        ("A plaque. The answer is psoriasis.", ["no think", "no answer"]),
        ("<think>a</think>", ["no answer"]),
        ("<answer>b</answer>", ["no think"]),
        ("<think>a</think><answer>b</answer> and more", ["text after answer: and more"]),
        ("<think>a</think><answer>b</answer><answer>c</answer>", ["double answer"]),
        ("<think>a</think><think>b</think><answer>c</answer>", ["double think"]),
        ("<think> </think><answer>b</answer>", ["empty think"]),
        ("<think>a</think><answer>\n</answer>", ["empty answer"]),
        ("<think>a</think>so<answer>b</answer>", ["text between: so"]),
        ("Well, <think>a</think><answer>b</answer>", ["text before think: Well,"]),
        ("<answer>b</answer><think>a</think>", ["text before think: the answer stands there"]),
        ("<think>a</think></think><answer>b</answer>", ["stray tag: </think>"]),
        ("<think>a<answer>b</answer>", ["unclosed think"]),
        ("<think>a</think><answer><b>c</b></answer>", ["markup in answer"]),
        ("<think>a", ["unclosed think", "no answer", "cut short"]),
        ("<think>a</think><answer>b", ["unclosed answer", "cut short"]),
        ("<think>a</think><answer>b</answ", ["unclosed answer", "markup in answer", "cut short"]),
        ("<think>a</think><ans", ["no answer", "text between: <ans", "cut short"]),
    ],
)  # fmt: skip
def test_each_fault_has_its_name(text: str, faults: list[str]) -> None:
    structure = check_structure(text)
    assert [str(fault) for fault in structure.faults] == faults
    assert not structure.valid


def test_a_whole_narrative_has_no_fault_and_gives_its_parts() -> None:
    structure = check_structure(GOOD, sections=SECTIONS)
    assert structure.valid
    assert structure.answer == "psoriasis"
    assert structure.thought.startswith("Observation: a red")


def test_an_answer_that_the_model_did_not_end_is_cut_short() -> None:
    structure = check_structure(GOOD, finish="length")
    assert [str(f) for f in structure.faults] == ["cut short: length"]
    assert structure.has("cut short")
    assert not structure.has("loop")


def test_sections_are_asked_for_only_where_the_form_has_them() -> None:
    text = GOOD.replace("Reasoning: scale.", "Reasoning:").replace("Differential: ", "")
    assert check_structure(text).valid
    faults = [str(f) for f in check_structure(text.replace("eczema.", ""), sections=SECTIONS).faults]
    assert faults == ["empty section: reasoning", "no section: differential"]


@pytest.mark.parametrize(
    "heading", ["**Observation:** red.", "**Observation**: red.", "## Observation\nred.", "OBSERVATION : red."]
)
def test_a_heading_may_be_set_in_markdown(heading: str) -> None:
    text = f"<think>{heading}\nReasoning: scale.\nDifferential: eczema</think><answer>psoriasis</answer>"
    assert check_structure(text, sections=SECTIONS).valid


@pytest.mark.parametrize(
    "looping", ["red " * 40, "!" * 80, "! " * 80, "abc" * 100, "The border is sharp and the surface is smooth. " * LOOP_TIMES]
)
def test_loops_are_found(looping: str) -> None:
    assert find_loop(looping)
    structure = check_structure(f"<think>{looping}</think><answer>b</answer>")
    assert [fault.name for fault in structure.faults] == ["loop"]


def test_what_is_said_three_times_is_no_loop() -> None:
    assert not find_loop("The border is sharp and the surface is smooth. " * (LOOP_TIMES - 1))


def test_synthderm_narratives_have_the_form() -> None:
    rng = np.random.default_rng(0)
    for case in draw_cases(72, 5):
        text = narrate(case.findings, case.diagnosis, draw_differentials(case.diagnosis, rng), rng)
        structure = check_structure(text, sections=SECTIONS)
        assert structure.valid
        assert structure.answer == read_answer(text) == case.diagnosis


@pytest.mark.skipif(not DERMBENCH.exists(), reason="the texts of DermBench are not on this machine")
def test_no_certified_narrative_counts_as_a_loop() -> None:
    texts = [json.loads(line)["reference"] for line in DERMBENCH.read_text(encoding="utf-8").splitlines()]
    assert len(texts) > 300
    assert [t[:60] for t in texts if find_loop(t)] == []


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "<", "/", "a", " ", "\n", "Observation:", "!"])
)


@given(PIECES.map("".join) | st.text())
def test_on_anything_it_is_as_strict_as_the_former_pattern(text: str) -> None:
    structure = check_structure(text)
    if structure.valid:
        found = FORMER.fullmatch(text)
        assert found
        assert (structure.thought, structure.answer) == (found["thought"].strip(), found["answer"].strip())
        assert "<think>" not in structure.thought
    else:
        assert len(set(structure.faults)) == len(structure.faults)


@given(st.text(alphabet="ab \n.", min_size=1).filter(str.strip), st.text(alphabet="ab ", min_size=1).filter(str.strip))
def test_what_is_put_in_whole_comes_out_whole(thought: str, answer: str) -> None:
    structure = check_structure(f" <think>{thought}</think>\n<answer>{answer}</answer>\n")
    assert (structure.thought, structure.answer) == (thought.strip(), answer.strip())
    assert [f.name for f in structure.faults if f.name != "loop"] == []


@pytest.mark.parametrize(
    "piece", ["<think>", "</answer>", "<answer>a</answer>", "! ", "observation ", "<", "# ", "a b c ", "::: "]
)
def test_time_is_linear(piece: str) -> None:
    """At best, because what else the process does (a collection of garbage, another test's thread) only ever adds."""

    def seconds(copies: int) -> float:
        begin = time.process_time()
        check_structure(f"<think>{piece * copies}", sections=SECTIONS)
        return time.process_time() - begin

    few = max(seconds(2_000) for _ in range(3))
    # Ten times the text; what is quadratic takes a hundred times as long, every time.
    assert any(seconds(20_000) < 30 * few for _ in range(8))
