"""SynthDerm: drawn pictures with known findings, as ``skinedge.synthderm.dataset`` writes them (``records.jsonl``)."""

from __future__ import annotations

from pathlib import Path

from skinedge.errors import CasesError
from skinedge.evaluation.cases import ImageFinder
from skinedge.evaluation.datasets._contract import Contents, Item
from skinedge.evaluation.datasets._files import json_lines, text_of, with_keys
from skinedge.evaluation.labels import ClosedSet
from skinedge.parity.record import skin_group
from skinedge.records import IMAGE_PLACE
from skinedge.synthderm.findings import DIAGNOSES, VOCABULARY

TITLE = "SynthDerm"
LICENCE = "MIT, as skinedge"
CITATION = "skinedge: drawn by a program, no patient's"
LOOKS_FOR = "a JSON Lines file with the keys messages, images, diagnosis, findings"
TASKS = ("diagnosis",)
YIELDS_TO: tuple[str, ...] = ()


def find(place: Path) -> Path | None:
    """A file of records with findings."""
    return with_keys(place, "messages", "images", "diagnosis", "findings")


def read(file: Path, images: Path, task: str) -> Contents:  # noqa: ARG001  (there is one task)
    """Every record; what it asks is its own question, what it answers the reference."""
    image_of = ImageFinder(images)
    items = tuple(_item(file, number, record, image_of) for number, record in json_lines(file))
    return Contents(items, ClosedSet(dict.fromkeys(DIAGNOSES, ())))


def _item(file: Path, number: int, record: dict[str, object], image_of: ImageFinder) -> Item:
    where = f"{file}, line {number}"
    pictures = record.get("images")
    if not isinstance(pictures, list) or len(pictures) != 1:
        raise CasesError(f"{where}: it has not exactly one image.")
    asked, told = _turns(record.get("messages"), where)
    diagnosis, findings = text_of(file, number, record, "diagnosis"), record.get("findings")
    if diagnosis not in DIAGNOSES:
        raise CasesError(f"{where}: '{diagnosis}' is no diagnosis of SynthDerm.")
    if not isinstance(findings, dict) or set(findings) != set(VOCABULARY):
        raise CasesError(f"{where}: 'findings' must have exactly the keys {', '.join(VOCABULARY)}.")
    skin = record.get("fitzpatrick")
    if not isinstance(skin, int) or not 1 <= skin <= 6:
        raise CasesError(f"{where}: 'fitzpatrick' is not a number from 1 to 6.")
    return Item(
        text_of(file, number, record, "id"), image_of(str(pictures[0])), asked, diagnosis, skin_group(skin),
        diagnosis=diagnosis, reference=told, findings={name: str(value) for name, value in findings.items()},
    )  # fmt: skip


def _turns(messages: object, where: str) -> tuple[str, str]:
    """What the user asks first, and what the assistant answers."""
    turns = [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    said = {role: next((m.get("content") for m in turns if m.get("role") == role), None) for role in ("user", "assistant")}
    asked, told = said["user"], said["assistant"]
    if not isinstance(asked, str) or not isinstance(told, str):
        raise CasesError(f"{where}: 'messages' does not hold a question and an answer.")
    return asked.replace(IMAGE_PLACE, ""), told
