"""A corpus' data card: what is in it, what was left out and why, what it was made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from skinedge.evaluation.cases import SPLITS
from skinedge.evaluation.scores import DIMENSIONS, HIGHEST, mean_score
from train.corpus.records import About, Corpus, Record, Refusal

_SKIN = ("I-II", "III-IV", "V-VI")


def card(corpus: Corpus) -> str:
    """The text of ``README.md``; the same corpus, the same text."""
    about, records = corpus.about, corpus.records
    certified = sum(record.certified is not None for record in records)
    parts = [
        "# DermCoT corpus",
        "Photographs of skin, each with a narrative that goes from what is seen to a diagnosis, written by "
        f"{about.teacher} and scored by {_judge(about)}: {len(records)} cases kept, {len(corpus.rejected)} left out, "
        f"{certified} certified by a dermatologist. What is not certified was read by nobody.",
        "The narratives are a language model's words about a known label: they are for training and testing software. "
        "They are not medical advice. The licence of the photographs applies to all of it.",
        "## Contents",
        _counts("category", records, lambda r: r.category),
        _counts("site", records, lambda r: r.site or "not known"),
        _counts("skin type (Fitzpatrick)", records, _skin),
        _table(("split", "cases", "patients"), [_split(name, corpus.splits[name]) for name in SPLITS]),
        "No patient is in two splits. A case without a patient's name is taken for a patient of its own.",
        "## Left out",
        _rejections(corpus.rejected),
        "Each is in `rejected.jsonl` with its reason and whatever had been written about it.",
        "## Scores",
        _scores([*(r.scores for r in records), *(r.scores for r in corpus.rejected if r.scores)]),
        f"Cases per whole score, kept and rejected together, as given by {about.judge}.",
        "## Made from",
        _made_from(corpus),
        *(f"Note: {text}" for text in about.notes),
    ]
    return "\n\n".join(parts) + "\n"


def _judge(about: About) -> str:
    return "the same model, which is lenient with itself" if about.judge == about.teacher else about.judge


def _skin(record: Record) -> str:
    return "not known" if record.fitzpatrick is None else _SKIN[(record.fitzpatrick - 1) // 2]


def _counts(what: str, records: Sequence[Record], of: Callable[[Record], str]) -> str:
    return _table((what, "cases"), _falling(Counter(map(of, records))))


def _falling(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(name, str(count)) for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _split(name: str, records: Sequence[Record]) -> tuple[str, str, str]:
    return name, str(len(records)), str(len({record.patient or record.id for record in records}))


def _rejections(rejected: Sequence[Refusal]) -> str:
    return _table(("reason", "cases"), _falling(Counter(one.reason for one in rejected)))


def _scores(scores: Sequence[Mapping[str, float]]) -> str:
    rows = [(name, [one[name] for one in scores]) for name in DIMENSIONS]
    rows.append(("mean of the six", [mean_score(one) for one in scores]))
    bins = range(int(HIGHEST) + 1)
    table = [(name, *(str(sum(int(v) == b for v in values)) for b in bins), _mean(values)) for name, values in rows]
    return _table(("dimension", *map(str, bins), "mean"), table)


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}" if values else "-"


def _made_from(corpus: Corpus) -> str:
    about = corpus.about
    rows = [
        ("cases", f"`{about.cases_file}`, {about.cases} of them, sha256 `{about.cases_sha256}`"),
        ("descriptions that came with them", str(about.descriptions_given)),
        ("teacher", about.teacher),
        ("judge", about.judge),
        ("settings digest", f"`{about.settings_digest}`"),
        *((name.replace("_", " "), str(value)) for name, value in sorted(about.settings.items())),
    ]
    if about.certified_by:
        rows.append(("clinicians' scores", about.certified_by))
    return _table(("", ""), rows)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar in a cell does not end it."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
