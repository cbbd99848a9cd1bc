"""The colour probe finds what is there and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from skinedge.errors import UsageError
from train.probe import app, linear_probe, transferred_probe

DISEASES = ["eczema", "psoriasis", "vitiligo"]


def test_separable_labels_are_found_and_random_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(3, size=600)
    labels = [DISEASES[n] for n in numbers]
    centres = np.array([[0.2, 0.5, 0.5], [0.8, 0.5, 0.5], [0.5, 0.9, 0.5]])
    assert linear_probe(centres[numbers] + rng.normal(0, 0.03, (600, 3)), labels, 0).value > 0.98
    nothing = linear_probe(rng.random((600, 3)), labels, 0)
    assert nothing.n == 600
    assert nothing.interval.low < 1 / 3 < nothing.interval.high + 0.03


def test_accuracy_is_that_of_the_best_linear_rule() -> None:
    """Two normal classes one standard deviation apart either side: Phi(1) = 84.1 % at best."""
    rng = np.random.default_rng(1)
    numbers = rng.integers(2, size=4000)
    features = rng.normal(0, 1, (4000, 1)) + (2.0 * numbers[:, None] - 1)
    found = linear_probe(features, [DISEASES[n] for n in numbers], 0)
    assert found.value == pytest.approx(0.841, abs=0.02)
    half = 2000
    labels = [DISEASES[n] for n in numbers]
    other = transferred_probe(features[:half], labels[:half], features[half:], labels[half:])
    assert other.n == half
    assert other.value == pytest.approx(0.841, abs=0.03)


def test_a_scale_does_not_matter_and_the_seed_fixes_the_folds() -> None:
    rng = np.random.default_rng(2)
    numbers = rng.integers(2, size=200)
    features = rng.normal(0, 1, (200, 2)) + numbers[:, None]
    labels = [DISEASES[n] for n in numbers]
    assert linear_probe(features, labels, 3) == linear_probe(features * [1e-3, 1e4] + 7, labels, 3)


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(UsageError, match="3 pictures cannot be cut into 5 folds"):
        linear_probe(np.zeros((3, 2)), ["a", "b", "a"], 0)


@pytest.fixture
def red_or_blue(tmp_path: Path) -> Path:
    """Pictures whose mean colour tells all."""
    rng, lines = np.random.default_rng(0), []
    for i in range(40):
        pixels = rng.integers(0, 100, (30, 30, 3), dtype=np.uint8)
        pixels[..., 2 * (i % 2)] += 100
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        messages = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "x"}]
        lines.append(json.dumps({"messages": messages, "images": [f"{i}.png"], "diagnosis": DISEASES[i % 2], "id": str(i)}))
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    return tmp_path / "records.jsonl"


def test_the_command_reads_pictures(red_or_blue: Path) -> None:
    told = json.loads(CliRunner().invoke(app, ["--data", str(red_or_blue), "--json"], catch_exceptions=False).stdout)
    assert told["mean_colour"]["right"] == 40
    assert told["commonest_diagnosis"] == 0.5
    arguments = ["--data", str(red_or_blue), "--test", str(red_or_blue), "--quiet"]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert "mean and spread of colour  100.0 %" in shown
    assert "always the commonest is right in 50.0 %" in shown
