"""Frozen means cached: the same losses as the plain loop, and a cache that is stale or damaged says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from distill_setup import Features, job, losses, run, write_records

pytest.importorskip("torch")
from skinedge.errors import OutputError
from skinedge.model.tiny import make_model
from train.cache import CachedSource, plan_shards, read_index
from train.errors import CacheError, DataError
from train.examples import Counts
from train.rows import value_table


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def cached(tiny_model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run and, beside it, its cache."""
    out = tmp_path_factory.mktemp("cached") / "out"
    run(tiny_model, data, out, teacher=Features())
    return out


@pytest.fixture
def cache(cached: Path, tmp_path: Path) -> Path:
    """A copy of the cache to be spoiled."""
    return Path(shutil.copytree(f"{cached}.cache", tmp_path / "cache"))


@pytest.mark.parametrize("experts", [0, 4])
def test_cached_and_plain_have_the_same_losses(experts: int, tiny_model: Path, data: Path, tmp_path: Path) -> None:
    both = []
    for use in (True, False):
        out = tmp_path / str(use)
        run(tiny_model, data, out, teacher=Features(), cache__use=use, adapter__experts=experts, train__accumulation=2)
        both.append(losses(out))
        assert (tmp_path / f"{use}.cache").exists() is use
    for mine, theirs in zip(*both, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert both[0][-1]["ce"] < both[0][0]["ce"], "and something was learned"
    assert both[0][0]["cosine"] > 0


def test_a_record_read_from_the_cache_is_the_record(cached: Path, tiny_model: Path, data: Path) -> None:
    made = job(tiny_model, data, cached, teacher=Features())
    folder = Path(f"{cached}.cache")
    index = read_index(folder)
    assert index is not None
    table = value_table(made.sources.maker.processor)
    batch = CachedSource(folder, index, table).batch([5, 3])
    examples = [made.sources.maker(made.records[i]) for i in (5, 3)]
    assert batch.images == (1, 2)
    np.testing.assert_array_equal(batch.labels, np.concatenate([e.targets for e in examples]))
    frames = np.concatenate([p.patches.reshape(len(p.patches), 3, 2, -1)[:, :, 1] for e in examples for p in e.pixels])
    np.testing.assert_array_equal(batch.rows, frames.reshape(len(frames), -1))
    asked = [(e.record.id, path) for e in examples for path in e.record.images]
    np.testing.assert_array_equal(batch.teacher, Features().features(asked))
    assert batch.skin.tolist() == [2, 0, 0]


def test_the_model_is_not_opened_once_the_cache_is_there(cached: Path, tiny_model: Path, data: Path, tmp_path: Path) -> None:
    made = job(tiny_model, data, tmp_path / "out", teacher=Features(), cache__folder=f"{cached}.cache")

    def opened() -> None:
        raise AssertionError("the model was opened")

    made.sources.backbone = opened
    assert made.train().step == 6


def stale(tiny_model: Path, data: Path, cache: Path, out: Path, teacher: Features | None = None, **changes: object) -> str:
    with pytest.raises(CacheError) as caught:
        run(tiny_model, data, out, teacher=teacher or Features(), cache__folder=str(cache), **changes)
    assert str(cache) in caught.value.message
    assert "--cache" in caught.value.hint
    return caught.value.message


def test_a_stale_cache_is_named_with_what_has_changed(tiny_model: Path, data: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "other data" in stale(tiny_model, write_records(tmp_path / "set", 11), cache, out)
    assert "another model" in stale(make_model(tmp_path / "model", seed=9), data, cache, tmp_path / "b")
    assert "another teacher" in stale(tiny_model, data, cache, tmp_path / "c", Features(digest="2"))
    assert "another precision" in stale(tiny_model, data, cache, tmp_path / "d", train__precision="bf16")
    assert "another cut-off" in stale(tiny_model, data, cache, tmp_path / "e", data__cutoff=4000)
    settings = json.loads((tiny_model / "preprocessor_config.json").read_text(encoding="utf-8"))
    other = Path(shutil.copytree(tiny_model, tmp_path / "processor"))
    (other / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.5, 0.5, 0.5]}), encoding="utf-8")
    assert "image processor" in stale(other, data, cache, tmp_path / "f")


def test_a_damaged_shard_is_named_and_only_it_is_made_anew(tiny_model: Path, tmp_path: Path) -> None:
    data, cache = write_records(tmp_path / "set", 40), tmp_path / "cache"
    changes = {"teacher": Features(), "cache__folder": str(cache), "cache__shard_mb": 1, "train__steps": 3}
    run(tiny_model, data, tmp_path / "out", **changes)
    first, *others = sorted(cache.glob("shard-*"))
    assert others, "there is more than one shard"
    whole, before = first.read_bytes(), [p.stat().st_mtime_ns for p in others]
    for spoiled in (whole[:-100], whole[:-7] + b"\0\1\2" + whole[-4:]):
        first.write_bytes(spoiled)
        with pytest.raises(CacheError, match=f"{first.name} is damaged") as caught:
            run(tiny_model, data, tmp_path / "second", **changes)
        assert "Remove this file" in caught.value.hint
    first.unlink()
    run(tiny_model, data, tmp_path / "second", **changes)
    assert first.read_bytes() == whole
    assert before == [p.stat().st_mtime_ns for p in others]
    assert losses(tmp_path / "second") == losses(tmp_path / "out")


def test_a_damaged_index_is_named(tiny_model: Path, data: Path, cache: Path, tmp_path: Path) -> None:
    for text, message in (("{", "is not JSON"), ("[]", "is not a JSON object"), ('{"shards": 3}', "is damaged")):
        (cache / "index.json").write_text(text, encoding="utf-8")
        with pytest.raises(CacheError, match=message):
            run(tiny_model, data, tmp_path / "out", teacher=Features(), cache__folder=str(cache))


def test_a_folder_that_is_no_cache_is_left_alone(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(CacheError, match="exists and is no cache"):
        run(tiny_model, data, tmp_path / "out", cache__folder=str(tmp_path / "letters"))


def test_a_build_that_was_interrupted_goes_on(tiny_model: Path, data: Path, cache: Path, tmp_path: Path, cached: Path) -> None:
    (cache / "index.json").unlink()
    kept = next(cache.glob("shard-*"))
    before = kept.stat().st_mtime_ns
    run(tiny_model, data, tmp_path / "out", teacher=Features(), cache__folder=str(cache))
    assert kept.stat().st_mtime_ns == before
    assert losses(tmp_path / "out") == losses(cached)


def test_shards_are_cut_by_size_and_none_is_empty() -> None:
    counts = [Counts(t, (4,)) for t in (10, 10, 50, 1, 1)]
    spans = [(s.first, s.stop) for s in plan_shards(counts, token_bytes=10, patch_bytes=1, image_bytes=0, most=250)]
    assert spans == [(0, 2), (2, 3), (3, 5)]


def test_a_full_disk_is_foreseen(tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match=r"the cache needs .* and the disk has 1 B"):
        run(tiny_model, data, tmp_path / "out")


def test_a_teacher_that_gives_something_else_than_it_says_is_named(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the teacher features gave features of shape \(\d+, 5\) where \(\d+, 6\) was due"):
        run(tiny_model, data, tmp_path / "out", teacher=Features(gives=5))
    with pytest.raises(DataError, match="feature of record 'case-7' that is not a finite number"):
        run(tiny_model, data, tmp_path / "other", teacher=Features(bad="case-7"))
