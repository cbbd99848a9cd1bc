"""Our ONNX export beside the other exporters' on the same weights: time, memory and bytes written.

Usage: python -m benchmarks.peers.onnx_exporters [--shapes 0.5b,7b-4] [--only ours,genai] [--model DIR] [--peers DIR] [--work DIR]
                                                 [--rounds 2] [--json FILE]

``0.5b`` has real language weights (``benchmarks/real_weights.py``, ``--model`` says where they lie), ``7b-4`` four layers of the
7B's width with weights of ``benchmarks/export_7b.py``'s writer.  The exporters:

- ours: ``skinedge export -t onnx -s int4`` of the Qwen2.5-VL checkpoint, language and vision
- genai: onnxruntime-genai's model builder, int4, of the language model alone (``benchmarks/peers/text_half.py``)
- mobius: mobius-onnx of the Qwen2.5-VL checkpoint, all three graphs, in the checkpoint's bfloat16: it has no int4 of its own
- optimum: optimum-onnx of the language model alone in float32, as it traces; it knows no Qwen2.5-VL and no int4

Each peer runs in an environment of its own, ``python -m venv build/peers/NAME`` and the two ``pip install`` of its entry in
``EXPORTERS``; one that is not there is skipped, one that fails is recorded with its last words.  Every export is a fresh
process and the order turns from round to round.  No adapter is given: only ours merges one.  See
``benchmarks/measuring.py`` for the figures.  Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks import real_weights
from benchmarks.export_7b import FULL, export_command, save, write_shards
from benchmarks.measuring import Usage, measure
from benchmarks.peers.text_half import write_text_half
from skinedge.model.config import read_config
from skinedge.model.names import expected_shapes
from skinedge.model.tiny import write_settings, write_tokenizer
from skinedge.weights.source import BF16, TensorSpec

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "onnx_exporters.json"
VICTIM = ["choom", "-n", "800", "--"] if shutil.which("choom") else []  # in a low machine it ends before another's process
VERSIONS = "import sys, importlib.metadata as m; print(*(m.version(p) for p in sys.argv[1:]))"


@dataclass(frozen=True)
class Exporter:
    """A tool, where it runs and what of the model it writes."""

    name: str
    exports: str
    packages: tuple[str, ...]  # after torch==2.13.0
    command: tuple[str, ...]  # with places for its environment, the checkpoint, its language half and what it makes
    libraries: tuple[str, ...]

    @property
    def install(self) -> str:
        """What makes its environment."""
        pip = f"build/peers/{self.name}/bin/pip install"
        return f"python -m venv build/peers/{self.name}; {pip} torch==2.13.0; {pip} {' '.join(self.packages)}"


EXPORTERS = (
    Exporter(
        "ours", "language and vision, int4", (), tuple(export_command(Path("{model}"), [], "onnx:int4", Path("{out}"))),
        ("onnx", "numpy"),
    ),
    Exporter(
        "genai", "language alone, int4", ("onnxruntime-genai==0.18.0", "onnx==1.23.2", "onnx-ir==1.1.0", "transformers==5.23.0"),
        ("{bin}/python", "-m", "onnxruntime_genai.models.builder", "-i", "{text}", "-o", "{out}", "-p", "int4", "-e", "cpu",
         "-c", "{cache}"),
        ("onnxruntime-genai", "onnx-ir", "transformers"),
    ),
    Exporter(
        "mobius", "embedding, language and vision, bfloat16", ("mobius-onnx==0.1.0", "transformers==5.23.0", "pillow"),
        ("{bin}/python", "-m", "mobius", "build", "--model", "{model}", "{out}"),
        ("mobius-onnx", "onnxscript", "transformers"),
    ),
    Exporter(
        "optimum", "language alone, float32", ("optimum-onnx==0.1.0", "onnxruntime", "onnx"),
        ("{bin}/optimum-cli", "export", "onnx", "--model", "{text}", "--task", "text-generation-with-past", "--dtype", "fp32",
         "{out}"),
        ("optimum-onnx", "onnxruntime", "transformers"),
    ),
)  # fmt: skip


def run(exporter: Exporter, environment: Path, model: Path, text: Path, out: Path) -> tuple[Usage, int]:
    """One export in a process of its own, and the bytes of what it left.

    Raises:
        SystemExit: it failed; its last words are given.
    """
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    plain = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | quiet
    shutil.rmtree(out, ignore_errors=True)
    places = {"bin": environment / "bin", "model": model, "text": text, "out": out, "cache": out.parent / "cache"}
    command = [*VICTIM, *(word.format(**places) for word in exporter.command)]
    try:
        usage = measure(command, plain if exporter.packages else {**plain, "PYTHONPATH": str(ROOT)})
        return usage, sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    finally:
        shutil.rmtree(out, ignore_errors=True)


def compare(exporters: list[Exporter], peers: Path, model: Path, text: Path, work: Path, rounds: int) -> dict[str, object]:
    """Rounds of all exporters, in an order that turns; what fails is not tried again."""
    found: dict[str, list[Usage]] = {e.name: [] for e in exporters}
    about: dict[str, dict[str, object]] = {e.name: {"exports": e.exports} for e in exporters}
    for number in range(rounds):
        for exporter in exporters if number % 2 == 0 else exporters[::-1]:
            row, environment = about[exporter.name], peers / exporter.name
            if exporter.packages and not environment.is_dir():
                row["status"] = f"skipped: {environment} is not there; type {exporter.install}"
            if "status" in row:
                continue
            try:
                usage, row["bytes"] = run(exporter, environment, model, text, work / exporter.name)
                found[exporter.name].append(usage)
                print(number, exporter.name, usage, flush=True)
            except SystemExit as failure:
                row["status"] = f"failed: {str(failure)[-2000:]}"
                print(number, exporter.name, row["status"], flush=True)
    for exporter in exporters:
        row = about[exporter.name]
        if usages := found[exporter.name]:
            row |= {"status": "measured"} if "status" not in row else {}
            row |= {"median": median(usages), "rounds": [asdict(u) for u in usages]}
            row["versions"] = versions(exporter, peers / exporter.name / "bin" / "python")
    return dict(about)


def median(usages: list[Usage]) -> dict[str, float]:
    """Of each figure by itself."""
    return {key: statistics.median(asdict(u)[key] for u in usages) for key in asdict(usages[0])}


def versions(exporter: Exporter, python: Path) -> dict[str, str]:
    """What its environment holds."""
    own = str(python) if exporter.packages else sys.executable
    command = [own, "-c", VERSIONS, *exporter.libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(exporter.libraries, done.stdout.split(), strict=True))


def layered(folder: Path, layers: int) -> Path:
    """A checkpoint of the 7B's width with ``layers`` layers and two vision blocks, made if it is not there."""
    if (folder / "model.safetensors.index.json").is_file():
        return folder
    size = replace(FULL, layers=layers, vision_depth=2, vision_full=(1,))
    folder.mkdir(parents=True)
    write_tokenizer(folder, size.vocab, ["a lesion with irregular borders"])
    write_settings(folder, size, BF16)
    write_shards(folder, [TensorSpec(name, shape, BF16) for name, shape in expected_shapes(read_config(folder)).items()])
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="0.5b", help="of 0.5b and 7b-LAYERS, with commas")
    parser.add_argument("--only", default=",".join(e.name for e in EXPORTERS), help="exporters, with commas")
    parser.add_argument("--model", type=Path, default=Path("build/int4-quality/half-billion-shuffled"), help="of shape 0.5b")
    parser.add_argument("--peers", type=Path, default=ROOT / "build" / "peers", help="the environments")
    parser.add_argument("--work", type=Path, default=Path("build/onnx_exporters"), help="made, and deleted at the end")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    known = {e.name: e for e in EXPORTERS}
    exporters = [known[name] for name in args.only.split(",")]
    args.work.mkdir(parents=True)
    try:
        for shape in args.shapes.split(","):
            name, _, layers = shape.partition("-")
            model = layered(args.work / shape, int(layers)) if name == "7b" else real_weights.make(args.model)
            text = write_text_half(model, args.work / f"{shape}-text")
            rows = compare(exporters, args.peers.absolute(), model, text, args.work, args.rounds)
            machine = {"processor": platform.machine(), "cores": os.cpu_count(), "load_average": os.getloadavg()[0]}
            weights = sum(p.stat().st_size for p in model.glob("*.safetensors"))
            save(args.json, shape, {"checkpoint": weights, "text": _size(text), "machine": machine, "exporters": rows})
            print(json.dumps(rows, indent=1), flush=True)
    finally:
        shutil.rmtree(args.work, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.glob("*.safetensors"))


if __name__ == "__main__":
    main()
