"""Print the reference of all commands as Markdown: ``make docs`` writes it to ``docs/commands.md``."""

from __future__ import annotations

from collections.abc import Iterator

import typer

from skinedge.cli import app

HEAD = """\
# Commands

Written by `make docs` from the command line itself. Exit codes: 0 done, 1 failed (or out of tolerance), 2 what was
typed cannot be meant, 130 stopped by Ctrl-C. With `--json` standard output holds exactly one JSON object, also for an
error; what cannot be parsed at all is explained on standard error only.
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_commands(typer.main.get_command(app), "skinedge")])


def _commands(group: typer.core.TyperGroup, path: str) -> Iterator[str]:
    """Each command of a group, those of its groups in their place."""
    for command in group.commands.values():
        if isinstance(command, typer.core.TyperGroup):
            yield from _commands(command, f"{path} {command.name}")
        else:
            yield _command(command, f"{path} {command.name}")


def _command(command: typer.core.TyperCommand, path: str) -> str:
    paragraphs = [_paragraph(text) for text in (command.help or "").split("\n\n")]
    rows = [f"| {_names(parameter)} | {parameter.help} | {_default(parameter)} |" for parameter in command.params]
    table = ["| | | default |", "|---|---|---|", *rows]
    return "\n".join([f"## {path}", "", *("\n\n".join(paragraphs).splitlines()), "", *table, ""])


def _paragraph(text: str) -> str:
    """Prose, or an example as a block that can be copied."""
    text = " ".join(text.split())
    head, example, typed = text.partition(": skinedge ")
    if not example:
        return text
    before = "" if head == "Example" else f"{head}:\n\n"
    return f"{before}```sh\nskinedge {typed}\n```"


def _names(parameter: typer.core.TyperOption | typer.core.TyperArgument) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{name}`" for name in sorted(parameter.opts, key=len, reverse=True))


def _default(parameter: typer.core.TyperOption | typer.core.TyperArgument) -> str:
    if getattr(parameter, "is_flag", False):
        return ""
    return "required" if parameter.required else "" if parameter.default is None else f"`{parameter.default}`"


if __name__ == "__main__":
    print(reference(), end="")
