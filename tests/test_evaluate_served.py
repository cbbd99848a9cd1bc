"""``skinedge evaluate`` against llama.cpp's own server: what is sent is what a real server takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_copies import COPIES
from command_line import typed
from test_corpus_server import LlamaServer

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.evaluation.result import read_evaluation
from skinedge.targets._contract import ExportOptions

pytest.importorskip("httpx2")

GRAMMAR = 'root ::= "The answer is " ("melanoma" | "basal cell carcinoma" | "melanocytic nevus") "."'


def test_a_served_model_is_asked_with_pictures_and_again_from_the_journal(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    bundle = export(AdapterCheckpoint.find(tiny_model, []), "gguf", ExportOptions("q8_0"), tmp_path / "bundle").path
    server = LlamaServer(bundle / "model.gguf", bundle / "mmproj.gguf", tmp_path / "log", GRAMMAR)
    try:
        words = (
            "evaluate", server.url, "--endpoint-model", "tiny", "--data", COPIES["pad-ufes-20"](tmp_path / "pad"),
            "--max-new-tokens", "24", "--concurrency", "2", "--journal", tmp_path / "journal.jsonl", "--json",
        )  # fmt: skip
        done = typed(*words, "--out", tmp_path / "one.json")
        assert done.code == 0, done.err
        assert server.requests == 6
        again = typed(*words, "--out", tmp_path / "two.json")
        assert server.requests == 6
    finally:
        server.kill()
    assert again.json["reused"] == 6
    one, two = read_evaluation(tmp_path / "one.json"), read_evaluation(tmp_path / "two.json")
    assert one.answers == two.answers
    assert {a.said for a in one.answers} <= {"melanoma", "basal cell carcinoma", "melanocytic nevus"}
    assert all(a.prompt_tokens > 100 for a in one.answers)
    assert one.failed == ()
