"""``skinedge bench`` on the embedded model's three bundles: what is said, what is written, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import ROOT, environment, typed
from PIL import Image

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.devices import read_device
from skinedge.embedded import embedded_checkpoint
from skinedge.errors import BundleError, TargetError, UsageError
from skinedge.manifest import read_manifest
from skinedge.measure import bandwidth, bench, ceiling, compare, runs
from skinedge.measure.harness import PROTOCOL, Question, Rules, prepare, run_once
from skinedge.measure.pagecache import evict
from skinedge.measure.result import Result, read_result
from skinedge.measure.show import show_result
from skinedge.measure.suites import Suite
from skinedge.measure.telemetry import Reading, Sampler
from skinedge.runtime.pipeline import open_pipeline
from skinedge.targets._contract import ExportOptions

CONTEXT = 512
BUNDLES = {"onnx": ("int4", ()), "gguf": ("q8_0", ()), "trt": ("f16", ("--target", "onnx"))}
SUITE = """
[[case]]
name = "small"
images = [[84, 56]]
new_tokens = 6
[[case]]
name = "words"
text_tokens = 40
new_tokens = 5
mode = "natural"
[[case]]
name = "endless"
new_tokens = 3000
"""


@pytest.fixture(scope="module")
def source() -> AdapterCheckpoint:
    return embedded_checkpoint()


@pytest.fixture(scope="module")
def onnx(source: AdapterCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(source, "onnx", ExportOptions("int4", workers=1), tmp_path_factory.mktemp("bench") / "onnx").path


@pytest.fixture(scope="module", params=[pytest.param("onnx"), pytest.param("gguf"), pytest.param("trt", marks=pytest.mark.slow)])
def bundle(request: pytest.FixtureRequest, source: AdapterCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    scheme = BUNDLES[request.param][0]
    if request.param == "onnx":
        return request.getfixturevalue("onnx")  # type: ignore[no-any-return]
    options = ExportOptions(scheme, context=CONTEXT, workers=1)
    return export(source, request.param, options, tmp_path_factory.mktemp("bench") / request.param).path


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(SUITE)
    return tmp_path / "tiny.toml"


def shorten(patch: pytest.MonkeyPatch) -> None:
    """Two runs are enough, the machine need not rest, and its memory is not timed."""
    for module in (runs, compare):
        patch.setattr(module, "PROTOCOL", Rules(1, 2, 0.0))
    patch.setattr(bench, "IDLE_SECONDS", 0.2)
    patch.setattr(bench, "probe", lambda threads: 5e9)


@pytest.fixture
def short_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


def arguments(bundle: Path, suite: Path, *more: str | Path) -> list[str | Path]:
    side = BUNDLES[read_manifest(bundle).target][1]
    few = ("--threads", "1", "--context", str(CONTEXT), "--runs", "3", "--seconds", "0")
    return ["bench", bundle, "--suite", suite, *side, *few, *more]


# --- what is measured ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Any]:
    """The document and the line of one run of the command."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "tiny.toml").write_text(SUITE)
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        done = typed(*arguments(bundle, folder / "tiny.toml", "--out", folder / "r.json", "--json", "--device", "rtx-4090"))
    assert done.code == 0, done.err
    assert done.json["result"] == str(folder / "r.json")
    return read_result(folder / "r.json"), done.json


def test_a_bundle_is_measured_and_written(bundle: Path, measured: tuple[Result, Any]) -> None:
    result, manifest = measured[0], read_manifest(bundle)
    assert (result.status, result.suite, result.threads) == ("measured", "tiny", 1)
    assert (result.bundle.digest, result.bundle.lineage) == (manifest.digest, manifest.lineage)
    assert result.machine.device == "rtx-4090"
    assert result.flags["ran_on"] == "cpu"
    assert result.load_warm_s is not None
    assert result.load_warm_s > 0
    assert result.peak_resident_bytes is not None
    assert result.peak_resident_bytes > 20 << 20
    small, words, endless = result.cases
    check_case_of_fixed_length(small)
    assert words.case.images == ()
    assert 20 < words.case.prompt_tokens <= 40
    assert all(s.output_tokens <= 5 for s in words.samples)
    assert endless.status == "skipped"
    assert "3000 new ones do not fit the context of 512" in str(endless.reason)


def test_the_line_for_scripts(measured: tuple[Result, Any]) -> None:
    result, told = measured
    assert (told["digest"], told["status"], told["kind"]) == (result.digest, "measured", "result")
    assert [c["name"] for c in told["cases"]] == ["small", "words", "endless"]
    assert told["cases"][0]["ttft_ms"]["n"] == 3
    assert told["cases"][0]["ttft_ms"]["median"] == sorted(s.ttft_ms for s in result.cases[0].samples)[1]
    assert 0.98 <= told["cases"][0]["ttft_parts"] <= 1.0
    assert told["cases"][2]["reason"] == result.cases[2].reason


def test_the_table(bundle: Path, measured: tuple[Result, Any], capsys: pytest.CaptureFixture[str]) -> None:
    result = measured[0]
    show_result(result, read_manifest(bundle))
    head, _, small, words, *rest = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "case"
    columns = small.split()
    assert columns[:4] == ["small", str(result.cases[0].case.prompt_tokens), "6", "6"]
    assert columns[-1] == "3"
    ttft = sorted(s.ttft_ms for s in result.cases[0].samples)[1]
    assert f"{ttft:.1f} (" in small
    assert words.startswith("words")
    text = "\n".join(rest)
    for said in ("endless: skipped: ", "opened in ", "memory at most ", "memory is read at 5.0 GB/s"):
        assert said in text


def check_case_of_fixed_length(found: Any) -> None:
    """Counts, and the definitions of REFERENCE section 6."""
    assert (found.status, found.warmups, len(found.samples)) == ("measured", 3, 3)
    assert (found.case.image_pixels, found.case.image_tokens) == (((84, 56),), 6)
    assert found.case.prompt_tokens > 6
    assert found.case.context == CONTEXT
    for sample in found.samples:
        assert (sample.output_tokens, len(sample.step_ms)) == (6, 5)
        parts = sample.preprocess_ms + sample.image_encode_ms + sample.prefill_ms + sample.sample_ms
        assert parts <= sample.ttft_ms < sample.e2e_ms
        assert sample.tpot_ms == pytest.approx((sample.e2e_ms - sample.ttft_ms) / 5)
        assert sum(sample.step_ms) <= sample.e2e_ms - sample.ttft_ms


def test_parts_add_up_to_the_first_token(onnx: Path, tmp_path: Path) -> None:
    """Within 2 %, though each is timed by itself: nothing that takes time is outside of them."""
    Image.new("RGB", (120, 90), "sienna").save(tmp_path / "lesion.jpg")
    with open_pipeline(onnx, threads=1) as pipeline:
        ready = prepare(pipeline, Question("x", (tmp_path / "lesion.jpg",), None, 2, "fixed"))
        ratios = []
        for _ in range(7):
            s = run_once(pipeline, ready).sample
            ratios.append((s.preprocess_ms + s.image_encode_ms + s.prefill_ms + s.sample_ms) / s.ttft_ms)
    assert 0.98 <= sorted(ratios)[3] <= 1


def test_a_prompt_is_as_long_as_a_suite_wants_it(onnx: Path) -> None:
    with open_pipeline(onnx, threads=1) as pipeline:
        for wanted in (40, 200, 1000):
            record = prepare(pipeline, Question("x", (), wanted, 2, "fixed")).record
            assert wanted - 8 < record.prompt_tokens <= wanted


def test_what_is_less_than_the_protocol_is_not_valid(onnx: Path, suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "probe", lambda threads: 5e9)
    done = typed(*arguments(onnx, suite, "--json"))
    assert done.code == 1
    assert done.json["status"] == "invalid"
    assert "3 warm-ups and 3 runs in " in done.json["reason"]
    assert "the protocol asks for at least 3, 10 and 10 s" in done.json["reason"]
    assert (PROTOCOL.warmups, PROTOCOL.runs, PROTOCOL.seconds) == (3, 10, 10.0)


class Disturbing:
    """A source that says something bad after a while."""

    name = "disturbing"

    def __init__(self, bad: Reading, quiet: int) -> None:
        self.bad, self.quiet = bad, quiet

    def read(self) -> Reading:
        self.quiet -= 1
        return Reading(swap_bytes=0) if self.quiet >= 0 else self.bad

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Reading(throttle=("GPU power brake",)), "the machine throttled itself: GPU power brake"),
        (Reading(swap_bytes=200 << 20), "the machine began to swap: 200 MiB more than at the start"),
    ],
)
def test_a_disturbed_run_ends_and_is_invalid(
    onnx: Path, suite: Path, tmp_path: Path, short_protocol: None, monkeypatch: pytest.MonkeyPatch, bad: Reading, said: str
) -> None:
    host = SimpleNamespace(pid=None)
    monkeypatch.setattr(bench, "open_sources", lambda: (host, [Disturbing(bad, 4)]))
    out = tmp_path / "result.json"
    done = typed(*arguments(onnx, suite, "--out", out))
    assert done.code == 1
    assert f"invalid: {said}" in done.err
    result = read_result(out)
    assert (result.status, result.reason) == ("invalid", said)
    assert [c.reason for c in result.cases if c.status == "invalid"] in ([], [said])
    assert len(result.cases) < 3
    assert result.throttling == bad.throttle


def test_energy_is_told_apart_and_above_rest(onnx: Path, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Power:
        name = "rapl"

        def read(self) -> Reading:
            return Reading(watts={"rapl": 30.0})

        def close(self) -> None: ...

    monkeypatch.setattr(bench, "open_sources", lambda: (SimpleNamespace(pid=None), [Power()]))
    monkeypatch.setattr(bench, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(bench, "probe", lambda threads: 5e9)
    monkeypatch.setattr("skinedge.measure.energy.LEAST_SECONDS", 0.0)
    out = tmp_path / "result.json"
    done = typed(*arguments(onnx, suite, "--out", out))
    small = read_result(out).cases[0]
    assert small.prefill_energy is not None
    assert small.decode_energy is not None
    assert small.prefill_energy.gross_j == pytest.approx(30 * small.prefill_energy.seconds)
    assert small.prefill_energy.net_j == pytest.approx(0, abs=1e-6)
    assert small.prefill_energy.tokens == 3 * small.case.prompt_tokens
    assert small.decode_energy.tokens == 3 * 5
    decode_s = sum(s.e2e_ms - s.ttft_ms for s in small.samples) / 1e3
    assert small.decode_energy.seconds == pytest.approx(decode_s, rel=1e-6)
    assert "J a token" in done.out


def test_decoding_above_the_ceiling_is_a_fault_of_the_measurement(
    onnx: Path, suite: Path, tmp_path: Path, short_protocol: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "probe", lambda threads: 1e6)  # 1 MB/s
    monkeypatch.setattr(ceiling, "SAYS_NOTHING_BELOW", 0)
    done = typed(*arguments(onnx, suite, "--json"))
    assert done.code == 1
    assert "times as fast as this machine can read the weights: a fault of the measurement" in done.json["reason"]


# --- on a GPU -----------------------------------------------------------------------------------------------------------


def on_a_gpu(onnx: Path, case: str, monkeypatch: pytest.MonkeyPatch, reading: Reading, device: str | None) -> Result:
    """A run that says it computed on a GPU, on a machine whose sources say ``reading`` and whose GPU cannot be probed."""

    class Source:
        name = "source"

        def read(self) -> Reading:
            return reading

        def close(self) -> None: ...

    def no_probe(*_: object) -> float:
        raise TargetError("CUDA refuses")

    monkeypatch.setattr(bench, "open_sources", lambda: (SimpleNamespace(pid=None), [Source()]))
    monkeypatch.setattr(bench, "probe", lambda threads: pytest.fail("the processor's memory is not the GPU's"))
    monkeypatch.setattr(bench, "probe_gpu", no_probe)
    monkeypatch.setattr(ceiling, "SAYS_NOTHING_BELOW", 0)
    script = CANNED.replace("on_gpu=False", "on_gpu=True")
    subject = bench.Subject(onnx, worker=(sys.executable, "-S", "-c", script, "1", case))
    asked = (Question("canned", (), None, 10, "fixed"),)
    return bench.bench(subject, Suite("s", "s", ()), asked, Rules(3, 3, 0.0), device=device)


def test_where_it_computed_is_what_the_session_says(
    onnx: Path, measured_case: str, short_protocol: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No driver says how much of the GPU's memory is in use (Jetson, DGX Spark), and still it ran there."""
    found = on_a_gpu(onnx, measured_case, monkeypatch, Reading(), None)
    assert (found.status, found.flags["ran_on"], found.bandwidth_gb_s) == ("measured", "gpu", None)
    assert found.flags["throttling"].startswith("of the GPU could not be watched")
    show_result(found, read_manifest(onnx))


def test_a_gpu_whose_throttling_is_watched(
    onnx: Path, measured_case: str, short_protocol: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = on_a_gpu(onnx, measured_case, monkeypatch, Reading(sees_gpu=True), None)
    assert "throttling" not in found.flags
    show_result(found.model_copy(update={"flags": {"throttling": bench.UNWATCHED}}), read_manifest(onnx))
    assert "throttling of the GPU could not be watched: nvidia-ml-py is missing" in capsys.readouterr().out


@pytest.mark.parametrize(("device", "status"), [("rtx-4090", "measured"), ("slow", "invalid")])
def test_a_run_is_held_against_the_data_sheet_of_the_device(
    onnx: Path, measured_case: str, short_protocol: None, monkeypatch: pytest.MonkeyPatch, device: str, status: str
) -> None:
    """Ten milliseconds a token of some megabytes: less than an RTX 4090 reads, and more than one at 1 MB/s."""
    slow = replace(read_device("rtx-4090"), bandwidth_gb_s=1e-3)
    monkeypatch.setattr(ceiling, "known_devices", lambda: ("rtx-4090", "slow"))
    monkeypatch.setattr(ceiling, "read_device", lambda name: slow if name == "slow" else read_device(name))
    assert on_a_gpu(onnx, measured_case, monkeypatch, Reading(), device).status == status


def test_the_ceilings_memory_is_the_one_that_held_the_weights() -> None:
    def memory(device: str | None, probe: float | None, ran_on: str) -> object:
        machine = SimpleNamespace(device=device)
        return ceiling.memory_gb_s(SimpleNamespace(machine=machine, bandwidth_gb_s=probe, flags={"ran_on": ran_on}))  # type: ignore[arg-type]

    assert memory("rtx-4090", 30.0, "cpu") == (30.0, "probe on the machine"), "the card's memory was not read"
    assert memory("rtx-4090", 900.0, "gpu") == (1008.0, "data sheet")
    assert memory("jetson-agx-orin-64gb", 100.0, "cpu") == (205.0, "data sheet"), "one memory for both"
    assert memory("workstation-ddr4-3200", 700.0, "gpu") == (700.0, "probe on the machine")
    assert memory("workstation-ddr4-3200", 60.0, "cpu") == (60.0, "probe on the machine"), "more than the data sheet says"
    assert memory(None, None, "gpu") is None
    assert memory("this-machine", None, "cpu") is None


# --- bytes of a token -------------------------------------------------------------------------------------------------


def test_bytes_that_a_token_reads(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    found = ceiling.weight_bytes(manifest)
    text = manifest.architecture.text
    linear = text.num_layers * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 768) + 256 * text.vocab_size
    bits = {"onnx": 5.0, "gguf": 8.5, "trt": 16.0}[manifest.target]  # int4 with f32 scales, block 32; q8_0; f16
    assert found == pytest.approx(linear * bits / 8, rel=0.03)
    floats = {"onnx": 4, "gguf": 2, "trt": 2}[manifest.target]
    assert ceiling.cache_bytes(manifest) == 2 * 4 * 2 * 64 * floats


def test_the_ceiling_of_the_7b_is_the_references() -> None:
    """Section 6: 57,344 bytes of cache a position in 16 bits, 4.68 GB of Q4_K_M."""
    manifest = SimpleNamespace(
        target="trt",
        scheme=SimpleNamespace(asked="int4", activations=None),
        architecture=SimpleNamespace(text=SimpleNamespace(num_layers=28, num_kv_heads=4, head_dim=128)),
    )
    assert ceiling.cache_bytes(manifest) == 57_344  # type: ignore[arg-type]
    assert ceiling.ceiling(204.8e9, 4_680_000_000, 57_344, 0) == pytest.approx(43.8, abs=0.1)
    assert ceiling.ceiling(204.8e9, 4_680_000_000, 57_344, 4096) < 41.7


# --- against each other -----------------------------------------------------------------------------------------------


# Tells what a worker tells, at once: a step of ten milliseconds, and what its argument makes of it.
CANNED = """
import json, sys
job, slower = json.load(sys.stdin), float(sys.argv[1])
case = json.loads(sys.argv[2])
def tell(event, **more): print(json.dumps({"event": event, **more}))
tell("loaded", seconds=1.0, evicted=False, on_gpu=False)
for n, q in enumerate(job["questions"]):
    tell("case", number=n, case=case, misfit=None)
    for i in range(job["rules"]["warmups"] + job["rules"]["runs"]):
        steps = [10 * slower] * 9
        sample = dict(preprocess_ms=1.0, image_encode_ms=2.0, prefill_ms=5.0, sample_ms=0.0, ttft_ms=8.0, e2e_ms=8 + sum(steps),
                      output_tokens=10, step_ms=steps)
        tell("run", number=n, counts=i >= job["rules"]["warmups"], sample=sample, encoding=0, first=0, end=0)
tell("done", peak_resident=1000 * int(slower * 100))
"""


@pytest.mark.parametrize(("slower", "verdict"), [(1.0, "no difference"), (1.03, "difference"), (0.9, "difference")])
def test_b_is_judged_against_a(
    onnx: Path, measured_case: str, short_protocol: None, monkeypatch: pytest.MonkeyPatch, slower: float, verdict: str
) -> None:
    monkeypatch.setattr(bench, "open_sources", lambda: (SimpleNamespace(pid=None), []))
    arm = {s: bench.Subject(onnx, worker=(sys.executable, "-S", "-c", CANNED, str(s), measured_case)) for s in (1.0, slower)}
    asked = (Question("canned", (), None, 10, "fixed"),)
    found = compare.compare(arm[1.0], arm[slower], Suite("s", "s", ()), asked, 5)
    ttft, tpot = found.judgements
    assert (ttft.judged.verdict, tpot.judged.verdict) == ("no difference", verdict)
    assert tpot.judged.ratio.median == pytest.approx(slower)
    assert found.status == "measured"
    assert found.b.peak_resident_bytes == 1000 * int(slower * 100)
    assert found.b.load_warm_s == 1.0


def test_a_disturbed_comparison_judges_nothing(
    onnx: Path, measured_case: str, short_protocol: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = Disturbing(Reading(throttle=("GPU power brake",)), 9)
    monkeypatch.setattr(bench, "open_sources", lambda: (SimpleNamespace(pid=None), [hot]))
    subject = bench.Subject(onnx, worker=(sys.executable, "-S", "-c", CANNED, "1", measured_case))
    found = compare.compare(subject, subject, Suite("s", "s", ()), (Question("canned", (), None, 10, "fixed"),), 5)
    assert (found.status, found.judgements) == ("invalid", ())
    assert found.reason == "the machine throttled itself: GPU power brake"


# The same, with a tenth of a second for every run.
BREATHING = CANNED.replace("import json, sys", "import json, sys, time").replace(
    "print(json.dumps(", "time.sleep(0.1); print(json.dumps("
)


def processes(onnx: Path, case: str, monkeypatch: pytest.MonkeyPatch, arms: str, clocks: Iterator[int]) -> list[runs.Told]:
    """Processes of subjects ``arms``, whose busy clock is the next of ``clocks``."""
    host, seen = SimpleNamespace(pid=None), dict[int | None, int]()

    class Clock:
        name = "clock"

        def read(self) -> Reading:
            if host.pid not in seen:
                seen[host.pid] = next(clocks) if host.pid else 300
            return Reading(clocks_mhz={"gpu": float(seen[host.pid])})

        def close(self) -> None: ...

    monkeypatch.setattr(compare, "Sampler", partial(Sampler, interval=0.01))
    subject = {a: bench.Subject(onnx, worker=(sys.executable, "-S", "-c", BREATHING, "1", case, a)) for a in set(arms)}
    watched = bench.Watched(host, [Clock()])
    asked = (Question("canned", (), None, 10, "fixed"),)
    return compare.run_all([subject[a] for a in arms], asked, Rules(1, 2, 0.0), watched, lambda _: None)[0]


def test_a_clock_that_drops_over_the_processes_of_a_comparison(
    onnx: Path, measured_case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = processes(onnx, measured_case, monkeypatch, "aaaa", iter((2000, 1960, 1800, 1700)))
    assert [t.problem for t in told[:2]] == [None, None], "by 2 %"
    assert "the gpu clock dropped from 2000 to " in str(told[-1].problem)
    steady = processes(onnx, measured_case, monkeypatch, "abba", iter((2000, 1500, 1500, 2000)))
    assert [t.problem for t in steady] == [None] * 4, "B loads the machine otherwise"


@pytest.fixture(scope="module")
def measured_case(onnx: Path) -> str:
    with open_pipeline(onnx, threads=1) as pipeline:
        return prepare(pipeline, Question("canned", (), None, 10, "fixed")).record.model_dump_json()


@pytest.mark.slow
def test_two_bundles_are_compared_in_fresh_processes(onnx: Path, tmp_path: Path, short_protocol: None) -> None:
    own = tmp_path / "one.toml"
    own.write_text('[[case]]\nname = "words"\ntext_tokens = 30\nnew_tokens = 3\n')
    out = tmp_path / "ab.json"
    few = ("--threads", "1", "--context", "512", "--blocks", "5", "--runs", "1", "--seconds", "0")
    done = typed("bench", onnx, "--against", onnx, "--suite", own, *few, "--out", out, "--json")
    assert done.code == 0, done.err
    judged = done.json["judgements"]
    assert [(j["case"], j["metric"], j["pairs"]) for j in judged] == [("words", "ttft_ms", 10), ("words", "tpot_ms", 10)]
    assert all(j["interval"][0] <= j["ratio"] <= j["interval"][1] for j in judged)
    whole = json.loads(out.read_text())
    a, b = (Result.model_validate_json(json.dumps(whole["results"][arm])) for arm in ("a", "b"))
    assert (len(a.cases[0].samples), len(b.cases[0].samples)) == (21, 10)
    with pytest.raises(UsageError, match="schema version is None"):
        read_result(out)


@pytest.mark.parametrize(
    ("median", "low", "high", "verdict", "words"),
    [
        (1.05, 1.04, 1.06, "difference", "B is slower, B/A 1.050 (1.040 to 1.060); noise ±1.0%"),
        (0.8, 0.7, 0.9, "difference", "B is faster, B/A 0.800"),
        (1.01, 0.99, 1.03, "no difference", "no difference that stands out from noise (B/A 1.010"),
        (1.5, 1.4, 1.6, "not enough data", "16 pairs are too few to tell a difference from chance at a level of 0.005"),
    ],
)
def test_a_judgement_in_words(median: float, low: float, high: float, verdict: Any, words: str) -> None:
    ratio = compare.Judged(verdict, same_ratio(median, low, high), same_ratio(1, 0.99, 1.01), 0.01, 0.005)
    assert words in compare.Judgement("448 px", "tpot_ms", ratio).sentence()


def same_ratio(median: float, low: float, high: float) -> Any:
    from skinedge.measure.statistics import Ratio

    return Ratio(median, low, high, 16)


# --- what is refused ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_meant_is_said_before_anything_is_opened(onnx: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.json"
    taken.write_text("{}")
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        (("--out", taken), "exists already"),
        (("--suite", "quikc"), "unknown suite 'quikc'. | Did you mean 'quick'?"),
        (("--processor", "gpu"), "unknown processor 'gpu'. | Known: auto, cpu, cuda."),
        (("--device", "rtx-4091"), "unknown device 'rtx-4091'. | Did you mean 'rtx-4090'?"),
        (("--images", tmp_path / "none"), "no such file or folder"),
        (("--images", onnx), "holds no photograph"),
        (("--against", tmp_path / "none"), "no such file or folder"),
        (("--against", onnx, "--blocks", "2"), "2 blocks are 4 pairs, too few | Use --blocks 5 or more"),
    ]
    for more, said in cases:
        done = typed("bench", onnx, *more, "--json")
        assert done.code in (1, 2), said
        assert all(part in f"{done.json['error']} {done.json['hint']}" for part in said.split(" | ")), done.json
    assert taken.read_text() == "{}"


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    done = typed("bench", tmp_path, "--suite", "quick", "--json")
    assert (done.code, done.json["kind"]) == (1, "BundleError")
    assert "it has no skinedge.json" in done.json["error"]


def test_an_error_of_the_worker_is_the_workers_own(onnx: Path) -> None:
    with pytest.raises(BundleError, match="there is no such folder"):
        runs.run_worker(runs.Job(str(onnx / "none")))
    with pytest.raises(UsageError, match="has no side 'trt'") as refused:
        runs.run_worker(runs.Job(str(onnx), side="trt"))
    assert refused.value.hint


def test_a_worker_that_dies_is_named_by_its_last_words(onnx: Path) -> None:
    loaded = json.dumps({"event": "loaded", "seconds": 1, "evicted": False, "on_gpu": False})
    dying = (sys.executable, "-c", f"import sys; sys.stdin.read(); print('{loaded}'); sys.exit('out of luck')")
    with pytest.raises(TargetError, match="ended with code 1: out of luck"):
        runs.run_worker(runs.Job(str(onnx)), command=dying)


LOUD = """
import os, sys
from skinedge.measure import worker

class Loud:
    def __init__(self, session):
        self.__dict__["inner"] = session
        os.write(1, b'{"event": "error"}\\n')
        print("hello")
    def __getattr__(self, name):
        return getattr(self.inner, name)

sys.exit(worker.serve(Loud))
"""


def test_what_libraries_print_is_no_event(onnx: Path) -> None:
    told = runs.run_worker(runs.Job(str(onnx), threads=1), command=(sys.executable, "-c", LOUD))
    assert told.load_s is not None
    assert told.peak_resident is not None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system counts otherwise")
def test_peak_memory_is_not_that_of_whoever_started_the_process() -> None:
    child = "from skinedge.measure.worker import peak_resident; print(peak_resident())"
    parent = f"import subprocess, sys; held = bytearray(300 << 20); subprocess.run([sys.executable, '-c', {child!r}])"
    done = subprocess.run([sys.executable, "-c", parent], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    assert 5 << 20 < int(done.stdout) < 200 << 20


# --- memory ---------------------------------------------------------------------------------------------------------------


def test_files_leave_memory_or_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(3 << 20))
    (tmp_path / "empty").touch()
    assert evict(tmp_path) in (True, False)
    assert evict(tmp_path / "weights") is False, "a folder without files"


class FakeCuda:
    """A GPU whose memory is this machine's imagination."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyDeviceToDevice=3)

    def __init__(self, fail: str = "") -> None:
        self.fail, self.open, self.copies = fail, set[int](), 0

    def cudaMalloc(self, nbytes: int) -> tuple[int, int]:
        if self.fail == "malloc" and self.open:
            return 2, 0
        self.open.add(len(self.open) + 1)
        return 0, len(self.open)

    def cudaMemcpy(self, to: int, of: int, nbytes: int, kind: int) -> tuple[int]:
        assert (kind, {to, of}) == (3, self.open)
        self.copies += 1
        return (0,)

    def cudaDeviceSynchronize(self) -> tuple[int]:
        return (0,)

    def cudaFree(self, block: int) -> tuple[int]:
        self.open.discard(block)
        return (0,)


def test_a_gpus_bandwidth_is_that_of_copies_inside_it() -> None:
    cuda = FakeCuda()
    assert bandwidth.probe_gpu(cuda, nbytes=1000, passes=3) > 0
    assert (cuda.copies, cuda.open) == (4, set())
    full = FakeCuda("malloc")
    with pytest.raises(TargetError, match="error 2"):
        bandwidth.probe_gpu(full)
    assert full.open == set()


def test_the_probe_reads_memory() -> None:
    assert 1e8 < bandwidth.probe(1, nbytes=64 << 20, passes=2) < 1e13
    with pytest.raises(ValueError, match="at least 1"):
        bandwidth.probe(0)
