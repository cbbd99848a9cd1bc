"""The benchmarks of the bench itself, and what is measured on a GPU, at a size that any machine has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, environment

from benchmarks import bench_selfcheck, gpu_bench, gpu_check, slowed_worker
from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.measure import bench
from skinedge.measure.bench import Opening
from skinedge.measure.harness import Question, Rules
from skinedge.measure.statistics import judge
from skinedge.measure.suites import read_suite
from skinedge.model.tiny import Size, make_model
from skinedge.runtime._tensorrt import gpu_problem
from skinedge.targets._contract import ExportOptions

SMALL = Size(vocab=512, hidden=128, intermediate=256, layers=1, heads=2, kv_heads=1, vision_depth=2, vision_full=(1,))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> AdapterCheckpoint:
    return AdapterCheckpoint.find(make_model(tmp_path_factory.mktemp("small") / "model", SMALL))


@pytest.fixture(scope="module")
def bundle(source: AdapterCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(source, "onnx", ExportOptions("int4", workers=1), tmp_path_factory.mktemp("small") / "onnx").path


def test_a_planted_slowdown_is_in_the_time_and_not_in_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of which every look takes a microsecond and a step of the model ten milliseconds."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1e-6
        return now

    class Steady:
        vocab_size = context_length = on_gpu = 1
        encode_image = prefill = close = None

        def step(self, token: int) -> int:
            nonlocal now
            now += 0.01
            return token

    monkeypatch.setattr(slowed_worker.time, "perf_counter", clock)
    for share in (0.0, 0.05, 0.5):
        begin = now
        assert slowed_worker.Slowed(Steady(), share).step(7) == 7  # type: ignore[arg-type,comparison-overlap]
        assert now - begin == pytest.approx(0.01 * (1 + share), abs=5e-6)


def test_trials_count_what_was_called_a_difference(bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Judgements from canned times: the second trial's A/A differs, and the slowdown is missed in the third."""
    ratios = iter([(1.0, 1.05), (1.1, 1.05), (1.0, 1.0)])

    def canned(*_: object) -> dict[str, dict[str, Any]]:
        same, slow = next(ratios)
        calm = [(1.0, 1.0)] * 16
        found = {arm: judge([(1.0, r)] * 16, calm, 0.005) for arm, r in (("same", same), ("0.05", slow))}
        return {arm: {"ttft_ms": judge(calm, calm), "tpot_ms": j} for arm, j in found.items()}

    monkeypatch.setattr(bench_selfcheck, "trial", canned)
    found = bench_selfcheck.trials(bundle, 3, [0.05], 8)
    assert (found["same_without_difference"], found["planted_found"]) == (2, {"0.05": 2})
    assert found["smallest_found_in_nine_of_ten"] is None
    assert '"0.05": [1.05, "difference"]' in capsys.readouterr().out


@pytest.mark.slow
def test_a_trial_finds_a_large_slowdown(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Steps of twice the time, few processes: only that real processes are run, slowed and judged."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    monkeypatch.setattr(bench_selfcheck, "LEVEL", 0.6)
    asked = (Question("words", (), 30, 12, "fixed"),)
    found = bench_selfcheck.trial(bundle, asked, [2.0], 1, Rules(1, 2, 0.0), 1)
    assert found["2"]["tpot_ms"].ratio.median > 1.2
    assert set(found) == {"same", "2"}


def test_what_the_harness_itself_takes(bundle: Path) -> None:
    found = bench_selfcheck.overhead(bundle, tokens=16, rounds=3)
    assert 0 < float(str(found["step_ms"])) < 1000
    assert 0 < float(str(found["harness_ms_per_token"])) < 5
    assert found["share"] == pytest.approx(float(str(found["harness_ms_per_token"])) / float(str(found["step_ms"])))
    assert 0 <= float(str(found["watching_share_of_a_core"])) < 1


def test_the_7bs_part_measures_what_runs_and_says_why_the_rest_does_not(
    source: AdapterCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "probe", lambda threads: 5e9)
    suite_file = tmp_path / "one.toml"
    suite_file.write_text('[[case]]\nname = "one"\nimages = [[56, 56]]\nnew_tokens = 3\n')
    arms = [
        gpu_bench.Arm("onnx", Opening(processor="cpu", threads=1, context=512), ExportOptions("int4", workers=1)),
        gpu_bench.Arm("gguf", Opening(side="onnx"), ExportOptions("f32", workers=1)),
    ]
    first, second = gpu_bench.measure(source, arms, read_suite(str(suite_file)), tmp_path / "work", Rules(1, 2, 0.0))
    assert (first["target"], first["of_ceiling"]) == ("onnx", {"one": None})
    assert first["flags"]["ran_on"] == "cpu"
    assert "the protocol asks for" in str(first["reason"])
    assert (second["status"], second["target"]) == ("skipped", "gguf")
    assert "has no side 'onnx'" in str(second["reason"])
    assert gpu_bench.exit_code([second]) == 0, "what cannot run here is no failure"
    assert gpu_bench.exit_code([first, second]) == 1, "a measurement that does not count is"


def test_nothing_is_removed_but_what_was_made(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with gpu_bench.working_folder(tmp_path, keep=False) as work:
        (work / "onnx-int4").mkdir()
        assert work.parent == tmp_path
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    with gpu_bench.working_folder(tmp_path / "kept", keep=True) as work:
        (work / "model").mkdir()
    assert (tmp_path / "kept" / "model").is_dir()


@pytest.mark.slow
def test_plans_that_cannot_run_here_are_skipped_and_the_rest_goes_on(
    source: AdapterCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tensorrt_rtx_bindings")
    if gpu_problem() is None:
        pytest.skip("there is a GPU")
    monkeypatch.setattr(gpu_check, "gpu", lambda: {"gpu": "none"})
    bundle = export(source, "trt", ExportOptions("f16", context=2048, workers=1), tmp_path / "trt").path
    found, comparisons = gpu_check.check(bundle, source, 2, tmp_path / "pictures")
    assert found["plans"] == {"status": "skipped", "reason": gpu_check.plans_problem(bundle)}
    assert "cannot" in str(gpu_check.plans_problem(bundle))
    assert list(found["against_pytorch"]) == ["onnx"]  # type: ignore[call-overload]
    assert [c.passed for c in comparisons] == [True]


@pytest.mark.parametrize("module", ["gpu_bench", "gpu_check"])
def test_without_a_gpu_nothing_is_measured(module: str) -> None:
    if gpu_problem() is None:
        pytest.skip("there is a GPU")
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}"], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.startswith("skipped: no GPU")) == (0, True), done.stderr
