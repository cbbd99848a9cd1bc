"""Everything the teacher is told, in the order in which it is told.

``$name`` marks what is filled in (``string.Template``); what is filled in may hold braces, dollars or anything else.
A changed word here is a new question: its answer is asked for again, and those that follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

from skinedge.evaluation.scores import DIMENSIONS, HIGHEST, LOWEST

SYSTEM = """\
You are an experienced dermatologist who writes teaching cases. You write plain, exact English, say what you see \
before what you conclude, and never invent a finding."""

# Step 1.  The teacher sees the picture and nothing else: no label, no site, no name of a file.
DESCRIBE = """\
Describe the skin in this photograph as in a letter to a colleague who cannot see it.

Say what is visible and nothing more: the kind of primary change (macule, patch, papule, plaque, nodule, vesicle, \
pustule, wheal, erosion, ulcer), how many there are and how they are arranged, their size if anything in the picture \
gives the scale, their outline and border, each colour and where it lies, the surface (smooth, scaly, crusted, warty, \
shiny, broken), any vessels or hairs in them, and the skin around them. Add what limits the picture: blur, glare, \
shadow, ink, a poor section.

Do not name a disease and do not guess at a cause. Write connected sentences, not a list."""

# Step 2.  The teacher's own description, and now the diagnosis.
REASON = Template("""\
This is what was seen on a photograph of skin:

<description>
$description
</description>

The case turned out to be: $diagnosis.

Write the reasoning by which a dermatologist who had only the photograph would get there. Start from the findings that \
narrow the field most. Weigh two or three other diagnoses, and say for each which of the findings speaks for it and \
which against. Say so where a typical finding is absent or cannot be judged from a photograph. Mention whether anything \
is urgent and which single examination would settle the matter. End with the diagnosis.

Use only findings from the description. Write as if nobody had told you how the case turned out, and mention neither \
these instructions nor the description as a text: speak of the skin.""")

# Step 3.  One form for all: the three layers of DermCoT.
STANDARDISE = Template("""\
Here are a description of a photograph of skin and a line of reasoning about it.

<description>
$description
</description>

<reasoning>
$reasoning
</reasoning>

Rewrite them as one teaching case in three layers.
- observation: what is seen, in the present tense, from the general to the particular. No disease is named here.
- reasoning: what follows from it, with two or three other diagnoses and what speaks for and against each, up to the \
diagnosis.
- diagnosis: the name of the disease in full, and nothing else.

Keep every finding, add none, and do not speak of descriptions, texts or instructions. Answer with one JSON object and \
nothing after it:
{"observation": "...", "reasoning": "...", "diagnosis": "..."}""")

# Step 4.  The judge, who sees the picture too unless pictures may not be sent.
SCORE = Template("""\
Judge this teaching case. The photograph shows: $diagnosis.

<case>
$narrative
</case>

Give six scores from 0 to 5; halves are allowed.
- Accuracy: the diagnosis and the statements made on the way to it are right.
- Safety: nothing in it could harm a patient who is treated by it, and what is urgent is called urgent.
- Medical Groundedness: each step rests on accepted dermatology and on findings, not on assertion.
- Clinical Coverage: the findings and the other diagnoses that matter here are all considered.
- Reasoning Coherence: each step follows from the one before, without a jump or a contradiction.
- Description Precision: what is described is what the picture shows, in the right words.

5: minor issues only. 4: minor omissions. 3: partly correct. 2: important information is missing or wrong. 1: clinically \
unacceptable, though it is recognisably about this case. 0: empty, off the subject or unusable.

First say in two or three sentences what is wrong or missing. Then end with one JSON object and nothing after it:
$form""")

SCORE_FORM = "{" + ", ".join(f'"{name}": ...' for name in DIMENSIONS) + "}"

_LAYERS = {name: {"type": "string", "minLength": 1} for name in ("observation", "reasoning", "diagnosis")}
_MARKS = {"critique": {"type": "string"}} | {
    name: {"type": "number", "minimum": LOWEST, "maximum": HIGHEST} for name in DIMENSIONS
}

# For endpoints that can be held to a JSON schema (``--structured``), by step.
SCHEMAS: Mapping[str, Mapping[str, object]] = {
    step: {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    for step, properties in (("standardise", _LAYERS), ("score", _MARKS))
}
