"""Chromium for tests: a page that remembers every request, every complaint and every breach of its policy."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

READY = "html[data-started]"
# What a browser calls a fault although it is an answer that the page expects and shows.
_ANSWERS = "Failed to load resource: the server responded with a status of 4"
_WATCH = """
window.breaches = [];
document.addEventListener("securitypolicyviolation", (e) => window.breaches.push(`${e.violatedDirective} ${e.blockedURI}`));
"""


@contextmanager
def chromium(*switches: str) -> Iterator[Browser]:
    """A browser without a window; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no chromium on this machine")
    with api.sync_playwright() as playwright:
        # A sandbox cannot be made as root, which CI is.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *switches])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """A page at the workstation and what it did."""

    page: Page
    origin: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Nothing went anywhere else, nothing was complained of, no policy was breached."""
        elsewhere = {url for url in self.requests if not url.startswith((self.origin, "blob:" + self.origin, "data:"))}
        assert elsewhere == set()
        assert self.complaints == []
        assert self.page.evaluate("window.breaches") == []

    def script(self, text: str) -> Any:
        """The value of an expression in the page."""
        return self.page.evaluate(text)


@contextmanager
def watched(browser: Browser, url: str, settings: Mapping[str, str] | None = None, **context: Any) -> Iterator[Watched]:
    """The page at ``url`` with kept ``settings``; checked at the end."""
    given = browser.new_context(
        accept_downloads=True, reduced_motion="reduce", **({"viewport": {"width": 1280, "height": 800}} | context)
    )
    given.set_default_timeout(20_000)
    given.add_init_script(_WATCH)
    for name, value in (settings or {}).items():
        given.add_init_script(f"localStorage.setItem('skinedge.{name}', '{value}')")
    page = given.new_page()
    found = Watched(page, url.rstrip("/"))
    page.on("request", lambda request: found.requests.append(request.url))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on(
        "console",
        lambda m: found.complaints.append(m.text) if m.type in ("error", "warning") and _ANSWERS not in m.text else None,
    )
    page.on("filechooser", lambda _: None)  # a listener that comes and goes lets one dialog in between through
    page.goto(url)
    page.wait_for_selector(READY)
    try:
        yield found
        found.check()
    finally:
        given.close()


def faults(page: Page) -> list[str]:
    """What axe-core finds serious or critical."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{v['id']}: {node['target']} {node['failureSummary']}"
        for v in found
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]


def becomes(page: Page, expression: str, seconds: float = 20) -> None:
    """Wait until an expression is true.  Playwright's own way evaluates inside the page, which the policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"it did not become so: {expression}"
        page.wait_for_timeout(30)


def tab_to(page: Page, selector: str, most: int = 80) -> None:
    """Press Tab until the element has the focus; every stop on the way shows where it is."""
    for _ in range(most):
        page.keyboard.press("Tab")
        at = page.evaluate(
            """() => {
            const e = document.activeElement, s = getComputedStyle(e), f = getComputedStyle(e.closest(".field") ?? e);
            return { html: e.outerHTML.slice(0, 120), body: e === document.body,
            shown: [s, f].some((x) => x.outlineStyle !== "none") } }"""
        )
        assert at["shown"] or at["body"], f"the focus is not visible: {at['html']}"
        if page.evaluate(f"document.activeElement.matches({selector!r})"):
            return
    raise AssertionError(f"Tab does not reach {selector}")


def photograph(folder: Path, seed: int, name: str = "photo.png") -> Path:
    """A drawn picture of skin, large enough to be taken without a warning."""
    import numpy as np
    from PIL import Image

    from skinedge.synthderm.findings import draw_cases
    from skinedge.synthderm.picture import render

    drawn = Image.fromarray(render(draw_cases(1, seed)[0])).resize((640, 640), Image.Resampling.LANCZOS)
    grain = np.random.default_rng(seed).normal(0, 12, (640, 640, 1))  # without it an enlarged picture is a blurred one
    path = folder / name
    Image.fromarray(np.clip(np.asarray(drawn) + grain, 0, 255).astype(np.uint8)).save(path)
    return path
