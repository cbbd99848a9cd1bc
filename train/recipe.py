"""Recipes: what is trained, on what, how; one TOML file each, every key of which a flag can replace.

A recipe holds only what differs from the defaults of ``train.settings``.
Folders and files in a recipe are relative to where the command is run.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path

from skinedge.errors import UsageError
from skinedge.registry import check
from train.settings import (
    CacheSection,
    DataSection,
    LoraSection,
    LossSection,
    ModelSection,
    OptimSection,
    Recipe,
    Section,
    SideBranchSection,
    TeacherSection,
    TrainSection,
    Value,
)

__all__ = ["Recipe", "known_recipes", "make_recipe", "parse_override", "read_recipe", "to_toml"]

RECIPES = Path(__file__).parent / "recipes"
Tables = dict[str, dict[str, object]]


_ADAPTERS: dict[str, type[SideBranchSection] | type[LoraSection]] = {"side-branch": SideBranchSection, "lora": LoraSection}
_SECTIONS: dict[str, type[Section]] = {
    "model": ModelSection,
    "data": DataSection,
    "teacher": TeacherSection,
    "loss": LossSection,
    "optim": OptimSection,
    "train": TrainSection,
    "cache": CacheSection,
}


def known_recipes() -> tuple[str, ...]:
    """Names of the recipes in ``train/recipes``."""
    return tuple(sorted(p.stem for p in RECIPES.glob("*.toml")))


def read_recipe(name: str, overrides: Mapping[str, object] | None = None) -> Recipe:
    """A recipe by name or path, with single keys replaced.

    Args:
        name: of a file in ``train/recipes``, or the path of a TOML file.
        overrides: ``"section.key"`` -> value.

    Raises:
        UsageError: no such recipe, not TOML, or a section, key, type or value that is not known; the message
            names the file and the hint the nearest known name.
    """
    path = _find(name)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: not TOML ({e}).") from e
    for section, keys in tables.items():
        check(f"section in {path}", section, (*_SECTIONS, "adapter"))
        if not isinstance(keys, dict):
            raise UsageError(f"{path}: '{section}' must be a section.", hint=f"Write [{section}] and its keys below it.")
    return make_recipe(tables, overrides or {}, str(path))


def make_recipe(tables: Tables, overrides: Mapping[str, object], where: str) -> Recipe:
    """Checked settings from the tables of a TOML file and ``"section.key"`` overrides.

    Raises:
        UsageError: as for ``read_recipe``.
    """
    origin = {(section, key): where for section, keys in tables.items() for key in keys}
    tables = {section: dict(keys) for section, keys in tables.items()}
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        check("section in --set", section, (*_SECTIONS, "adapter"))
        tables.setdefault(section, {})[key] = value
        origin[section, key] = "--set"
    kind = tables.get("adapter", {}).get("kind", "side-branch")
    check(f"adapter kind in {origin.get(('adapter', 'kind'), where)}", str(kind), tuple(_ADAPTERS))
    sections: dict[str, type[Section]] = {**_SECTIONS, "adapter": _ADAPTERS[str(kind)]}
    built = {name: _section(name, cls, tables.get(name, {}), origin) for name, cls in sections.items()}
    return Recipe(**built)  # type: ignore[arg-type]


def parse_override(text: str) -> tuple[str, object]:
    """``section.key=value`` of ``--set``; a value that is no TOML is a text.

    Raises:
        UsageError: it is not of that form.
    """
    name, equals, value = text.partition("=")
    if not equals or "." not in name:
        raise UsageError(f"--set {text} is not of the form section.key=value.", hint="For example --set optim.lr=3e-4.")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value


def to_toml(recipe: Recipe) -> str:
    """A recipe as TOML, every key written out; where things lay on this machine is left out."""
    private = {("model", "folder"), ("data", "files"), ("cache", "folder"), ("adapter", "start")}
    lines = []
    for section, keys in recipe.tables().items():
        shown = {k: v for k, v in keys.items() if (section, k) not in private}
        if section == "teacher":
            shown["spec"] = str(shown["spec"]).partition(":")[0]
        lines += [f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in shown.items()), ""]
    return "\n".join(lines)


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


def _find(name: str) -> Path:
    if name.endswith(".toml") or Path(name).parent != Path():
        if not Path(name).is_file():
            raise UsageError(f"{name}: there is no such recipe.", hint=f"Known by name: {', '.join(known_recipes())}.")
        return Path(name)
    return RECIPES / f"{check('recipe', name, known_recipes())}.toml"


def _section(name: str, cls: type[Section], given: Mapping[str, object], origin: Mapping[tuple[str, str], str]) -> Section:
    known = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for key, value in given.items():
        where = origin[name, key]
        check(f"key in [{name}] of {where}", key, tuple(known))
        values[key] = _value(f"{where}: {name}.{key}", value, known[key])
    return cls(**values)  # type: ignore[arg-type]


def _value(what: str, value: object, known: dataclasses.Field[object]) -> Value:
    wanted = type(known.default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted is tuple and isinstance(value, str):
        value = [value]
    if wanted is tuple and isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        value = tuple(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", tuple: "a list of texts"}
        raise UsageError(f"{what} is {value!r} and must be {names[wanted]}.")
    _check_range(what, value, known.metadata)
    return value  # type: ignore[return-value]


def _check_range(what: str, value: object, limits: Mapping[str, object]) -> None:
    names = value if isinstance(value, tuple) else (value,)
    for name in names if "known" in limits else ():
        check(f"value of {what.rpartition(' ')[2]}", str(name), limits["known"])  # type: ignore[arg-type]
    if not isinstance(value, int | float):
        return
    above, least, most = (limits.get(k) for k in ("above", "least", "most"))
    if isinstance(above, int | float) and not above < value < float("inf"):
        raise UsageError(f"{what} is {value!r} and must be above {above}.")
    if isinstance(least, int | float) and not least <= value < float("inf"):
        raise UsageError(f"{what} is {value!r} and must be at least {least}.")
    if isinstance(most, int | float) and not value <= most:
        raise UsageError(f"{what} is {value!r} and must be at most {most}.")
