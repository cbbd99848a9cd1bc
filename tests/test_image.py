"""Photographs: read safely, and seen by the model exactly as the reference processor shows them."""

from __future__ import annotations

import io
import json
import re
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps, WebPImagePlugin

from skinedge.errors import CheckpointError, ImageError
from skinedge.runtime.image import (
    ImageLimits,
    ProcessorConfig,
    load_photograph,
    read_processor_config,
    smart_size,
    to_pixels,
)

CAP = (1120, 896)  # 1120 * 896 = 1003520 pixels: the cap of the released model, exactly


def noise(width: int, height: int, *, mode: str = "RGB", seed: int = 0) -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width, len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode if mode == "CMYK" else None)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(width: int, height: int, bits: int, photometric: int, strip: bytes, order: str = "<") -> bytes:
    """A TIFF with one uncompressed strip of grey, written by hand: Pillow cannot write these kinds."""
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(strip)),
    ]
    directory = struct.pack(order + "H", len(tags))
    directory += b"".join(struct.pack(order + "HHI", tag, 4, 1) + struct.pack(order + "I", value) for tag, value in tags)
    strip += b"\0" * (len(strip) % 2)
    return struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(strip)) + strip + directory + b"\0" * 4


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A grey PNG whose header says what it likes."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def webp_canvas(width: int, height: int) -> bytes:
    """The header of a WebP with a canvas of that size, and nothing after it."""
    body = (
        b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


# ---- what the model sees -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(tiny_model: Path):
    """The processor of ``transformers``, from the same folder."""
    transformers = pytest.importorskip("transformers")
    return transformers.AutoImageProcessor.from_pretrained(tiny_model, backend="pil")


def assert_same_pixels(image: Image.Image, config: ProcessorConfig, reference) -> None:
    expected = reference(images=[image], return_tensors="np")
    ours = to_pixels(image, config)
    assert [ours.grid.frames, ours.grid.height, ours.grid.width] == expected["image_grid_thw"][0].tolist()
    assert ours.patches.dtype == expected["pixel_values"].dtype == np.float32
    assert ours.patches.tobytes() == expected["pixel_values"].tobytes()
    assert ours.patches.shape == (ours.grid.patches, 1176)
    assert ours.image.shape == (14 * ours.grid.height, 14 * ours.grid.width, 3)


def test_real_photographs_are_pixel_exact(photographs: list[Path], tiny_model: Path, reference) -> None:
    config = read_processor_config(tiny_model)
    for path in photographs:
        assert_same_pixels(load_photograph(path), config, reference)


@pytest.mark.parametrize(
    "size",
    [(2000, 31), (31, 2000), (200, 1), (1, 200), (1, 1), (3, 5), (28, 28), CAP, (1121, 897), (1333, 1000), (57, 55)],
    ids=str,
)
def test_generated_images_are_pixel_exact(size: tuple[int, int], tiny_model: Path, reference) -> None:
    assert_same_pixels(noise(*size), read_processor_config(tiny_model), reference)


def test_every_shade_of_every_channel_is_exact(reference, tiny_model: Path) -> None:
    shades = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(7, 0).repeat(7, 1)
    image = Image.fromarray(np.stack([shades, shades[::-1], shades.T], axis=2))
    assert to_pixels(image, read_processor_config(tiny_model)).image.tobytes() == np.asarray(image).tobytes()
    assert_same_pixels(image, read_processor_config(tiny_model), reference)


def test_the_cap_is_reached_and_never_passed(tiny_model: Path) -> None:
    config = read_processor_config(tiny_model)
    assert smart_size(CAP[1], CAP[0], config) == (CAP[1], CAP[0])
    assert CAP[0] * CAP[1] == config.max_pixels
    height, width = smart_size(CAP[1] + 28, CAP[0], config)
    assert height * width <= config.max_pixels


@given(
    height=st.integers(1, 20_000),
    width=st.integers(1, 20_000),
    low=st.sampled_from([3136, 784, 200_704]),
    high=st.sampled_from([1_003_520, 12_845_056, 401_408]),
)
@settings(max_examples=300, deadline=None)
def test_sizes_are_those_of_the_reference(height: int, width: int, low: int, high: int) -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    config = ProcessorConfig(min_pixels=low, max_pixels=high)
    try:
        expected = module.smart_resize(height, width, 28, low, high)
    except ValueError:
        with pytest.raises(ImageError, match="differ by more than a factor of 200"):
            smart_size(height, width, config)
    else:
        assert smart_size(height, width, config) == expected


@given(width=st.integers(1, 120), height=st.integers(1, 120), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_small_images_of_any_shape_are_pixel_exact(width: int, height: int, seed: int) -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    assert_same_pixels(noise(width, height, seed=seed), ProcessorConfig(), module.Qwen2VLImageProcessorPil())


def test_only_rgb_becomes_pixels() -> None:
    with pytest.raises(ImageError, match=r"mode 'L' where RGB is needed\. Open it with load_photograph\."):
        to_pixels(Image.new("L", (30, 30)), ProcessorConfig())


# ---- the processor's settings --------------------------------------------------------------------------------


def write_settings(folder: Path, name: str = "preprocessor_config.json", **settings: object) -> Path:
    (folder / name).write_text(json.dumps(settings))
    return folder


SIZE = {"shortest_edge": 784, "longest_edge": 200_704}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": SIZE},
        {"size": SIZE, "min_pixels": 1568, "max_pixels": 401_408},
        {"size": {"min_pixels": 1, "max_pixels": 2}, "min_pixels": 1568, "max_pixels": 401_408},
        {"size": SIZE, "min_pixels": 1568, "max_pixels": None},
        {"min_pixels": 1568, "max_pixels": 401_408, "rescale_factor": 0.004, "do_convert_rgb": True},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [1, 0.5, 0.25], "resample": 3, "patch_size": 7, "merge_size": 4},
        {"image_processor_type": "Qwen2VLImageProcessorFast", "do_resize": True},
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_settings_are_read_as_the_reference_reads_them(settings: dict[str, object], nested: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    settings = {"image_processor_type": "Qwen2VLImageProcessor"} | settings
    if nested:
        write_settings(tmp_path, "processor_config.json", image_processor=settings, processor_class="Qwen2_5_VLProcessor")
        write_settings(tmp_path, min_pixels=28 * 28)  # an older file beside it, which the reference passes over
    else:
        write_settings(tmp_path, **settings)
    config = read_processor_config(tmp_path)
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert (config.min_pixels, config.max_pixels) == (theirs.size["shortest_edge"], theirs.size["longest_edge"])
    assert (config.image_mean, config.image_std) == (tuple(theirs.image_mean), tuple(theirs.image_std))
    assert config.rescale_factor == theirs.rescale_factor
    assert (config.patch_size, config.merge_size) == (theirs.patch_size, theirs.merge_size)
    image = noise(101, 67)
    assert to_pixels(image, config).patches.tobytes() == theirs(images=[image], return_tensors="np")["pixel_values"].tobytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_resize": False}, "do_resize is False, which skinedge does not implement (it knows True)"),
        ({"do_normalize": None}, "do_normalize is None"),
        ({"do_rescale": False}, "do_rescale is False"),
        ({"resample": 2}, "resample is 2, which skinedge does not implement (it knows 3)"),
        ({"image_processor_type": "CLIPImageProcessor"}, "image_processor_type is 'CLIPImageProcessor'"),
        ({"size": {"height": 224, "width": 224}}, "there is neither 'min_pixels' nor a 'shortest_edge' in 'size'"),
        ({"min_pixels": 0}, "min_pixels is 0 and must be a number above 0"),
        ({"max_pixels": 1000.5}, "max_pixels is 1000.5 and must be a whole number"),
        ({"min_pixels": 9000, "max_pixels": 8000}, "at least 9000 pixels and at most 8000 cannot both hold"),
        ({"patch_size": "14"}, "patch_size is '14' and must be a number"),
        ({"image_mean": None}, "image_mean is None and must be three numbers"),
        ({"image_std": [1, 1]}, "image_std is [1, 1] and must be three numbers"),
        ({"image_std": [1, 0, 1]}, "image_std is 0 and must be a number above 0"),
    ],
)  # fmt: skip
def test_settings_that_are_not_implemented_are_refused(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_processor_config(write_settings(tmp_path, **settings))


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is missing"):
        read_processor_config(tmp_path)


# ---- what is read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
    ids=["png", "webp", "jpeg", "tiff", "tiff-lzw"],
)
def test_photographs_are_turned_upright_once(orientation: int, kind: str, options: dict[str, object]) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    data = saved(noise(20, 12), kind, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        expected = ImageOps.exif_transpose(image)
    upright = load_photograph(data)
    assert upright.size == ((12, 20) if orientation >= 5 else (20, 12))
    assert upright.tobytes() == expected.tobytes()


def test_orientation_six_is_a_quarter_turn_clockwise() -> None:
    """Said once without Pillow's help: the camera's left edge becomes the top."""
    exif = Image.Exif()
    exif[0x112] = 6
    image = noise(20, 12)
    assert np.array_equal(np.asarray(load_photograph(saved(image, "PNG", exif=exif))), np.rot90(np.asarray(image), -1))


def test_damaged_exif_does_not_hide_the_photograph() -> None:
    data = saved(noise(16, 16), "JPEG", exif=b"Exif\0\0" + b"\xff" * 40)
    assert load_photograph(data).size == (16, 16)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "P+transparency", "L+transparency", "RGB+transparency"]
)
def test_eight_bit_kinds_become_rgb_as_in_the_reference(mode: str) -> None:
    transforms = pytest.importorskip("transformers.image_transforms")
    options = {}
    if mode.endswith("+transparency"):
        mode = mode.removesuffix("+transparency")
        options = {"transparency": (10, 20, 30) if mode == "RGB" else 7}
    image = noise(24, 18, mode="RGBA").convert("P").convert("PA") if mode == "PA" else noise(24, 18, mode="RGBA").convert(mode)
    data = saved(image, "TIFF" if mode == "PA" else "PNG", **options)
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        expected = transforms.convert_to_rgb(opened, return_numpy=True)
    assert np.array_equal(np.asarray(load_photograph(data)), expected)


def test_transparency_shows_white() -> None:
    assert load_photograph(saved(Image.new("RGBA", (4, 4), (200, 0, 0, 0)), "PNG")).getpixel((1, 1)) == (255, 255, 255)


def test_cmyk_of_adobe_is_not_inverted() -> None:
    red = load_photograph(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)).getpixel((8, 8))
    assert red[0] > 240
    assert max(red[1:]) < 15


@pytest.mark.parametrize("kind", ["png", "tiff-little", "tiff-big"])
def test_sixteen_bit_grey_keeps_its_shades(kind: str) -> None:
    ramp = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    if kind == "png":
        data = saved(Image.fromarray(ramp), "PNG")
    else:
        order = "<" if kind == "tiff-little" else ">"
        data = tiff(32, 32, 16, 1, ramp.astype(order + "u2").tobytes(), order)
    grey = np.asarray(load_photograph(data))
    assert np.array_equal(grey, np.round(ramp / 257).astype(np.uint8)[..., None].repeat(3, axis=2))
    assert len(np.unique(grey)) == 256


def test_twelve_bit_and_inverted_grey_are_scaled_by_their_own_range() -> None:
    pair = np.array([0, 4095], np.uint16)  # two samples in three bytes
    packed = bytes([pair[0] >> 4, (pair[0] & 15) << 4 | pair[1] >> 8, pair[1] & 255])
    assert np.asarray(load_photograph(tiff(2, 1, 12, 1, packed)))[0, :, 0].tolist() == [0, 255]
    white_is_zero = tiff(2, 1, 16, 0, np.array([0, 65535], "<u2").tobytes())
    assert np.asarray(load_photograph(white_is_zero))[0, :, 0].tolist() == [255, 0]


def test_of_a_phones_multi_picture_file_the_first_is_taken() -> None:
    first, second = noise(32, 24, seed=1), noise(16, 12, seed=2)
    data = saved(first, "MPO", save_all=True, append_images=[second])
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
        expected = image.convert("RGB").tobytes()
    assert load_photograph(data).tobytes() == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_single_pictures_of_every_format_are_read_whatever_their_name(kind: str, tmp_path: Path) -> None:
    image = noise(30, 20)
    (tmp_path / "photo.xyz").write_bytes(saved(image, kind))
    with Image.open(io.BytesIO(saved(image, kind))) as opened:
        expected = opened.convert("RGB").tobytes()
    assert load_photograph(tmp_path / "photo.xyz").tobytes() == expected


def test_no_metadata_comes_along() -> None:
    exif = Image.Exif()
    exif[0x10E] = "name of the patient"
    photograph = load_photograph(saved(noise(16, 16), "JPEG", exif=exif, comment=b"ward 3"))
    assert photograph.info == {}
    assert dict(photograph.getexif()) == {}
    assert type(photograph) is Image.Image  # nothing left open behind it


# ---- what is refused -----------------------------------------------------------------------------------------


def refused(data: bytes, tmp_path: Path, limits: ImageLimits | None = None) -> str:
    """The error text for a file named ``lesion.jpg`` inside a folder that must not be mentioned."""
    folder = tmp_path / "SURNAME"
    folder.mkdir(exist_ok=True)
    (folder / "lesion.jpg").write_bytes(data)
    with pytest.raises(ImageError) as caught:
        load_photograph(folder / "lesion.jpg", limits or ImageLimits())
    assert "SURNAME" not in str(caught.value)
    assert str(caught.value).startswith("lesion.jpg")
    assert caught.value.hint
    return str(caught.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    assert refused(b"", tmp_path) == "lesion.jpg is empty (0 bytes). Copy it again from the camera or the patient record."


def test_a_text_file_named_jpg_is_refused_without_quoting_it(tmp_path: Path) -> None:
    message = refused("Müller, Anna: suspected melanoma\n".encode() * 30, tmp_path)
    assert message.startswith("lesion.jpg is not a photograph: it holds text. Export the photograph as JPEG or PNG")
    assert "melanoma" not in message


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"%PDF-1.7\n", "a PDF document"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "an HEIC or AVIF picture"),
        (b"\0" * 128 + b"DICM" + b"\0" * 40, "a DICOM object"),
        (bytes(range(1, 200)), "data of an unknown format"),
    ],
)
def test_other_kinds_of_file_are_named(data: bytes, found: str, tmp_path: Path) -> None:
    assert f"it holds {found}" in refused(data, tmp_path)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("BMP", {}), ("GIF", {}), ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(kind: str, options: dict[str, object], share: float, tmp_path: Path) -> None:
    data = saved(noise(64, 48), kind, **options)
    message = refused(data[: int(len(data) * share)], tmp_path)
    assert re.match(r"lesion\.jpg is damaged or cut short: its (JPEG|PNG|WebP|BMP|GIF|TIFF) data cannot be decoded\.", message)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_and_pages_are_refused(kind: str, tmp_path: Path) -> None:
    data = saved(noise(16, 16), kind, save_all=True, append_images=[noise(16, 16, seed=1)])
    assert refused(data, tmp_path) == (
        "lesion.jpg holds several pictures: an animation, or several pages. Export the one to be judged as JPEG or PNG."
    )


def test_the_preview_in_a_camera_raw_file_is_refused(tmp_path: Path) -> None:
    assert "holds only a small preview" in refused(saved(noise(16, 16), "TIFF", tiffinfo={254: 1}), tmp_path)


def test_samples_without_a_range_are_refused(tmp_path: Path) -> None:
    data = saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    assert "stores samples of type 'F', whose range of brightness is not defined" in refused(data, tmp_path)


@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "tiff"])
def test_a_decompression_bomb_is_refused_from_its_header(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    monkeypatch.setattr(WebPImagePlugin.WebPImageFile, "__init__", decode)  # its decoder allocates on opening
    bombs = {
        "png": png(60_000, 50_000),
        "webp": webp_canvas(60_000, 50_000),
        "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "tiff": tiff(60_000, 50_000, 8, 1, b"\0\0"),
    }
    assert refused(bombs[kind], tmp_path) == (
        "lesion.jpg is 60000 x 50000 pixels, and more than 100 million are refused unread. "
        "Save it at a smaller size; the model looks at about one megapixel."
    )


@pytest.mark.parametrize(("lossless", "size"), [(False, (301, 17)), (True, (301, 17))])
def test_webp_headers_are_read_right(lossless: bool, size: tuple[int, int], tmp_path: Path) -> None:
    message = refused(saved(noise(*size), "WEBP", lossless=lossless), tmp_path, ImageLimits(max_pixels=301 * 17 - 1))
    assert "is 301 x 17 pixels" in message


def test_limits_are_exact(tmp_path: Path) -> None:
    data = saved(noise(40, 30), "PNG")
    assert load_photograph(data, ImageLimits(max_bytes=len(data), max_pixels=1200)).size == (40, 30)
    assert "is 40 x 30 pixels" in refused(data, tmp_path, ImageLimits(max_pixels=1199))
    assert "MiB, which is the limit" in refused(data, tmp_path, ImageLimits(max_bytes=len(data) - 1))


def test_two_hundred_to_one_is_the_longest_strip(tmp_path: Path) -> None:
    assert load_photograph(saved(noise(200, 1), "PNG")).size == (200, 1)
    assert "is 201 x 1 pixels: its sides differ by more than a factor of 200" in refused(saved(noise(201, 1), "PNG"), tmp_path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none.jpg", "none.jpg: there is no such file"), (tmp_path, "is a folder")):
        with pytest.raises(ImageError, match=message):
            load_photograph(path)


def test_pillows_own_limit_is_neither_used_nor_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Image.open would warn, and here a warning is an error
    assert load_photograph(saved(noise(14, 14), "PNG")).size == (14, 14)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_pillows_warnings_stay_inside_and_filters_are_restored() -> None:
    exif = Image.Exif()
    exif[0x112] = 1
    data = bytearray(saved(noise(16, 16), "TIFF", exif=exif))
    spoiled = data.replace(struct.pack("<HHI", 258, 3, 3), struct.pack("<HHI", 258, 3, 9_000_000))
    assert spoiled != data
    before = list(warnings.filters)
    with pytest.raises(ImageError):
        load_photograph(bytes(spoiled))
    assert warnings.filters == before


def test_threads_do_not_disturb_each_other() -> None:
    images = [noise(64, 48, seed=i) for i in range(8)]
    files = [saved(image, "PNG") for image in images]
    before, results = list(warnings.filters), dict.fromkeys(range(8), b"")

    def load(i: int) -> None:
        results[i] = load_photograph(files[i]).tobytes()

    threads = [threading.Thread(target=load, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[i] for i in range(8)] == [image.tobytes() for image in images]
    assert warnings.filters == before


@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
    keep=st.floats(0, 1),
)
@settings(max_examples=300, deadline=None)
def test_any_damage_gives_a_photograph_or_an_image_error(kind: str, flips: list[tuple[float, int]], keep: float) -> None:
    data = bytearray(saved(noise(24, 16), kind))
    for place, value in flips:
        data[int(place * len(data))] = value
    message = "the photograph"
    try:
        assert load_photograph(bytes(data[: int(len(data) * keep)]), ImageLimits(max_pixels=100_000)).mode == "RGB"
    except ImageError as e:
        message = e.message
    assert message.startswith("the photograph")
