"""How large the values inside a model become: what ``skinedge overflow`` found, as a value and as a file.

Exporting reads it, so nothing here needs PyTorch; what measures it is ``skinedge.calibration.overflow``.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from skinedge.errors import CalibrationError, UsageError
from skinedge.weights.checkpoint import digest_of

SCHEMA_VERSION = 1
LIMITS = {"f16": 65504.0, "bf16": 3.3895313892515355e38, "f32": 3.4028234663852886e38, "fp8": 448.0}  # fp8 is e4m3
PLACES = ("input", "output", "residual")
# What lies between the watched places may be larger: a rotation by up to sqrt(2), a sum before its bias is added.
MARGIN = 2.0
_PHOTOGRAPH = "a photograph"


@dataclass(frozen=True)
class Reach:
    """The largest ``|x|`` of one place.

    ``layer`` is the canonical name of a weight, for its input and output, or of a block, for the residual stream in it;
    ``picture`` is the one on which it was seen.
    """

    layer: str
    place: str  # input, output, residual
    peak: float
    picture: str

    def to_json(self) -> dict[str, str | float]:
        """As data, with the headroom in each type."""
        peak = min(self.peak, LIMITS["f32"])  # JSON has no infinity
        room = {f"headroom_{kind}": min(self.headroom(kind), LIMITS["f32"]) for kind in ("f16", "bf16", "fp8")}
        return {"layer": self.layer, "place": self.place, "peak": peak, "picture": self.picture, **room}

    def headroom(self, activations: str) -> float:
        """How many times the peak fits into the range of ``activations`` (below 1: it overflows)."""
        return LIMITS[activations] / self.peak if self.peak else math.inf

    def reason(self) -> str:
        """Why its layer must not compute in a narrow type; a photograph's name stays out of bundles."""
        from skinedge.calibration.triggers import TRIGGERS

        what = f"residual stream of {self.layer}" if self.place == "residual" else f"{self.place} of {self.layer}"
        return f"the {what} reaches {self.peak:.4g} on {self.picture if self.picture in TRIGGERS else _PHOTOGRAPH}"


@dataclass(frozen=True)
class OverflowReport:
    """The reach of every place of one model; ``margin`` is the headroom below which a layer is kept in a wider type."""

    model: str
    margin: float
    pictures: tuple[str, ...]
    reaches: tuple[Reach, ...]

    def offending(self, activations: str) -> tuple[Reach, ...]:
        """The reaches that ``activations`` have too little room for, in the order of computation."""
        return tuple(r for r in self.reaches if r.headroom(activations) < self.margin)

    @property
    def digest(self) -> str:
        """Of all that an export takes from it."""
        return digest_of({"margin": self.margin, "reaches": [asdict(r) for r in self.reaches]})

    def check(self, model: str) -> None:
        """Refuse to be used for another model than it was measured on.

        Raises:
            CalibrationError: it is another one, or one whose values leave even float32.
        """
        if self.model != model:
            raise CalibrationError(
                f"the overflow report was made of another checkpoint (digest {self.model[:16]}) than the one that is exported"
                f" ({model[:16]}).",
                hint="Give skinedge overflow the same --model and --adapter as skinedge export.",
            )
        for reach in self.reaches:
            if reach.peak >= LIMITS["f32"]:
                raise CalibrationError(
                    f"no float type is wide enough for this model: {reach.reason()}.",
                    hint="Its weights are damaged: check the checkpoint and the adapter.",
                )

    def to_json(self) -> str:
        """The report as ``--overflow`` reads it."""
        reaches = [{**asdict(r), "peak": min(r.peak, LIMITS["f32"])} for r in self.reaches]
        whole = {"schema_version": SCHEMA_VERSION, "model": self.model, "margin": self.margin, "pictures": self.pictures}
        return json.dumps({**whole, "reaches": reaches}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> OverflowReport:
        """Read a report.

        Raises:
            UsageError: there is none, or it is damaged.
        """
        make = "Make one: skinedge overflow --out report.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw.pop("schema_version") != SCHEMA_VERSION:
                raise ValueError("its schema is of another version")
            reaches = tuple(_reach(**r) for r in raw.pop("reaches"))
            return cls(str(raw.pop("model")), _number(raw.pop("margin")), tuple(map(str, raw.pop("pictures"))), reaches, **raw)
        except OSError as e:
            raise UsageError(f"{path} cannot be read: {e.strerror}.", hint=make) from e
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
            raise UsageError(f"{path} is not an overflow report of skinedge: {e}.", hint=make) from e


def _reach(layer: str, place: str, peak: float, picture: str) -> Reach:
    if place not in PLACES:
        raise ValueError(f"'{place}' is no place of a layer")
    return Reach(str(layer), place, _number(peak), str(picture))


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"'{value}' is no size of a value")
    return float(value)
