"""What lies in a kit: its page on itself, the list of every file's sum, and where things are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from skinedge.errors import KitError
from skinedge.kit.install import SUMS, digest
from skinedge.manifest import Sha256

KIT_FILE = "kit.json"
BUNDLE, WHEELS, GOLDEN, ENGINES = "bundle", "wheels", "golden", "engines"


class KitSettings(BaseModel):
    """``kit.json``, which ``install.py`` reads without any library.

    ``system`` and ``machine`` are what Python's ``platform`` calls them; ``rebuild`` says that TensorRT engines are built on
    the device, ``workstation`` that ``workstation.pyz`` is there; ``extras`` and ``bundle`` (its digest) are for people and for
    the record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int = 1
    skinedge: str
    device: str
    platform: str
    system: str
    machine: str
    python: str
    system_site_packages: bool
    extras: tuple[str, ...]
    target: str
    bundle: Sha256
    rebuild: bool
    workstation: bool = False

    def to_json(self) -> str:
        """The text of the file."""
        return self.model_dump_json(indent=1) + "\n"


def read_settings(kit: Path) -> KitSettings:
    """Read ``kit.json``.

    Raises:
        KitError: it is missing or damaged.
    """
    path = kit / KIT_FILE
    try:
        return KitSettings.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise KitError(f"{kit} is not a kit: it has no {KIT_FILE}.", hint="Make one: skinedge kit BUNDLE --out kit") from e
    except ValidationError as e:
        raise KitError(f"{path} cannot be read as a kit's settings.", hint="Copy the kit again.") from e


def write_sums(kit: Path, known: Mapping[str, str]) -> str:
    """Write ``SHA256SUMS`` over every file; the digest of that list is the kit's.

    Args:
        kit: the folder.
        known: sums of files that need not be read again.
    """
    names = sorted(p.relative_to(kit).as_posix() for p in kit.rglob("*") if p.is_file())
    text = "".join(f"{known.get(name) or digest(kit / name)}  {name}\n" for name in names if name != SUMS)
    (kit / SUMS).write_text(text, encoding="utf-8", newline="\n")
    return hashlib.sha256(text.encode()).hexdigest()


def kit_digest(kit: Path) -> str:
    """sha256 of the list of files, which fixes every other file.

    Raises:
        KitError: there is no list.
    """
    if not (kit / SUMS).is_file():
        raise KitError(f"{kit} is not a kit: it has no {SUMS}.", hint="Make one: skinedge kit BUNDLE --out kit")
    return digest(kit / SUMS)


def nbytes(kit: Path) -> int:
    """Bytes of all files."""
    return sum(_sizes(kit))


def _sizes(kit: Path) -> Iterator[int]:
    return (p.stat().st_size for p in kit.rglob("*") if p.is_file())
