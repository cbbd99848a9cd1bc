"""How much work a photograph's file asks for beside its pixels, counted before a decoder sees it.

A decoder's time is bounded by pixels and bytes only while each part of the file is worked on once.  Where a few bytes ask
for a pass over all pixels, or over all that was read before, a small file keeps a processor busy for minutes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from PIL import Image, TiffImagePlugin

# libjpeg's own script has 10 scans, with four colours 18 (jcparam.c).  Each is a pass over all pixels: 64 of them with next to
# nothing in them took 3 s for 64 megapixels, where the ten of an encoder took 1 s.
MOST_SCANS = 64
# Metadata of 32 MiB is 512 segments of the largest size.  Pillow copies all EXIF again for each piece, and unpacks each profile.
MOST_SEGMENTS = 1024

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SOS, _EOI = 0xDA, 0xD9
_PIECES = ((273, 279), (324, 325))  # where strips and tiles are, and their lengths (TIFF 6.0, sections 8 and 15)


def excess(kind: str, data: bytes) -> str | None:
    """What there is too much of in a file of this kind: ``more than 64 scans``."""
    count = _COUNTED[kind](data) if kind in _COUNTED else {}
    most = {"scans": MOST_SCANS, "segments": MOST_SEGMENTS}
    return next((f"more than {most[what]} {what}" for what, n in count.items() if n > most[what]), None)


def overlaps(image: Image.Image, length: int) -> bool:
    """Whether the strips or tiles of a TIFF are longer than twice the file: libtiff would read the same bytes again and again.

    Twice, because the length that is given for a last strip may be that of a whole one.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or not any(tile[0] == "libtiff" for tile in image.tile):
        return False
    tags = image.tag_v2  # where no lengths are given, libtiff takes each for the rest of the file
    return any(sum(tags.get(sizes) or [length] * len(tags.get(places, ()))) > 2 * length for places, sizes in _PIECES)


def jpeg_segments(data: bytes) -> Iterator[int]:
    """The codes of the first picture's segments, as libjpeg finds them (ITU-T T.81, annex B).

    Between two segments all is skipped up to a marker: entropy-coded data, in which FF is followed by 0, and restarts.
    """
    at, scanned = 2, False
    while (found := _MARKER.search(data, at)) is not None:
        at, code = found.end(), data[found.end() - 1]
        scanned |= code == _SOS
        if code == _EOI and scanned:  # Pillow, which reads up to the first scan, does not end here before
            return
        if code >= 0xC0 and not 0xD0 <= code <= _EOI:  # the others have no length
            yield code
            at += int.from_bytes(data[at : at + 2], "big")


def _jpeg(data: bytes) -> Mapping[str, int]:
    codes = list(islice(jpeg_segments(data), MOST_SCANS + MOST_SEGMENTS + 1))  # one more is too many of either
    scans = codes.count(_SOS)
    return {"scans": scans, "segments": len(codes) - scans}


def _png(data: bytes) -> Mapping[str, int]:
    """Chunks other than those of pixels, up to the end."""
    at, count = 8, 0
    while count <= MOST_SEGMENTS and (name := data[at + 4 : at + 8]) not in (b"", b"IEND"):
        count += name != b"IDAT"
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return {"segments": count}


_COUNTED: Mapping[str, Callable[[bytes], Mapping[str, int]]] = {"JPEG": _jpeg, "PNG": _png}
