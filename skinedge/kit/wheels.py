"""The wheels of a kit: skinedge's own, built from its source, and what it needs on the device, found and fetched by pip.

pip looks up wheels for another platform but answers the markers of requirements (``; sys_platform == "win32"``) with the
machine it runs on.  So the closure is checked here, with the device's answers, and what is missing is asked for by name.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING

import skinedge
from skinedge.errors import KitError, MissingDependencyError
from skinedge.kit.platforms import Platform

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_ROOT = Path(skinedge.__file__).parents[1]
_SOURCES = ("pyproject.toml", "README.md", "LICENSE")
_OFFLINE = (
    "Is there a network? Without one, fill a folder where there is and name it: --wheels FOLDER "
    "(pip download of the same requirements and platform)."
)
_ROUNDS = 5  # of asking again for what only the device needs


@dataclass(frozen=True)
class Wheel:
    """One wheel to fetch; ``sha256`` as the index states it, ``None`` for a file from a folder that states none."""

    name: str
    version: str
    sha256: str | None
    requires: tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """For whom wheels are looked up: a platform and a Python; ``folder`` replaces the index, ``constraints`` pin versions."""

    platform: Platform
    python: str
    folder: Path | None = None
    constraints: Path | None = None

    def options(self) -> list[str]:
        """The same for pip."""
        found = ["--only-binary=:all:", "--implementation", "cp", "--python-version", self.python]
        found += [word for tag in self.platform.tags for word in ("--platform", tag)]
        if self.folder:
            found += ["--no-index", "--find-links", str(self.folder)]
        return found


def build_own_wheel(folder: Path) -> Path:
    """skinedge as a wheel in ``folder``: built from the checkout, or packed from the files that were installed.

    Raises:
        KitError: it cannot be built.
    """
    if (_ROOT / "pyproject.toml").is_file():
        return _built(folder)
    return _packed(folder)


def _built(folder: Path) -> Path:
    """From a copy of the source: setuptools leaves its build folder in the source, and takes up what lies in there."""
    with tempfile.TemporaryDirectory(prefix="skinedge-wheel-") as scratch:
        source = Path(scratch) / "source"
        shutil.copytree(_ROOT / "skinedge", source / "skinedge", ignore=shutil.ignore_patterns("__pycache__"))
        for name in _SOURCES:
            shutil.copyfile(_ROOT / name, source / name)
        environment = {"SOURCE_DATE_EPOCH": "315532800"}  # the same source, the same bytes
        command = ["wheel", "--no-deps", *_isolation(), "--wheel-dir", str(folder), str(source)]
        pip(command, "skinedge's own wheel cannot be built", environment)
    return _own(folder)


def _isolation() -> list[str]:
    """Without a network pip cannot fetch what builds a wheel; where it is installed it is used."""
    try:
        new_enough = int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        new_enough = False
    return ["--no-build-isolation"] if new_enough else []


def _packed(folder: Path) -> Path:
    distribution = importlib.metadata.distribution("skinedge")
    files = [f for f in distribution.files or () if ".." not in f.parts and f.suffix != ".pyc"]
    if not files:
        raise KitError("the files of this skinedge are not recorded.", hint="Install it from a wheel or run it from a checkout.")
    path = folder / f"skinedge-{distribution.version}-py3-none-any.whl"
    left_out = {"INSTALLER", "REQUESTED", "direct_url.json"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(files):
            if file.name not in left_out:
                archive.writestr(zipfile.ZipInfo(file.as_posix()), Path(str(distribution.locate_file(file))).read_bytes())
    return path


def _own(folder: Path) -> Path:
    found = sorted(folder.glob("skinedge-*.whl"))
    if len(found) != 1:
        raise KitError(f"{folder} holds {len(found)} wheels of skinedge.", hint="Remove that folder and try again.")
    return found[0]


def requirements(wheel: Path, extras: Sequence[str], *, without: Sequence[str] = ()) -> tuple[str, ...]:
    """What to look up for a wheel with extras; with ``without``, the extras' requirements but those packages.

    A Jetson's TensorRT, for one, is on no index: it comes with the system.
    """
    from packaging.requirements import Requirement

    metadata = _metadata(wheel)
    known = [e for e in extras if e in (metadata.get_all("Provides-Extra") or ())]
    if not without:
        return (f"{wheel}[{','.join(known)}]" if known else str(wheel),)
    wanted = [Requirement(text) for text in metadata.get_all("Requires-Dist") or ()]
    rows = [r for r in wanted if r.name not in without and r.marker and any(r.marker.evaluate({"extra": e}) for e in known)]
    return (str(wheel), *(_without_marker(r) for r in rows))


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def resolve(wanted: Wanted, asked: Sequence[str]) -> tuple[Wheel, ...]:
    """Every wheel that ``asked`` needs on the device, itself left out.

    Raises:
        KitError: there is no network, or no wheel for that platform and Python.
        MissingDependencyError: this Python has no pip.
    """
    from packaging.utils import canonicalize_name

    asked = list(asked)
    for _ in range(_ROUNDS):
        found: dict[str, Wheel] = {canonicalize_name(w.name): w for w in _lookup(wanted, asked)}
        missing = [r for r in _needed(found, asked, wanted) if canonicalize_name(r.name) not in found]
        if not missing:
            return tuple(w for name, w in sorted(found.items()) if name != "skinedge")
        asked += sorted({_without_marker(r) for r in missing})
    raise KitError(f"what skinedge needs on {wanted.platform.name} cannot be worked out.", hint="Try another --python.")


def _needed(wheels: Mapping[str, Wheel], asked: Sequence[str], wanted: Wanted) -> Iterator[Requirement]:
    """Every requirement that holds on the device, followed from what is asked."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    base = wanted.platform.environment(wanted.python)
    queue, seen = [_asked(text) for text in asked], set[tuple[str, str]]()
    while queue:
        name, extras = queue.pop()
        for extra in ("", *extras):
            if (name, extra) in seen or name not in wheels:
                continue
            seen.add((name, extra))
            for row in map(Requirement, wheels[name].requires):
                if row.marker is None or row.marker.evaluate({**base, "extra": extra}):
                    queue.append((canonicalize_name(row.name), frozenset(row.extras)))
                    yield row


def _asked(text: str) -> tuple[str, frozenset[str]]:
    """Name and extras of something to look up: a requirement, or a wheel's path with extras."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name, parse_wheel_filename

    path, _, extras = text.partition(".whl")
    if path != text:
        return parse_wheel_filename(Path(f"{path}.whl").name)[0], frozenset(filter(None, extras.strip("[]").split(",")))
    row = Requirement(text)
    return canonicalize_name(row.name), frozenset(row.extras)


def _without_marker(row: Requirement) -> str:
    return f"{row.name}{f'[{chr(44).join(sorted(row.extras))}]' if row.extras else ''}{row.specifier}"


def _lookup(wanted: Wanted, asked: Sequence[str]) -> list[Wheel]:
    with tempfile.TemporaryDirectory(prefix="skinedge-wheels-") as folder:
        report = Path(folder) / "report.json"
        command = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report), "--target", folder]
        command += ["-c", str(wanted.constraints)] if wanted.constraints else []
        pip(
            [*command, *wanted.options(), *asked],
            f"the wheels for {wanted.platform.name}, Python {wanted.python} cannot be found",
        )
        raw = json.loads(report.read_text(encoding="utf-8"))
    return [_wheel(item) for item in raw["install"]]


def _wheel(item: Mapping[str, Mapping[str, object]]) -> Wheel:
    metadata, archive = item["metadata"], item["download_info"].get("archive_info")
    hashes = archive.get("hashes", {}) if isinstance(archive, dict) else {}
    requires = metadata.get("requires_dist") or []
    assert isinstance(requires, list)
    return Wheel(str(metadata["name"]), str(metadata["version"]), hashes.get("sha256"), tuple(map(str, requires)))


def download(
    wanted: Wanted, wheels: Sequence[Wheel], folder: Path, told: Callable[[int, int, str], None]
) -> tuple[Path, ...]:  # fmt: skip
    """Fetch ``wheels`` into ``folder``, one by one: what is there already, whole, is not fetched again.

    Args:
        wanted: for whom.
        wheels: of ``resolve``.
        folder: keeps what was fetched if the rest cannot be; for one platform and Python only.
        told: is called before each with its number, how many there are, and its name.

    Returns:
        The file of each wheel; the folder may hold others, of an earlier attempt.

    Raises:
        KitError: the network went away; what is there stays, and the same command goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, wheel in enumerate(wheels, 1):
        if _file(folder, wheel):
            continue
        told(number, len(wheels), f"{wheel.name} {wheel.version}")
        command = ["download", "--no-deps", "--quiet", "--dest", str(folder), *wanted.options(), f"{wheel.name}=={wheel.version}"]
        pip(command, f"{wheel.name} {wheel.version} cannot be fetched; what is there is kept, and the same command goes on")

    return tuple(file for wheel in wheels if (file := _file(folder, wheel)))


def _file(folder: Path, wheel: Wheel) -> Path | None:
    """Of that name and version."""
    from packaging.utils import canonicalize_name, parse_wheel_filename
    from packaging.version import Version

    wanted = (canonicalize_name(wheel.name), Version(wheel.version))
    return next((path for path in sorted(folder.glob("*.whl")) if parse_wheel_filename(path.name)[:2] == wanted), None)


def pip(arguments: Sequence[str], failure: str, environment: Mapping[str, str] | None = None) -> None:
    """Run this Python's pip.

    Raises:
        KitError: it failed; ``failure`` and its own reason are the message.
        MissingDependencyError: there is none.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise MissingDependencyError("pip is not installed.", hint=f"Install it: {sys.executable} -m ensurepip")
    raise KitError(f"{failure}: {_reason(done.stderr)}.", hint=_OFFLINE if "--platform" in arguments else "")


def _reason(words: str) -> str:
    """What pip says went wrong, without its advice."""
    if any(sign in words for sign in ("NewConnectionError", "NameResolutionError", "ConnectTimeout", "Max retries")):
        return "the package index cannot be reached"
    errors = [line.removeprefix("ERROR: ") for line in words.splitlines() if line.startswith("ERROR: ")]
    return (errors or words.strip().splitlines() or ["pip said nothing"])[-1].rstrip(".")
