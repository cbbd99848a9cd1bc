"""A bundle's certificate: what was compared with what, on which pictures, and how sure it is that nothing was lost.

It is made after the bundle and names the bundle's digest, so it is no part of that digest: it lies in the bundle's folder
``certificate/``, which ``skinedge.bundle.verify`` knows.  ``parity.json`` states its own digest and the page's sha256, so a
damaged byte of either is found, and the bundle's, so a certificate of another bundle is.  The page is made from it alone.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field

from skinedge import __version__
from skinedge.errors import BundleError, OutputError, UsageError
from skinedge.manifest import Manifest, Sha256
from skinedge.measure.document import Document, Record, sealed, unsealed
from skinedge.measure.result import BundleRecord, MachineRecord
from skinedge.parity.endpoint import Endpoint
from skinedge.parity.equivalence import Verdict
from skinedge.parity.flips import Flip
from skinedge.staging import staged

KIND: Literal["parity certificate"] = "parity certificate"
SCHEMA_VERSION = 1
FOLDER, FILE, PAGE = "certificate", "parity.json", "parity.html"
_PAGE_SEAL = "page_sha256"
FILES = (f"{FOLDER}/{FILE}", f"{FOLDER}/{PAGE}")  # in a bundle
_AGAIN = "Make it again: skinedge parity BUNDLE --reference MODEL --images DIR"


class ReferenceRecord(Record):
    """What the bundle is held against; ``same_source`` says whether it is, byte for byte, what the bundle was made from."""

    name: str
    digest: Sha256
    precision: str = "float32"
    same_source: bool


class DataRecord(Record):
    """The pictures: what they are in words, and digests of their list and of the rows that the figures were made from.

    ``synthetic`` says that they were drawn and show nobody; only then may pictures and narratives be shown unasked.
    """

    name: str
    synthetic: bool
    source: Sha256 | None = None  # of the file that lists the cases
    images: Sha256  # of the sorted sha256 of the pictures
    rows: Sha256
    n: int = Field(ge=0)
    by_skin: dict[str, int]
    by_diagnosis: dict[str, int]


class StageRecord(Record):
    """One stage of the comparison (pixels, tokens, logits …) as ``skinedge parity`` found it; ``None`` is not finite."""

    name: str
    verdict: str
    measured: dict[str, float | None]


class Context(Record):
    """What a certificate must know beside the rows.

    ``bits`` are the fewest that any weights have (``margins.narrowest_bits``); ``settings`` say how both arms were asked
    (question, tokens, decoding, threads), ``scorer`` who gave the scores, as ``Scorer.identity`` says it.
    """

    bundle: BundleRecord
    reference: ReferenceRecord
    machine: MachineRecord
    data: str
    synthetic: bool
    bits: float = Field(gt=0)
    data_source: Sha256 | None = None
    settings: dict[str, str] = Field(default_factory=dict)
    scorer: dict[str, str] = Field(default_factory=dict)
    stages: tuple[StageRecord, ...] = ()


class Example(Record):
    """A picture with both narratives.  ``picture`` is a data URI, or empty where it may not or could not be shown."""

    image_sha256: Sha256
    skin: str
    truth: str | None
    picture: str = ""
    reference: str
    bundle: str


class Certificate(Document):
    """``parity.json``.

    ``worst`` names, for each judged endpoint, the skin group in which it is worst, and ``underpowered``, for each group
    that has too few cases for some, these; ``reasons`` say what stands between the
    certificate and a pass; ``reliability`` is the sentence that a workstation shows beside an answer.
    """

    kind: Literal["parity certificate"] = KIND
    schema_version: int = SCHEMA_VERSION
    skinedge: str = __version__
    time: str  # UTC, ISO 8601
    context: Context
    data: DataRecord
    verdict: Verdict
    reasons: tuple[str, ...]
    reliability: str
    endpoints: tuple[Endpoint, ...]
    worst: dict[str, str]
    underpowered: dict[str, tuple[str, ...]]
    flips: tuple[Flip, ...]
    examples: tuple[Example, ...] = ()
    limits: tuple[str, ...]

    def of(self, group: str) -> tuple[Endpoint, ...]:
        """The endpoints of one group."""
        return tuple(e for e in self.endpoints if e.group == group)

    def endpoint(self, name: str, group: str = "all") -> Endpoint | None:
        """One of them, if it was measured."""
        return next((e for e in self.of(group) if e.name == name), None)

    @property
    def summary(self) -> str:
        """One line for ``skinedge show``."""
        return f"{self.verdict} on {self.data.n} pictures of {self.data.name}: {self.reliability}"


def write_certificate(certificate: Certificate, folder: Path, *, replace: bool = False) -> Path:
    """Write ``parity.json`` and ``parity.html`` into a new ``folder``, both or neither; returns the folder.

    Args:
        certificate: what to write.
        folder: ``BUNDLE/certificate``, or any other place.
        replace: let it take the place of an earlier one.

    Raises:
        OutputError: ``folder`` is taken and is not to be replaced, or cannot be written.
    """
    from skinedge.report.certificate import render

    if folder.exists() and any(folder.iterdir()) and replace:
        return _replace(certificate, folder)
    page = render(certificate)
    with staged(folder) as partial:
        (partial / PAGE).write_text(page, encoding="utf-8", newline="\n")
        text = sealed(certificate, **{_PAGE_SEAL: hashlib.sha256(page.encode()).hexdigest()})
        (partial / FILE).write_text(text, encoding="utf-8", newline="\n")
    return folder


def _replace(certificate: Certificate, folder: Path) -> Path:
    """The new one is whole before the old one goes."""
    strangers = sorted(p.name for p in folder.iterdir() if p.name not in (FILE, PAGE))
    if strangers:
        raise OutputError(f"{folder} holds '{strangers[0]}', which is no part of a certificate.", hint="Move it elsewhere.")
    fresh = write_certificate(certificate, folder.with_name(f".{folder.name}.new"))
    shutil.rmtree(folder)
    return fresh.rename(folder)


def read_certificate(path: Path) -> Certificate:
    """Read and check ``parity.json``, or the one in a folder.

    Raises:
        UsageError: it is missing, of another version, or breaks a rule of the schema.
        BundleError: it was changed since it was written.
    """
    return _read(path / FILE if path.is_dir() else path)[0]


def verify_certificate(bundle: Path, manifest: Manifest) -> Certificate | None:
    """The certificate in a bundle's folder, checked byte by byte; ``None`` where there is none.

    Raises:
        BundleError: it is damaged, incomplete, or another bundle's.
    """
    folder = bundle / FOLDER
    if not folder.is_dir():
        return None
    for name in (FILE, PAGE):
        if not (folder / name).is_file():
            raise BundleError(f"{bundle}: '{FOLDER}/{name}' is missing.", hint=f"Copy it again, or remove {folder}.")
    try:
        certificate, page_sha256 = _read(folder / FILE)
    except UsageError as e:  # nobody typed its name: the bundle is at fault
        raise BundleError(e.message, hint=e.hint) from e
    if certificate.context.bundle.digest != manifest.digest:
        theirs = certificate.context.bundle
        raise BundleError(
            f"{folder / FILE} is of another bundle: {theirs.target} {theirs.scheme} {theirs.digest[:16]}, and this is "
            f"{manifest.digest[:16]}.",
            hint=f"Remove {folder}, or make one of this bundle: skinedge parity {bundle}",
        )
    if hashlib.sha256((folder / PAGE).read_bytes()).hexdigest() != page_sha256:
        raise BundleError(f"{folder / PAGE} was changed since it was written: its sha256 is another.", hint=_AGAIN)
    return certificate


def _read(path: Path) -> tuple[Certificate, str]:
    certificate, seals = unsealed(Certificate, path, "a certificate", _AGAIN, more=(_PAGE_SEAL,))
    return certificate, seals[_PAGE_SEAL]
