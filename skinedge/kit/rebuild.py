"""TensorRT engines built on the device that will run them, from the portable graphs of a bundle made anywhere."""

from __future__ import annotations

import shutil
from pathlib import Path

from skinedge.bundle import file_records, verify
from skinedge.console import progress_bar
from skinedge.errors import UsageError
from skinedge.manifest import MANIFEST_FILE, LineageRecord, Manifest
from skinedge.staging import staged
from skinedge.targets import trt


def rebuild(bundle: Path, out: Path, library: str | None, quiet: bool = False) -> Manifest:
    """Write a new bundle with this machine's engines; its lineage names the old one.

    Args:
        bundle: a ``trt`` bundle, which is verified first.
        out: new folder.
        library: ``tensorrt`` or ``tensorrt_rtx``; by default what fits this machine.
        quiet: show no progress.

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
