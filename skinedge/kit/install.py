"""Install a kit where there is no network; this file travels in the kit and needs nothing but Python.

Usage: python install.py [--check]

It checks that interpreter and machine are those the kit was made for and that every file is as it was written, makes a
virtual environment beside itself and installs the kit's own wheels, by their hashes, with the kit's own pip.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUMS = "SHA256SUMS"
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class InstallError(Exception):
    """One sentence on what is wrong, and what to type."""


def main(arguments: list[str] | None = None) -> int:
    """Check and install; returns the exit code."""
    parser = argparse.ArgumentParser(prog="install", description="Install this kit without a network.")
    parser.add_argument("--check", action="store_true", help="check files and machine only")
    args = parser.parse_args(arguments)
    kit = Path(__file__).resolve().parent
    try:
        settings = json.loads((kit / "kit.json").read_text(encoding="utf-8"))
        check_interpreter(settings, kit / "install.py")
        print(f"{check_files(kit)} files are as they were written.", flush=True)
        if not args.check:
            install(kit, settings)
            print(f"installed. Next: {kit / ('run.cmd' if os.name == 'nt' else 'run.sh')}")
    except (InstallError, OSError, ValueError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


def check_interpreter(settings: dict[str, str], script: Path) -> None:
    """Go on with ``script`` under the Python that the wheels are for.

    Raises:
        InstallError: it is not here, or this is another kind of machine.
    """
    system, machine = settings["system"], settings["machine"]
    here = _MACHINES.get(platform.machine().lower(), platform.machine().lower())
    if (platform.system(), here) != (system, machine):
        raise InstallError(f"this kit is for {system} {machine} and this machine is {platform.system()} {here}.")
    wanted = settings["python"]
    if f"{sys.version_info.major}.{sys.version_info.minor}" == wanted:
        return
    other = ["py", f"-{wanted}"] if os.name == "nt" and shutil.which("py") else [f"python{wanted}"]
    if not shutil.which(other[0]) or os.environ.get("SKINEDGE_KIT_AGAIN"):
        raise InstallError(
            f"this kit is for Python {wanted} and this is {platform.python_version()}. "
            f"Install Python {wanted}, or make the kit again for this one with: skinedge kit --python"
        )
    command = [*other, str(script), *sys.argv[1:]]
    sys.exit(subprocess.run(command, env={**os.environ, "SKINEDGE_KIT_AGAIN": "1"}, check=False).returncode)


def check_files(kit: Path) -> int:
    """Compare every file with its sum; returns how many.

    Raises:
        InstallError: one is missing or was changed.
    """
    lines = (kit / SUMS).read_text(encoding="utf-8").splitlines()
    for line in lines:
        expected, _, name = line.partition("  ")
        path = kit / name
        if not path.is_file():
            raise InstallError(f"{name} is missing. Copy the kit again.")
        if digest(path) != expected:
            raise InstallError(f"{name} is not as it was written. Copy the kit again.")
    return len(lines)


def digest(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def install(kit: Path, settings: dict[str, str], target: Path | None = None) -> None:
    """Make ``target`` (``venv`` in the kit) anew; a half-made one has no file ``installed``.

    Raises:
        InstallError: a step failed; its own last words are in the message.
    """
    target = target or kit / "venv"
    # Debian and JetPack leave ensurepip out of Python: the environment is made without pip, and the kit's own is run.
    system = ["--system-site-packages"] if settings.get("system_site_packages") else []
    done = target / "installed"
    if target.exists():
        done.unlink(missing_ok=True)
        shutil.rmtree(target)
    _step([sys.executable, "-m", "venv", "--without-pip", *system, str(target)])
    python = target / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    with tempfile.TemporaryDirectory(prefix="skinedge-pip-") as folder:
        pip = next((kit / "wheels").glob("pip-*.whl"))
        shutil.unpack_archive(str(pip), folder, "zip")
        environment = {**os.environ, "PYTHONPATH": folder, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_CONFIG_FILE": os.devnull}
        command = [str(python), "-m", "pip", "install", "--no-index", "--find-links", str(kit / "wheels"), "--require-hashes"]
        _step([*command, "--no-deps", "--no-compile", "--quiet", "-r", str(kit / "requirements.txt")], environment)
    done.write_text(settings["skinedge"] + "\n", encoding="utf-8")


def _step(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise InstallError(f"{' '.join(command[1:4])} failed: {words[-1]}")


if __name__ == "__main__":
    sys.exit(main())
