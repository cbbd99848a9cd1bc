"""A visit on one page: photographs, questions, answers, which model, when; a whole file that asks nothing of any network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from skinedge import __version__
from skinedge.clinic.narrative import Part, split
from skinedge.clinic.words import Language, reliability, words

MOST_PIXELS = 1200  # of a picture's longer side: what a printer shows on half a page

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Exchange:
    """A question and what was answered.

    Args:
        question: the clinician's words; empty where the bundle's own question was asked.
        pictures: JPEG or PNG files that were shown with it, the earlier first.
        raw: the answer as the model wrote it, tags and all.
        time: when it was asked, ISO 8601.
        seconds: how long it took.
    """

    question: str = field(repr=False)
    pictures: Sequence[bytes] = field(repr=False)
    raw: str = field(repr=False)
    time: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """What goes on the page.

    Args:
        language: of the page's own words; the model's are shown as they came.
        reference: the clinician's words for the case, empty where there are none.
        exchanges: in their order.
        name: of the model, as the workstation calls it; ``target``, ``scheme``, ``digest`` are its bundle's.
        reliability: the certificate's sentence; ``None`` where the bundle has no certificate.
        time: when the report was made.
        operator: who made it, where one logs in.
        synthetic: whether the certificate was made on drawn pictures.
        failed: whether its verdict is that the bundle differs too much from the original.
    """

    language: Language
    reference: str = field(repr=False)
    exchanges: Sequence[Exchange] = field(repr=False)
    name: str
    target: str
    scheme: str
    digest: str
    reliability: str | None
    time: datetime
    operator: str | None = None
    synthetic: bool = False
    failed: bool = False


@dataclass(frozen=True)
class _Shown:
    """An exchange as the template takes it."""

    question: str
    pictures: Sequence[str]
    parts: Sequence[tuple[Part, str]]
    time: str
    seconds: float


def render(report: Report) -> str:
    """The HTML of the page; every word from outside is escaped.

    Raises:
        OSError: a picture cannot be read.
    """
    from skinedge.report.page import pages_of

    known = words(report.language)
    template = pages_of(_FOLDER).get_template("report.jinja")
    return template.render(
        r=report,
        t=lambda key, **values: known[key].format(**values),
        exchanges=_shown(report.exchanges),
        reliability=report.reliability and reliability(report.reliability, report.language),
        when=_local(report.time),
        version=__version__,
    )


def _shown(exchanges: Sequence[Exchange]) -> list[_Shown]:
    """With each picture once, however many questions it was shown with in a row."""
    shown: list[_Shown] = []
    before: tuple[bytes, ...] = ()
    for e in exchanges:
        pictures = () if tuple(e.pictures) == before else tuple(e.pictures)
        before = tuple(e.pictures) or before
        shown.append(_Shown(e.question, [_data_uri(p) for p in pictures], split(e.raw), _time(e.time), e.seconds))
    return shown


def _data_uri(picture: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(_small_jpeg(picture)).decode('ascii')}"


def _small_jpeg(picture: bytes) -> bytes:
    """The picture as it is where it is a small JPEG already."""
    from PIL import Image

    with Image.open(io.BytesIO(picture), formats=("JPEG", "PNG")) as image:
        if image.format == "JPEG" and max(image.size) <= MOST_PIXELS:
            return picture
        small = image.convert("RGB")
    small.thumbnail((MOST_PIXELS, MOST_PIXELS))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=88)
    return out.getvalue()


def _time(text: str) -> str:
    """An ISO time for people, in this machine's zone; what is none is shown as it is."""
    try:
        return _local(datetime.fromisoformat(text))
    except (ValueError, OverflowError):  # the year 9999, some hours further east
        return text


def _local(time: datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M")
