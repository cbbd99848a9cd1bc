"""One 7B-shaped distillation on a GPU: tokens/s from the cache and without it, peak memory, share of the bf16 peak.

Usage: python -m benchmarks.gpu_distill [--records 64] [--steps 4] [--json FILE]     (also a part of benchmarks.gpu_check)

The model has the shape of SkinGPT-R1's Qwen2.5-VL-7B and random weights that are drawn on the device; tokenizer,
processor, records, cache, side branch and loop are the real ones, with the recipe ``skingpt_r1_7b``.  The bf16 peak is
that of the same GPU's own matrix product (8192 cubed), measured before.  Without a GPU it prints ``skipped: no GPU``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from skinedge.model.config import ModelConfig, read_config
from skinedge.model.tiny import SHAPE_7B, Size, write_settings, write_tokenizer
from skinedge.synthderm.findings import Case, draw_cases
from skinedge.synthderm.narrative import draw_differentials, narrate
from skinedge.weights.source import BF16
from train.backbone import Backbone
from train.cache import MadeOf
from train.job import Job
from train.recipe import read_recipe
from train.sources import Sources

RESULT = Path(__file__).parent / "results" / "gpu_distill.json"
FULL_7B = dataclasses.replace(SHAPE_7B, layers=28, vision_depth=32, vision_full=(7, 15, 23, 31))
SIDE = 560  # pixels of a picture's side: 1600 patches, 400 tokens


def random_model(folder: Path, config: ModelConfig, device: torch.device) -> Backbone:
    """The model of a folder's settings with weights drawn on the device."""
    import transformers
    from transformers.initialization import no_init_weights

    settings = transformers.AutoConfig.from_pretrained(folder)
    settings._attn_implementation = "sdpa"
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device, no_init_weights():
            model = transformers.Qwen2_5_VLForConditionalGeneration(settings)
    finally:
        torch.set_default_dtype(default)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        weight.requires_grad_(False)
        weight.fill_(1.0) if "norm" in name or "ln_q" in name else weight.normal_(0, 0.02)
    return Backbone(model.eval(), config)


def tell(case: Case, seed: int) -> str:
    """A narrative of a case."""
    rng = np.random.default_rng(seed)
    return narrate(case.findings, case.diagnosis, draw_differentials(case.diagnosis, rng), rng)


def write_records(folder: Path, count: int, side: int) -> Path:
    """Pictures of noise and narratives of SynthDerm, three in a row: about the length of a chain of thought."""
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True)
    lines = []
    for i, case in enumerate(draw_cases(count, 7)):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(folder / f"{i}.png")
        text = " ".join(tell(case, n) for n in range(3))
        asked = {"role": "user", "content": "<image>What is it?"}
        record = {"id": f"{i}", "messages": [asked, {"role": "assistant", "content": text}], "images": [f"{i}.png"]}
        lines.append(json.dumps(record | {"skin_labels": i % 3}))
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "records.jsonl"


class RandomSources(Sources):
    """Sources whose frozen model was made here."""

    made: Backbone

    def backbone(self) -> Backbone:
        return self.made


def peak_flops(device: torch.device) -> float:
    """Floating-point operations a second of the device's own bf16 matrix product."""
    n, repeats = (8192, 20) if device.type == "cuda" else (1024, 3)
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    wait(device)
    begin = time.perf_counter()
    for _ in range(repeats):
        a @ a
    wait(device)
    return 2 * n**3 * repeats / (time.perf_counter() - begin)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Bytes at most allocated on the device since the last call."""
    if device.type != "cuda":
        return 0
    most = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return most


def measure(size: Size, records: int, steps: int, side: int, device: str, changes: dict[str, object]) -> dict[str, object]:
    """Plain and cached on ``device`` (``auto`` or ``cpu``)."""
    with tempfile.TemporaryDirectory(prefix="skinedge-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        write_tokenizer(folder, size.vocab, [tell(case, 0) for case in draw_cases(64, 3)])
        write_settings(folder, size, np.dtype(BF16))
        config = read_config(folder)
        data = write_records(Path(scratch) / "data", records, side)
        made: Backbone | None = None
        found: dict[str, object] = {}
        for kind, count in (("plain", steps), ("cached", steps * 4)):
            given = {"model.folder": str(folder), "data.files": (str(data),), "teacher.spec": "", "cache.use": kind == "cached",
                     "train.steps": count, "optim.warmup": 0.0, **changes}  # fmt: skip
            job = Job(read_recipe("skingpt_r1_7b", given), Path(scratch) / kind, device=device, quiet=True)
            where = job.accelerator.device
            if made is None:
                found["bf16_peak_tflops"] = peak_flops(where) / 1e12
                made = random_model(folder, config, where)
                found["parameters"] = sum(p.numel() for p in made.model.parameters())
            job.made_of = MadeOf(model="random", data="noise", teacher="", precision="bf16", cutoff=job.recipe.data.cutoff)
            job.head = made.model.lm_head.weight.detach()
            job.sources = RandomSources(job.recipe, config, job.records, None, job.accelerator, True)
            job.sources.made = made
            peak_memory(where)
            begin = time.perf_counter()
            job.train()
            found[f"{kind}_wall_s"] = time.perf_counter() - begin
            found[f"{kind}_peak_bytes"] = peak_memory(where)
            rows = [json.loads(line) for line in (Path(scratch) / kind / "log" / "metrics.jsonl").read_text().splitlines()]
            found[f"{kind}_step_s"] = step = float(np.median([row["seconds"] for row in rows[1:]]))
            found[f"{kind}_supervised_tokens_per_s"] = float(np.mean([row["tokens"] for row in rows])) / step
        examples = [job.sources.maker(record) for record in job.records]
        found["ratio_of_a_step"] = found["plain_step_s"] / found["cached_step_s"]
        found["cache_fill_s"] = found["cached_wall_s"] - steps * 4 * found["cached_step_s"]
        step_records = job.schedule.step_records
        work = np.mean([flops(size, len(e.token_ids), sum(len(r) for r in e.rows), len(e.targets)) for e in examples])
        found["forward_tflop_a_record"] = float(work) / 1e12
        found["plain_share_of_bf16_peak"] = work * step_records / found["plain_step_s"] / (found["bf16_peak_tflops"] * 1e12)
        found["tokens_a_record"] = float(np.mean([len(e.token_ids) for e in examples]))
        found["supervised_tokens_a_record"] = float(np.mean([len(e.targets) for e in examples]))
    return found


def flops(size: Size, tokens: int, patches: int, supervised: int) -> float:
    """Operations of one record's forward pass: every weight's product, and attention; the side branch is left out."""
    kv = size.hidden * size.kv_heads // size.heads
    layer = 2 * size.hidden**2 + 2 * size.hidden * kv + 3 * size.hidden * size.intermediate
    text = 2 * tokens * size.layers * layer + size.layers * 2 * tokens**2 * size.hidden
    block = 4 * size.vision_hidden**2 + 3 * size.vision_hidden * size.vision_intermediate
    seen = len(size.vision_full) * patches + (size.vision_depth - len(size.vision_full)) * min(64, patches)
    vision = 2 * patches * size.vision_depth * block + 4 * patches * seen * size.vision_hidden
    merged = 4 * size.vision_hidden
    merger = 2 * patches / 4 * (merged**2 + merged * size.hidden)
    return float(text + vision + merger + 2 * supervised * size.hidden * size.vocab)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="of the plain loop; the cached one takes four times as many")
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no GPU")
        return
    found = measure(FULL_7B, args.records, args.steps, SIDE, "auto", {})
    made = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "records": args.records, "steps": args.steps}
    result = {"status": "measured", **made, **found}
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
