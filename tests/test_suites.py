"""Suites that come with skinedge, one's own, and the pictures they are asked with."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from skinedge.errors import UsageError
from skinedge.measure.bench import questions
from skinedge.measure.pictures import draw, photographs
from skinedge.measure.suites import known_suites, read_suite
from skinedge.runtime.image import ProcessorConfig, load_photograph, smart_size


def own(tmp_path: Path, text: str) -> str:
    (tmp_path / "own.toml").write_text(text)
    return str(tmp_path / "own.toml")


@pytest.mark.parametrize("name", known_suites())
def test_a_suite_reads(name: str) -> None:
    suite = read_suite(name)
    assert suite.name == name
    assert suite.title
    assert suite.cases


def test_sizes_go_from_a_thumbnail_to_the_cap() -> None:
    sizes = [size for case in read_suite("standard").cases for size in case.images]
    tokens = [h * w // 28**2 for h, w in (smart_size(h, w, ProcessorConfig()) for w, h in sizes)]
    assert (sizes[0], tokens[0]) == ((224, 224), 64)
    assert max(tokens) == 1280
    assert {case.mode for case in read_suite("standard").cases} == {"fixed", "natural"}
    assert {case.new_tokens for case in read_suite("standard").cases if case.mode == "fixed"} == {256}


def test_an_own_suite(tmp_path: Path) -> None:
    suite = read_suite(own(tmp_path, '[[case]]\nname = "x"\ntext_tokens = 64\nmode = "natural"\n'))
    assert suite.name == "own"
    (case,) = suite.cases
    assert (case.images, case.text_tokens, case.new_tokens, case.mode) == ((), 64, 256, "natural")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"it has no \[\[case\]\]"),
        ("case = 3", r"it has no \[\[case\]\]"),
        ("[[case]", "is not TOML"),
        ("[[case]]\nnew_tokens = 2", "case 1: it has no name"),
        ('[[case]]\nname = "x"\nnew_tokens = 0', "case 1: new_tokens is 0 and must be a whole number from 1 to 32768"),
        ('[[case]]\nname = "x"\nnew_tokens = 1.5', "new_tokens is 1.5"),
        ('[[case]]\nname = "x"\nimages = [224, 224]', r"images is no list of \[width, height\]"),
        ('[[case]]\nname = "x"\nimages = [[224, 99999]]', "height is 99999"),
        ('[[case]]\nname = "x"\nmode = "fast"', "unknown mode 'fast'"),
        ('[[case]]\nname = "x"\nnew_token = 3', "unknown key 'new_token'"),
        ('[[case]]\nname = "x"\n[[case]]\nname = "x"', "two cases have the same name"),
    ],
)
def test_a_suite_that_cannot_be_meant(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_suite(own(tmp_path, text))


def test_a_suite_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown suite 'standart'") as refused:
        read_suite("standart")
    assert "Did you mean 'standard'?" in refused.value.hint
    with pytest.raises(UsageError, match="cannot be read: No such file") as refused:
        read_suite(str(tmp_path / "none.toml"))
    assert "standard" in refused.value.hint


def test_pictures_have_the_size_that_is_wanted_and_are_the_same_every_time(tmp_path: Path) -> None:
    sizes = [(224, 224), (300, 200), (400, 40)]
    first, again = draw(tmp_path / "a", sizes), draw(tmp_path / "b", sizes)
    assert [load_photograph(p).size for p in first] == sizes
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]


def test_own_photographs_are_taken_in_turn(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg"):
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    taken = photographs(tmp_path)
    assert [next(taken).name for _ in range(3)] == ["a.jpg", "b.png", "a.jpg"]
    asked = questions(read_suite("standard"), tmp_path / "unused", tmp_path)
    assert [q.photographs[0].name for q in asked] == ["a.jpg", "b.png", "a.jpg", "b.png"]
    assert not (tmp_path / "unused").exists()


def test_a_folder_without_photographs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no photograph"):
        photographs(tmp_path)
    with pytest.raises(UsageError, match="is not a folder of photographs"):
        photographs(tmp_path / "none")
