"""Photographs as the builder handles them: which are the same, what the teacher is sent, what a corpus keeps.

The perceptual hash compares each of 16 x 16 fields with its right and its lower neighbour: 512 bits.  On the
482 photographs of PAD-UFES-20 no two different pictures came nearer than 25 % of the bits, and half size, JPEG
quality 30 or 20 % more light moved a picture by 14 % at most.  The usual 64 bits cannot be used on skin: two
patients' pictures came out equal.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from skinedge.runtime.photograph import load_photograph
from skinedge.weights.checkpoint import file_digest
from skinedge.weights.source import Float32

# Every tenfold number of pairs brings the nearest strangers 4 points of 100 closer: an eighth is safe for some 10,000.
NEAR = 1 / 8
_FIELDS = 16
_BLOCK = 1024

# The official limit of the Qwen2.5-VL processor: more would be scaled away (REFERENCE, section 3).
MAX_PIXELS = 1_003_520
JPEG_QUALITY = 95
ENCODING = f"jpeg-{JPEG_QUALITY}-{MAX_PIXELS}"

Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """A picture file's sha256 and its perceptual hash, [512] bits."""

    sha256: str
    bits: Bits


def fingerprint(path: Path) -> Fingerprint:
    """Digest a photograph.

    Raises:
        ImageError: it cannot be read.
    """
    photograph = load_photograph(path)
    return Fingerprint(file_digest(path), perceptual_hash(photograph))


def perceptual_hash(photograph: Image.Image) -> Bits:
    """[512] bits: whether each field is brighter than the one before it, along rows and along columns."""
    side = _FIELDS + 1
    grey = np.asarray(photograph.convert("L").resize((side, side), Image.Resampling.BOX))
    along = grey[:-1, 1:] > grey[:-1, :-1]
    down = grey[1:, :-1] > grey[:-1, :-1]
    return np.concatenate([along.ravel(), down.ravel()])


def earlier_likeness(hashes: Sequence[Bits]) -> list[int | None]:
    """For each hash the first one before it that is near to it; one that is itself near to another does not count."""
    if not hashes:
        return []
    signs: Float32 = np.array(hashes, np.float32) * 2 - 1
    least = signs.shape[1] * (1 - 2 * NEAR)  # the scalar product of two hashes that differ in a share NEAR
    like: list[int | None] = []
    for begin in range(0, len(signs), _BLOCK):
        block = signs[begin : begin + _BLOCK] @ signs[: begin + _BLOCK].T
        for row, products in enumerate(block, begin):
            near = (int(i) for i in np.flatnonzero(products[:row] >= least))
            like.append(next((i for i in near if like[i] is None), None))
    return like


def data_uri(path: Path) -> str:
    """A photograph for the teacher: upright, at most ``MAX_PIXELS``, a JPEG without metadata, as a ``data:`` URI.

    EXIF can hold a name, a place and, from some data sets, the diagnosis.
    """
    return "data:image/jpeg;base64," + base64.b64encode(_jpeg(_bounded(load_photograph(path)))).decode()


def copy_without_metadata(path: Path, to: Path) -> None:
    """Write a photograph upright as a JPEG that holds nothing but the picture."""
    to.write_bytes(_jpeg(load_photograph(path)))


def _bounded(photograph: Image.Image) -> Image.Image:
    width, height = photograph.size
    scale = math.sqrt(MAX_PIXELS / (width * height))
    if scale >= 1:
        return photograph
    return photograph.resize((max(1, int(width * scale)), max(1, int(height * scale))), Image.Resampling.BICUBIC)


def _jpeg(photograph: Image.Image) -> bytes:
    stream = io.BytesIO()
    photograph.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()
