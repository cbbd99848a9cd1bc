"""One byte changed anywhere, in a bundle or in the audit log: is it found?

Usage: python -m benchmarks.clinic_bytes [--count 1000] [--json FILE]

The bundle is the embedded model's with its golden cases and a certificate; a file is drawn first and a place in it then, so that
small files are tried as often as large ones.  The log is one that a workstation's answers were written into.  Exits 1 if a change
was not found.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from skinedge.bundle import export, verify
from skinedge.clinic.audit import AuditLog, verify_log
from skinedge.embedded import embedded_checkpoint
from skinedge.errors import SkinedgeError
from skinedge.manifest import read_manifest
from skinedge.measure.machine import describe_here
from skinedge.parity.quick import quick_form
from skinedge.staging import staged_file
from skinedge.targets._contract import ExportOptions

RESULT = Path(__file__).parent / "results" / "clinic_bytes.json"


def found(folder: Path, files: list[Path], check: Callable[[Path], object], count: int, rng: random.Random) -> dict[str, object]:
    """How many of ``count`` changes are found, and how often each file was tried."""
    tried: Counter[str] = Counter()
    missed = []
    for _ in range(count):
        path = rng.choice(files)
        place, by = rng.randrange(path.stat().st_size), rng.randrange(1, 256)
        _change(path, place, by)
        try:
            check(folder)
            missed.append(f"{path.relative_to(folder)} at {place}")
        except SkinedgeError:
            pass
        finally:
            _change(path, place, by)
        tried[path.relative_to(folder).as_posix()] += 1
    check(folder)  # it is as it was
    return {"tried": count, "found": count - len(missed), "missed": missed, "files": dict(tried)}


def _change(path: Path, place: int, by: int) -> None:
    with path.open("r+b") as f:
        f.seek(place)
        value = f.read(1)[0]
        f.seek(place)
        f.write(bytes([value ^ by]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as work:
        bundle = export(embedded_checkpoint(), "onnx", ExportOptions("int4", context=1024), Path(work) / "bundle").path
        quick_form(bundle, read_manifest(bundle), embedded_checkpoint(), threads=1, quiet=True)
        in_bundle = found(
            bundle, sorted(p for p in bundle.rglob("*") if p.is_file() and p.stat().st_size), verify, args.count, rng
        )
        log = Path(work) / "log"
        with AuditLog(log) as audit:
            for number in range(200):
                audit.append("answer", {"question": f"q{number}", "answer": "a"}, seconds=number / 7, pictures=["ab" * 32])
        files = [p for p in sorted(log.iterdir()) if p.stat().st_size]
        in_log = found(log, files, verify_log, args.count, rng)
    result = {"machine": describe_here().model_dump(mode="json"), "bundle": in_bundle, "audit": in_log}
    args.json.unlink(missing_ok=True)
    with staged_file(args.json) as f:
        f.write((json.dumps(result, indent=1, sort_keys=True) + "\n").encode())
    print(json.dumps({k: v for k, v in result.items() if k != "machine"}, indent=1))
    return int(bool(in_bundle["missed"]) or bool(in_log["missed"]))


if __name__ == "__main__":
    sys.exit(main())
