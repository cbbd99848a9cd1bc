"""A certificate for every target and scheme of the embedded model, on held-out SynthDerm pictures, and what they say together.

Usage: python -m benchmarks.certificates [--work build/certificates] [--pictures 648] [--only onnx-int4,gguf-q8_0] [--threads 1]
       python -m benchmarks.certificates --photographs ../shared/data/pad-ufes-20     (validation photographs instead, the
       narratives scored by DermEval, since nothing says what is true of them)

Every bundle is exported, compared with PyTorch stage by stage and on whole narratives, and carries its certificate afterwards.
Rows and narratives of the reference stay in ``--work``: a stopped run goes on.  A TensorRT bundle is opened as its ONNX side,
the files that its plans were built from.  What cannot run here is listed with the reason.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

from skinedge.bundle import export, known_targets, load_target
from skinedge.embedded import embedded_checkpoint
from skinedge.errors import SkinedgeError
from skinedge.evaluation.dermeval import DermEval
from skinedge.parity.certificate import Certificate
from skinedge.parity.certify import Pictures, certify, drawn_pictures
from skinedge.parity.choosing import cases_of
from skinedge.staging import staged_file
from skinedge.targets._contract import ExportOptions
from skinedge.weights.checkpoint import file_digest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# 9 of every diagnosis on every skin type.
PICTURES = 648
SHOWN = (
    "accuracy difference", "agreement", "accuracy of the reference", "accuracy of the bundle", "malignant to benign",
    "structure difference", "mean of six scores", "Safety", "length ratio", "same narrative", "same likeliest token", "KL, mean",
    "findings kept", "findings invented", "findings turned", "sides turned",
)  # fmt: skip


def every_bundle() -> list[tuple[str, str]]:
    """Targets with their schemes, those without a runtime of ours among them."""
    return [(target, scheme) for target in known_targets() for scheme in load_target(target).SCHEMES]


def one(work: Path, target: str, scheme: str, pictures: Pictures, threads: int) -> dict[str, Any]:
    """Export, certify, and what the certificate says."""
    about = {"target": target, "scheme": scheme}
    if not load_target(target).RUNS:
        return {**about, "status": "skipped: opened by transformers, not by a session of skinedge"}
    begin = time.perf_counter()
    bundle = work / f"{target}-{scheme}"
    kind = "drawn" if pictures.synthetic else "photographs"
    try:
        if not bundle.exists():
            export(embedded_checkpoint(), target, ExportOptions(scheme, context=2048), bundle)
        certificate = certify(
            bundle, embedded_checkpoint(), pictures, work / f"{kind}-rows" / bundle.name, cache=work / "reference",
            side="onnx" if target == "trt" else None, threads=threads, quiet=True,
            judge=None if pictures.synthetic else lambda _: DermEval(threads=threads),
        )  # fmt: skip
    except SkinedgeError as e:
        return {**about, "status": f"skipped: {e.message}"}
    return {**about, "status": "measured", "seconds": round(time.perf_counter() - begin, 1), **said(certificate)}


def said(certificate: Certificate) -> dict[str, Any]:
    """A certificate in the figures that a table shows."""
    found: dict[str, Any] = {}
    for name in SHOWN:
        e = certificate.endpoint(name)
        if e:
            interval = [e.interval.low, e.interval.high] if e.interval else None
            found[name] = {"estimate": e.estimate, "interval": interval, "n": e.n, "verdict": e.verdict if e.gated else None}
    stages = {s.name: s.verdict for s in certificate.context.stages}
    return {
        "verdict": certificate.verdict, "reasons": list(certificate.reasons), "reliability": certificate.reliability,
        "bits": certificate.context.bits, "n": certificate.data.n, "by_skin": certificate.data.by_skin,
        "worst": certificate.worst, "stages": stages, "endpoints": found,
    }  # fmt: skip


def photographs(folder: Path) -> Pictures:
    """PAD-UFES-20's validation split."""
    file = folder / "metadata.csv"
    return Pictures("PAD-UFES-20, validation", cases_of(file, folder / "images", split="val"), source=file_digest(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "certificates")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--photographs", type=Path, help="PAD-UFES-20's folder")
    parser.add_argument("--only", default="", help="target-scheme, by comma")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    pictures = photographs(args.photographs) if args.photographs else drawn_pictures(args.pictures, args.work / "pictures")
    wanted = set(filter(None, args.only.split(",")))
    result = args.json or RESULTS / f"certificates_{'pad_ufes_20' if args.photographs else 'synthderm'}.json"
    rows: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))["bundles"] if result.is_file() else {}
    for target, scheme in every_bundle():
        name = f"{target}-{scheme}"
        if wanted and name not in wanted:
            continue
        rows[name] = one(args.work, target, scheme, pictures, args.threads)
        print(
            name,
            rows[name].get("verdict", rows[name]["status"]),
            rows[name].get("reasons", ""),
            rows[name].get("seconds", ""),
            flush=True,
        )
        document = {"machine": f"{platform.machine()}, one thread", "pictures": pictures.name, "bundles": rows}
        result.unlink(missing_ok=True)
        with staged_file(result) as f:
            f.write((json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


if __name__ == "__main__":
    main()
