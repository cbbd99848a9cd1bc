"""Build a bundle's TensorRT engines on the device that will run them.

Usage: python -m export.build_on_device BUNDLE --out NEW [--library tensorrt]

An engine of classic TensorRT belongs to the GPU it was built on.  This reads a ``trt`` bundle made anywhere,
verifies it, builds new plans from its ONNX side with the device's own library, and writes a new bundle whose
lineage names the old one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from skinedge.bundle import file_records, verify
from skinedge.console import progress_bar, report_error, say
from skinedge.errors import SkinedgeError, UsageError
from skinedge.manifest import MANIFEST_FILE, LineageRecord, Manifest
from skinedge.staging import staged
from skinedge.targets import trt


def build(bundle: Path, out: Path, library: str | None, quiet: bool = False) -> Manifest:
    """The new bundle's manifest.

    Raises:
        SkinedgeError: the bundle does not verify, is of another target, or TensorRT refuses a graph.
    """
    manifest = verify(bundle)
    if manifest.target != "trt":
        raise UsageError(f"{bundle} is a bundle for {manifest.target} and has no plans.", hint="Export one with --target trt.")
    plans = set(manifest.details["plans"])
    with staged(out) as folder, progress_bar(quiet) as progress:
        for record in manifest.files:
            if record.path not in plans:
                (folder / record.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle / record.path, folder / record.path)
        written = trt.rebuild(folder, manifest, progress, library)
        known = {r.path: r.sha256 for r in manifest.files if r.path not in plans} | dict(written.digests)
        note = f"plans rebuilt with {written.details['library']} {written.details['version']}"
        lineage = (*manifest.lineage, LineageRecord(kind="bundle", digest=manifest.digest, note=note))
        update = {"details": dict(written.details), "lineage": lineage, "files": tuple(file_records(folder, known))}
        rebuilt = manifest.model_copy(update=update)
        (folder / MANIFEST_FILE).write_text(rebuilt.to_json(), encoding="utf-8", newline="\n")
    return rebuilt


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m export.build_on_device", description="Build a bundle's engines here.")
    parser.add_argument("bundle", type=Path, help="a trt bundle, made anywhere")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--library", help="tensorrt (JetPack, CUDA) or tensorrt_rtx; by default what fits this machine")
    args = parser.parse_args(arguments)
    try:
        rebuilt = build(args.bundle, args.out, args.library)
    except SkinedgeError as error:
        report_error(error, as_json=False)
        return error.exit_code
    say(f"{args.out}: {rebuilt.lineage[-1].note}. Next: skinedge run {args.out} PHOTOGRAPH")
    return 0


if __name__ == "__main__":
    sys.exit(main())
