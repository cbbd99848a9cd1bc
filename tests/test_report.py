"""``skinedge report``: what it computes, what it refuses, and that its page keeps its promises."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from command_line import ROOT, typed
from measured import OFFICE, ORIN, bundle, case, kit_record, measured_case, parity, result, sample, write_documents

from skinedge.errors import BundleError, UsageError
from skinedge.manifest import MANIFEST_FILE
from skinedge.measure.result import BundleRecord, CaseResult, RunSample
from skinedge.parity.certificate import FILE, FOLDER, write_certificate
from skinedge.parity.certifying import make_certificate
from skinedge.report.documents import read_documents
from skinedge.report.figures import Spread, case_figures
from skinedge.report.page import render, write_report
from skinedge.report.pareto import closeness, rightness
from skinedge.report.sections import machines, problems
from tests.parity_rows import make_context, make_rows

NOW = datetime(2026, 5, 6, 12, 0, tzinfo=UTC)
NODE_MODULES = ROOT / "build" / "node" / "node_modules"


def write_certificate_of(what: BundleRecord, path: Path, *, lost: int = 0, wrong: int = 6, count: int = 60) -> Path:
    """Into the file ``path``, as in a bundle's folder; the bundle is right in all but the first ``lost`` and last ``wrong``."""
    made = make_certificate(make_rows(count, lost=lost, wrong=wrong), make_context(bundle=what), now=NOW)
    folder = write_certificate(made, path.with_name(f"{path.stem}-certificate"))
    (folder / FILE).rename(path)
    shutil.rmtree(folder)
    return path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of both GGUF bundles of ``write_documents``, and of one that nobody measured."""
    folder = tmp_path_factory.mktemp("certificates")
    return [
        write_certificate_of(bundle("gguf", "q8_0", 8.5, 8 * 10**9), folder / "q8_0.json"),
        write_certificate_of(bundle("gguf", "q4_k_m", 4.9, 5 * 10**9), folder / "q4_k_m.json", lost=9),
        write_certificate_of(bundle("gguf", "iq4_xs", 4.4, 4 * 10**9), folder / "iq4_xs.json", lost=1),
    ]


@pytest.fixture
def page(tmp_path: Path, certificates: list[Path]) -> str:
    return render(read_documents([*write_documents(tmp_path), *certificates]), "Room 3 <b>", NOW)


class Page(HTMLParser):
    """Tags with their attributes, and the words outside of style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data

    def of(self, name: str) -> Iterator[dict[str, str | None]]:
        return (attributes for tag, attributes in self.tags if tag == name)


def test_spread_and_derived_figures() -> None:
    spread = Spread.of([4.0, 1.0, 2.0, 3.0])
    assert spread == Spread(median=2.5, q1=1.75, q3=3.25, p90=3.7, least=1.0, n=4)
    assert Spread.of([]) is None


def one_run(steps: int, step_ms: float, prefill: float = 100.0) -> RunSample:
    return RunSample(
        preprocess_ms=10, image_encode_ms=20, prefill_ms=prefill, sample_ms=1, ttft_ms=31 + prefill,
        e2e_ms=31 + prefill + steps * step_ms, output_tokens=steps + 1, step_ms=(step_ms,) * steps,
    )  # fmt: skip


def test_ceiling_is_bandwidth_over_the_bytes_of_a_step() -> None:
    # REFERENCE section 6: Q4_K_M of the 7B on an AGX Orin, 205 GB/s; 1430 prompt tokens and 101 new ones.
    runs = CaseResult(case=case(new=101), status="measured", samples=(one_run(100, 30),))
    figures = case_figures(result(ORIN, bundle("gguf", "q4_k_m", 4.9, 5 * 10**9), (runs,), weights=4_680_000_000), runs)
    assert figures.ceiling is not None
    assert figures.ceiling.context == 1480
    assert figures.ceiling.tok_s == pytest.approx(205e9 / (4.68e9 + 57344 * 1480))
    assert figures.ceiling.source == "data sheet"
    assert figures.share == pytest.approx((1000 / 30) / figures.ceiling.tok_s)
    assert not figures.above_ceiling


def test_a_machine_that_is_no_known_device_has_the_ceiling_of_its_probe() -> None:
    runs = measured_case(case(), 100, 100)
    r = result(OFFICE, bundle("gguf", "q8_0", 8.5, 8 * 10**9), (runs,), weights=7_510_000_000, cache_bytes_per_position=None)
    found = case_figures(r, runs).ceiling
    assert found is not None
    assert (found.source, found.cache_bytes) == ("probe on the machine", None)
    assert found.tok_s == pytest.approx(62e9 / 7.51e9)
    assert case_figures(r.model_copy(update={"bandwidth_gb_s": None}), runs).ceiling is None
    # what a processor's cache can hold is not read from memory
    assert case_figures(r.model_copy(update={"weight_bytes_per_token": 300 << 20}), runs).ceiling is None


@pytest.mark.parametrize(
    ("run", "one", "expected"),
    [
        ({}, {}, ("measured", None)),
        ({"status": "estimated"}, {}, ("estimated", None)),
        ({}, {"status": "estimated"}, ("estimated", None)),
        ({"status": "invalid", "reason": "swap grew"}, {}, ("invalid", "swap grew")),
        ({"status": "estimated"}, {"status": "skipped", "reason": "too long"}, ("skipped", "too long")),
        ({"throttling": ("thermal",)}, {}, ("invalid", "throttled: thermal")),
    ],
)
def test_a_case_counts_only_as_far_as_its_run_does(
    run: dict[str, object], one: dict[str, object], expected: tuple[str, str | None]
) -> None:
    figures = case_figures(result(ORIN, bundle("onnx", "int4", 4.6, 10**9), (), **run), measured_case(case(), 100, 30, **one))
    assert (figures.status, figures.reason) == expected
    assert figures.shown == (expected[0] in ("measured", "estimated"))


def test_parts_that_do_not_add_up_are_named() -> None:
    broken = one_run(5, 10).model_copy(update={"ttft_ms": 140.0})
    runs = CaseResult(case=case(), status="measured", samples=(one_run(5, 10), broken, broken))
    found = case_figures(result(ORIN, bundle("onnx", "int4", 4.6, 10**9), ()), runs).problems
    assert len(found) == 1
    assert "miss the time to first token by 6.4% or more" in found[0]
    once = CaseResult(case=case(), status="measured", samples=(one_run(5, 10), one_run(5, 10), broken))
    assert case_figures(result(ORIN, bundle("onnx", "int4", 4.6, 10**9), ()), once).problems == ()


def test_what_cannot_be_right_is_said_first(tmp_path: Path) -> None:
    paths = write_documents(tmp_path)
    bad_kit = tmp_path / "bad-kit.json"
    bad_kit.write_text(kit_record(None, passed=False).to_json())
    (tmp_path / "parity-onnx.json").write_text(json.dumps(parity(bundle("onnx", "int4", 4.6, 5 * 10**9), 0.4, passed=False)))
    documents = read_documents([*paths, bad_kit])
    said = problems(documents, machines(documents))
    assert len(said) == 3
    assert re.match(r"R\d, onnx int4, case cap: .* tokens/s is above the ceiling of .* That is a bug", said[0])
    assert "golden case wide failed" in said[1]
    assert "stage 'steps' is out of tolerance" in said[2]
    text = Page(render(documents, "t", NOW)).words
    assert "3 things that cannot be right" in text
    assert text.index("cannot be right") < text.index("Summary", text.index("Definitions"))


def test_quality_beside_speed_knows_what_is_beaten(tmp_path: Path) -> None:
    found = machines(read_documents(write_documents(tmp_path)))
    office = closeness(next(m for m in found if m.title == OFFICE.model))
    assert office is not None
    front = {p.entry.label: p.front for p in office.points}
    # int4 is "faster" only by a bug, so that it beats nothing
    assert front == {"gguf q8_0": True, "gguf q4_k_m": True, "onnx int4": False}
    orin = closeness(next(m for m in found if m.title == ORIN.model))
    assert orin is not None
    assert {p.entry.label: p.front for p in orin.points}["gguf q8_0"] is False, "an estimate is never on the front"
    assert all(0 <= p.x <= 100 and 0 <= p.y <= 100 for p in (*office.points, *orin.points))


def test_a_beaten_bundle_is_not_on_the_front(tmp_path: Path) -> None:
    for name, step, kl in (("q8_0", 50, 0.001), ("q4_k_m", 40, 0.03), ("iq4_xs", 60, 0.04)):
        what = bundle("gguf", name, 5, 10**9)
        (tmp_path / f"{name}.json").write_text(result(OFFICE, what, (measured_case(case(), 100, step),)).to_json())
        (tmp_path / f"p-{name}.json").write_text(json.dumps(parity(what, kl)))
    shown = closeness(machines(read_documents([tmp_path]))[0])
    assert shown is not None
    assert [p.entry.result.bundle.scheme for p in shown.front] == ["q8_0", "q4_k_m"]


def test_right_diagnoses_beside_speed(tmp_path: Path, certificates: list[Path]) -> None:
    paths = [*write_documents(tmp_path), *certificates]
    found = machines(read_documents(paths))
    office = rightness(next(m for m in found if m.title == OFFICE.model))
    assert office is not None
    right = {p.entry.label: p for p in office.points}
    assert set(right) == {"gguf q8_0", "gguf q4_k_m"}, "the third has no certificate"
    assert all(p.interval and 0 <= p.interval[0] < p.y < p.interval[1] <= 100 for p in office.points)
    ticks = {text: at for at, text in office.y_ticks}
    assert ticks["90 %"] == pytest.approx(right["gguf q8_0"].y), "54 of 60 are right"
    assert right["gguf q8_0"].front
    assert right["gguf q4_k_m"].front, "less often right, but faster"
    assert rightness(next(m for m in found if m.title == ORIN.model)) is None, "the speed of one of them does not count there"


def test_bundles_asked_of_other_pictures_are_not_compared(tmp_path: Path, certificates: list[Path]) -> None:
    paths = write_documents(tmp_path)
    other = write_certificate_of(bundle("gguf", "q4_k_m", 4.9, 5 * 10**9), tmp_path / "other.json", count=61)
    documents = read_documents([*paths, certificates[0], other])
    assert all(rightness(machine) is None for machine in machines(documents))
    assert "Whether it still reasons" in render(documents, "t", NOW), "its figures stand in the table alone"


def test_certificates_are_told_with_their_verdicts(page: str, certificates: list[Path]) -> None:
    words = Page(page).words
    table = words[words.index("Bundle beside PyTorch, whole narratives") :]
    assert "not measured here" in table[table.index("gguf iq4_xs") :][:200]
    assert "100.0 %" in table
    assert "60 drawn, SynthDerm, seed 7" in table
    documents = read_documents(certificates)
    assert [c.verdict for c in documents.certificates] == ["not enough data", "fail", "not enough data"]
    said = problems(documents, ())
    assert len(said) == 1
    assert said[0].startswith("gguf q4_k_m: its certificate says fail: accuracy difference is beyond its margin")


def test_a_bundle_stands_for_its_certificate(tmp_path: Path, certificates: list[Path]) -> None:
    folder = tmp_path / "bundle"
    (folder / FOLDER).mkdir(parents=True)
    (folder / MANIFEST_FILE).write_text("{}")
    with pytest.raises(UsageError, match="bundle has no certificate") as e:
        read_documents([folder])
    assert e.value.hint == f"Make one: skinedge parity {folder} --reference MODEL --images DIR --certify"
    shutil.copy(certificates[0], folder / FOLDER / FILE)
    assert len(read_documents([folder]).certificates) == 1
    (folder / FOLDER / FILE).write_text((folder / FOLDER / FILE).read_text().replace("60 test cases", "61 test cases"))
    with pytest.raises(BundleError, match="was changed since it was written"):
        read_documents([folder])


def test_invalid_and_skipped_cases_are_shown_with_their_reasons_only(page: str) -> None:
    words = Page(page).words
    counted, left = words.split("Not counted")[-2:]
    assert "GPU clock fell from 1300 to 930 MHz" in left
    assert "it does not fit into memory" in left
    assert "two photographs" not in counted


def test_every_estimate_is_marked(page: str) -> None:
    bars = re.findall(r'<div class="row">.*?</div>', page, re.DOTALL)
    marked = [b for b in bars if "hatch" in b]
    assert len(marked) == 2  # latency and tokens/s of the one estimated result
    assert all("estimated</span>" in b for b in marked)
    rows = [
        r
        for r in re.findall(r'<tr role="row".*?</tr>', page, re.DOTALL)
        if "gguf q8_0" in r and "R3" in r and "SynthDerm" not in r
    ]
    assert rows
    assert all("estimated</span>" in r for r in rows)
    assert "estimated: nothing here was measured" in page


def test_the_page_holds_everything_and_asks_for_nothing(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    assert not {tag for tag, _ in parsed.tags} & {"script", "img", "iframe", "object", "form"}
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert all(link["href"] == "data:," for link in parsed.of("link"))
    policy = next(m["content"] for m in parsed.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_names_and_structure_for_those_who_cannot_see_it(page: str) -> None:
    parsed = Page(page)
    assert next(parsed.of("html"))["lang"] == "en"
    assert all(a.get("aria-label") for _, a in parsed.tags if a.get("role") == "img")
    assert len(list(parsed.of("caption"))) == len(list(parsed.of("table")))
    assert all(cell["data-label"] for cell in parsed.of("td"))
    ids = [a["id"] for _, a in parsed.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for a in parsed.of("a")} <= set(ids)
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), "a level of headings is left out"


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * d for d in digits)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_text_and_bars() -> None:
    css = (ROOT / "skinedge" / "report" / "page.css").read_text()
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", css))
    for name in ("ink", "soft", "link", "bad", "est"):
        for background in ("#fff", colours["wash"], colours["badwash"], colours["estwash"]):
            assert contrast(colours[name], background) >= 4.5, (name, background)
    for name in ("s1", "s2", "s3", "s4"):
        assert contrast(colours[name], "#fff") >= 3, name


def test_what_comes_from_outside_is_only_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    machine = OFFICE.model_copy(update={"model": bad, "processor": bad, "governor": '" onload="x'})
    run = result(machine, bundle("onnx", "int4", 4, 10**9), (measured_case(case(bad), 100, 30),), suite=bad, flags={bad: bad})
    (tmp_path / "a.json").write_text(run.to_json())
    text = render(read_documents([tmp_path]), bad, NOW)
    assert "<script" not in text
    assert 'onload="x' not in text
    assert bad in Page(text).words


def test_every_kind_of_document_is_found_and_counted_once(tmp_path: Path) -> None:
    paths = write_documents(tmp_path)
    write_certificate_of(bundle("gguf", "q8_0", 8.5, 8 * 10**9), tmp_path / "certificate.json")
    (tmp_path / "again.json").write_bytes(paths[0].read_bytes())
    three = [parity(bundle("gguf", s, 5, 10**9), 0.1) for s in ("q8_0", "q6_k", "q5_k_m")]
    (tmp_path / "demo.json").write_text(json.dumps(three))
    found = read_documents([tmp_path])
    # the kit's file holds a measurement too, and the comparison two
    assert (len(found.measured), len(found.forecasts), len(found.parities), len(found.kits)) == (9, 1, 6, 1)
    assert (len(found.comparisons), len(found.certificates)) == (1, 1)
    assert len(found) == len(list(tmp_path.glob("*.json")))
    assert len(read_documents([tmp_path / "orin-*.json"]).measured) == 3, "a pattern that the shell left alone"


def test_the_command(tmp_path: Path) -> None:
    write_documents(tmp_path / "docs")
    done = typed("report", tmp_path / "docs", "--out", tmp_path / "r.html", "--title", "Room 3", "--json")
    assert done.code == 0, done.err
    assert done.json["measured"] == 9
    assert done.json["nbytes"] == (tmp_path / "r.html").stat().st_size
    assert "<title>Room 3</title>" in (tmp_path / "r.html").read_text()
    again = typed("report", tmp_path / "docs", "--out", tmp_path / "r.html")
    assert again.code == 1
    assert "exists already" in again.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "is not JSON"),
        ("{}", "nothing that a report shows"),
        ("[1, 2]", "nothing that a report shows"),
        ('{"kind": "forecast", "schema_version": 99}', "no forecast of schema version 1"),
        ('{"kind": "kit-result", "schema_version": 99}', "no result of a kit of schema version 1"),
        ('{"cases": [], "machine": {}, "schema_version": 7}', "its schema version is 7"),
        ('{"cases": [], "machine": {}, "schema_version": 1}', "Field required"),
        ('{"kind": "comparison", "judgements": []}', "status: Field required"),
        ('{"bundle": "x", "stages": [], "same_source": true}', "bundle: String should match pattern"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError, match=message) as e:
        write_report([tmp_path / "a.json"], tmp_path / "r.html", "t")
    assert e.value.hint
    assert not (tmp_path / "r.html").exists()


def test_nothing_to_show_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(parity(bundle("gguf", "q8_0", 5, 10**9), 0.1)))
    with pytest.raises(UsageError, match="no measurement and no forecast"):
        write_report([tmp_path / "p.json"], tmp_path / "r.html", "t")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no JSON file"):
        write_report([tmp_path / "empty"], tmp_path / "r.html", "t")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        write_report([tmp_path / "missing.json"], tmp_path / "r.html", "t")


def test_a_report_of_one_number_only_is_still_a_page(tmp_path: Path) -> None:
    """A single token: no time per token, no ceiling, no energy, no parity."""
    import numpy as np

    single = CaseResult(case=case(new=1), status="measured", samples=(sample(np.random.default_rng(0), 1, 100, 30),))
    (tmp_path / "a.json").write_text(result(OFFICE, bundle("onnx", "f32", 32, 10**8), (single,)).to_json())
    words = Page(render(read_documents([tmp_path]), "t", NOW)).words
    assert "no parity report given" in words
    assert "no energy is stated" in words


@pytest.mark.slow
def test_in_a_real_browser(page: str, tmp_path: Path) -> None:
    browser, node = shutil.which("chromium"), shutil.which("node")
    if not browser or not node or not (NODE_MODULES / "playwright-core").is_dir() or not (NODE_MODULES / "axe-core").is_dir():
        pytest.skip("needs chromium and node, and: npm install --prefix build/node playwright-core axe-core")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    command = [node, str(ROOT / "benchmarks" / "report_browser.mjs"), str(tmp_path / "page.html"), str(tmp_path), browser]
    environment = {**os.environ, "NODE_PATH": str(NODE_MODULES)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
    found = json.loads(done.stdout)
    assert found["requests"] == []
    assert found["console"] == []
    for name in ("desktop", "phone"):
        assert found["axe"][name]["violations"] == []
        assert found["widths"][name][0] <= found["widths"][name][1], f"the page is wider than a {name}"
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
