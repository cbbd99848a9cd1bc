"""Every answer, on disk before it is used: a killed run goes on without asking anything twice.

One JSON object a line, appended and synced to the disk one by one.  An answer is found again by the digest of
everything that was asked (model, step, words, settings, the picture's digest): whatever changes is asked anew,
whatever does not is not.  Pictures and keys are never in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from skinedge.errors import CasesError
from skinedge.evaluation.endpoint import Answer


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    step: str
    case: str
    model: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int

    def answer(self) -> Answer:
        return Answer(self.text, self.finish_reason, self.prompt_tokens, self.completion_tokens)


class Journal:
    """Answers by key; ``add`` writes through to the disk."""

    def __init__(self, answers: dict[str, Answer], file: BinaryIO | None) -> None:
        self._answers = answers
        self._file = file

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """The answer to a question, if it was ever given."""
        return self._answers.get(key)

    def add(self, key: str, answer: Answer, *, step: str, case: str, model: str) -> None:
        """Keep an answer: on return it is on the disk."""
        self._answers[key] = answer
        if self._file is None:
            return
        entry = _Entry(key=key, step=step, case=case, model=model, **vars(answer))
        self._file.write(json.dumps(entry.model_dump()).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Open a journal, or begin one; a last line that a killed run left half-written is taken off.

    One in which nothing came to stand is removed again.

    Raises:
        CasesError: a line before the last is damaged.
    """
    answers, whole = _read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("ab") as file:
            file.truncate(whole)
            yield Journal(answers, file)
    finally:
        if not answers:
            path.unlink(missing_ok=True)


def read_journal(path: Path) -> Journal:
    """What a journal holds, for looking only; nothing if there is none.

    Raises:
        CasesError: a line before the last is damaged.
    """
    return Journal(_read(path)[0], None)


def _read(path: Path) -> tuple[dict[str, Answer], int]:
    """Answers, and how many bytes hold whole lines."""
    answers: dict[str, Answer] = {}
    if not path.exists():
        return answers, 0
    lines = path.read_bytes().split(b"\n")
    torn = len(lines.pop())  # what follows the last line's end; nothing, unless a write was cut short
    for number, line in enumerate(lines, 1):
        try:
            entry = _Entry.model_validate_json(line)
        except ValidationError as e:
            if number == len(lines) and not torn:
                return answers, path.stat().st_size - len(line) - 1
            raise CasesError(
                f"{path}, line {number}: it is damaged.", hint="Remove that line; its question is then asked again."
            ) from e
        answers[entry.key] = entry.answer()
    return answers, path.stat().st_size - torn
