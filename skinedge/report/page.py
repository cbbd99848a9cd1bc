"""From documents to one HTML file that asks nothing of any network: styles, bars and pictures are in it, scripts are not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from skinedge import __version__
from skinedge.console import size
from skinedge.errors import UsageError
from skinedge.parity.show import figure, interval_words
from skinedge.report.documents import Documents, read_documents
from skinedge.report.figures import STAGES
from skinedge.report.pareto import closeness, rightness
from skinedge.report.sections import bundle_label, certified, left_out, lineages, machines, problems
from skinedge.staging import refuse_taken_file, staged_file

if TYPE_CHECKING:
    from jinja2 import Environment, Template

_FOLDER = Path(__file__).parent
STAGE_NAMES = dict(zip(STAGES, ("preprocess", "image encode", "prefill", "first sample"), strict=True))


def write_report(paths: Sequence[Path], out: Path, title: str) -> Documents:
    """Read ``paths`` and write the page to ``out``.

    Raises:
        UsageError: nothing to show, or a file that is no document of skinedge.
        OutputError: ``out`` is taken or cannot be written.
    """
    refuse_taken_file(out)
    documents = read_documents(paths)
    if not documents.measured and not documents.forecasts and not documents.kits:
        raise UsageError(
            "there is no measurement and no forecast among these files.", hint="Make one: skinedge bench BUNDLE --out result.json"
        )
    text = render(documents, title, datetime.now(UTC))
    with staged_file(out) as f:
        f.write(text.encode())
    return documents


def render(documents: Documents, title: str, now: datetime) -> str:
    """The text of the page; everything from outside is escaped."""
    found = machines(documents)
    return template("page.html.jinja").render(
        title=title,
        version=__version__,
        written=moment(now.isoformat()),
        documents=documents,
        machines=found,
        closeness=[closeness(m) for m in found],
        rightness=[rightness(m) for m in found],
        certified=certified(documents, found),
        bundle_label=bundle_label,
        figure=figure,
        interval_words=interval_words,
        problems=problems(documents, found),
        left_out=left_out(found),
        lineages=lineages(found),
        stages=STAGE_NAMES,
    )


def pages_of(folder: Path) -> Environment:
    """The pages of a folder: what is put into them is escaped, and an undefined name is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def template(name: str) -> Template:
    """A page of this folder; an undefined name in it is an error."""
    environment = pages_of(_FOLDER)
    environment.filters.update(number=number, size=size, moment=moment, joules=joules)
    return environment.get_template(name)


def number(value: float) -> str:
    """Three significant digits, and whole numbers from a hundred on.

    >>> number(1234.5), number(12.345), number(0.00123456)
    ('1,234', '12.3', '0.00123')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return text if abs(value) < 1e-4 or "e" in text else f"{float(text):.{max(0, _decimals(value))}f}"


def _decimals(value: float) -> int:
    import math

    return 0 if value == 0 else 2 - math.floor(math.log10(abs(value)))


def joules(value: float) -> str:
    """Joules, or millijoules where there are few.

    >>> joules(1.35), joules(0.00629)
    ('1.35 J', '6.29 mJ')
    """
    return f"{number(value)} J" if abs(value) >= 0.1 else f"{number(1000 * value)} mJ"


def moment(text: str) -> str:
    """An ISO time in UTC for people; what is none is shown as it is."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return text
