"""``skinedge audit`` and ``skinedge people``: what the workstation recorded, and who may use it."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skinedge.cli.options import AsJson
from skinedge.console import emit, note, printable, say, table

if TYPE_CHECKING:
    from skinedge.clinic.people import People

_SETTINGS = {"help_option_names": ["-h", "--help"]}
audit = typer.Typer(
    help="Check and read the workstation's audit log.\n\nExample: skinedge audit verify",
    no_args_is_help=True, context_settings=_SETTINGS, rich_markup_mode=None,
)  # fmt: skip
people = typer.Typer(
    help="Say who may use the workstation; without anybody it asks for no passphrase.\n\nExample: skinedge people list",
    no_args_is_help=True, context_settings=_SETTINGS, rich_markup_mode=None,
)  # fmt: skip

LogFolder = Annotated[Path | None, typer.Argument(help="Folder of the log; by default the one of skinedge serve.")]
PeopleFile = Annotated[Path | None, typer.Option("--file", help="List of operators; by default the one of skinedge serve.")]
Name = Annotated[str, typer.Argument(help="Name as it is typed at login and stands in the audit log.")]


@audit.command()
def verify(
    folder: LogFolder = None,
    head: Annotated[
        str | None, typer.Option(metavar="<hash>", help="Also find this hash of a record in it, noted elsewhere before.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte of an audit log: nothing changed, left out, put in, moved or cut off.

    Example: skinedge audit verify
    """
    from dataclasses import asdict

    from skinedge.clinic.audit import verify_log

    folder = _log(folder)
    found = verify_log(folder, head)
    if as_json:
        emit({"verified": True, **asdict(found)})
        return
    say(f"{folder}: {found.count} records from {found.first} to {found.last}, all as they were written.")
    say(f"last hash {found.hash}")
    note("Note this hash somewhere else: given as --head later, it shows that the log was not written anew.")


@audit.command()
def show(
    folder: LogFolder = None,
    last: Annotated[int, typer.Option(min=1, max=100_000, help="The last so many records.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Print the last records of an audit log, each checked as it is read.

    Example: skinedge audit show --last 50
    """
    from skinedge.clinic.audit import records

    tail = deque(records(_log(folder)), last)
    if as_json:
        emit({"records": [record.to_json() for record in tail]})
        return
    for record in tail:
        fields = "  ".join(f"{k}={v}" for k, v in record.fields.items())
        say(printable(f"{record.seq}  {record.time}  {record.event}  {fields}".replace("\n", " ")))


@people.command()
def add(
    name: Name,
    role: Annotated[str, typer.Option("--role", "-r", help="clinician, auditor or admin.")] = "clinician",
    passphrase_stdin: Annotated[
        bool, typer.Option("--passphrase-stdin", help="Read the passphrase from standard input instead of asking twice.")
    ] = False,
    file: PeopleFile = None,
    as_json: AsJson = False,
) -> None:
    """Let somebody use the workstation, or give them another role and passphrase.

    Example: skinedge people add "Dr Zhou" --role clinician
    """
    from skinedge.clinic.people import changing, person

    path = _list(file)
    with changing(path) as before:
        known = before.find(name) is not None
        after = before.having(person(name, role, _passphrase(passphrase_stdin)))
        after.save(path)
    _said(path, after, f"{name} is {'changed' if known else 'added'} as {role}.", as_json)


@people.command()
def remove(name: Name, file: PeopleFile = None, as_json: AsJson = False) -> None:
    """Take somebody off the list.

    Example: skinedge people remove "Dr Zhou"
    """
    from skinedge.clinic.people import changing

    path = _list(file)
    with changing(path) as before:
        after = before.without(name)
        after.save(path)
    _said(path, after, f"{name} is removed.", as_json)
    if not after.people and not as_json:
        note(f"Nobody can log in now; delete {path} to do without logins.")


@people.command("list")
def list_people(file: PeopleFile = None, as_json: AsJson = False) -> None:
    """List who may use the workstation, and as what.

    Example: skinedge people list
    """
    from skinedge.clinic.people import ROLES, People

    path = _list(file)
    found = People.load(path)
    if as_json:
        _said(path, found, "", as_json)
        return
    if not found.needed:
        say(f"No logins: there is no {path}.")
        return
    table(("name", "role", "may"), [(p.name, p.role, ", ".join(sorted(ROLES[p.role]))) for p in found.people])


def _said(path: Path, found: People, words: str, as_json: bool) -> None:
    if as_json:
        listed = [{"name": p.name, "role": p.role} for p in found.people]
        emit({"file": str(path), "login": found.needed, "people": listed})
    else:
        say(printable(words))


def _passphrase(stdin: bool) -> str:
    """What is typed, twice and unseen, or the first line of standard input."""
    if stdin:
        return sys.stdin.readline().rstrip("\r\n")
    return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True))


def _log(folder: Path | None) -> Path:
    from skinedge.clinic.places import audit_folder

    return folder or audit_folder()


def _list(file: Path | None) -> Path:
    from skinedge.clinic.places import people_file

    return file or people_file()
