"""The files of a report, told apart by what they hold: measurements, forecasts, parity, certificates, what a kit brought."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from skinedge.errors import UsageError
from skinedge.kit.record import KIND as KIT
from skinedge.kit.record import KitRecord, read_kit_record
from skinedge.manifest import MANIFEST_FILE, Sha256
from skinedge.measure.document import read_json, validated
from skinedge.measure.forecast import Forecast, read_forecast
from skinedge.measure.result import Result, read_result
from skinedge.parity.certificate import FILE, FOLDER, Certificate, read_certificate
from skinedge.parity.certificate import KIND as CERTIFICATE

R = TypeVar("R", bound=BaseModel)
_HINT = "A report is made of what skinedge bench, plan --out, parity and a kit's run.sh write."


class _Read(BaseModel):
    # Not strict about what else is there: the parity report may say more than is shown here.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class ParityLimit(_Read):
    """What a stage is judged by: ``metric`` at most ``value``."""

    metric: str
    value: float


class ParityStage(_Read):
    """One stage of ``skinedge parity --report``; a figure that could not be compared is ``None``."""

    name: str
    measured: dict[str, float | None]
    passed: bool
    limit: ParityLimit | None = None


class Parity(_Read):
    """``skinedge parity --report``: how far the bundle of that digest is from PyTorch."""

    bundle: Sha256
    same_source: bool
    images: tuple[str, ...]
    stages: tuple[ParityStage, ...] = Field(min_length=1)
    passed: bool
    first_bad_stage: str | None = None

    def figure(self, stage: str, metric: str) -> float | None:
        """``metric`` of ``stage``, if that stage was reached and could be compared."""
        return next((s.measured.get(metric) for s in self.stages if s.name == stage), None)


class Judgement(_Read):
    """One metric of one case, B over A: the median ratio, its interval, and the noise of A against itself."""

    case: str
    metric: str
    verdict: str
    ratio: float
    interval: tuple[float, float]
    pairs: int
    noise_floor: float


class _Pair(_Read):
    a: Result
    b: Result


class Comparison(_Read):
    """``skinedge bench A --against B``: what was judged, and a result of each."""

    status: str
    reason: str | None = None
    judgements: tuple[Judgement, ...]
    results: _Pair


@dataclass(frozen=True)
class Measured:
    """A result and the file it came in; ``kit`` is set if a kit brought it back."""

    file: str
    result: Result
    kit: KitRecord | None = None


@dataclass(frozen=True)
class Documents:
    """Everything a report shows, each document once."""

    measured: tuple[Measured, ...]
    forecasts: tuple[tuple[str, Forecast], ...]
    parities: tuple[Parity, ...]
    kits: tuple[tuple[str, KitRecord], ...]
    comparisons: tuple[tuple[str, Comparison], ...] = ()
    certificates: tuple[Certificate, ...] = ()
    files: int = 0

    def __len__(self) -> int:
        return self.files


def read_documents(paths: Sequence[Path]) -> Documents:
    """Read files; a bundle stands for its certificate, a folder for the JSON files in it, a pattern for what it matches.

    Raises:
        UsageError: a file is missing, or of no kind that a report shows, or damaged.
        BundleError: a certificate was changed since it was written.
    """
    measured: dict[str, Measured] = {}
    forecasts: dict[str, tuple[str, Forecast]] = {}
    parities: dict[str, Parity] = {}
    kits: dict[str, tuple[str, KitRecord]] = {}
    comparisons: dict[str, tuple[str, Comparison]] = {}
    certificates: dict[str, Certificate] = {}
    files = 0
    for files, path in enumerate(_files(paths), 1):  # noqa: B007
        _, raw = read_json(path, "a report's document", _HINT, absent="Check the spelling, or give the full path.")
        kind = raw.get("kind") if isinstance(raw, dict) else None
        if kind == "forecast":
            forecast = read_forecast(path)
            forecasts.setdefault(forecast.digest, (path.name, forecast))
        elif kind == KIT:
            kit = read_kit_record(path)
            kits.setdefault(kit.digest, (path.name, kit))
            if kit.result:
                measured[kit.result.digest] = Measured(path.name, kit.result, kit)
        elif kind == "comparison":
            comparison = _checked(Comparison, path, raw, "measure again: skinedge bench A --against B --out result.json")
            pair = comparison.results
            comparisons.setdefault(pair.a.digest + pair.b.digest, (path.name, comparison))
            for one in (pair.a, pair.b):
                measured.setdefault(one.digest, Measured(path.name, one))
        elif kind == CERTIFICATE:
            certificate = read_certificate(path)
            certificates[certificate.context.bundle.digest] = certificate
        elif _is_parity(raw):
            # of several comparisons of a bundle the last one given counts
            parities.update({p.bundle: p for p in _parities(path, raw)})
        elif isinstance(raw, dict) and "cases" in raw and "machine" in raw:
            result = read_result(path)
            measured.setdefault(result.digest, Measured(path.name, result))
        else:
            raise UsageError(f"{path} is JSON but nothing that a report shows.", hint=_HINT)
    return Documents(
        tuple(measured.values()),
        tuple(forecasts.values()),
        tuple(parities.values()),
        tuple(kits.values()),
        tuple(comparisons.values()),
        tuple(certificates.values()),
        files,
    )


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if (path / MANIFEST_FILE).is_file():
            yield _certificate_of(path)
            continue
        if path.is_dir():
            found = sorted(path.glob("*.json"))
        elif not path.exists() and set("*?[") & set(str(path)):  # a shell that leaves patterns to the program
            found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        else:
            yield path
            continue
        if not found:
            raise UsageError(f"{path} holds no JSON file.", hint="Make one: skinedge bench BUNDLE --out result.json")
        yield from found


def _certificate_of(bundle: Path) -> Path:
    path = bundle / FOLDER / FILE
    if not path.is_file():
        raise UsageError(
            f"{bundle} has no certificate.", hint=f"Make one: skinedge parity {bundle} --reference MODEL --images DIR --certify"
        )
    return path


def _is_parity(raw: object) -> bool:
    first = raw[0] if isinstance(raw, list) and raw else raw
    return isinstance(first, dict) and {"bundle", "stages", "same_source"} <= first.keys()


def _parities(path: Path, raw: object) -> Iterator[Parity]:
    """One comparison, or a list of them as the demonstration writes it."""
    for one in raw if isinstance(raw, list) else [raw]:
        yield _checked(Parity, path, one, "skinedge parity BUNDLE --report parity.json")


def _checked(kind: type[R], path: Path, raw: object, again: str) -> R:
    # As text again, for JSON's types: lists for tuples, also where a part is strict.
    return validated(kind, path, json.dumps(raw), "report", again)
