"""The visit in a real browser at a real workstation, which serves the embedded model."""

from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from skinedge.clinic.report import Exchange, render
from skinedge.clinic.words import LANGUAGES, Language, reliability, words
from tests.browser import READY, Watched, becomes, chromium, faults, photograph, tab_to, watched

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
from skinedge.clinic.engine import EngineSettings
from skinedge.clinic.people import People, person
from skinedge.clinic.serve import ServeSettings, open_server
from tests.clinic import workstation
from tests.test_clinic_page import REPORT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
DONE = "#ask:not([hidden])"
TAKEN = "[aria-busy=false]"
DONE_EVENT = {
    "text": "W", "answer": "W", "finish_reason": "stop", "tokens": 3, "seconds": {"total": 1.5}, "time": "2026-11-25T12:00:00Z",
    "model": "m", "faults": [f"stray tag: {'W' * 300}"],
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model for ONNX Runtime, with a certificate of made-up rows."""
    from skinedge.bundle import export
    from skinedge.embedded import embedded_checkpoint
    from skinedge.manifest import read_manifest
    from skinedge.measure.bench import bundle_record
    from skinedge.parity.certificate import FOLDER, write_certificate
    from skinedge.parity.certifying import make_certificate
    from skinedge.targets._contract import ExportOptions
    from tests.parity_rows import NOW, make_context, make_rows

    folder = tmp_path_factory.mktemp("served") / "skinedge-tiny"
    export(embedded_checkpoint(), "onnx", ExportOptions("f32", context=2048), folder)
    context = make_context(bundle=bundle_record(read_manifest(folder)))
    write_certificate(make_certificate(make_rows(60, lost=2), context, now=NOW), folder / FOLDER)
    return folder


def engine(bundle: Path) -> EngineSettings:
    return EngineSettings(bundle, threads=1, context=2048)


@pytest.fixture(scope="module")
def url(browser: Browser, bundle: Path) -> Iterator[str]:
    with workstation(bundle, engine(bundle)) as (_, serving):
        yield serving.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(*FAKE_CAMERA) as found:
        yield found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [photograph(folder, seed, f"skin-{seed}.png") for seed in (303, 304)]


def add(page: Page, path: Path, number: int = 1) -> None:
    """A photograph through the button and the system's dialog."""
    with page.expect_file_chooser() as chooser:
        page.click("#choose")
    chooser.value.set_files(path)
    page.wait_for_selector(f"#slots > li:nth-child({number}) {TAKEN}")


def ask(page: Page, question: str = "") -> str:
    """The answer's part, after the question was asked and answered."""
    if question:
        page.fill("#question", question)
    page.click("#ask")
    page.wait_for_selector(DONE)
    return page.locator(".exchange").last.inner_text()


def headings(page: Page) -> list[str]:
    return page.locator(".exchange").last.locator("section h4").all_inner_texts()


def pdf_pages(data: bytes) -> int:
    return len(re.findall(rb"/Type /Page\b(?!s)", data))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_whole_visit(browser: Browser, url: str, photos: list[Path], language: Language, tmp_path: Path) -> None:
    w = words(language)
    with watched(browser, url, {"language": language}) as at:
        page = at.page
        assert page.title() == w["title"]
        assert page.locator("html").get_attribute("lang") == w["language.tag"]
        assert page.locator("#question").get_attribute("placeholder"), "the bundle's own question"
        add(page, photos[0])
        assert w["photo.fine"] in page.locator(".seen").inner_text()
        _crop_and_turn(at)
        ask(page)
        assert headings(page) == [w[f"part.{p}"] for p in ("observation", "reasoning", "differential", "answer")]
        trust = page.locator(".trust").inner_text()
        assert reliability("agreed with the original in 58 of 60 test cases", language)[:-1].split("，")[0] in trust
        assert w["reliability.synthetic"] in trust
        assert re.search(r"\d", page.locator(".facts").inner_text())
        _printed_on_one_page(page, w)
        _stop(at, w)
        ask(page, "What is it?")
        assert page.locator(".exchange").count() == page.locator(".facts").count() == 3
        _compare(at, w, photos[1])
        _report(page, w, tmp_path)
        _forget(at, w)


def _crop_and_turn(at: Watched) -> None:
    page = at.page
    size = page.locator(".size").inner_text()
    page.click(".photo .actions button >> nth=0")
    page.fill("#edit-w", "50")
    page.fill("#edit-h", "75")
    page.locator("#edit-h").press("Tab")
    page.click("#edit-apply")
    becomes(page, f"document.querySelector('.size')?.textContent !== {size!r}")
    assert re.findall(r"\d+", page.locator(".size").inner_text()) == ["320", "480"]
    page.click(".photo .actions button >> nth=2")
    becomes(page, "document.querySelector('.size')?.textContent.startsWith('480')")
    assert re.findall(r"\d+", page.locator(".size").inner_text()) == ["480", "320"]


def _stop(at: Watched, w: dict[str, str]) -> None:
    """The real button, as soon as the first words are there; by hand it would be too late for so small a model."""
    page = at.page
    at.script(
        """() => new MutationObserver((_, o) => {
            if (document.querySelectorAll(".exchange").length > 1 && document.querySelector(".writing")) {
                o.disconnect(); document.getElementById("stop").click(); }
        }).observe(document.getElementById("exchanges"), { childList: true, subtree: true, characterData: true })"""
    )
    page.click(".photo .actions button >> nth=1")  # a changed photograph begins anew, and so the answer is a long one
    page.wait_for_selector(f"{TAKEN} .size")
    page.wait_for_selector("#line:not([hidden])")
    assert w["answer.stopped"] in ask(page)
    assert page.locator(".exchange").count() == 2
    assert at.script("document.activeElement.id") == "question"


def _compare(at: Watched, w: dict[str, str], second: Path) -> None:
    page = at.page
    page.click("#compare")
    add(page, second, 2)
    dates = page.locator("input[type=date]")
    dates.nth(0).fill("2026-03-04")
    dates.nth(1).fill("2026-01-05")
    becomes(page, f"document.querySelector('.photo h3').textContent === {w['photo.earlier']!r}")
    sent: list[Any] = []
    page.on("request", lambda r: sent.append(r.post_data_json) if r.url.endswith("/api/ask") else None)
    said = ask(page, "?!")
    assert w["compare.dates"].format(first="2026-01-05", second="2026-03-04") in said
    (turn,) = sent[-1]["messages"]
    assert [part["type"] for part in turn["content"]] == ["picture", "picture", "text"]
    assert turn["content"][0]["id"] == _digest(second), "the earlier first"


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def _printed_on_one_page(page: Page, w: dict[str, str]) -> None:
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    shown = page.inner_text("body")
    for must in (w["notice.long"], w["part.observation"], w["part.answer"], page.evaluate("new Date().getFullYear()")):
        assert str(must) in shown
    assert re.search(r"[0-9a-f]{64}", shown), "the model's digest"
    assert w["ask.button"] not in shown.split("\n")
    assert page.locator(".thumbs img").first.bounding_box()["width"] > 100  # type: ignore[index]
    assert pdf_pages(page.pdf(prefer_css_page_size=True)) == 1
    page.emulate_media(media="screen")


def _report(page: Page, w: dict[str, str], folder: Path) -> None:
    page.click("#open-report")
    page.fill("#report-reference", "<Case> 7")
    with page.expect_download() as download:
        page.click("#report-save")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    assert path.suffix == ".html"
    text = html.unescape(path.read_text(encoding="utf-8"))
    for must in ("<Case> 7", w["notice.long"], w["part.differential"], "2026-01-05"):
        assert must in text
    assert text.count("<img ") == 4, "one of each of the first two questions, and two that are compared"


def _forget(at: Watched, w: dict[str, str]) -> None:
    page = at.page
    shown = set(page.evaluate("[...document.querySelectorAll('img')].map((i) => i.src)"))
    asked = [json.loads(r) for r in page.evaluate("performance.getEntriesByType('resource').map((r) => JSON.stringify(r.name))")]
    assert all(name.startswith(at.origin) or name.startswith("blob:") for name in asked)
    page.click("#new-visit")
    page.click("#d-confirm [data-close]")
    assert page.locator(".exchange").count() == 4, "going on forgets nothing"
    page.click("#new-visit")
    with page.expect_response(lambda r: r.request.method == "DELETE" and r.status == 204):
        page.click("#d-confirm [value=yes]")
    page.wait_for_selector("#welcome:not([hidden])")
    assert page.locator(".exchange, .photo").count() == 0
    assert page.input_value("#question") == page.input_value("#report-reference") == ""
    assert shown
    kept = page.evaluate("JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + document.cookie")
    assert set(json.loads(kept[: kept.index("}") + 1])) == {"skinedge.language"}


def test_the_visit_with_the_keyboard_alone(browser: Browser, url: str, photos: list[Path], tmp_path: Path) -> None:
    w = words("en")
    with watched(browser, url, {"language": "en"}) as at:
        page, key = at.page, at.page.keyboard
        key.press("Tab")
        assert at.script("document.activeElement.className") == "skip"
        key.press("Enter")
        assert at.script("document.activeElement.id") == "composer"
        key.press("F1")
        page.wait_for_selector("#d-help[open]")
        key.press("Escape")
        with page.expect_file_chooser() as chooser:
            key.press("Control+o")
        chooser.value.set_files(photos[0])
        page.wait_for_selector(TAKEN)
        tab_to(page, ".photo .actions button")
        key.press("Enter")
        page.wait_for_selector("#d-edit[open]")
        tab_to(page, "[data-edge=se]")
        for name in ("ArrowLeft", "Shift+ArrowLeft", "ArrowUp"):
            key.press(name)
        assert [page.input_value(f"#edit-{name}") for name in "xywh"] == ["0", "0", "89", "99"]
        becomes(page, "document.querySelector('#status').textContent.includes('89')")
        tab_to(page, "#edit-apply")
        key.press("Enter")
        becomes(page, "document.querySelector('.size')?.textContent.startsWith('570')")
        assert at.script("document.activeElement.matches('.photo .actions button')"), "the focus is where it was"
        tab_to(page, "#question")
        key.press("Control+Enter")
        becomes(page, "document.querySelectorAll('.facts').length === 1")
        assert headings(page)[-1] == w["part.answer"]
        key.type("What is it?")
        key.press("Control+Enter")
        becomes(page, "document.querySelectorAll('.facts').length === 2")
        spoken = page.inner_text("#spoken")
        assert f"{w['part.answer']}. " in spoken
        lines = [line for line in spoken.splitlines() if line]
        assert 3 < len(lines) <= 12
        assert all(line.endswith(".") for line in lines if f"{w['part.answer']}. " not in line), (
            "by the sentence, not by the token"
        )
        tab_to(page, "#compare")
        key.press("Enter")
        assert at.script("document.activeElement.id") == "choose"
        with page.expect_file_chooser() as chooser:
            key.press("Enter")
        chooser.value.set_files(photos[1])
        page.wait_for_selector(f"#slots > li:nth-child(2) {TAKEN}")
        tab_to(page, "#ask")
        key.press("Enter")
        becomes(page, "document.querySelectorAll('.facts').length === 3")
        key.press("Control+s")
        key.type("Case 8")
        tab_to(page, "#report-save")
        with page.expect_download() as download:
            key.press("Enter")
        assert "Case 8" in Path(download.value.path()).read_text(encoding="utf-8")
        page.wait_for_selector("#d-report", state="hidden")
        tab_to(page, "#new-visit")
        key.press("Enter")
        tab_to(page, "#d-confirm [value=yes]")
        key.press("Enter")
        page.wait_for_selector("#welcome:not([hidden])")


@pytest.mark.parametrize("theme", ["light", "dark", "darkroom"])
def test_axe_finds_no_serious_fault(browser: Browser, url: str, photos: list[Path], theme: str) -> None:
    found: dict[str, list[str]] = {}
    with watched(browser, url, {"theme": theme, "language": "en"}) as at:
        page = at.page

        def look(state: str) -> None:
            if here := faults(page):
                found[state] = here

        look("empty")
        page.click("#ask")  # which says that a photograph is missing
        look("refused")
        add(page, photos[0])
        look("photograph")
        ask(page)
        look("answered")
        page.click("#compare")
        add(page, photos[1], 2)
        look("compared")
        for name in ("display", "about", "help", "report"):
            page.click(f"#open-{name}")
            look(name)
            page.keyboard.press("Escape")
        page.click("#open-about")
        page.click("#open-selftest")
        page.click("#selftest-start")
        page.wait_for_selector("#selftest-start:not([disabled])")
        look("self-test")
        page.keyboard.press("Escape")
        page.click(".photo .actions button >> nth=0")
        page.wait_for_selector("#d-edit[open]")
        look("crop")
        page.keyboard.press("Escape")
        page.click(".photo .open >> nth=0")
        page.wait_for_selector("#d-view[open]")
        look("enlarged")
        page.keyboard.press("Escape")
        page.set_input_files("#file", photos[0])
        page.wait_for_selector("#d-place[open]")
        look("a third photograph")
        page.keyboard.press("Escape")
        page.click("#new-visit")
        look("new visit")
        page.click("#d-confirm [value=yes]")
        page.click("#open-camera")
        page.wait_for_selector("#camera-take:not([disabled])")
        look("camera")
        page.click("#camera-take")
        page.click("#camera-use")
        page.wait_for_selector(TAKEN)
        look("findings")  # a camera's test picture is no skin
        page.route("**/api/ask", lambda route: route.fulfill(status=500, json=_refusal("engine_failed")))
        page.click("#ask")
        page.wait_for_selector(".exchange .alert")
        look("failed")
        at.complaints.clear()  # the status of 500 above
    assert found == {}


def _refusal(code: str) -> dict[str, Any]:
    return {"error": {"message": "m", "type": "t", "param": None, "code": code, "hint": "h"}}


def _streamed(body: str, route: Any) -> None:
    route.fulfill(content_type="text/event-stream", body=body)


def _event(name: str, **data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(390, 844, "100"), (390, 844, "150"), (640, 400, "100"), (1024, 768, "125"), (1920, 1080, "150")],
)
def test_nothing_is_wider_than_the_window(
    browser: Browser, url: str, photos: list[Path], width: int, height: int, size: str
) -> None:
    """640 x 400 is 1280 x 800 at a zoom of 200 %."""
    with watched(browser, url, {"size": size}, viewport={"width": width, "height": height}) as at:
        page = at.page

        def fits(where: str) -> None:
            assert at.script("document.scrollingElement.scrollWidth") <= width, where
            assert at.script("[...document.querySelectorAll('dialog[open]')].every((d) => d.scrollWidth <= d.clientWidth + 1)"), (
                where
            )

        fits("empty")
        add(page, photos[0])
        page.click("#compare")
        add(page, photos[1], 2)
        fits("two photographs")
        long = "".join(_event("text", part=part, text="W" * 300) for part in ("thought", "differential", "answer"))
        page.route("**/api/ask", partial(_streamed, long + _event("done", **DONE_EVENT)))
        ask(page, "W" * 300)
        fits("answered")
        for name in ("display", "about", "help", "report"):
            page.click(f"#open-{name}")
            fits(name)
            page.keyboard.press("Escape")
        page.click(".photo .actions button >> nth=0")
        page.wait_for_selector("#d-edit[open]")
        fits("crop")


def test_language_and_settings_change_on_the_spot_and_are_kept(browser: Browser, url: str, photos: list[Path]) -> None:
    with watched(browser, url) as at:
        page = at.page
        add(page, photos[0])
        ask(page)
        said = page.locator(".part .text").all_inner_texts()
        page.click("#language")
        becomes(page, "document.documentElement.lang === 'zh-Hans'")
        w = words("zh")
        assert headings(page)[0] == w["part.observation"]
        assert w["reliability.synthetic"] in page.locator(".trust").inner_text()
        assert page.locator(".part .text").all_inner_texts() == said, "the model's words stay as they are"
        page.click("#open-about")
        limits = page.locator(".limits li").all_inner_texts()
        page.keyboard.press("Escape")
        assert limits[0] == w["limit.original"]
        assert w["limit.drawn"] in limits
        assert not [text for text in limits if re.search("[a-z]{3}", text.replace("SynthDerm, seed", ""))]
        page.click("#open-display")
        page.check("input[value=darkroom]")
        page.check("input[name=size][value='150']")
        assert at.script("getComputedStyle(document.documentElement).fontSize") == "24px"
        page.keyboard.press("Escape")
        page.on("dialog", lambda dialog: dialog.accept())  # the browser asks whether the visit may be left
        page.reload()
        page.wait_for_selector(READY)
        assert page.title() == w["title"]
        assert at.script("document.documentElement.dataset.theme") == "darkroom"
        assert page.locator(".exchange, .photo").count() == 0, "a visit is never kept"


def test_a_report_of_the_usual_length_is_one_page(browser: Browser, photos: list[Path], tmp_path: Path) -> None:
    """Some 500 words, which is what the original writes, in both languages and with one or two photographs."""
    layer = "The plaque is sharply demarcated and carries a silvery scale that lies in thick layers upon a red ground. " * 9
    raw = f"<think>Observation: {layer}\nReasoning: {layer}\nDifferential: {layer}</think>\n<answer>plaque psoriasis</answer>"
    for language in LANGUAGES:
        for count in (1, 2):
            shown = Exchange("What is this, and what speaks against it?", [p.read_bytes() for p in photos[:count]], raw, "", 41.0)
            path = tmp_path / f"{language}-{count}.html"
            path.write_text(render(replace(REPORT, language=language, exchanges=[shown])), encoding="utf-8")
            page = browser.new_page()
            page.goto(path.as_uri())
            assert faults(page) == []
            assert pdf_pages(page.pdf(prefer_css_page_size=True)) == 1
            page.close()


def test_a_file_that_is_no_photograph_and_one_that_is_poor(browser: Browser, url: str, tmp_path: Path) -> None:
    from PIL import Image

    w = words("en")
    (tmp_path / "a.png").write_bytes(b"no picture")
    Image.new("RGB", (64, 64), "#010101").save(tmp_path / "dark.png")
    with watched(browser, url, {"language": "en"}) as at:
        page = at.page
        add(page, tmp_path / "a.png")
        assert w["error.not_a_photograph"] in page.inner_text(".seen")
        page.click("#ask")
        assert page.inner_text("#ask-note") == w["ask.bad_photo"]
        page.click(".photo .remove")
        add(page, tmp_path / "dark.png")
        assert w["finding.dark"] in page.inner_text(".seen")
        assert w["finding.dark.advice"] in page.inner_text(".seen")
        assert page.inner_text("#ask").strip() == w["ask.anyway"]
        ask(page)
        assert page.locator(".facts").count() == 1


def test_pasted_and_dropped_photographs(browser: Browser, url: str, photos: list[Path]) -> None:
    carry = """async ([kind, data]) => {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "a.png", { type: "image/png" }));
        const given = { bubbles: true, cancelable: true };
        document.body.dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, { ...given, clipboardData: transfer })
            : new DragEvent(kind, { ...given, dataTransfer: transfer })) }"""
    import base64

    first, second = (base64.b64encode(p.read_bytes()).decode() for p in photos)
    with watched(browser, url) as at:
        page = at.page
        page.evaluate(carry, ["paste", first])
        page.wait_for_selector(TAKEN)
        page.evaluate(carry, ["dragover", second])
        assert page.locator("#overlay").is_visible()
        page.evaluate(carry, ["drop", second])
        assert page.locator("#overlay").is_hidden()
        page.click("#d-place [value=compare]")
        page.wait_for_selector(f"#slots > li:nth-child(2) {TAKEN}")
        page.evaluate(carry, ["paste", first])
        page.click("#d-place [value=replace]")
        becomes(page, "document.querySelectorAll('.photo .size').length === 2")


def test_busy_waits_and_asks_again(browser: Browser, url: str, photos: list[Path]) -> None:
    refused = []
    with watched(browser, url, {"language": "en"}) as at:
        page = at.page
        add(page, photos[0])

        def busy(route: Any) -> None:
            if refused:
                route.continue_()
            else:
                refused.append(1)
                route.fulfill(status=429, headers={"Retry-After": "2"}, json=_refusal("busy"))

        page.route("**/api/ask", busy)
        page.click("#ask")
        page.get_by_text("Asking again in 1 s").wait_for()
        page.wait_for_selector(".answer")
        page.wait_for_selector(DONE)
    assert refused


def test_states_of_a_question(browser: Browser, url: str, photos: list[Path]) -> None:
    w, begun = words("en"), _event("text", part="observation", text="A plaque.")
    streams = {
        w["error.out_of_memory"]: _event("started") + begun + _event("error", **_refusal("out_of_memory")),
        w["error.offline"]: _event("queued", position=3) + begun,
    }  # fmt: skip
    with watched(browser, url, {"language": "en"}) as at:
        page = at.page
        add(page, photos[0])
        for said, stream in streams.items():
            page.route("**/api/ask", partial(_streamed, stream))
            page.click("#ask")
            page.get_by_text(said, exact=True).locator("visible=true").first.wait_for()
            assert page.locator(".exchange").count() == 1, "an unanswered question gives way to the next"
            assert page.locator("#open-report").is_disabled()
            page.unroute("**/api/ask")
        page.click(".exchange .alert button")
        page.wait_for_selector(".answer")
        page.wait_for_selector(DONE)
        assert page.locator(".exchange .alert.bad").count() == 0


def test_a_photograph_that_the_workstation_forgot_is_sent_again(browser: Browser, url: str, photos: list[Path]) -> None:
    with watched(browser, url) as at:
        page = at.page
        add(page, photos[0])
        gone = page.evaluate(
            """async (id) => { const { csrf } = await (await fetch("/api/session")).json();
            return (await fetch(`/api/pictures/${id}`, { method: "DELETE", headers: { "X-Skinedge-CSRF": csrf } })).status }""",
            _digest(photos[0]),
        )
        assert gone == 204
        ask(page)
        assert page.locator(".answer").count() == 1
        assert sum(r.endswith("/api/pictures") for r in at.requests) == 2


def test_a_killed_model_and_a_server_that_goes_and_comes_lose_nothing(browser: Browser, bundle: Path, photos: list[Path]) -> None:
    w = words("en")
    others = _models()
    with _server(bundle, 0) as first:
        port = int(first.rstrip("/").rsplit(":", 1)[1])
        with watched(browser, first, {"language": "en"}) as at:
            page = at.page
            add(page, photos[0])
            page.click("#ask")
            page.wait_for_selector(".writing, .facts", state="attached")
            for model in _models() - others:
                model.kill()
            page.wait_for_selector(DONE)
            text = page.inner_text(".exchange")
            if w["error.engine_restarted"] in text:
                page.click(".exchange .alert button")
                page.wait_for_selector(DONE)
            assert w["part.answer"] in page.inner_text(".exchange")
            _stop_server(first)
            page.get_by_text("does not answer").wait_for()
            assert page.locator(".photo").count() == page.locator(".exchange").count() == 1
            with _server(bundle, port):
                page.wait_for_selector("#state[data-state=ready]")
                assert page.locator("#banner").is_hidden()
                ask(page, "What is it?")
                assert page.locator(".exchange").count() == page.locator(".facts").count() == 2
                assert page.locator(".exchange .alert.bad").count() == 0
            at.complaints.clear()  # refused connections


def _models() -> set[psutil.Process]:
    return {p for p in psutil.Process().children() if "skinedge.clinic.engine_child" in p.cmdline()}


_RUNNING: dict[str, tuple[Any, threading.Thread]] = {}


@contextmanager
def _server(bundle: Path, port: int) -> Iterator[str]:
    serving = open_server(ServeSettings(engine(bundle), port=port))
    thread = threading.Thread(target=serving.run)
    thread.start()
    url = serving.url
    _RUNNING[url] = serving, thread
    try:
        yield url
    finally:
        _stop_server(url)


def _stop_server(url: str) -> None:
    serving, thread = _RUNNING[url]
    serving.server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def test_where_one_must_log_in(browser: Browser, bundle: Path, photos: list[Path], tmp_path: Path) -> None:
    w = words("en")
    path = tmp_path / "people.json"
    People((person("Dr. Li", "clinician", "correct horse battery"),), True).save(path)
    with (
        workstation(bundle, engine(bundle), people=path) as (_, serving),
        watched(browser, serving.url, {"language": "en"}) as at,
    ):
        page = at.page
        page.wait_for_selector("#d-login[open]")
        assert faults(page) == []
        page.fill("#login-name", "Dr. Li")
        page.fill("#login-passphrase", "wrong horse battery")
        page.click("#login-go")
        page.get_by_text(w["error.wrong_passphrase"]).wait_for()
        page.fill("#login-passphrase", "correct horse battery")
        page.keyboard.press("Enter")
        page.wait_for_selector("#logout:not([hidden])")
        assert page.inner_text("#operator") == "Dr. Li"
        add(page, photos[0])
        ask(page)
        page.click("#logout")
        page.click("#d-confirm [value=yes]")
        page.wait_for_selector("#open-login:not([hidden])")
        assert page.locator(".exchange, .photo").count() == 0


def test_a_visit_waits_for_its_operator_and_for_nobody_else(
    browser: Browser, bundle: Path, photos: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "people.json"
    people = [person(name, "clinician", f"{name} is a long passphrase") for name in ("Dr. Li", "Dr. Wang")]
    People(tuple(people), True).save(path)
    with (
        workstation(bundle, engine(bundle), people=path, idle_s=1.5) as (_, serving),
        watched(browser, serving.url, {"language": "en"}) as at,
    ):
        page = at.page

        def log_in(name: str) -> None:
            page.wait_for_selector("#d-login[open]")
            page.fill("#login-name", name)
            page.fill("#login-passphrase", f"{name} is a long passphrase")
            page.click("#login-go")
            page.wait_for_selector("#d-login", state="hidden")

        log_in("Dr. Li")
        add(page, photos[0])
        ask(page)
        page.wait_for_timeout(2000)
        page.fill("#question", "What is it?")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#d-login[open]")
        assert not page.locator(".exchange, .photo").locator("visible=true").count()
        log_in("Dr. Li")
        becomes(page, "document.querySelectorAll('.facts').length === 2")  # the photograph was sent again
        page.wait_for_timeout(2000)
        page.fill("#question", "And now?")
        page.keyboard.press("Control+Enter")
        log_in("Dr. Wang")
        page.wait_for_selector("#welcome:not([hidden])")
        assert page.locator(".exchange, .photo").count() == 0


def test_an_idle_page_lets_its_operator_in_and_out(browser: Browser, bundle: Path, photos: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "people.json"
    People((person("Dr. Li", "clinician", "correct horse battery"),), True).save(path)
    with (
        workstation(bundle, engine(bundle), people=path, idle_s=1.5) as (_, serving),
        watched(browser, serving.url, {"language": "en"}) as at,
    ):
        page = at.page

        def come_late() -> None:
            page.wait_for_timeout(2000)
            page.fill("#login-name", "Dr. Li")
            page.fill("#login-passphrase", "correct horse battery")
            page.click("#login-go")
            page.wait_for_selector("#d-login", state="hidden")
            assert page.inner_text("#operator") == "Dr. Li"

        page.wait_for_selector("#d-login[open]")
        come_late()
        add(page, photos[0])
        page.wait_for_timeout(2000)
        page.click("#logout")
        page.click("#d-confirm [value=yes]")
        page.wait_for_selector("#open-login:not([hidden])")
        assert page.text_content("#operator") == ""
        assert page.locator("#d-login[open]").count() == 0, "who leaves is not asked who they are"
        page.click("#open-login")
        come_late()


def test_a_photograph_from_the_camera(browser: Browser, url: str) -> None:
    with watched(browser, url) as at:
        page = at.page
        page.click("#open-camera")
        page.wait_for_selector("#camera-take:not([disabled])")
        page.click("#camera-take")
        page.click("#camera-again")
        page.click("#camera-take")
        page.click("#camera-use")
        page.wait_for_selector(f"{TAKEN} .size")
        assert at.script("document.querySelector('#camera-video').srcObject === null"), "the camera is off"
