"""What a kit does on the device: verify, build engines, repeat the golden cases, measure, write one file to carry back.

``run.sh`` and ``run.cmd`` call it: ``python -m skinedge.kit.device KIT [--suite NAME] [--no-bench]``.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from skinedge import __version__
from skinedge.console import note, print_any_text, report_error, say
from skinedge.errors import KitError, SkinedgeError
from skinedge.kit.contents import BUNDLE, ENGINES, GOLDEN, KitSettings, kit_digest, read_settings
from skinedge.kit.install import InstallError, check_files
from skinedge.kit.record import KitRecord
from skinedge.manifest import MANIFEST_FILE, read_manifest
from skinedge.measure.result import Result, read_result
from skinedge.parity.golden import GoldenOutcome, read_cases, repeat
from skinedge.runtime.pipeline import open_pipeline
from skinedge.staging import staged_file


@dataclass(frozen=True)
class RunOptions:
    """How a kit is run; ``suite`` is that of ``skinedge bench``, ``None`` its default."""

    suite: str | None = None
    bench: bool = True
    threads: int | None = None


def run_kit(kit: Path, options: RunOptions) -> tuple[Path, KitRecord]:
    """Run everything and write the file to carry back.

    Raises:
        KitError: the kit is not as it was written, or engines are built here and TensorRT is not.
        SkinedgeError: the bundle does not run.
    """
    settings = read_settings(kit)
    try:
        files = check_files(kit)
    except InstallError as e:
        raise KitError(str(e)) from e
    note(f"{files} files are as they were written.")
    bundle = _engines(kit, settings)
    cases = read_cases(kit / GOLDEN)
    # Where plans cannot run, the golden cases are those of the ONNX side, as they were when the kit was made.
    side = "onnx" if settings.target == "trt" and bundle == kit / BUNDLE and not _plans_run(bundle) else None
    with open_pipeline(bundle, side=side, threads=options.threads) as pipeline:
        outcomes = []
        for outcome in repeat(pipeline, kit / GOLDEN, cases):
            note(_line(outcome))
            outcomes.append(outcome)
    result, reason = _bench(bundle, side, settings, options) if options.bench else (None, "it was not asked for")
    if side:
        reason = f"{reason or 'its ONNX side was measured'}: TensorRT plans cannot be opened here"
    record = KitRecord(
        skinedge=__version__,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        kit=kit_digest(kit),
        device=settings.device,
        machine=result.machine.model if result else _model(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        bundle=read_manifest(bundle).digest,
        rebuilt=bundle != kit / BUNDLE,
        verified_files=files,
        golden=tuple(outcomes),
        result=result,
        reason=reason,
    )
    path = _free_name(kit)
    with staged_file(path) as f:
        f.write(record.to_json().encode())
    return path, record


def _engines(kit: Path, settings: KitSettings) -> Path:
    """The bundle to run: the kit's, or one with engines that are built here once."""
    if not settings.rebuild:
        return kit / BUNDLE
    if not (kit / ENGINES / MANIFEST_FILE).is_file():
        from skinedge.kit.rebuild import rebuild

        note("building TensorRT engines for this device, which takes minutes and is done once.")
        rebuild(kit / BUNDLE, kit / ENGINES, None)
    return kit / ENGINES


def _plans_run(bundle: Path) -> bool:
    from skinedge.errors import MissingDependencyError, TargetError

    try:
        with open_pipeline(bundle):
            return True
    except (MissingDependencyError, TargetError):
        return False


def _bench(bundle: Path, side: str | None, settings: KitSettings, options: RunOptions) -> tuple[Result | None, str | None]:
    """Measure through the command line, in a process of its own: the golden cases left memory behind in this one."""
    from skinedge.cli import app

    if not any(command.callback and command.callback.__name__ == "bench" for command in app.registered_commands):
        return None, "this skinedge has no bench command"
    with tempfile.TemporaryDirectory(prefix="skinedge-kit-") as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-m", "skinedge", "bench", str(bundle), "--out", str(out), "--device", settings.device]
        for option, value in (("--suite", options.suite), ("--target", side), ("--threads", options.threads)):
            command += [option, str(value)] if value is not None else []
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
        # A disturbed measurement is written too, says so in itself, and ends with 1.
        if not out.is_file():
            return None, f"skinedge bench ended with {done.returncode} and wrote no result"
        return read_result(out), None


def _line(outcome: GoldenOutcome) -> str:
    off = "" if outcome.kl is None else f", KL {outcome.kl:.2g} nats"
    verdict = "as expected" if outcome.passed else f"FAILED: {outcome.reason}"
    return f"golden case {outcome.name}: {outcome.same_tokens} of {outcome.tokens} tokens the same{off}: {verdict}"


def _model() -> str:
    """What the board calls itself."""
    for path in ("/proc/device-tree/model", "/sys/class/dmi/id/product_name"):
        try:
            return Path(path).read_text(encoding="utf-8").strip("\0\n ") or platform.machine()
        except OSError:
            continue
    return f"{platform.system()} {platform.machine()}"


def _free_name(kit: Path) -> Path:
    numbers = range(2, 10_000)
    names = ["result.json", *(f"result-{n}.json" for n in numbers)]
    return next(kit / name for name in names if not (kit / name).exists())


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit code: 1 if a golden case failed."""
    parser = argparse.ArgumentParser(prog="run", description="Verify, repeat the golden cases, measure; write result.json.")
    parser.add_argument("kit", type=Path, help="the kit's folder")
    parser.add_argument("--suite", help="what to measure: a suite of skinedge bench")
    parser.add_argument("--no-bench", action="store_true", help="verify and repeat the golden cases only")
    parser.add_argument("--threads", type=int, help="CPU threads; by default one per core")
    args = parser.parse_args(arguments)
    print_any_text()
    try:
        path, record = run_kit(args.kit.resolve(), RunOptions(args.suite, not args.no_bench, args.threads))
    except SkinedgeError as error:
        report_error(error, as_json=False)
        return error.exit_code
    if record.reason:
        note(f"not measured: {record.reason}." if record.result is None else f"{record.reason}.")
    good = sum(g.passed for g in record.golden)
    say(f"{path}: {good} of {len(record.golden)} golden cases as expected. Carry this file back: skinedge report {path.name}")
    return 0 if record.passed else 1


if __name__ == "__main__":
    sys.exit(main())
