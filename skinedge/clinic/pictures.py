"""Photographs that came in: judged at the door, brought to the model's size, kept in memory and nowhere else.

What is kept has no metadata: neither the file's nor EXIF's.  A photograph belongs to who brought it and is forgotten with
the visit, or when others need the room.
"""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from dataclasses import dataclass, field

from skinedge.clinic.events import Photo
from skinedge.clinic.sight import Finding, look
from skinedge.runtime.image import ProcessorConfig, smart_size
from skinedge.runtime.photograph import ImageLimits, load_photograph

# A workstation's photographs are a phone's or a camera's: smaller than what the command line takes.
LIMITS = ImageLimits(max_bytes=32 << 20, max_pixels=64_000_000)
PREVIEW = 1200  # pixels of the longer side in a report
KEPT_BYTES = 256 << 20


@dataclass(frozen=True)
class Picture:
    """A photograph that may be asked about: ``id`` is the sha256 of the file, ``width`` and ``height`` are upright.

    ``photo`` is what the model gets, ``preview`` a JPEG for the report.
    """

    id: str
    width: int
    height: int
    findings: tuple[Finding, ...]
    photo: Photo
    preview: bytes = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return len(self.photo.rgb) + len(self.preview)


def receive(data: bytes, processor: ProcessorConfig, limits: ImageLimits = LIMITS) -> Picture:
    """Read a photograph from the bytes of a file.  Takes a while; safe in several threads.

    Raises:
        ImageError: it is none, is damaged, or asks for too much; its header is judged before a pixel is decoded.
    """
    from PIL import Image

    image = load_photograph(data, limits)
    width, height = image.size
    findings = look(image)
    model_height, model_width = smart_size(height, width, processor)
    # What ``to_pixels`` would do; doing it to its result again changes nothing.
    sized = image.resize((model_width, model_height), Image.Resampling.BICUBIC)
    image.thumbnail((PREVIEW, PREVIEW))
    preview = io.BytesIO()
    image.save(preview, "JPEG", quality=88)
    name = hashlib.sha256(data).hexdigest()
    return Picture(name, width, height, findings, Photo(name, model_width, model_height, sized.tobytes()), preview.getvalue())


class Pictures:
    """Who brought which; the least used go when there is no more room.

    Args:
        most: bytes in all.
    """

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self._most, self._held = most, 0
        self._kept: OrderedDict[tuple[str, str], Picture] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, owner: str, picture: Picture) -> None:
        """Keep it, at the cost of others."""
        self.forget(owner, picture.id)
        self._kept[owner, picture.id] = picture
        self._held += picture.nbytes
        while self._held > self._most and len(self._kept) > 1:
            self.forget(*next(iter(self._kept)))

    def get(self, owner: str, name: str) -> Picture | None:
        """The picture, if it is still here and belongs to ``owner``."""
        if (owner, name) in self._kept:
            self._kept.move_to_end((owner, name))
        return self._kept.get((owner, name))

    def forget(self, owner: str, name: str | None = None) -> list[str]:
        """One picture, or all of an owner; the names of those that were here."""
        keys = [k for k in self._kept if k[0] == owner and name in (None, k[1])]
        for key in keys:
            self._held -= self._kept.pop(key).nbytes
        return [k[1] for k in keys]
