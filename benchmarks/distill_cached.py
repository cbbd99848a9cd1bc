"""Frozen means cached: ten epochs of the side branch from the cache against the plain loop, same steps, same losses.

Usage: python -m benchmarks.distill_cached [--work DIR] [--case tiny|drawn|photographs ...] [--epochs 10] [--json FILE]

Cases:

tiny         the embedded model on drawn pictures of SynthDerm
drawn        real Qwen2.5-0.5B language weights (``benchmarks.real_weights``) under the vision tower that every
             released Qwen2.5-VL has (32 layers of 1280, random weights), on drawn pictures
photographs  the same model on photographs of PAD-UFES-20 with narratives of DermBench (``../shared/data``)
capped       the same photographs enlarged to the processor's limit of 1280 tokens, as a phone's own files would be

Both loops run the same command's job in this process, without a vision teacher (the plain loop asks it once too).
The plain loop's epochs all cost the same: ``--plain-epochs N`` stops it after N of the ten and adds the mean time of
its epochs for the others, and the result says so.  "Where the rest goes" times the parts of a cached step by themselves.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import real_weights
from skinedge.embedded import BASE
from skinedge.synthderm.dataset import write_dataset
from train.job import Job
from train.recipe import read_recipe

RESULT = Path(__file__).parent / "results" / "distill_cached.json"
SHARED = Path(__file__).parents[2] / "shared" / "data"
RECORDS = {"tiny": 480, "drawn": 32, "photographs": 16, "capped": 4}
CAP = 1003520  # pixels of 1280 tokens
RELEASED_VISION = {
    "vision_hidden": 1280, "vision_intermediate": 3420, "vision_depth": 32, "vision_heads": 16, "vision_full": (7, 15, 23, 31),
}  # fmt: skip


def photograph_records(folder: Path, count: int, *, enlarged: bool) -> Path:
    """Photographs of PAD-UFES-20 beside narratives of DermBench; they are not of the same patients, which costs the same time."""
    images = sorted((SHARED / "pad-ufes-20" / "images").glob("*.jpg"))[:count]
    lines = (SHARED / "dermbench" / "references.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    if len(images) < count or len(lines) < count:
        raise SystemExit(f"skipped: {SHARED} has too few photographs or narratives")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (image, line) in enumerate(zip(images, lines, strict=True)):
        if enlarged:
            with Image.open(image) as small:
                image = folder / f"{i}.png"
                small.resize((1120, 896), Image.Resampling.BICUBIC).save(image)
        asked = {"role": "user", "content": "<image>Describe the lesion, reason step by step, and name the diagnosis."}
        said = {"role": "assistant", "content": json.loads(line)["reference"]}
        rows.append({"id": f"{i}", "messages": [asked, said], "images": [str(image.resolve())], "skin_labels": i % 3})
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return folder / "records.jsonl"


def case_files(case: str, work: Path, count: int) -> tuple[Path, Path]:
    """The model and the records of a case."""
    if case == "tiny":
        model = BASE
    else:
        size = dataclasses.replace(real_weights.SIZE, **RELEASED_VISION)
        model = real_weights.make(work / "half-billion", size=size, max_pixels=CAP)
    data = work / f"{case}-{count}"
    if not (data / "records.jsonl").is_file():
        if case in ("photographs", "capped"):
            photograph_records(data, count, enlarged=case == "capped")
        else:
            write_dataset(data, count, 101, quiet=True)
    return model, data / "records.jsonl"


def logged(out: Path, what: str) -> np.ndarray:
    """A figure of each step."""
    rows = [json.loads(line) for line in (out / "log" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return np.array([row[what] for row in rows])


def run(model: Path, data: Path, out: Path, *, cached: bool, epochs: int, of: int, batch: int) -> tuple[float, Job]:
    """Wall seconds of a run from opening the model to the card; stopped after ``epochs`` of a schedule of ``of``."""
    steps = epochs * sum(1 for _ in data.open(encoding="utf-8")) // batch
    changes = {
        "model.folder": str(model), "data.files": (str(data),), "teacher.spec": "", "cache.use": cached, "train.batch": batch,
        "train.accumulation": 1, "train.epochs": of, "optim.warmup": 0.0,
        "adapter.width": 128, "adapter.components": 0, "adapter.turn": False,
    }  # fmt: skip
    begin = time.perf_counter()
    job = Job(read_recipe("side_branch_v2", changes), out, device="cpu", quiet=True)
    if epochs < of:
        threading.Thread(target=stop_at, args=(out, steps), daemon=True).start()
    job.train()
    return time.perf_counter() - begin, job


def stop_at(out: Path, steps: int) -> None:
    """Ask this process to stop, as Ctrl-C would, once so many steps are logged."""
    log = out / "log" / "metrics.jsonl"
    while not log.is_file() or log.read_bytes().count(b"\n") < steps - 1:  # the step under way is finished
        time.sleep(0.05)
    signal.raise_signal(signal.SIGINT)


def cached_step(job: Job, batch: int, repeats: int = 5) -> dict[str, float]:
    """Milliseconds of the parts of a cached step, each by itself: reading, the branch, the head's share."""
    import torch

    from train.losses import Vocabulary

    source, head = job.sources.cached(job.cache_folder, job.made_of), job.head
    vocabulary = Vocabulary(head)
    student = job.student(None).module.to(torch.float32)
    chosen = list(range(batch))

    def timed(call) -> float:
        call()
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - begin) / repeats * 1e3

    part = source.batch(chosen)
    bias = torch.randn(batch, len(head), requires_grad=True)

    def branch() -> None:
        with torch.autocast("cpu", torch.bfloat16):  # as accelerate trains it
            said = student(part).branch
        torch.nn.functional.linear(said.shift.to(head.dtype), head).float().sum().backward()

    return {
        "tokens": float(sum(part.tokens)),
        "patches": float(sum(part.patches)),
        "read_ms": timed(lambda: source.batch(chosen)),
        "branch_and_bias_ms": timed(branch),
        "head_product_ms": timed(lambda: [vocabulary.logits(h) for h in part.hidden.split(vocabulary.rows)]),
        "vocabulary_loss_ms": timed(lambda: vocabulary.biased_loss(part.hidden, part.labels, bias, part.tokens).backward()),
    }


def measure(case: str, work: Path, epochs: int, plain_epochs: int, batch: int) -> dict[str, object]:
    """One case, plain and cached."""
    model, data = case_files(case, work, RECORDS[case])
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        outs = {name: Path(scratch) / name for name in ("cached", "filled", "plain")}
        # What is imported and allocated once a process is nobody's cost.
        few = write_dataset(Path(scratch) / "few", 4, 7, quiet=True)
        run(BASE, few, Path(scratch) / "warm-up", cached=True, epochs=1, of=1, batch=batch)
        cached_s, job = run(model, data, outs["cached"], cached=True, epochs=epochs, of=epochs, batch=batch)
        plain_s, _ = run(model, data, outs["plain"], cached=False, epochs=plain_epochs, of=epochs, batch=batch)
        # The cache is there now: what is left is training alone.
        outs["filled"].with_name("filled.cache").symlink_to(outs["cached"].with_name("cached.cache"))
        filled_s, _ = run(model, data, outs["filled"], cached=True, epochs=epochs, of=epochs, batch=batch)
        mine, theirs = logged(outs["cached"], "loss"), logged(outs["plain"], "loss")
        step = cached_step(job, batch)
        plain_s += float(logged(outs["plain"], "seconds").mean()) * (len(mine) - len(theirs))
        steps_s = float(logged(outs["cached"], "seconds").sum())
        size = sum(p.stat().st_size for p in outs["cached"].with_name("cached.cache").rglob("*") if p.is_file())
    return {
        "case": case, "records": RECORDS[case], "epochs": epochs, "batch": batch, "plain_epochs_run": plain_epochs,
        "cached_s": cached_s, "of_it_training_s": filled_s, "of_it_steps_s": steps_s,
        "plain_s": plain_s, "ratio": plain_s / cached_s,
        "ratio_of_an_epoch": plain_s / filled_s, "steps_compared": len(theirs),
        "loss_max_relative_difference": float(np.abs(mine[: len(theirs)] / theirs - 1).max()),
        "cache_bytes": size, "cached_step": step,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/distill-cached"))
    parser.add_argument("--case", action="append", choices=tuple(RECORDS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--plain-epochs", type=int)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = json.loads(args.json.read_text(encoding="utf-8"))["cases"] if args.json.is_file() else {}
    for case in args.case or RECORDS:
        row = rows[case] = measure(case, args.work.resolve(), args.epochs, args.plain_epochs or args.epochs, args.batch)
        print(f"{case}: {row['plain_s']:.0f} s plain, {row['cached_s']:.0f} s cached, {row['ratio']:.1f}x; {row}", flush=True)
        machine = f"{platform.machine()}, {os.cpu_count()} cores, bf16"
        args.json.write_text(
            json.dumps({"status": "measured", "machine": machine, "cases": rows}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
