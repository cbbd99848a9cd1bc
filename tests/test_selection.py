"""Which items are asked: fair shares, whole lesions, nothing that training saw, nothing lost without a word."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from benchmark_copies import COPIES
from hypothesis import given
from hypothesis import strategies as st

from skinedge.errors import UsageError
from skinedge.evaluation.datasets import open_dataset
from skinedge.evaluation.datasets._contract import Item
from skinedge.evaluation.selection import Selection, choose, draw

ITEMS = [Item(f"i{n}", Path(f"{n}.png"), "?", ("a", "b", "c")[n % 3], ("I-II", "V-VI")[n % 2]) for n in range(60)]


def test_each_stratum_has_its_share() -> None:
    drawn = draw(ITEMS, 24, seed=3)
    assert set(Counter((i.truth, i.skin) for i in drawn).values()) == {4}
    assert drawn == [item for item in ITEMS if item in drawn]  # in their order


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 5))
def test_more_adds_to_fewer_and_the_seed_decides(limit: int, more: int, seed: int) -> None:
    few, many = draw(ITEMS, limit, seed), draw(ITEMS, limit + more, seed)
    assert len(few) == limit
    assert {i.id for i in few} <= {i.id for i in many}
    assert draw(ITEMS, limit, seed) == few


def test_another_seed_draws_others() -> None:
    assert draw(ITEMS, 12, 0) != draw(ITEMS, 12, 1)


def test_a_rare_stratum_is_not_forgotten_when_there_is_room() -> None:
    items = [*ITEMS, Item("rare", Path("r.png"), "?", "d", "III-IV")]
    assert "rare" in {i.id for i in draw(items, 31, 0)}


def test_no_lesion_is_drawn_twice_if_that_will_do(tmp_path: Path) -> None:
    items = open_dataset(COPIES["ham10000"](tmp_path)).items
    for seed in range(5):
        assert len({i.unit for i in draw(items, 7, seed)}) == 7
        assert len({i.unit for i in draw(items, 10, seed)}) == 7


def test_what_training_saw_is_left_out_with_its_whole_lesion(tmp_path: Path) -> None:
    folder = COPIES["ham10000"](tmp_path)
    dataset = open_dataset(folder)
    seen = tmp_path / "train.txt"
    seen.write_text("ISIC_0000002.jpg\n\nHAM_0000003\n")
    chosen = choose(dataset.items, Selection(seen=seen), folder)
    assert chosen.left_out_as_seen == 4
    assert {"HAM_0000001", "HAM_0000003"}.isdisjoint(i.unit for i in chosen.items)
    seen.write_text("\n".join(f"HAM_{n:07d}" for n in range(7)))
    with pytest.raises(UsageError, match=r"nothing is left to ask\. Training used all of it"):
        choose(dataset.items, Selection(seen=seen), folder)
    with pytest.raises(UsageError, match="cannot be read"):
        choose(dataset.items, Selection(seen=tmp_path / "none.txt"), folder)


def test_missing_photographs_are_named_and_do_not_count_towards_the_limit(tmp_path: Path) -> None:
    folder = COPIES["ham10000"](tmp_path)
    dataset = open_dataset(folder)
    for item in dataset.items[:3]:
        item.image.unlink()
    chosen = choose(dataset.items, Selection(limit=11), folder)
    assert chosen.missing == ("ISIC_0000000", "ISIC_0000001", "ISIC_0000002")
    assert len(chosen.items) == 11
    for item in dataset.items[3:]:
        item.image.unlink()
    with pytest.raises(UsageError, match=r"not one of 14 photographs is there; the first is ISIC_0000000\.jpg") as caught:
        choose(dataset.items, Selection(), folder)
    assert f"looked for in {folder} and below" in caught.value.hint


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    items = [Item("a", Path(__file__), "?", "x", split="train"), Item("b", Path(__file__), "?", "x", split="val")]
    assert [i.id for i in choose(items, Selection(split="val"), tmp_path).items] == ["b"]
    with pytest.raises(UsageError, match=r"has no split 'test'\. It has: train, val\."):
        choose(items, Selection(split="test"), tmp_path)
    with pytest.raises(UsageError, match="It has none: leave --split out"):
        choose(ITEMS, Selection(split="test"), tmp_path)
