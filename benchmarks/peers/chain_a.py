"""The usual chain against ours: PEFT's merge, llama.cpp's converter, ``llama_model_quantize``, at the 7B's size.

    python benchmarks/peers/chain_a.py [--work DIR] [--layers 28] [--model DIR --adapter DIR] [--sdist FILE_OR_FOLDER]
                                       [--python build/peers/chain_a/bin/python]

Both get the same checkpoint of random weights (``benchmarks/export_7b.py``) and the same LoRA, and make Q4_K_M of the text
and F16 of the vision tower; every tensor of the two is compared.  PEFT and the converter run in an environment of their
own; ``--python`` names it, made by ``python -m venv build/peers/chain_a`` and ``build/peers/chain_a/bin/pip install
torch==2.13.0 transformers==5.23.0 peft==0.21.2 gguf==0.19.0 pillow``.  Each intermediate file is deleted when the next
step is done with it, so that the chain fits on the disk.  See ``benchmarks/measuring.py`` for the figures.  Linux only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "peers")]

import psutil  # noqa: E402
from gguf_upstream import CONVERT, Quantizer, tensors_of, unpack  # noqa: E402

from benchmarks.export_7b import FULL, export_command, make_checkpoint, save  # noqa: E402
from benchmarks.measuring import Usage, measure  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "chain_a.json"
VENV = ROOT / "build" / "peers" / "chain_a" / "bin" / "python"
Q4_K_M = 15
FILES = ("model.gguf", "mmproj.gguf")
SPARE = 1 << 30  # memory that must be left when the whole model lies in it

MERGE = """
import sys
import peft, transformers
model, adapter, out = sys.argv[1:]
base = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(model, dtype="auto")
peft.PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(out)
"""
# In a low machine the kernel ends this process before another's.
VICTIM = ["choom", "-n", "800", "--"] if shutil.which("choom") else []


def chain(model: Path, lora: Path, work: Path, llama: Path, python: Path) -> dict[str, Usage]:
    """The four steps; ``work`` is left with ``model.gguf`` and ``mmproj.gguf``."""
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    plain = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | quiet
    merged, f16 = work / "merged", work / "f16.gguf"
    convert = [*VICTIM, str(python), "-c", CONVERT, str(llama), str(merged), "--outtype", "f16", "--outfile"]
    found = {"merge": measure([*VICTIM, str(python), "-c", MERGE, str(model), str(lora), str(merged)], plain)}
    for path in model.iterdir():
        if path.is_file() and ".safetensors" not in path.name and not (merged / path.name).exists():
            shutil.copyfile(path, merged / path.name)
    found["convert"] = measure([*convert, str(f16)], plain)
    found["convert --mmproj"] = measure([*convert, str(work / "mmproj.gguf"), "--mmproj"], plain)
    shutil.rmtree(merged)
    itself = [sys.executable, __file__, "--sdist", str(llama), "--quantize", str(f16), str(work / "model.gguf")]
    found["quantize"] = measure(itself)
    f16.unlink()
    return found


def together(steps: dict[str, Usage]) -> Usage:
    """All steps one after another."""
    each = list(steps.values())
    return Usage(
        round(sum(u.seconds for u in each), 2),
        round(sum(u.cpu_s for u in each), 2),
        max(u.peak_private for u in each),
        max(u.peak_resident for u in each),
        sum(u.written for u in each),
    )


def tensors(folder: Path) -> dict[str, object]:
    """Type, shape and digest of every tensor of both files."""
    return {f"{file}: {name}": found for file in FILES for name, found in tensors_of(folder / file).items()}


def refuse_if_it_does_not_fit(model: Path, work: Path) -> None:
    weights = sum(p.stat().st_size for p in model.glob("*.safetensors"))
    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(work).free
    if weights + SPARE > memory or 2.05 * weights > disk:  # merged, then the same again in F16
        raise SystemExit(f"{weights >> 20} MiB of weights, {memory >> 20} of memory, {disk >> 20} of disk: give fewer --layers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/chain_a"))
    parser.add_argument("--layers", type=int, default=FULL.layers)
    parser.add_argument("--model", type=Path, help="a checkpoint that is there already, with --adapter")
    parser.add_argument("--adapter", type=Path, help="its LoRA")
    parser.add_argument("--sdist", type=Path, help="xllamacpp's sdist, packed or unpacked (default: pip download)")
    parser.add_argument("--python", type=Path, default=VENV)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--quantize", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quantize:
        Quantizer(args.sdist, args.quantize[1].parent)(*args.quantize, Q4_K_M)
        return
    args.work.mkdir(parents=True)
    try:
        llama = unpack(args.sdist, args.work)
        model, lora = (args.model, args.adapter) if args.model else _made(args.work, args.layers)
        refuse_if_it_does_not_fit(model, args.work)
        Quantizer(llama, args.work)  # compiled before anything is measured
        ours = measure(export_command(model, [lora], "gguf:q4_k_m", args.work / "ours"), {**os.environ, "PYTHONPATH": str(ROOT)})
        print("ours", ours, flush=True)
        made = tensors(args.work / "ours")
        shutil.rmtree(args.work / "ours")
        steps = chain(model, lora, args.work, llama, args.python)
        whole, theirs = together(steps), tensors(args.work)
        print("chain", whole, flush=True)
        result = {
            "layers": args.layers if not args.model else None,
            "checkpoint": sum(p.stat().st_size for p in model.glob("*.safetensors")),
            "cores": os.cpu_count(),
            "ours": asdict(ours),
            "chain": asdict(whole),
            "steps": {name: asdict(usage) for name, usage in steps.items()},
            "times_faster": round(whole.seconds / ours.seconds, 2),
            "tensors": len(made),
            "differing": sorted(n for n in made.keys() | theirs.keys() if made.get(n) != theirs.get(n)),
            "load_average": os.getloadavg()[0],
        }
        print(result)
        save(args.json, f"{result['checkpoint'] / 1e9:.1f} GB", result)
    finally:
        shutil.rmtree(args.work, ignore_errors=True)


def _made(work: Path, layers: int) -> tuple[Path, Path]:
    model, (lora, _) = make_checkpoint(work / "checkpoint", layers)
    return model, lora


if __name__ == "__main__":
    main()
