"""Is ``skinedge bench`` to be believed?  What it takes itself, that it calls no noise a difference, and that it finds one.

Usage: python -m benchmarks.bench_selfcheck trials [--bundle BUNDLE] [--trials 20] [--planted 0.05,0.1] [--blocks 8]
         [--threads 1] [--core N]
       python -m benchmarks.bench_selfcheck overhead [--bundle BUNDLE] [--model MODEL] [--tokens 128] [--rounds 10]

``trials``: in each trial A is measured against itself, and against a session of the same bundle whose every step is made
longer by a share of its own time (a busy loop, as a slower kernel would be), by the procedure of ``skinedge bench A
--against B``: fresh processes, A x x A, and A against itself once more as the noise floor.  All arms of a trial share their
neighbouring As.  One thread, because the embedded model's step of a third of a millisecond is mostly waiting for the other
thread where there are two, and differs by 5 % from process to process then.  Counted are trials in which A/A shows no
difference, and in which the slowdown is found.

``overhead``: what a token takes beyond the session's own step and the choice of the token.  The session's logits are
recorded once and played back without computing anything, once by a bare loop and once by the harness; the difference, over
the real step, is the share.  The bundle is of the 0.5B shape (``benchmarks.real_weights``), int4.  Beside it stands what
the watching process takes of a core.

On an idle machine: both are timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.embedded import embedded_checkpoint
from skinedge.measure.bench import Opening, Subject, questions, watching
from skinedge.measure.compare import BLOCKS, FIRST, METRICS, fastest, pairs, rules_for, run_all, schedule
from skinedge.measure.harness import Question, Rules, prepare, run_once
from skinedge.measure.machine import open_sources
from skinedge.measure.statistics import LEVEL, Judged, judge, paired_ratio
from skinedge.measure.suites import read_suite
from skinedge.measure.telemetry import Sampler
from skinedge.runtime.pipeline import Pipeline, open_pipeline
from skinedge.runtime.session import Float32, Session
from skinedge.targets._contract import ExportOptions

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "bench_selfcheck.json"
MODEL = ROOT / "build" / "int4-quality" / "half-billion-shuffled"
SAME, AGAIN = "same", "again"
ENOUGH = 0.9  # share of trials in which a slowdown must be found: 18 of 20
MOST_OVERHEAD = 0.01


class Played:
    """A session that gives recorded logits and computes nothing."""

    def __init__(self, inner: Session, logits: Sequence[Float32]) -> None:
        self.vocab_size, self.context_length, self.on_gpu = inner.vocab_size, inner.context_length, inner.on_gpu
        self.encode_image, self.close = inner.encode_image, inner.close
        self._logits, self._next = logits, 0

    def prefill(self, *_: object, **__: object) -> Float32:
        self._next = 1
        return self._logits[0]

    def step(self, token: int) -> Float32:
        del token
        self._next += 1
        return self._logits[self._next - 1]


def worker(share: float, core: int | None = None) -> tuple[str, ...]:
    """The command of a worker whose steps are so much longer; that of A is the same with 0.  ``core``: it runs there only."""
    pinned = () if core is None else ("taskset", "--cpu-list", str(core))
    return (*pinned, sys.executable, "-m", "benchmarks.slowed_worker", str(share))


def trial(
    bundle: Path,
    asked: Sequence[Question],
    planted: Sequence[float],
    blocks: int,
    rules: Rules,
    threads: int,
    core: int | None = None,
) -> dict[str, dict[str, Judged]]:
    """Every arm's judgement, by metric."""
    shares = {FIRST: 0.0, SAME: 0.0, **{f"{s:g}": s for s in planted}, AGAIN: 0.0}
    arms = [name for name in shares if name != FIRST]
    subjects = {name: Subject(bundle, Opening(processor="cpu", threads=threads), worker(s, core)) for name, s in shares.items()}
    with watching(lambda _: None) as watched:
        told, _ = run_all([subjects[a] for a in schedule(blocks, arms)], asked, rules, watched, lambda _: None)
    if told[-1].problem:
        raise SystemExit(f"the trial was disturbed: {told[-1].problem}")
    found: dict[str, dict[str, Judged]] = {arm: {} for arm in arms if arm != AGAIN}
    for metric in METRICS:
        by_arm = pairs(fastest(told, 0, metric), arms)
        for arm in found:
            found[arm][metric] = judge(by_arm[arm], by_arm[AGAIN], LEVEL / len(METRICS))
    return found


def hit(found: dict[str, Judged]) -> bool:
    """Whether a planted slowdown of the steps was found, as one."""
    return found["tpot_ms"].verdict == "difference" and found["tpot_ms"].ratio.median > 1


def trials(
    bundle: Path,
    count: int,
    planted: Sequence[float],
    blocks: int,
    rules: Rules | None = None,
    *,
    threads: int = 1,
    core: int | None = None,
) -> dict[str, object]:
    """Count over trials; each is printed as it ends."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="skinedge-") as scratch:
        asked = questions(read_suite("compare"), Path(scratch))
        for number in range(1, count + 1):
            found = trial(bundle, asked, planted, blocks, rules or rules_for(blocks), threads, core)
            rows.append(found)
            said = {arm: [round(j["tpot_ms"].ratio.median, 4), j["tpot_ms"].verdict] for arm, j in found.items()}
            print(number, json.dumps(said), f"noise ±{found[SAME]['tpot_ms'].floor:.2%}", flush=True)
    quiet = sum(all(j.verdict == "no difference" for j in row[SAME].values()) for row in rows)
    hits = {f"{share:g}": sum(hit(row[f"{share:g}"]) for row in rows) for share in planted}
    least = min((share for share in planted if hits[f"{share:g}"] >= ENOUGH * count), default=None)
    return {
        "trials": count, "blocks": blocks, "pairs": 2 * blocks, "threads": threads, "core": core, "level": LEVEL,
        "same_without_difference": quiet,
        "planted_found": hits, "smallest_found_in_nine_of_ten": least,
        "noise_floor_median": statistics.median(row[SAME]["tpot_ms"].floor for row in rows),
        "ratio_median": {arm: statistics.median(row[arm]["tpot_ms"].ratio.median for row in rows) for arm in rows[0]},
    }  # fmt: skip


def overhead(bundle: Path, tokens: int, rounds: int) -> dict[str, object]:
    """Milliseconds a token of the harness itself, and their share of the real step."""
    with open_pipeline(bundle, threads=1, device="cpu") as pipeline:
        ready = prepare(pipeline, Question("overhead", (), None, tokens, "fixed"))
        real = [run_once(pipeline, ready).sample for _ in range(2)][-1]
        step = statistics.median(real.step_ms)
        logits = record(pipeline, ready.text, tokens)
        pipeline.session = Played(pipeline.session, logits)
        run_once(pipeline, ready)
        both = [(bare(pipeline.session, tokens), run_once(pipeline, ready).sample.tpot_ms or 0.0) for _ in range(rounds)]
    own = statistics.median(h - b for b, h in both)
    ratio = paired_ratio([(step + b, step + h) for b, h in both], 1 - LEVEL)
    return {
        "tokens": tokens, "rounds": rounds, "step_ms": step, "harness_ms_per_token": own, "share": own / step,
        "ratio_interval": [ratio.low, ratio.high], "watching_share_of_a_core": watching_share(),
    }  # fmt: skip


def record(pipeline: Pipeline, text: str, tokens: int) -> list[Float32]:
    """The logits of a greedy answer."""
    from skinedge.runtime.prompt import ask

    prompt = pipeline.prompts.build(ask(text, images=0))
    logits = [pipeline.session.prefill(prompt)]
    for _ in range(tokens - 1):
        logits.append(pipeline.session.step(int(logits[-1].argmax())))
    return [np.array(row) for row in logits]


def bare(session: Session, tokens: int) -> float:
    """Milliseconds a token of the shortest loop there is."""
    token = int(session.prefill(None).argmax())  # type: ignore[arg-type]
    begin = time.perf_counter()
    for _ in range(tokens - 1):
        token = int(session.step(token).argmax())
    return 1e3 * (time.perf_counter() - begin) / (tokens - 1)


def watching_share(seconds: float = 3.0) -> float:
    """How busy reading all telemetry keeps one core."""
    _, sources = open_sources()
    begin = time.process_time()
    with Sampler(sources):
        time.sleep(seconds)
    for source in sources:
        source.close()
    return (time.process_time() - begin) / seconds


def tiny(folder: Path) -> Path:
    """The embedded model's int4 bundle."""
    return export(embedded_checkpoint(), "onnx", ExportOptions("int4"), folder / "embedded-int4").path


def half_billion(model: Path, folder: Path) -> Path:
    """The bundle of the 0.5B shape."""
    from benchmarks.real_weights import make

    return export(AdapterCheckpoint.find(make(model)), "onnx", ExportOptions("int4"), folder / "half-billion-int4").path


def save(path: Path, key: str, value: dict[str, object]) -> None:
    """Beside what is there."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    about = {"status": "measured", "machine": f"{platform.machine()}, {os.cpu_count()} cores", "load_average": os.getloadavg()[0]}
    path.write_text(json.dumps({**known, key: {**about, **value}}, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("trials", "overhead"))
    parser.add_argument("--bundle", type=Path, help="left out: exported for the purpose")
    parser.add_argument("--model", type=Path, default=MODEL, help="checkpoint of the 0.5B shape; made if it is not there")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--planted", default="0.05", help="shares by which steps are made longer")
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--threads", type=int, default=1, help="of the trials' sessions")
    parser.add_argument("--core", type=int, help="of the trials' workers, where others work on the rest")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skinedge-") as scratch:
        if args.what == "trials":
            planted = [float(s) for s in args.planted.split(",")]
            found = trials(
                args.bundle or tiny(Path(scratch)), args.trials, planted, args.blocks, threads=args.threads, core=args.core
            )
            passed = found["same_without_difference"] == args.trials and found["smallest_found_in_nine_of_ten"] is not None
        else:
            found = overhead(args.bundle or half_billion(args.model, Path(scratch)), args.tokens, args.rounds)
            passed = float(str(found["share"])) <= MOST_OVERHEAD
    print(json.dumps(found, indent=1))
    save(args.json, args.what, found)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
