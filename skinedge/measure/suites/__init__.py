"""What is asked in a measurement: one TOML file per suite, the file name is the suite's name.

::

    title = "..."

    [[case]]
    name = "largest"
    images = [[1120, 896]]   # width and height of each photograph; left out: none
    text_tokens = 512        # length of the prompt beside the images; left out: the bundle's own question
    new_tokens = 256
    mode = "fixed"           # goes on to new_tokens, for speed; "natural" stops where the model does

They are part of the package because a device kit measures where only the package is.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from skinedge.errors import UsageError
from skinedge.measure.result import Mode
from skinedge.registry import check, names

FOLDER = Path(__file__).parent
MOST_TOKENS = 32768  # of a prompt or an answer
MOST_SIDE = 10_000  # pixels
_KEYS = ("name", "images", "text_tokens", "new_tokens", "mode")


@dataclass(frozen=True)
class SuiteCase:
    """One row: photographs (width, height), tokens of text beside them (``None``: the bundle's question), tokens to make."""

    name: str
    images: tuple[tuple[int, int], ...]
    text_tokens: int | None
    new_tokens: int
    mode: Mode


@dataclass(frozen=True)
class Suite:
    """Cases that are measured together, in this order."""

    name: str
    title: str
    cases: tuple[SuiteCase, ...]


def known_suites() -> tuple[str, ...]:
    """Names of the suites that come with skinedge."""
    return names("measure/suites", ".toml")


def read_suite(name: str) -> Suite:
    """The suite ``name``, or the one in the TOML file at that path.

    Raises:
        UsageError: there is none, or it breaks a rule; the case and the key are named.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = FOLDER / f"{check('suite', name, known_suites())}.toml"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UsageError(f"{path} cannot be read: {e.strerror}.", hint=f"Suites by name: {', '.join(known_suites())}.") from e
    except ValueError as e:
        raise UsageError(f"{path} is not TOML: {e}.", hint=f"See {FOLDER / 'quick.toml'}.") from e
    cases = raw.get("case")
    if not isinstance(cases, list) or not cases or not all(isinstance(c, dict) for c in cases):
        raise UsageError(f"{path}: it has no [[case]].", hint=f"See {FOLDER / 'quick.toml'}.")
    found = tuple(_case(c, f"{path}: case {number}") for number, c in enumerate(cases, 1))
    if len({c.name for c in found}) < len(found):
        raise UsageError(f"{path}: two cases have the same name.", hint="Give each its own.")
    return Suite(path.stem, str(raw.get("title", path.stem)), found)


def _case(raw: dict[str, Any], where: str) -> SuiteCase:
    unknown = sorted(raw.keys() - set(_KEYS))
    if unknown:
        raise UsageError(f"{where}: unknown key '{unknown[0]}'.", hint=f"Known: {', '.join(_KEYS)}.")
    name, mode, images = raw.get("name"), raw.get("mode", "fixed"), raw.get("images", [])
    if not isinstance(name, str) or not name:
        raise UsageError(f"{where}: it has no name.", hint='Add: name = "..."')
    if mode not in get_args(Mode):
        raise UsageError(f"{where}: unknown mode '{mode}'.", hint=f"Known: {', '.join(get_args(Mode))}.")
    if not isinstance(images, list) or not all(isinstance(i, list) and len(i) == 2 for i in images):
        raise UsageError(f"{where}: images is no list of [width, height].", hint="For example: images = [[448, 448]]")
    sizes = tuple((_whole(w, where, "width", MOST_SIDE), _whole(h, where, "height", MOST_SIDE)) for w, h in images)
    text = None if "text_tokens" not in raw else _whole(raw["text_tokens"], where, "text_tokens", MOST_TOKENS)
    return SuiteCase(name, sizes, text, _whole(raw.get("new_tokens", 256), where, "new_tokens", MOST_TOKENS), mode)


def _whole(value: object, where: str, what: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise UsageError(f"{where}: {what} is {value!r} and must be a whole number from 1 to {most}.")
    return value
