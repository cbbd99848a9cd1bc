"""The workstation's page as files: its words, what it may load, and the report."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from skinedge.clinic import events, sight
from skinedge.clinic.narrative import PARTS
from skinedge.clinic.report import Exchange, Report, render
from skinedge.clinic.words import LANGUAGES, Language, in_all, limit, reliability, words
from skinedge.evaluation.structure import FaultName
from skinedge.parity.certificate import ReferenceRecord
from skinedge.parity.certifying import make_certificate
from skinedge.parity.certifying import reliability as certified
from skinedge.parity.reading import Aside
from tests.parity_rows import make_context, make_rows, make_scores

CLINIC = Path(__file__).parents[1] / "skinedge" / "clinic"
PAGE = CLINIC / "page"
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(PAGE.glob("*.js"))}
STYLES = {path.name: path.read_text(encoding="utf-8") for path in sorted(PAGE.glob("*.css"))}
INDEX = (PAGE / "index.html").read_text(encoding="utf-8")
TEMPLATE = (CLINIC / "report.jinja").read_text(encoding="utf-8")
FORBIDDEN = re.compile(
    r"\beval\(|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write|sendBeacon|XMLHttpRequest|WebSocket"
)
# Of the contract between page and server, and those that the server's own files name.
CONTRACT = {
    "wrong_passphrase", "too_many_attempts", "too_large", "not_a_photograph", "unreadable_photograph", "engine_restarted",
    "out_of_memory", "timeout", "too_long", "engine_failed", "picture_gone", "busy", "login_needed", "csrf",
}  # fmt: skip
FOR_PROGRAMS = ("openai_api.py", "skingpt_api.py")
OF_PROGRAMS = {"invalid_api_key"}  # the page asks nothing that is answered with this


class Page(HTMLParser):
    """What index.html holds: elements with their attributes, and text by the element it stands in."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(INDEX)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "link", "input", "img"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((" ".join(self._open), data.strip()))

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page()


def used_keys(page: Page) -> tuple[set[str], set[str]]:
    """Keys that are named outright, and patterns of those that are put together."""
    sources = "\n".join([*SCRIPTS.values(), TEMPLATE, *((CLINIC / f"{n}.py").read_text("utf-8") for n in ("report", "words"))])
    named = set(re.findall(r"""["'`]([a-z_]+(?:\.[a-z0-9_]+)*)["'`]""", sources))
    for _, attributes in page.elements:
        named |= {value for name, value in attributes.items() if name == "data-t" or name.startswith("data-t-")}
    made = {re.sub(r"\\\$\\\{.*?\\\}", "[a-z_0-9]+", re.escape(k)) for k in re.findall(r"`((?:[a-z]+\.)+\$\{[^`]*)`", sources)}
    made |= {re.escape(k) + "[a-z_]+" for k in re.findall(r'"([a-z]+\.)" ~', TEMPLATE)}
    return named, made


def server_codes() -> set[str]:
    """Every code that an answer of the server may carry."""
    files = [path for path in CLINIC.glob("*.py") if path.name not in FOR_PROGRAMS]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    raised = set(re.findall(r'ApiError(?:\.of)?\(\s*\d{3},\s*"(\w+)"', text)) | set(re.findall(r'\d{3}: "(\w+)"', text))
    return (raised | set(get_args(events.Code)) | CONTRACT) - OF_PROGRAMS


def test_both_languages_have_the_same_words() -> None:
    english, chinese = (words(language) for language in LANGUAGES)
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert text.strip(), key
        assert chinese[key].strip(), key
        assert Counter(re.findall(r"\{\w+\}", text)) == Counter(re.findall(r"\{\w+\}", chinese[key])), key
    same = {key for key in english if english[key] == chinese[key] and not key.startswith(("key.", "display.language."))}
    assert not same, f"not translated: {same}"


def test_words_are_written_once() -> None:
    for language in LANGUAGES:
        pairs = json.loads((PAGE / f"{language}.json").read_text(encoding="utf-8"), object_pairs_hook=list)
        assert [k for k, n in Counter(key for key, _ in pairs).items() if n > 1] == []


def test_every_word_is_used_and_every_used_word_is_there(page: Page) -> None:
    named, made = used_keys(page)
    known = set(words("en"))
    known -= {"noscript"}  # it stands in the page in both languages; another test compares it
    unused = {key for key in known if key not in named and not any(re.fullmatch(pattern, key) for pattern in made)}
    assert unused == set()
    asked = {value for _, a in page.elements for name, value in a.items() if name == "data-t" or name.startswith("data-t-")}
    for text in SCRIPTS.values():
        asked |= set(re.findall(r'\bt\("([^"]+)"', text)) | set(re.findall(r'\bt: "([^"]+)"', text))
        asked |= set(re.findall(r'\bsay\([^",]+, "([^"]+)"', text))
    asked |= set(re.findall(r'\bt\("([^"]+)"', TEMPLATE)) - {"part."}
    assert asked - known == set()


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_code_of_the_server_lacks_words(language: Language) -> None:
    known = words(language)
    wanted = {f"error.{code}{more}" for code in server_codes() | {"offline"} for more in ("", ".advice")}
    wanted |= {f"finding.{code}{more}" for code in get_args(sight.Code) for more in ("", ".advice")}
    wanted |= {f"fault.{name.replace(' ', '_')}" for name in get_args(FaultName)}
    wanted |= {f"part.{part}" for part in PARTS}
    wanted |= {f"check.{name}" for name in ("bundle", "golden", "audit", "engine", "network")}
    wanted |= {
        f"status.{state}" for state in ("loading", "ready", "busy", "restarting", "failed", "closed", "lost", "connecting")
    }
    assert wanted - set(known) == set()
    assert server_codes() >= CONTRACT


def test_all_visible_words_come_from_the_lists(page: Page) -> None:
    english, chinese = words("en"), words("zh")
    loose = [(where, text) for where, text in page.texts if not where.endswith(("head title", "noscript p"))]
    assert loose == []
    assert [text for where, text in page.texts if "noscript" in where] == [english["noscript"], chinese["noscript"]]
    for name in ("alt", "title", "aria-label", "placeholder"):
        assert [v for v in page.values(name) if v] == []


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(page: Page) -> None:
    for tag, attributes in page.elements:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert tag != "style"
        assert tag != "script" or attributes["src"].startswith("/assets/")
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("/assets/", "#", "/api/")), attributes
    for name, text in [*SCRIPTS.items(), *STYLES.items(), ("index.html", INDEX)]:
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses, name
        assert not re.search(r"@import|url\(", text), name
    for name, text in SCRIPTS.items():
        assert not FORBIDDEN.search(text), name
        assert {i for i in re.findall(r'from "([^"]+)"', text) if i[2:] not in SCRIPTS} == set(), name


def test_only_settings_are_kept_when_the_page_is_closed() -> None:
    stores = re.compile(r"localStorage|sessionStorage|indexedDB|caches\.|document\.cookie|serviceWorker")
    assert {name for name, text in SCRIPTS.items() if stores.search(text)} == {"early.js", "settings.js"}
    for name in ("early.js", "settings.js"):
        assert set(re.findall(r"etItem\(([^,)]+)", SCRIPTS[name])) == {"`skinedge.${name}`"}
    names = re.search(r"const NAMES = \{ (.+) \};", SCRIPTS["settings.js"])
    assert names
    assert re.findall(r"(\w+): \[", names[1]) == ["language", "theme", "size"]


def test_what_the_scripts_ask_for_is_in_the_page(page: Page) -> None:
    ids = page.values("id")
    assert [i for i, n in Counter(ids).items() if n > 1] == []
    for name, text in SCRIPTS.items():
        assert set(re.findall(r'\$\("([\w-]+)"\)', text)) - set(ids) == set(), name
        assert set(re.findall(r'\b(?:open|choice)\("([\w-]+)"\)', text)) - set(ids) == set(), name
        drawings = re.findall(r'\b(?:icon|button)\("(\w+)"', text)
        assert {f"i-{drawing}" for drawing in drawings} - set(ids) == set(), name
    for name in ("for", "aria-labelledby", "aria-describedby"):
        assert set(page.values(name)) - set(ids) == set()
    assert {v[1:] for v in page.values("href") if v.startswith("#")} - set(ids) == set()


# The report


def jpeg(width: int, height: int, colour: str = "#b98") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "JPEG")
    return out.getvalue()


RAW = (
    "<think>Observation: A scaly plaque.\nReasoning: The scale is silvery.\nDifferential: Eczema is less likely.</think>"
    "\n<answer>psoriasis</answer>"
)
REPORT = Report(
    language="en",
    reference="Case 2026-117",
    exchanges=[Exchange("What is this?", [jpeg(600, 400)], RAW, "2026-11-25T12:00:00+00:00", 12.34)],
    name="skingpt-r1",
    target="onnx",
    scheme="int4",
    digest="ab" * 32,
    reliability="agreed with the original in 597 of 600 test cases; fewer than 40 tests on skin types V–VI",
    time=datetime(2026, 11, 25, 12, 1, tzinfo=UTC),
    operator="Dr. Li",
)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_report_says_all_that_it_must(language: Language) -> None:
    text = html.unescape(render(replace(REPORT, language=language)))
    known = words(language)
    for must in (
        known["notice.long"], known["part.observation"], known["part.reasoning"], known["part.differential"],
        known["part.answer"], "A scaly plaque.", "The scale is silvery.", "Eczema is less likely.", "psoriasis", "What is this?",
        "Case 2026-117", "ab" * 32, "skingpt-r1", "Dr. Li", "597", "V–VI", known["answer.took"].format(seconds="12.3"),
    ):  # fmt: skip
        assert must in text, must
    assert f'<html lang="{known["language.tag"]}">' in text
    assert datetime(2026, 11, 25, 12, 1, tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M") in text
    assert text.index("psoriasis") < text.index("A scaly plaque."), "the answer stands first"


def test_a_report_asks_nothing_of_any_network_and_runs_nothing() -> None:
    text = render(REPORT)
    assert "<script" not in text
    assert not re.search(r"https?://|url\(|@import", text)
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(sources) == 2
    assert all(source.startswith("data:") for source in sources)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html.unescape(text)


@pytest.mark.parametrize("where", ["reference", "question", "raw", "time", "name", "operator", "reliability", "digest"])
def test_hostile_text_is_shown_and_not_obeyed(where: str) -> None:
    evil = "\"><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}</style>'"
    if where in ("question", "raw", "time"):
        given = replace(REPORT, exchanges=[replace(REPORT.exchanges[0], **{where: evil})])
    else:
        given = replace(REPORT, **{where: evil})
    text = render(given)
    assert "<script" not in text
    assert "onerror=alert(1)>" not in text
    assert text.count("<img") == 1
    assert text.count("</style>") == 1
    assert "alert(1)" in html.unescape(text)
    assert "49" not in re.sub(r"data:[^\"]+", "", text)


def pictures(text: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", text)]


def test_pictures_are_made_small_and_small_ones_left_alone() -> None:
    small, large = jpeg(1200, 800), io.BytesIO()
    Image.new("RGBA", (3000, 1500), "#987").save(large, "PNG")
    shown = pictures(render(replace(REPORT, exchanges=[Exchange("", [small, large.getvalue()], RAW)])))
    assert shown[0] == small
    with Image.open(io.BytesIO(shown[1])) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (1200, 600))


def test_a_picture_of_several_questions_is_shown_once_and_two_are_named() -> None:
    first, second = jpeg(60, 40), jpeg(40, 60)
    same = [Exchange("a", [first], RAW), Exchange("b", [], RAW), Exchange("c", [first], RAW)]
    assert pictures(render(replace(REPORT, exchanges=same))) == [first]
    text = render(replace(REPORT, exchanges=[*same, Exchange("d", [first, second], RAW)]))
    assert pictures(text) == [first, first, second]
    assert ">Photograph 2<" in text


def test_what_is_no_picture_is_no_report() -> None:
    with pytest.raises(OSError, match="cannot identify"):
        render(replace(REPORT, exchanges=[Exchange("a", [b"GIF89a nothing"], RAW)]))


def test_an_answer_without_certificate_or_form_says_so() -> None:
    text = html.unescape(render(replace(REPORT, reliability=None)))
    assert words("en")["reliability.no_certificate"] in text
    text = html.unescape(render(replace(REPORT, exchanges=[Exchange("", [], "I cannot say.")])))
    assert "I cannot say." in text
    assert words("en")["answer.none"] in text
    assert words("en")["reliability.synthetic"] in html.unescape(render(replace(REPORT, synthetic=True)))
    assert words("en")["reliability.failed"] in html.unescape(render(replace(REPORT, failed=True)))


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "yesterday"])
def test_a_time_that_is_none_is_shown_as_it_came(time: str) -> None:
    assert time in html.unescape(render(replace(REPORT, exchanges=[Exchange("a", [], RAW, time)])))


@pytest.mark.parametrize("skins", [("I-II",), ("I-II", "III-IV"), ("unknown",), ("I-II", "III-IV", "V-VI"), ("V-VI",)])
def test_every_sentence_of_a_certificate_is_translated(skins: tuple[str, ...]) -> None:
    rows = [replace(row, skin=skins[i % len(skins)]) for i, row in enumerate(make_rows(90, lost=3))]
    sentence = certified(rows)
    assert reliability(sentence, "en") == f"This model {sentence}."
    chinese = reliability(sentence, "zh")
    assert not re.search(r"[a-zA-HJ-UW-Z]", chinese), chinese  # I and V are skin types
    assert set(re.findall(r"\d+", chinese)) == set(re.findall(r"\d+", sentence))


@pytest.mark.parametrize("judged", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_every_limit_of_a_certificate_is_translated(known: bool, judged: bool) -> None:
    rows = make_rows(60, forced=known)
    reference = ReferenceRecord(name="PyTorch", digest="0" * 64, same_source=known)
    scorer = {"scorer": "dermeval"} if judged else {}
    context = make_context(synthetic=known, reference=reference, scorer=scorer)
    if not known:
        rows = [replace(row, truth=None) for row in rows]
    limits = make_certificate(rows, context, Aside(make_scores(rows) if known or judged else {})).limits
    assert len(limits) == (5 if known else 7)
    assert any("DermEval" in sentence for sentence in limits) == (judged and not known)
    for sentence in limits:
        said = in_all(limit, sentence)
        assert said["en"] == sentence
        assert not re.search("[a-zA-Z]", said["zh"].replace("SynthDerm, seed 7", "")), said["zh"]
        assert set(re.findall(r"\d+", said["zh"])) == set(re.findall(r"\d+", sentence))


def test_a_sentence_of_another_form_is_left_as_it_is() -> None:
    assert reliability("was never tried", "zh") == "Was never tried."
    assert limit("It was never tried.", "zh") == "It was never tried."
