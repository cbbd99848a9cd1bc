"""Whose pictures are compared: a folder of photographs, or cases with what is known of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from skinedge.errors import UsageError
from skinedge.evaluation.cases import Case
from skinedge.parity.record import SKIN_GROUPS, UNKNOWN_SKIN

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def folder_cases(folder: Path, limit: int | None = None) -> tuple[Case, ...]:
    """The photographs of a folder; each is called after the digest of its bytes, since names are often patients'.

    Raises:
        UsageError: there is no such folder, or no photograph in it.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder.", hint="Give --images a folder of photographs, or leave it out.")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))[:limit]
    if not found:
        raise UsageError(f"{folder} holds no photograph.", hint=f"Looked for {', '.join(sorted(SUFFIXES))}.")
    unique = {image_digest(p): p for p in found}  # the same picture twice is one case
    return tuple(Case(id=digest[:16], image=path, diagnosis="", category="") for digest, path in unique.items())


def image_digest(path: Path) -> str:
    """sha256 of a photograph's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_present(cases: Sequence[Case]) -> None:
    """Check that every photograph is there before anything slow begins.

    Raises:
        UsageError: one is missing, or there is no case.
    """
    if not cases:
        raise UsageError("there is no case to compare.", hint="Give --images a folder, or --cases a file with cases.")
    missing = [case for case in cases if not case.image.is_file()]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(cases)} photographs are missing; the first is that of case '{missing[0].id}'.",
            hint="Image names are relative to the file of cases: move it beside them, or give their folder with --images.",
        )


def skin_group(case: Case) -> str:
    """One of ``SKIN_GROUPS``, or ``UNKNOWN_SKIN``."""
    return UNKNOWN_SKIN if case.fitzpatrick is None else SKIN_GROUPS[(case.fitzpatrick - 1) // 2]
