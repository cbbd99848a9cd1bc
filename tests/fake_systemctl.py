"""A ``systemctl --user`` and ``journalctl`` that really start and end the process of a unit, and refuse what is asked of them.

Links to this file lie on the PATH of a test.  Its memory is the folder $FAKE_SYSTEMD: the units as they were last read, and of
each the process, what it said, and how it ended.  A file ``refuses`` there makes it fail to set up namespaces, as Ubuntu does;
a file ``away`` makes it unreachable, as it is from a session without a bus.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

MEMORY = Path(os.environ["FAKE_SYSTEMD"])
UNITS = Path.home() / ".config" / "systemd" / "user"


def main(words: list[str]) -> int:
    if words[:1] == ["--run"]:
        return run(words[1])
    assert words[0] == "--user", words
    if Path(sys.argv[0]).name == "journalctl":
        journal = MEMORY / f"{words[words.index('-u') + 1]}.journal"
        print(journal.read_text() if journal.exists() else "")
        return 0
    if (MEMORY / "away").exists():
        print("Failed to connect to bus: No medium found", file=sys.stderr)
        return 1
    command, *rest = words[1:]
    with (MEMORY / "asked").open("a") as f:
        f.write(f"{command} {' '.join(rest)}\n")
    names = [w for w in rest if not w.startswith("--")]
    if command == "daemon-reload":
        for old in MEMORY.glob("*.service"):
            old.unlink()
        for unit in UNITS.glob("*.service"):
            (MEMORY / unit.name).write_bytes(unit.read_bytes())
        return 0
    for name in names:
        if command in ("restart", "start", "enable") and not (MEMORY / name).exists():
            print(f"Failed to {command} unit: Unit {name} not found.", file=sys.stderr)
            return 1
        {"restart": restart, "stop": stop, "enable": enable, "disable": disable, "show": show}.get(command, lambda _: None)(name)
        if command == "disable" and "--now" in rest:
            stop(name)
    return 0


def wanted(name: str) -> Path:
    return UNITS / "default.target.wants" / name


def enable(name: str) -> None:
    wanted(name).parent.mkdir(exist_ok=True)
    wanted(name).unlink(missing_ok=True)
    wanted(name).symlink_to(UNITS / name)


def disable(name: str) -> None:
    wanted(name).unlink(missing_ok=True)
    if wanted(name).parent.exists() and not any(wanted(name).parent.iterdir()):
        wanted(name).parent.rmdir()


def restart(name: str) -> None:
    stop(name)
    (MEMORY / f"{name}.ended").unlink(missing_ok=True)
    if "PrivateUsers=yes" in (MEMORY / name).read_text() and (MEMORY / "refuses").exists():
        (MEMORY / f"{name}.ended").write_text("226")
        return
    command = [sys.executable, __file__, "--run", name]
    null = subprocess.DEVNULL
    keeper = subprocess.Popen(command, start_new_session=True, stdin=null, stdout=null, stderr=null)
    (MEMORY / f"{name}.pid").write_text(str(keeper.pid))
    time.sleep(0.2)


def run(name: str) -> int:
    """systemd itself, for one unit."""
    line = next(x for x in (MEMORY / name).read_text().splitlines() if x.startswith("ExecStart="))
    words = [w.replace("%%", "%").replace("$$", "$") for w in shlex.split(line.partition("=")[2])]
    environment = {k: os.environ[k] for k in ("HOME", "PATH", "FAKE_SYSTEMD")}
    with (MEMORY / f"{name}.journal").open("ab") as journal:
        process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=journal, stderr=journal)
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        code = process.wait()
    (MEMORY / f"{name}.ended").write_text(str(code))
    return 0


def pid(name: str) -> int | None:
    try:
        found = int((MEMORY / f"{name}.pid").read_text())
        os.kill(found, 0)
        return found
    except (OSError, ValueError):
        return None


def stop(name: str) -> None:
    if found := pid(name):
        os.kill(found, signal.SIGTERM)
        while not (MEMORY / f"{name}.ended").exists():
            time.sleep(0.05)
    (MEMORY / f"{name}.pid").unlink(missing_ok=True)


def show(name: str) -> None:
    ended, running = MEMORY / f"{name}.ended", pid(name) is not None
    code = ended.read_text() if ended.exists() else "0"
    state = "active" if running and not ended.exists() else "failed" if code not in ("0", "-15") else "inactive"
    print(f"ActiveState={state}\nExecMainStatus={code}\nNRestarts=0")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
