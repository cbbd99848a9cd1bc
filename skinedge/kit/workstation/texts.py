"""The files that tell the operating system of the workstation: systemd's unit, the menu's entry, start scripts."""

from __future__ import annotations

import shlex

from skinedge.kit.workstation.places import Places

# What needs a mount or user namespace, which some systems refuse to their users (Ubuntu 24.04 among them).  What changes the
# capability bounding set (ProtectKernelModules and others) is left out: no user may do that; so is ProtectKernelTunables, which
# failed under systemd 252 (226) and forbids what no user may do either.  IPAddressDeny takes effect only where the user's
# manager may load BPF programs; elsewhere it is passed over.  By default systemd would stop the whole unit when the kernel kills
# the engine for memory, and the server is there to start that again.
_NAMESPACES = """\
PrivateUsers=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={state}
ProtectControlGroups=yes
"""
_UNIT = """\
# Written by skinedge; replaced by its updates and removed by: {program} uninstall
[Unit]
Description=skinedge workstation: a model for dermatological photographs, on this machine alone
StartLimitIntervalSec=600
StartLimitBurst=5

[Service]
Type=exec
ExecStart={python} {program} serve
Environment=PYTHONUNBUFFERED=1
Restart=on-failure
RestartSec=3
RestartPreventExitStatus=2
KillMode=mixed
OOMPolicy=continue
TimeoutStopSec=30
UMask=0077
NoNewPrivileges=yes
{namespaces}RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
IPAddressDeny=any
IPAddressAllow=localhost
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""
_ENTRY = """\
[Desktop Entry]
Type=Application
Version=1.0
Name=skinedge workstation
Name[zh_CN]=皮肤影像工作站
Comment=Ask about a dermatological photograph; nothing leaves this machine
Comment[zh_CN]=皮肤照片问答；数据不离开本机
Exec={python} {program} open
Icon={icon}
Terminal=false
Categories=Science;MedicalSoftware;
"""


def unit(places: Places, sandbox: str) -> str:
    """systemd's unit; ``sandbox`` is ``full`` or ``basic``."""
    program, python = (_systemd(str(p)).replace("$", "$$") for p in (places.program, places.python))
    namespaces = _NAMESPACES.format(state=_systemd(str(places.state))) if sandbox == "full" else ""
    return _UNIT.format(program=program, python=python, namespaces=namespaces)


def desktop_entry(places: Places) -> str:
    """The entry of the menu."""
    icon = str(places.app / "icon.svg").replace("\\", "\\\\")
    return _ENTRY.format(python=_desktop(str(places.python)), program=_desktop(str(places.program)), icon=icon)


def shell_script(places: Places) -> str:
    """``workstation.sh`` of the installed workstation."""
    command = f"{shlex.quote(str(places.python))} {shlex.quote(str(places.program))}"
    return f'#!/bin/sh\n# status, start, stop, open, update, rollback, uninstall\nexec {command} "$@"\n'


def start_script(places: Places) -> str:
    """``start.sh``: serve until Ctrl+C, for machines without systemd."""
    return f"#!/bin/sh\nexec {shlex.quote(str(places.python))} {shlex.quote(str(places.program))} keep\n"


def cmd_script(places: Places, command: str, *, window: bool) -> str:
    """A ``.cmd`` of Windows that calls the program; without a window it does not wait for its end."""
    if window:
        return _cmd(f'"{_batch(str(places.python))}" "{_batch(str(places.program))}" {command}')
    silent = places.python.with_name("pythonw.exe")
    return _cmd(f'start "" /b "{_batch(str(silent))}" "{_batch(str(places.program))}" {command}')


def _cmd(line: str) -> str:
    # Paths hold the person's name: without UTF-8, cmd reads another one.
    return f"@echo off\r\nchcp 65001 >nul\r\n{line}\r\n"


def _systemd(text: str) -> str:
    """One word of a unit."""
    for bare, escaped in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%")):
        text = text.replace(bare, escaped)
    return f'"{text}"'


def _desktop(text: str) -> str:
    """One word of ``Exec``: quoted, and that escaped once more as every string of such a file is."""
    for character in '\\"`$':
        text = text.replace(character, f"\\{character}")
    return f'"{text}"'.replace("\\", "\\\\").replace("%", "%%")


def _batch(text: str) -> str:
    return text.replace("%", "%%")
