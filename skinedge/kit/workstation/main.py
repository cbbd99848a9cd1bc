"""The command line: ``python workstation.pyz COMMAND``, or ``workstation.sh COMMAND``, ``workstation.cmd COMMAND``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import webbrowser
from dataclasses import asdict
from pathlib import Path

from skinedge.kit.install import InstallError
from skinedge.kit.workstation.change import DEFAULT_PORT, NOT_OPTIONS, Asked, install_kit, rollback, update
from skinedge.kit.workstation.health import WAIT_S, await_health, health
from skinedge.kit.workstation.leave import uninstall
from skinedge.kit.workstation.places import Places, installed_places, user_places
from skinedge.kit.workstation.pointer import Release, read_pointer
from skinedge.kit.workstation.run import environment, keep, python_of, serve
from skinedge.kit.workstation.service import service_of

_OPEN_S = 20.0


def main(arguments: list[str] | None = None) -> int:
    """Do what was typed; returns the exit code: 1 if it failed, 2 if it cannot be meant."""
    typed = sys.argv[1:] if arguments is None else arguments
    typed, options = _parted(typed)
    args = _parser().parse_args(typed)
    program = Path(sys.argv[0]).resolve().parent
    try:
        return _do(args, options, installed_places(program) or user_places(), program)
    except InstallError as e:
        print(f"error: {e}", file=sys.stderr)
    except OSError as e:
        print(f"error: {e.filename or 'the disk'}: {e.strerror or e}. Put that right and type the same again.", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped: type the same to go on.", file=sys.stderr)
        return 130
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workstation", description="The workstation of this kit, on this machine, for this user."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, words: str | None, *, waits: bool = False) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=words, description=words) if words else commands.add_parser(name)
        if waits:
            found.add_argument("--wait", type=float, default=WAIT_S, metavar="S", help="seconds a model may take to start (900)")
        return found

    new = command(
        "install", "install the kit that this program lies in; options of skinedge serve may follow after --", waits=True
    )
    new.add_argument("--port", type=_port, help=f"port of the page on this machine ({DEFAULT_PORT})")
    new.add_argument(
        "--people", type=Path, metavar="FILE", help="list of operators, as skinedge people add --file FILE writes it"
    )
    command("update", "replace the bundle; what does not run is rolled back", waits=True).add_argument("source", type=Path)
    command("rollback", "go back to the release before", waits=True)
    command("status", "say what is installed and whether it runs").add_argument("--json", action="store_true")
    command("start", "start the server", waits=True)
    command("stop", "end the server")
    command("open", "start the server if need be, and open its page")
    command("skinedge", "run skinedge's own command line: skinedge people add NAME").add_argument(
        "words", nargs=argparse.REMAINDER
    )
    gone = command("uninstall", "remove everything; the audit log is moved").add_mutually_exclusive_group()
    gone.add_argument("--keep-log", type=Path, metavar="FOLDER", help="where the audit log goes (a new folder in your own)")
    gone.add_argument("--purge-log", action="store_true", help="delete the audit log too")
    command("serve", None)
    command("keep", None)
    return parser


def _do(args: argparse.Namespace, options: tuple[str, ...] | None, places: Places, program: Path) -> int:
    asked = Asked(getattr(args, "port", None), getattr(args, "people", None), options, getattr(args, "wait", WAIT_S))
    if args.command == "install":
        release = install_kit(places, program, asked, _told)
        script = "workstation.cmd" if places.windows else "workstation.sh"
        _say(f"installed: {release.words}.")
        _say(f"http://127.0.0.1:{release.port}/   all else: {places.app / script}")
    elif args.command == "update":
        _say(f"updated: {update(places, args.source.absolute(), asked, _told).words}.")
    elif args.command == "rollback":
        _say(f"rolled back: {rollback(places, asked, _told).words}.")
    elif args.command == "uninstall":
        log = uninstall(places, args.keep_log, purge_log=args.purge_log, told=_told)
        _say(f"removed. {f'The audit log is now in {log}' if log else 'No audit log is left'}.")
    elif args.command == "status":
        return _status(places, as_json=args.json)
    elif args.command == "skinedge":
        return subprocess.run(_skinedge(places, args.words), env=environment(places), check=False).returncode
    else:
        return _run(args.command, places, asked.wait)
    return 0


def _run(command: str, places: Places, wait: float) -> int:
    if command in ("serve", "keep"):
        return serve(places) if command == "serve" else keep(places)
    service, release = service_of(places), _current(places)
    if command == "stop":
        service.stop()
        _say("stopped.")
    elif command == "start":
        if not service.state().running:
            service.restart()
        await_health(service, release, wait)
        _say(f"http://127.0.0.1:{release.port}/")
    else:
        if not service.state().running:
            service.restart()
        end = time.monotonic() + _OPEN_S
        while health(release.port) is None and time.monotonic() < end:
            time.sleep(0.2)
        webbrowser.open(f"http://127.0.0.1:{release.port}/")
    return 0


def _status(places: Places, *, as_json: bool) -> int:
    """What is installed; exit code 1 unless it answers."""
    pointer, release, service = read_pointer(places), _current(places), service_of(places)
    said = health(release.port) or {}
    runs = service.state().running and said.get("bundle") == release.digest
    how = f"runs: {said.get('engine')}" if runs else "does not run"
    if as_json:
        found = {
            "running": runs,
            "health": said or None,
            "service": service.kind,
            "sandbox": pointer.sandbox,
            "app": str(places.app),
        }
        rows = {"current": asdict(release), "previous": pointer.previous and asdict(pointer.previous)}
        print(json.dumps({**found, **rows, "audit": str(places.audit), "log": service.log_hint}, indent=1))
    else:
        _say(f"{how}, http://127.0.0.1:{release.port}/")
        _say(f"release   {release.words}")
        _say(f"before    {pointer.previous.words if pointer.previous else 'none'}")
        sandbox = f", {pointer.sandbox} sandbox" if service.kind == "systemd" else ""
        _say(f"service   {service.kind}{sandbox}; log: {service.log_hint}")
        _say(f"folders   {places.app}, {places.state}")
    return 0 if runs else 1


def _skinedge(places: Places, words: list[str]) -> list[str]:
    return [str(python_of(places.venvs / _current(places).venv)), "-m", "skinedge", *words]


def _current(places: Places) -> Release:
    current = read_pointer(places).current
    if current is None:
        raise InstallError("no workstation is installed here. Install it from a kit: ./workstation.sh install")
    return current


def _parted(typed: list[str]) -> tuple[list[str], tuple[str, ...] | None]:
    """What is for this program, and what comes after ``--`` of ``install``, which is for ``skinedge serve``."""
    if typed[:1] != ["install"] or "--" not in typed:
        return typed, None
    at = typed.index("--")
    options = tuple(typed[at + 1 :])
    for word in options:
        if word.split("=")[0] in NOT_OPTIONS:
            print(
                f"error: {word} cannot be given to an installed workstation. See: workstation.sh install --help", file=sys.stderr
            )
            sys.exit(2)
    return typed[:at], options


def _port(text: str) -> int:
    number = int(text)
    if not 1024 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is not between 1024 and 65535")
    return number


def _told(words: str) -> None:
    print(f"{words} ...", file=sys.stderr, flush=True)


def _say(words: str) -> None:
    print(words, flush=True)
