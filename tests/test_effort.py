"""Small files that would keep a decoder busy for minutes."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from PIL import JpegImagePlugin, PngImagePlugin, TiffImagePlugin

pytest.importorskip("httpx2")

from benchmarks.clinic_uploads import image, laborious, saved, scans, strips
from skinedge.errors import ImageError
from skinedge.runtime.photograph import load_photograph


@pytest.mark.parametrize(("count", "taken"), [(54, True), (55, False)])
def test_scans_are_counted_before_a_decoder_makes_them(count: int, taken: bool) -> None:
    """libjpeg writes ten; what looks like a scan inside a comment is none."""
    data = scans(image(random.Random(0), size=(90, 70)), count)
    data = data[:2] + b"\xff\xfe\0\x42" + b"\xff\xda" * 32 + data[2:]
    if taken:
        assert load_photograph(data).size == (90, 70)
    else:
        with pytest.raises(ImageError, match=r"^the photograph is built to keep a decoder busy: it has more than 64 scans\."):
            load_photograph(data)


@pytest.mark.parametrize("kind", range(4))
def test_files_that_ask_for_minutes_of_work_are_refused_at_once(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few megabytes each, of one pixel's worth of sense."""

    def decoded(_: object) -> None:
        pytest.fail("it was decoded")

    for plugin in (JpegImagePlugin.JpegImageFile, PngImagePlugin.PngImageFile, TiffImagePlugin.TiffImageFile):
        monkeypatch.setattr(plugin, "load", decoded)
    upload = laborious(SimpleNamespace(randrange=lambda low, high=None: kind if high is None else low))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"more than 64 scans|more than 1024 segments|is damaged or cut short: its TIFF data"):
        load_photograph(upload.data)


@pytest.mark.parametrize("before", [b"", b"\xff\xd9"])
def test_segments_are_counted_as_far_as_pillow_reads(before: bytes) -> None:
    whole = saved(image(random.Random(0), size=(40, 40)), "JPEG")
    with pytest.raises(ImageError, match="more than 1024 segments"):
        load_photograph(whole[:2] + before + b"\xff\xe1\0\x09Exif\0\0a" * 1025 + whole[2:])
    assert load_photograph(whole + b"\xff\xe1\0\x09Exif\0\0a" * 2000).size == (40, 40)  # behind the end: nobody reads it


def test_what_lies_behind_a_pngs_end_is_not_counted() -> None:
    assert load_photograph(saved(image(random.Random(0), size=(40, 40)), "PNG") + bytes(50_000)).size == (40, 40)


def test_a_tiff_that_says_too_much_of_its_last_strip_is_read() -> None:
    assert load_photograph(strips(40, 2, 1000)).size == (40, 2)
    with pytest.raises(ImageError, match="its TIFF data cannot be decoded"):
        load_photograph(strips(40, 3, 1000))
