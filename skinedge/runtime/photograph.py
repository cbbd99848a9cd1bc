"""From a file, or bytes off the network, to an upright RGB photograph, or to one clear sentence why not.

Only formats in which photographs of skin arrive are read, each by its own Pillow plug-in, chosen by the
file's first bytes and never by its name.  The header is judged before a single pixel is decoded.  The
photograph that comes out carries no metadata: EXIF can hold a place and a name.

Colour profiles are not applied: the reference does not apply them either, so the model never saw it done.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from skinedge.errors import ImageError, NotAPhotographError
from skinedge.runtime.effort import excess, overlaps

# Photographs are decoded one at a time: it bounds memory, and Python's warning filters are shared by all threads.
_ONE_AT_A_TIME = threading.Lock()

# What Pillow's plug-ins raise on damaged data (Image.open itself catches the same kinds, and load() adds OSError).
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error, OverflowError)

# A phone's JPEG with more pictures behind the first (MPO) is read as the plain JPEG it begins with.
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}
FORMATS = tuple(_PLUGINS)
_BEGINNINGS = (
    (b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF"), (b"BM", "BMP"),
    (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"), (b"MM\0+", "TIFF"),
)  # fmt: skip

_NEW_SUBFILE_TYPE = 254  # TIFF 6.0, section 8: bit 0 marks a reduced-resolution picture

_PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB")
_DEEP_GREY = ("I;16", "I;16L", "I;16B")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageLimits:
    """How much a photograph may ask of the machine.

    ``max_aspect`` is the longer side over the shorter; beyond 200 the reference processor refuses too.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 100_000_000
    max_aspect: float = 200.0


def load_photograph(source: Path | bytes, limits: ImageLimits = ImageLimits()) -> Image.Image:
    """Read a photograph: upright, RGB, 8 bits, without metadata.

    EXIF orientation is applied; transparency is composited on white, as the reference processor does; 12- and
    16-bit grey is scaled to 8 bits; of an MPO the first picture is taken.  Safe to call from several threads.

    Raises:
        ImageError: it cannot be read, holds several pictures, or is outside ``limits``.  The message gives
            the file's name and never anything of its content.
    """
    name = source.name if isinstance(source, Path) else "the photograph"
    data = _read(source, name, limits) if isinstance(source, Path) else source
    kind = _kind(name, data, limits)
    _check_work(name, kind, data)
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about tags we do not use
        try:
            return _decode(name, kind, data, limits)
        except (Image.DecompressionBombError, MemoryError) as e:
            raise ImageError(f"{name} asks for more memory than there is for one photograph.", hint=_AGAIN) from e
        except _DAMAGED as e:
            raise ImageError(f"{name} is damaged or cut short: its {kind} data cannot be decoded.", hint=_AGAIN) from e


_AGAIN = "Copy it again from the camera or the patient record."


def _read(path: Path, name: str, limits: ImageLimits) -> bytes:
    try:
        if path.is_dir():
            raise ImageError(f"{name} is a folder.", hint="Give the photographs in it, each by its own path.")
        if not path.is_file():
            raise ImageError(f"{name}: there is no such file.", hint="Give the path of a photograph.")
        with path.open("rb") as f:
            return f.read(limits.max_bytes + 1)  # one more than allowed is enough to see that it is too many
    except OSError as e:
        raise ImageError(f"{name} cannot be read: {e.strerror}.") from e


def _kind(name: str, data: bytes, limits: ImageLimits) -> str:
    """The format, by its first bytes."""
    if not data:
        raise NotAPhotographError(f"{name} is empty (0 bytes).", hint=_AGAIN)
    if len(data) > limits.max_bytes:
        raise ImageError(
            f"{name} has more than {limits.max_bytes / 2**20:.0f} MiB, which is the limit for a photograph.",
            hint="Save it as JPEG; the model looks at about one megapixel.",
        )
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    for beginning, kind in _BEGINNINGS:
        if data.startswith(beginning):
            return kind
    raise NotAPhotographError(
        f"{name} is not a photograph: it holds {_stranger(data)}.",
        hint=f"Export the photograph as JPEG or PNG ({', '.join(FORMATS)} are read).",
    )


def _stranger(data: bytes) -> str:
    """What a file that is none of ours seems to be; its name decides nothing."""
    head = data[:512]
    if head[4:8] == b"ftyp":
        return "an HEIC or AVIF picture or a video, which skinedge does not read"
    if head.startswith(b"%PDF"):
        return "a PDF document"
    if data[128:132] == b"DICM":
        return "a DICOM object, which skinedge does not read"
    if b"<svg" in head:
        return "an SVG drawing"
    return "data of an unknown format" if b"\0" in head or _controls(head) > len(head) // 8 else "text"


def _controls(head: bytes) -> int:
    return sum(byte < 32 and byte not in b"\t\n\r\f" for byte in head)


def _decode(name: str, kind: str, data: bytes, limits: ImageLimits) -> Image.Image:
    if kind == "WebP":  # its decoder allocates the whole canvas on opening
        _check_size(name, _webp_size(data), limits)
    with _PLUGINS[kind](io.BytesIO(data)) as image:
        _check_size(name, image.size, limits)
        _check_single(name, image)
        if overlaps(image, len(data)):
            raise ValueError("its strips are together longer than the file")
        # Pillow turns a TIFF upright by itself while loading it.
        orientation = 1 if kind == "TIFF" else _orientation(image)
        image.load()
        rgb = _rgb(name, image)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    rgb.info.clear()
    return rgb


def _check_work(name: str, kind: str, data: bytes) -> None:
    if (found := excess(kind, data)) is not None:
        raise ImageError(
            f"{name} is built to keep a decoder busy: it has {found}.",
            hint="Open it in a picture viewer and save it as JPEG again.",
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas width and height from the header (RFC 9649, sections 2.5 to 2.7)."""
    chunk, body = data[12:16], data[20:30].ljust(10, b"\0")
    if chunk == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def _check_size(name: str, size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if min(size) < 1:
        raise ImageError(f"{name} is {width} x {height} pixels: there is nothing to see.", hint=_AGAIN)
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{name} is {width} x {height} pixels, and more than {limits.max_pixels / 1e6:g} million are refused unread.",
            hint="Save it at a smaller size; the model looks at about one megapixel.",
        )
    if max(size) > limits.max_aspect * min(size):
        raise ImageError(
            f"{name} is {width} x {height} pixels: its sides differ by more than a factor of {limits.max_aspect:g}.",
            hint="Crop it to the lesion and its surroundings.",
        )


def _check_single(name: str, image: ImageFile.ImageFile) -> None:
    if getattr(image, "is_animated", False):
        raise ImageError(
            f"{name} holds several pictures: an animation, or several pages.",
            hint="Export the one to be judged as JPEG or PNG.",
        )
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & 1:
        raise ImageError(
            f"{name} holds only a small preview: it is a camera's raw file, or a thumbnail.",
            hint="Develop the photograph and export it as JPEG.",
        )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8.  Viewers show a photograph whose EXIF is damaged as it lies, and so do we."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DAMAGED:
        return 1


def _rgb(name: str, image: ImageFile.ImageFile) -> Image.Image:
    if image.mode in _DEEP_GREY:
        return _eight_bits(image).convert("RGB")
    if image.mode not in _PLAIN_MODES:
        raise ImageError(
            f"{name} stores samples of type '{image.mode}', whose range of brightness is not defined.",
            hint="Export it with 8 or 16 bits per sample.",
        )
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: ImageFile.ImageFile) -> Image.Image:
    """Deep grey, scaled and rounded.  Pillow's own conversion clips at 255: all but the darkest shades become white."""
    bits, white_is_zero = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = int(image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0])
        white_is_zero = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    top = (1 << bits) - 1
    samples = np.asarray(image).astype(np.uint32)
    if white_is_zero:
        samples = top - samples
    return Image.fromarray(((samples * 255 + top // 2) // top).astype(np.uint8))
