"""The model that ships with skinedge, and the demo that begins with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skinedge.embedded import BASE, SIDE_BRANCH, embedded_checkpoint
from skinedge.model.config import read_config
from skinedge.synthderm.findings import DIAGNOSES
from skinedge.weights.checkpoint import open_checkpoint


def test_it_is_small_and_whole() -> None:
    weights = BASE / "model.safetensors"
    assert weights.stat().st_size <= 12_000_000
    checkpoint = open_checkpoint(BASE, [SIDE_BRANCH])
    assert checkpoint.side_branch is not None
    assert {str(checkpoint.weights.spec(name).dtype) for name in checkpoint.weights.names()} == {"bfloat16"}
    assert checkpoint.side_branch.shape.experts == 8
    assert embedded_checkpoint().digest != embedded_checkpoint([]).digest


def test_it_has_qwens_special_tokens_and_can_spell_every_disease() -> None:
    from tokenizers import Tokenizer

    tokenizer, config = Tokenizer.from_file(str(BASE / "tokenizer.json")), read_config(BASE)
    for token in ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<think>", "</answer>"):
        assert tokenizer.token_to_id(token) is not None, token
    assert config.image_token_id == tokenizer.token_to_id("<|image_pad|>")
    for name in DIAGNOSES:
        ids = tokenizer.encode(f" {name}", add_special_tokens=False).ids
        assert tokenizer.decode(ids) == f" {name}"
        assert max(ids) < config.text.vocab_size
    assert "must not be used to look at a patient" in (BASE / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_demo_distils_asks_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``make demo`` with a handful of pictures: the same path, the same files."""
    pytest.importorskip("transformers")
    import torch

    from train import demo

    monkeypatch.setattr(demo, "TRAIN", 32)
    monkeypatch.setattr(demo, "TEST", 4)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert demo.train_and_export(tmp_path / "demo", quiet=True)
    finally:
        torch.set_num_threads(threads)
    card = (tmp_path / "demo" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "24 steps over 32 records, 12 epochs" in card
    adapter = json.loads((tmp_path / "demo" / "adapter" / "run.json").read_text(encoding="utf-8"))
    assert adapter["adapter.experts"] == "8"
    assert "PyTorch" in (tmp_path / "demo" / "export" / "report.md").read_text(encoding="utf-8")
