"""Put environments and bundles beside those that run: whole or not at all, and what is there already is not written again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skinedge.kit.install import InstallError, digest, install
from skinedge.kit.workstation.places import Places
from skinedge.kit.workstation.pointer import Pointer, Release
from skinedge.kit.workstation.run import environment, python_of
from skinedge.kit.workstation.service import last_words

MANIFEST = "skinedge.json"
_MARGIN = 64 << 20
_REBUILD = (
    "import sys; from pathlib import Path; from skinedge.kit.rebuild import rebuild; "
    "rebuild(Path(sys.argv[1]), Path(sys.argv[2]), None, quiet=True)"
)
_COPY_AGAIN = "Copy it again and type the same."


@dataclass(frozen=True)
class Placed:
    """A bundle that lies in ``bundles`` and was read byte by byte there."""

    folder: str
    digest: str
    target: str
    scheme: str
    rebuilt: bool


def place_venv(places: Places, kit: Path, settings: dict[str, Any], told: Callable[[str], None]) -> str:
    """The environment for a kit's wheels, made unless it is there; returns its folder's name.

    Raises:
        InstallError: it cannot be made; what was there before stays.
    """
    name = venv_name(kit, settings)
    target = places.venvs / name
    if not (target / "installed").is_file():
        told("installing the wheels")
        need_space(places.venvs, 4 * sum(p.stat().st_size for p in (kit / "wheels").glob("*.whl")))
        install(kit, settings, target)
    return name


def venv_name(kit: Path, settings: dict[str, Any]) -> str:
    """The same for the same wheels under the same Python."""
    rest = f"{settings['python']} {settings.get('system_site_packages')}"
    return hashlib.sha256((kit / "requirements.txt").read_bytes() + rest.encode()).hexdigest()[:16]


def place_bundle(places: Places, source: Path, venv: str, *, rebuild: bool, told: Callable[[str], None]) -> Placed:
    """Copy a bundle, have every byte of the copy checked, and only then give it its name.

    What an interrupted attempt has copied is not copied again.  With ``rebuild`` TensorRT engines are built here instead.

    Raises:
        InstallError: it is none, was changed, or does not fit on the disk.
    """
    raw = _manifest(source)
    name = _name(source, raw) + ("-engines" if rebuild else "")
    final, partial = places.bundles / name, places.bundles / f".{name}.partial"
    python = python_of(places.venvs / venv)
    if not final.is_dir() and rebuild:
        told("building TensorRT engines for this machine, which takes minutes")
        shutil.rmtree(partial, ignore_errors=True)
        _run([str(python), "-c", _REBUILD, str(source), str(partial)], places)
        partial.rename(final)
    elif not final.is_dir():
        told("copying the bundle")
        _copy(source, partial, {f["path"]: f["sha256"] for f in raw["files"]})
        told("reading every byte of it")
        try:
            _run([str(python), "-m", "skinedge", "verify", str(partial), "--json"], places)
        except InstallError as e:
            shutil.rmtree(partial, ignore_errors=True)
            raise InstallError(str(e).replace(str(partial), str(source))) from e
        partial.rename(final)
    raw = _manifest(final)
    return Placed(name, raw["digest"], raw["target"], raw["scheme"]["asked"], rebuild)


def check_serves(places: Places, release: Release) -> None:
    """Have ``skinedge serve`` check bundle, options and list of operators, without serving or writing.

    Raises:
        InstallError: it refuses; its own words are the message.
    """
    command = [str(python_of(places.venvs / release.venv)), "-m", "skinedge", "serve", str(places.bundles / release.bundle)]
    options = [word for word in release.options if word != "--no-audit"]
    _run([*command, "--no-audit", "--port", "0", "--dry-run", "--json", *options], places)


def prune(places: Places, pointer: Pointer) -> None:
    """Remove the environments and bundles that no release names, half-made ones among them."""
    kept = {"bundles": {r.bundle for r in pointer.kept}, "venvs": {r.venv for r in pointer.kept}}
    for folder in (places.bundles, places.venvs):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in kept[folder.name]:
                shutil.rmtree(path, ignore_errors=True)


def need_space(folder: Path, nbytes: int) -> None:
    """Check that so much fits.

    Raises:
        InstallError: it does not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if nbytes + _MARGIN > free:
        what = f"{folder} needs {nbytes / 2**30:.1f} GiB and its disk has {free / 2**30:.1f} GiB free"
        raise InstallError(f"{what}. Free some space and type the same again.")


def _manifest(bundle: Path) -> dict[str, Any]:
    """What a bundle says of itself, as far as it is needed here; ``skinedge verify`` checks it properly.

    Raises:
        InstallError: it is no bundle.
    """
    try:
        raw: dict[str, Any] = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
        if not (raw["digest"], raw["target"], raw["scheme"]["asked"], [(f["path"], f["sha256"]) for f in raw["files"]]):
            raise ValueError
        return raw
    except FileNotFoundError as e:
        raise InstallError(f"{bundle} is no bundle: it has no {MANIFEST}. Name the folder that skinedge export wrote.") from e
    except (ValueError, KeyError, TypeError) as e:
        raise InstallError(f"{bundle / MANIFEST} was changed or damaged. {_COPY_AGAIN}") from e


def _name(bundle: Path, raw: dict[str, Any]) -> str:
    """The same for the same bytes: manifest, which fixes its files, and what was added to the bundle later."""
    listed = {f["path"] for f in raw["files"]}
    rest = sorted(p for p in _files(bundle) if p not in listed)
    return hashlib.sha256("".join(f"{p} {digest(bundle / p)}\n" for p in rest).encode()).hexdigest()[:16]


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise InstallError(f"{path} is a link, and a bundle holds plain files. {_COPY_AGAIN}")
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def _copy(source: Path, to: Path, sums: dict[str, str]) -> None:
    names = sorted(_files(source))
    have = sum(p.stat().st_size for p in to.rglob("*") if p.is_file()) if to.is_dir() else 0
    need_space(to.parent, max(0, sum((source / n).stat().st_size for n in names) - have))
    for name in [n for n in _files(to) if n not in names] if to.is_dir() else ():
        (to / name).unlink()
    for name in names:
        path = to / name
        if path.is_file() and name in sums and digest(path) == sums[name]:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _run(command: Sequence[str], places: Places) -> None:
    """Run skinedge.

    Raises:
        InstallError: it failed, in its own words.
    """
    done = subprocess.run(command, env=environment(places), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode == 0:
        return
    out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    try:
        said = json.loads(out)
        why = f"{said['error']} {said['hint']}".strip()
    except (ValueError, KeyError, TypeError):
        why = last_words(err) or f"{' '.join(command[1:4])} ended with {done.returncode}"
        why += ". See: workstation.sh skinedge serve --help" if done.returncode == 2 else ". Type the same again."
    raise InstallError(why)
