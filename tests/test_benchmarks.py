"""Benchmarks that need a GPU run here at a size that any machine has: what they measure is real code."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from benchmarks.gpu_distill import flops, measure
from skinedge.model.tiny import Size


def test_a_distillation_of_random_weights_is_measured_plain_and_cached() -> None:
    small = {"adapter.width": 32, "adapter.bottleneck": 8, "train.batch": 2, "train.accumulation": 1}
    found = measure(Size(layers=2, vision_depth=2, vision_full=(1,)), records=4, steps=2, side=112, device="cpu", changes=small)
    assert found["plain_step_s"] > 0
    assert found["cached_step_s"] > 0
    assert 0 < found["plain_share_of_bf16_peak"] < 1
    assert found["parameters"] == pytest.approx(3.56e6, rel=0.01)
    assert found["tokens_a_record"] > found["supervised_tokens_a_record"] > 50


def test_operations_are_two_for_each_weight_and_token() -> None:
    """One token and no picture: the products of the language model's 2 layers and of the head."""
    size = Size(layers=2)
    layer = 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 768
    assert flops(size, 1, 0, 1) == 2 * 2 * layer + 2 * 2 * 256 + 2 * 256 * 2048
