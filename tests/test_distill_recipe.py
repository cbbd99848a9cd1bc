"""Recipes: every mistake is one sentence that names the file and the key, and suggests what was meant."""

from __future__ import annotations

import dataclasses
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinedge.errors import UsageError
from train.recipe import RECIPES, known_recipes, parse_override, read_recipe, to_toml
from train.settings import LoraSection, SideBranchSection


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_defaults_are_those_of_the_reference() -> None:
    recipe = read_recipe("skingpt_r1_7b")
    assert recipe.adapter == SideBranchSection(
        experts=8, width=1024, layers=4, bottleneck=64, skin_hidden=64, bias_rank=64, scale=1.5
    )
    weights = (recipe.loss.ce, recipe.loss.cosine, recipe.loss.balance, recipe.loss.skin)
    assert weights == (1.0, 0.1, 0.001, 0.1)
    assert (recipe.optim.lr, recipe.optim.warmup, recipe.train.epochs) == (1e-4, 0.03, 10)
    assert (recipe.train.batch, recipe.train.accumulation, recipe.data.cutoff) == (4, 4, 4096)


@pytest.mark.parametrize("name", known_recipes())
def test_every_recipe_is_read_and_written_back(name: str, tmp_path: Path) -> None:
    if "adapter" not in (RECIPES / f"{name}.toml").read_text(encoding="utf-8"):
        pytest.skip(f"{name} is not one of train.distill's")
    recipe = read_recipe(name)
    again = read_recipe(written(tmp_path, to_toml(recipe)))
    assert dataclasses.replace(again, teacher=recipe.teacher) == recipe


def test_what_names_this_machine_is_not_written_back() -> None:
    recipe = read_recipe(
        "demo",
        {
            "model.folder": "/ward/7",
            "data.files": ["/ward/7/p.jsonl"],
            "teacher.spec": "precomputed:/ward/7",
            "cache.folder": "/ward/7",
        },
    )
    assert "ward" not in to_toml(recipe)
    assert tomllib.loads(to_toml(recipe))["teacher"]["spec"] == "precomputed"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[optimm]\nlr = 1.0", "unknown section in {file} 'optimm'", "'optim'"),
        ("[optim]\nlearning = 1.0\nwarmupp = 0.1", "unknown key in [optim] of {file} 'learning'", "Known: lr"),
        ("[optim]\nwarmupp = 0.1", "unknown key in [optim] of {file} 'warmupp'", "'warmup'"),
        ("[adapter]\nkind = 'lora'\nexperts = 8", "unknown key in [adapter] of {file} 'experts'", "rank"),
        ("[adapter]\nkind = 'lara'", "unknown adapter kind in {file} 'lara'", "'lora'"),
        ("[optim]\nlr = 'fast'", "{file}: optim.lr is 'fast' and must be a number.", ""),
        ("[train]\nbatch = 1.5", "{file}: train.batch is 1.5 and must be a whole number.", ""),
        ("[train]\nbatch = true", "{file}: train.batch is True and must be a whole number.", ""),
        ("[train]\nbatch = 0", "{file}: train.batch is 0 and must be at least 1.", ""),
        ("[optim]\nlr = 0.0", "{file}: optim.lr is 0.0 and must be above 0.", ""),
        ("[optim]\nlr = nan", "{file}: optim.lr is nan and must be above 0.", ""),
        ("[optim]\nwarmup = 3", "{file}: optim.warmup is 3.0 and must be at most 1.", ""),
        ("[train]\nprecision = 'bf61'", "unknown value of train.precision 'bf61'", "'bf16'"),
        ("[adapter]\nkind = 'lora'\nvision = ['mlpp']", "unknown value of adapter.vision 'mlpp'", "'mlp'"),
        ("optim = 3", "{file}: 'optim' must be a section.", "[optim]"),
        ("[optim", "{file}: not TOML", ""),
    ],
)
def test_a_mistake_in_a_recipe(text: str, message: str, hint: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_recipe(file)
    assert message.format(file=file) in caught.value.message
    assert hint in caught.value.hint


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown recipe 'side_branch_v3'") as caught:
        read_recipe("side_branch_v3")
    assert "'side_branch_v2'" in caught.value.hint or "'side_branch_v1'" in caught.value.hint
    with pytest.raises(UsageError, match=r"none\.toml: there is no such recipe"):
        read_recipe("none.toml")


def test_flags_override_and_their_mistakes_name_the_flag() -> None:
    recipe = read_recipe("lora", dict([parse_override("adapter.rank=4"), parse_override("adapter.vision=[]")]))
    assert isinstance(recipe.adapter, LoraSection)
    assert (recipe.adapter.rank, recipe.adapter.vision) == (4, ())
    assert parse_override("teacher.spec=precomputed:/a b") == ("teacher.spec", "precomputed:/a b")
    with pytest.raises(UsageError, match=r"unknown key in \[optim\] of --set 'lrr'"):
        read_recipe("lora", {"optim.lrr": 1})
    with pytest.raises(UsageError, match="--set lr is not of the form"):
        parse_override("lr")


@given(st.text(max_size=30))
def test_any_override_is_read_or_refused(text: str) -> None:
    with suppress(UsageError):
        name, value = parse_override(text)
        read_recipe("demo", {name: value})
