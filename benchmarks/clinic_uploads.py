"""Thousands of hostile files at the workstation's door: none may crash or hang it, and the valid ones among them are taken right.

Usage: python -m benchmarks.clinic_uploads [--count 5000] [--json FILE]

``skinedge serve`` runs in a process of its own on the embedded model; every file goes to ``POST /api/pictures``.  Which answer is
right is known from how the file was made.  Exits 1 if one was another, a 5xx, or took more than ten seconds.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import numpy as np
from PIL import Image

from benchmarks.clinic_load import served
from skinedge.bundle import export
from skinedge.embedded import embedded_checkpoint
from skinedge.measure.machine import describe_here
from skinedge.staging import staged_file
from skinedge.targets._contract import ExportOptions

RESULT = Path(__file__).parent / "results" / "clinic_uploads.json"
SLOW_S = 10.0
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


@dataclass(frozen=True)
class Upload:
    """A file; ``size`` is what must be said of it if it is valid, ``None`` if it must be refused, ``()`` if either is right."""

    data: bytes
    size: tuple[int, int] | tuple[()] | None


def image(rng: random.Random, mode: str = "RGB", size: tuple[int, int] | None = None) -> Image.Image:
    """Noise on a slope."""
    width, height = size or (rng.randrange(40, 400), rng.randrange(40, 400))
    noise = np.random.default_rng(rng.randrange(2**32)).integers(0, 60, (height, width, 3))
    slope = np.linspace(60, 190, width)[None, :, None]
    return Image.fromarray((noise + slope).astype(np.uint8)).convert(mode)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **options)  # type: ignore[arg-type]
    return data.getvalue()


def valid(rng: random.Random) -> Upload:
    picture = image(rng)
    return Upload(saved(picture, rng.choice(KINDS)), picture.size)


def cmyk(rng: random.Random) -> Upload:
    picture = image(rng, "CMYK")
    return Upload(saved(picture, rng.choice(("JPEG", "TIFF"))), picture.size)


def deep(rng: random.Random) -> Upload:
    """16 bits of grey."""
    size = rng.randrange(40, 300), rng.randrange(40, 300)
    values = np.linspace(0, 65535, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint16)
    return Upload(saved(Image.fromarray(values), rng.choice(("PNG", "TIFF"))), size)


def turned(rng: random.Random) -> Upload:
    """EXIF says how it is to be turned."""
    picture, exif = image(rng), Image.Exif()
    exif[0x0112] = orientation = rng.randrange(1, 9)
    width, height = picture.size
    kind = rng.choice(("JPEG", "WEBP", "PNG"))
    return Upload(saved(picture, kind, exif=exif), (height, width) if orientation >= 5 else (width, height))


def one_pixel(rng: random.Random) -> Upload:
    return Upload(saved(image(rng, size=(1, 1)), rng.choice(KINDS)), (1, 1))


def truncated(rng: random.Random) -> Upload:
    """Cut in its first nine tenths.  What is left of some formats is a picture to some decoders: then its size must be right."""
    whole = valid(rng)
    return Upload(whole.data[: rng.randrange(1, max(2, len(whole.data) * 9 // 10))], None)


def changed(rng: random.Random) -> Upload:
    """Some bytes of it are others: it may still be a picture."""
    data = bytearray(valid(rng).data)
    for _ in range(rng.randrange(1, 40)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return Upload(bytes(data), ())


def png(width: int, height: int, body: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


_ZEROS = zlib.compress(bytes(60_000_000), 9)  # 58 KB that become 60 MB


def bomb(rng: random.Random) -> Upload:
    """A header that asks for far more than the file holds, or a body that swells."""
    kind = rng.randrange(5)
    if kind == 0:
        return Upload(png(20_000, 20_000, _ZEROS), None)
    if kind == 1:
        return Upload(png(2**31 - 1, 2**31 - 1, b""), None)
    if kind == 2:
        return Upload(b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\xf7\0\0" + bytes(768) + b";", None)
    if kind == 3:
        return Upload(b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 20000, 20000, 1, 24, 0, 0, 1, 1, 0, 0), None)
    return Upload(b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\xff" * 2, None)


def swelling(rng: random.Random) -> Upload:
    """Small, within the limits, and 60 MB when it is read: it is a black picture."""
    side = rng.choice((3000, 4000))
    return Upload(png(side, side, zlib.compress(bytes((3 * side + 1) * side), 1)), (side, side))


def scans(picture: Image.Image, count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    whole = saved(picture, "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * count + whole[-2:]


def strips(width: int, height: int, size: int) -> bytes:
    """A TIFF of one row a strip, all at one place; with its bits in reverse the whole of each is copied for its row."""
    strip = zlib.compress(bytes(width)).ljust(size, b"\0").translate(bytes(int(f"{b:08b}"[::-1], 2) for b in range(256)))
    places = 8 + size
    tags = (
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (266, 3, 1, 2),
        (273, 4, height, places), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, height, places + 4 * height),
    )  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    lists = struct.pack(f"<{height}I", *[8] * height) + struct.pack(f"<{height}I", *[size] * height)
    return struct.pack("<2sHI", b"II", 42, places + 8 * height) + strip + lists + directory


def laborious(rng: random.Random) -> Upload:
    """Small, within the limits, and minutes of work: passes, pieces of metadata, or bytes that are read again and again."""
    kind = rng.randrange(4)
    if kind == 0:
        return Upload(scans(Image.new("RGB", (4000, 4000)), 5000), None)
    if kind == 1:
        whole = saved(image(rng), "JPEG")
        return Upload(whole[:2] + b"\xff\xe1\0\x09Exif\0\0a" * 300_000 + whole[2:], None)
    if kind == 2:
        whole, profile = saved(image(rng), "PNG"), b"a\0\0" + zlib.compress(bytes(900_000), 9)
        chunk = struct.pack(">I", len(profile)) + b"iCCP" + profile + struct.pack(">I", zlib.crc32(b"iCCP" + profile))
        return Upload(whole[:33] + chunk * 10_000 + whole[33:], None)
    return Upload(strips(600, 100_000, 1 << 20), None)


def animated(rng: random.Random) -> Upload:
    frames = [image(rng, size=(60, 50)) for _ in range(3)]
    kind = rng.choice(("GIF", "WEBP", "PNG"))
    return Upload(saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=40), None)


def other(rng: random.Random) -> Upload:
    """What is no photograph at all."""
    texts = (
        b"", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", b"%PDF-1.7\n%\xe2\xe3",
        b"\0\0\0\x18ftypheic" + bytes(40), b"PK\x03\x04" + bytes(60), b"MZ" + bytes(200), b"\x7fELF" + bytes(100),
        b"#!/bin/sh\nrm -rf /", bytes(128) + b"DICM" + bytes(50), b"<?php system($_GET['c']);",
        rng.randbytes(rng.randrange(1, 5000)), b"GIF8", b"\xff\xd8",
    )  # fmt: skip
    return Upload(rng.choice(texts), None)


def polyglot(rng: random.Random) -> Upload:
    """A picture that is something else, too: it is the picture, and nothing of the rest comes in."""
    whole = valid(rng)
    tail = rng.choice((b"<script>alert(1)</script>", b"PK\x03\x04" + bytes(400), b"%PDF-1.7 %%EOF", rng.randbytes(300)))
    return Upload(whole.data + tail, whole.size)


def narrow(rng: random.Random) -> Upload:
    """One side more than 200 times the other."""
    return Upload(saved(image(rng, size=(rng.choice((900, 3000)), rng.randrange(1, 5))), "PNG"), None)


MAKERS: dict[str, tuple[Callable[[random.Random], Upload], int]] = {
    "valid": (valid, 14), "CMYK": (cmyk, 5), "16 bit": (deep, 5), "turned by EXIF": (turned, 8), "one pixel": (one_pixel, 4),
    "truncated": (truncated, 14), "changed bytes": (changed, 18), "bomb": (bomb, 8),
    "swelling": (swelling, 1), "laborious": (laborious, 2),
    "animated": (animated, 5), "no photograph": (other, 10), "polyglot": (polyglot, 6), "too narrow": (narrow, 2),
}  # fmt: skip


def judge(upload: Upload, response: httpx.Response) -> str:
    """``right``, or what is wrong."""
    if response.status_code >= 500:
        return f"{response.status_code}"
    if response.status_code == 201:
        found = response.json()
        if upload.size is None:
            return "taken and should be refused"
        return "right" if upload.size in ((), (found["width"], found["height"])) else "taken with another size"
    code = response.json()["error"]["code"]
    if response.status_code not in (413, 415, 422):
        return f"refused as {response.status_code} {code}"
    return "right" if upload.size in (None, ()) else f"refused: {code}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    names = rng.choices(list(MAKERS), [weight for _, weight in MAKERS.values()], k=args.count)
    verdicts: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(embedded_checkpoint(), "onnx", ExportOptions("int4", context=2048), Path(folder) / "embedded-int4").path
        with served(bundle) as (url, process), httpx.Client(base_url=url, timeout=60) as client:
            headers = {"X-Skinedge-CSRF": client.get("/api/session").json()["csrf"]}
            for name in names:
                upload = MAKERS[name][0](rng)
                begin = time.perf_counter()
                response = client.post("/api/pictures", content=upload.data, headers=headers)
                seconds.append(time.perf_counter() - begin)
                verdicts[name][judge(upload, response)] += 1
            alive = client.get("/health").json()["status"] == "healthy"
            memory = process.memory_info().rss
    document = {
        "machine": describe_here().model_dump(mode="json"), "count": args.count, "seed": args.seed, "alive": alive,
        "server_bytes": memory, "seconds": {"median": sorted(seconds)[len(seconds) // 2], "max": max(seconds)},
        "verdicts": {name: dict(found) for name, found in sorted(verdicts.items())},
    }  # fmt: skip
    args.json.unlink(missing_ok=True)
    with staged_file(args.json) as f:
        f.write((json.dumps(document, indent=1, sort_keys=True) + "\n").encode())
    print(json.dumps({k: v for k, v in document.items() if k != "machine"}, indent=1))
    right = sum(found["right"] for found in verdicts.values())
    return int(right != args.count or not alive or max(seconds) > SLOW_S)


if __name__ == "__main__":
    sys.exit(main())
