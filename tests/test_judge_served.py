"""``skinedge judge`` against llama.cpp's own server: the mechanics, for the tiny model's scores are drawn by a grammar."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import typed
from PIL import Image
from test_corpus_server import LlamaServer

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.targets._contract import ExportOptions

pytest.importorskip("httpx2")

MARKS = r"""
root ::= [a-z ]{10,20} "{\"Accuracy\": " s ", \"Safety\": " s ", \"Medical Groundedness\": " s last
last ::= ", \"Clinical Coverage\": " s ", \"Reasoning Coherence\": " s ", \"Description Precision\": " s "}"
s ::= [0-5]
"""


def test_a_served_model_judges_photographs_and_is_not_asked_twice(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    lines = []
    for n in range(3):
        pixels = np.random.default_rng(n).integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
        lines.append({"id": str(n), "text": f"<think>case {n}</think><answer>nevus</answer>", "image": f"{n}.png"})
    file = tmp_path / "told.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    bundle = export(AdapterCheckpoint.find(tiny_model, []), "gguf", ExportOptions("q8_0"), tmp_path / "bundle").path
    server = LlamaServer(bundle / "model.gguf", bundle / "mmproj.gguf", tmp_path / "log", MARKS)
    try:
        words = ("judge", file, "--endpoint", server.url, "--model", "tiny", "--reference-free", "--repeat-share", "1",
                 "--journal", tmp_path / "journal.jsonl", "--json")  # fmt: skip
        done = typed(*words, "--out", tmp_path / "one.json")
        assert done.code == 0, done.err
        assert server.requests == 6, "three narratives, each twice"
        again = typed(*words, "--out", tmp_path / "two.json")
        assert server.requests == 6
    finally:
        server.kill()
    assert (done.json["invalid"], done.json["judged_again"]) == (0, 3)
    assert done.json["judge"]["says"]["meta"]["n_params"] > 0, "llama.cpp says how large the judge is"
    assert again.json["means"] == done.json["means"]
