"""A handful of records for the tiny model, and a run over them in this process."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from command_line import ROOT, environment
from PIL import Image

WORDS = [
    "irregular",
    "borders",
    "several",
    "shades",
    "brown",
    "silvery",
    "scale",
    "plaques",
    "pearly",
    "papule",
    "rolled",
    "edge",
    "rough",
    "patch",
]
SIZES = ((84, 84), (56, 112), (140, 84))


def write_records(folder: Path, count: int = 12) -> Path:
    """``records.jsonl`` and its pictures, of three sizes; one record has two of them."""
    rng = np.random.default_rng(7)
    (folder / "images").mkdir(parents=True)
    lines = []
    for i in range(count):
        images = [_picture(folder, f"{i}-{n}", i, rng) for n in range(2 if i == 3 else 1)]
        text = " ".join(rng.choice(WORDS, 3 + i % 5))
        lines.append(record(f"case-{i}", images, f"<think>{text}</think><answer>nevus</answer>", [i % 3]))
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines), encoding="utf-8")
    return folder / "records.jsonl"


def record(identity: str, images: Sequence[str], said: str, skin: object = 0) -> dict[str, Any]:
    asked = {"role": "user", "content": "<image>" * len(images) + "What is it?"}
    return {"id": identity, "messages": [asked, {"role": "assistant", "content": said}], "images": images, "skin_labels": skin}


def _picture(folder: Path, name: str, i: int, rng: np.random.Generator) -> str:
    pixels = rng.normal(200 - 50 * (i % 3), 30, (*SIZES[i % len(SIZES)], 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    return f"images/{name}.png"


class Features:
    """A teacher whose features are given: the same random ones for the same photograph."""

    name = "features"

    def __init__(self, width: int = 6, digest: str = "1", *, gives: int | None = None, bad: str = "") -> None:
        self.width, self.digest, self._gives, self._bad = width, digest, gives or width, bad

    def features(self, records: Sequence[tuple[str, Path]]) -> npt.NDArray[np.float32]:
        rows = [np.random.default_rng(zlib.crc32(f"{i} {p.name}".encode())).standard_normal(self._gives) for i, p in records]
        found = np.array(rows, np.float32)
        found[[i == self._bad for i, _ in records], 0] = np.nan
        return found


LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
SMALL = {
    "adapter.width": 24,
    "adapter.layers": 2,
    "adapter.experts": 4,
    "adapter.bottleneck": 8,
    "adapter.skin_hidden": 8,
    "adapter.bias_rank": 8,
    "adapter.teacher": 6,
    "optim.lr": 0.01,
    "train.batch": 4,
    "train.accumulation": 1,
    "train.epochs": 2,
    "train.precision": "f32",
}


def run(model: Path, data: Path, out: Path, *, teacher: Features | None = None, **changes: object) -> Any:
    """Train; ``changes`` are keys of the recipe with ``__`` for the dot.  Returns the ``Result``."""
    return job(model, data, out, teacher=teacher, **changes).train()


def job(model: Path, data: Path, out: Path, *, teacher: Features | None = None, **changes: object) -> Any:
    """The ``Job`` of ``run``."""
    from train.job import Job

    made = Job(recipe(model, data, **changes), out, device="cpu", threads=1, quiet=True)
    made.teacher = teacher
    return made


def recipe(model: Path, data: Path, **changes: object) -> Any:
    """The settings of ``run``."""
    from train.recipe import read_recipe

    chosen = {name.replace("__", "."): value for name, value in changes.items()}
    base: Mapping[str, object] = {} if chosen.get("adapter.kind") == "lora" else {"adapter.kind": "side-branch"}
    small = {k: v for k, v in SMALL.items() if chosen.get("adapter.kind") != "lora" or not k.startswith("adapter.")}
    start = "lora" if chosen.get("adapter.kind") == "lora" else "side_branch_v2"
    return read_recipe(start, {**base, **small, "model.folder": str(model), "data.files": (str(data),), **chosen})


def losses(out: Path) -> list[dict[str, float]]:
    """The lines of a run's log without what depends on the clock."""
    rows = [json.loads(line) for line in (out / "log" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_s")} for row in rows]


def files(out: Path) -> dict[str, bytes]:
    """What a finished run leaves, without its log."""
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


def words(model: Path, data: Path, out: Path, *more: str, **changes: object) -> list[str]:
    """The command that does what ``run`` does, in a process of its own."""
    chosen = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    settings = [w for key, value in chosen.items() for w in ("--set", f"{key}={value}")]
    places = ["--model", str(model), "--data", str(data), "--out", str(out), "--teacher", "", "--device", "cpu", "--threads", "1"]
    return [sys.executable, "-m", "train.distill", "--recipe", "side_branch_v2", *places, *settings, *more]


def typed(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; processes that wait for each other talk over the loopback, whatever the host's name is."""
    return subprocess.run(
        command, env=environment(GLOO_SOCKET_IFNAME=LOOPBACK), cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
