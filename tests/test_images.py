"""Opening: every format and mode becomes the same upright RGB photo, every broken file one clear line.
Preprocessing: the values, and the geometry that attention maps rely on. All files are made here."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from captioner import images, pixels
from captioner.decoders import _Memory
from captioner.images import ImageError, Preprocess, find_images, open_image, open_reduced, printable


def scene(width: int = 48, height: int = 32) -> Image.Image:
    """Four plain quarters (red, green / blue, white): turned, mirrored or miscoloured, they show it."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    half_w, half_h = width // 2, height // 2
    pixels[:half_h, :half_w] = (230, 20, 20)
    pixels[:half_h, half_w:] = (20, 200, 20)
    pixels[half_h:, :half_w] = (20, 20, 220)
    pixels[half_h:, half_w:] = (250, 250, 250)
    return Image.fromarray(pixels)


def assert_same(image: Image.Image, expected: Image.Image, tolerance: float) -> None:
    assert image.mode == "RGB"
    assert image.size == expected.size
    difference = np.abs(np.asarray(image, dtype=int) - np.asarray(expected.convert("RGB"), dtype=int))
    assert difference.mean() <= tolerance


def corners(image: Image.Image) -> list[str]:
    """The colour names of the four quarters, clockwise from the top left."""
    names = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}
    pixels = np.asarray(image, dtype=int)
    height, width = pixels.shape[:2]
    places = [(1, 1), (1, 3), (3, 3), (3, 1)]
    at = [pixels[height * row // 4, width * column // 4] for row, column in places]
    return [min(names, key=lambda name: int(np.abs(pixel - names[name]).sum())) for pixel in at]


def float_array(values: list[list[float]]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def int_array(values: list[list[int]]) -> np.ndarray:
    return np.array(values, dtype=np.int32)


@pytest.mark.parametrize("suffix", ["jpg", "JPG", "png", "webp", "gif", "bmp", "tiff", "avif"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    scene().save(path)
    assert_same(open_image(path), scene(), tolerance=6)
    assert_same(open_image(str(path)), scene(), tolerance=6)
    assert_same(open_image(path.read_bytes()), scene(), tolerance=6)
    with path.open("rb") as file:
        assert_same(open_image(file), scene(), tolerance=6)
    assert corners(open_image(path)) == ["red", "green", "white", "blue"]


def test_a_wrong_ending_does_not_matter(tmp_path: Path) -> None:
    scene().save(tmp_path / "photo.png")
    (tmp_path / "photo.png").rename(tmp_path / "photo.jpg")
    assert_same(open_image(tmp_path / "photo.jpg"), scene(), tolerance=0)


def test_a_stream_that_cannot_seek() -> None:
    scene().save(buffer := io.BytesIO(), "PNG")

    class Pipe:
        def read(self, size: int = -1) -> bytes:
            return buffer.getvalue() if size < 0 else pytest.fail("read in pieces")

    assert_same(open_image(Pipe()), scene(), tolerance=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, format: str, orientation: int) -> None:
    # How a camera stores an upright scene: the inverse of what the reader must do.
    store = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = scene().transpose(store[orientation]) if orientation > 1 else scene()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo"
    stored.save(path, format, exif=exif)
    upright = open_image(path)
    assert upright.size == (48, 32)
    assert corners(upright) == ["red", "green", "white", "blue"]
    assert_same(open_image(upright), upright, tolerance=0)  # not turned twice
    with Image.open(path) as lazy:
        assert corners(open_image(lazy)) == ["red", "green", "white", "blue"]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"II*\0\x08\0\0\0\xff\xff broken", b"garbage", b""])
def test_broken_exif_is_no_reason_to_refuse(tmp_path: Path, format: str, exif: bytes) -> None:
    path = tmp_path / "photo"
    scene().save(path, format, exif=b"Exif\0\0" + exif if format == "JPEG" else exif)
    assert_same(open_image(path), scene(), tolerance=6)


def test_modes_without_colour(tmp_path: Path) -> None:
    grey = scene().convert("L")
    grey.save(tmp_path / "grey.png")
    assert_same(open_image(tmp_path / "grey.png"), grey, tolerance=0)
    bits = grey.point(lambda value: 255 if value > 100 else 0).convert("1")
    bits.save(tmp_path / "bits.png")
    assert_same(open_image(tmp_path / "bits.png"), bits, tolerance=0)


def test_palette(tmp_path: Path) -> None:
    palette = scene().quantize(16)
    palette.save(tmp_path / "palette.png")
    assert_same(open_image(tmp_path / "palette.png"), scene(), tolerance=3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P with a transparent colour", "RGB with a transparent colour"])
def test_transparency_is_white(tmp_path: Path, mode: str) -> None:
    half = np.zeros((8, 8), dtype=np.uint8)
    half[:, 4:] = 255
    path = tmp_path / "photo.png"
    if mode == "RGBA":
        image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        image.paste((0, 0, 0, 255), (4, 0, 8, 8))
        image.save(path)
    elif mode == "LA":
        Image.merge("LA", [Image.new("L", (8, 8), 0), Image.fromarray(half)]).save(path)
    elif mode == "PA":
        path = path.with_suffix(".gif")
        Image.merge("RGBA", [Image.new("L", (8, 8), 0)] * 3 + [Image.fromarray(half)]).save(path)
    elif mode.startswith("P "):
        image = Image.fromarray((half == 0).astype(np.uint8)).convert("P")
        image.putpalette([0, 0, 0, 9, 9, 9])
        image.save(path, transparency=bytes([255, 0]))
    else:
        pixels = np.zeros((8, 8, 3), dtype=np.uint8)
        pixels[:, :4] = (9, 8, 7)
        Image.fromarray(pixels).save(path, transparency=(9, 8, 7))
    pixels = np.asarray(open_image(path))
    assert pixels[:, :4].min() == 255, "the transparent half is white"
    assert pixels[:, 4:].max() == 0, "the opaque half is black"


def test_half_transparent_is_blended() -> None:
    assert open_image(Image.new("RGBA", (2, 2), (0, 0, 0, 127))).getpixel((0, 0)) == (128, 128, 128)
    for plain, premultiplied in [("RGBA", "RGBa"), ("LA", "La")]:
        image = Image.new("RGBA", (2, 2), (200, 0, 0, 127)).convert(plain)
        assert_same(open_image(image.convert(premultiplied)), open_image(image), tolerance=1)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent"),
    [
        (1, 0, b"\x80", b"\0\1"),  # two pixels: the first is transparent, the other black
        (2, 0, b"\x80", b"\0\2"),
        (4, 0, b"\x70", b"\0\7"),
        (8, 0, b"\x70\0", b"\0\x70"),
        (16, 0, b"\x12\x34\0\0", b"\x12\x34"),
        (8, 2, b"\x12\x34\x56" + bytes(3), b"\0\x12\0\x34\0\x56"),
        (16, 2, b"\x12\x34\x56\x78\x9a\xbc" + bytes(6), b"\x12\x34\x56\x78\x9a\xbc"),
    ],
)
def test_the_transparent_colour_of_a_png(depth: int, colour: int, row: bytes, transparent: bytes) -> None:
    photo = open_image(png_file(2, 1, depth, colour, b"\0" + row, transparent))
    assert [photo.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 0)]


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    scene().convert("CMYK").save(tmp_path / f"print.{suffix}")
    with Image.open(tmp_path / f"print.{suffix}") as file:
        assert file.mode == "CMYK"
    assert_same(open_image(tmp_path / f"print.{suffix}"), scene(), tolerance=8)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX", "LAB"])
def test_other_colour_spaces(mode: str) -> None:
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(scene(), *profiles, outputMode="LAB")
        assert image is not None
    else:
        image = scene().convert(mode)
    assert_same(open_image(image), scene(), tolerance=8)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(0, 65535, 64 * 4).astype(np.uint16).reshape(4, 64)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(ramp).save(path)
    got = np.asarray(open_image(path))[:, :, 0].astype(float)
    assert np.abs(got - ramp / 257).max() <= 0.51
    dim = tmp_path / f"dim.{suffix}"
    Image.fromarray(ramp // 4).save(dim)
    assert np.asarray(open_image(dim)).max() == 64, "a dark photo stays dark"


def test_16_bit_colour(tmp_path: Path) -> None:
    pixels = np.asarray(scene()).astype(">u2") * 257
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    (tmp_path / "deep.png").write_bytes(png_file(width, height, depth=16, colour=2, data=rows))
    assert_same(open_image(tmp_path / "deep.png"), scene(), tolerance=1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (float_array([[0.0, 0.5, 1.0]]), [0, 128, 255]),
        (float_array([[0.0, 100.5, 200.0]]), [0, 100, 200]),
        (float_array([[0.0, 257.0, 65535.0]]), [0, 1, 255]),
        (float_array([[-1.0, 0.0, 1.0]]), [0, 128, 255]),
        (float_array([[-100.0, 0.0, 100.0]]), [0, 128, 255]),
        (float_array([[np.nan, 1.0, 1.0]]), [0, 255, 255]),
        (float_array([[0.0, 0.0, 0.0]]), [0, 0, 0]),
        (int_array([[0, 1, 200]]), [0, 1, 200]),
        (int_array([[0, 32768, 65535]]), [0, 128, 255]),
        (int_array([[0, 500_000, 1_000_000]]), [0, 128, 255]),
    ],
)
def test_32_bit_grey(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    Image.fromarray(values).save(tmp_path / "deep.tiff")
    got = np.asarray(open_image(tmp_path / "deep.tiff"))[0, :, 0].astype(int)
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize("suffix", ["gif", "webp", "tiff", "png", "avif"])
def test_the_first_frame_of_many(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"moving.{suffix}"
    scene().save(path, save_all=True, append_images=[Image.new("RGB", (48, 32), "black")] * 2)
    assert_same(open_image(path), scene(), tolerance=6)


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (3, 2)])
def test_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (10, 200, 30)).save(tmp_path / "photo.png")
    image = open_image(tmp_path / "photo.png")
    assert image.size == size
    for resize in ("squash", "crop", "pad"):
        preprocess = Preprocess(size=32, resize=resize)
        pixels = preprocess(image)
        assert pixels.shape == (3, 32, 32)
        assert np.isfinite(pixels).all()
        left, top, right, bottom = preprocess.box(*size)
        assert left < right
        assert top < bottom


def test_arrays() -> None:
    pixels = np.asarray(scene())
    assert_same(open_image(pixels), scene(), tolerance=0)
    assert_same(open_image(pixels[:, ::-1][:, ::-1]), scene(), tolerance=0)
    assert_same(open_image(pixels / 255.0), scene(), tolerance=0)
    assert_same(open_image(pixels.astype(np.uint16) * 257), scene(), tolerance=0)
    assert_same(open_image(pixels.astype(np.int64)), scene(), tolerance=0)
    assert_same(open_image(pixels[:, :, 0]), Image.fromarray(pixels[:, :, 0]), tolerance=0)
    assert_same(open_image(pixels[:, :, :1]), Image.fromarray(pixels[:, :, 0]), tolerance=0)
    assert open_image(np.zeros((2, 2, 4), dtype=np.uint8)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(np.array([[True, False]])).getpixel((0, 0)) == (255, 255, 255)
    for wrong, message in [
        (pixels.transpose(2, 0, 1), "transpose"),
        (pixels[:0], "expected"),
        (pixels * 1.0, "expected 0..1"),
        (pixels / -255.0, "expected 0..1"),
        (np.array([[np.nan]]), "expected 0..1"),
    ]:
        with pytest.raises(ImageError, match=message):
            open_image(wrong)


def png_file(
    width: int, height: int, depth: int = 8, colour: int = 0, data: bytes = b"", transparent: bytes = b""
) -> bytes:
    """A PNG by hand, for what Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    between = chunk(b"tRNS", transparent) if transparent else b""
    whole = chunk(b"IHDR", header) + between + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + whole


def test_missing_empty_folder_text(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a photo at all, but some words in a file")
    (tmp_path / "heic.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    (tmp_path / "drawing.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    for name, message in [
        ("absent.jpg", "no such file"),
        ("empty.jpg", "empty"),
        ("text.jpg", "not a photo.*JPEG, PNG"),
        ("heic.jpg", "HEIC|not a photo"),  # the second where pillow-heif is installed
        ("drawing.eps", "not a photo"),
        ("", "folder"),
        ("nul\0.jpg", "cannot be read"),
        ("n" * 300, "cannot be read"),
        ("text.jpg/photo.jpg", "cannot be read"),
    ]:
        with pytest.raises(ImageError, match=message) as caught:
            open_image(tmp_path / name)
        assert str(caught.value).startswith(printable(tmp_path / name)), "the message names the file"
        assert "\n" not in str(caught.value)
        assert "expected" in str(caught.value)
    with pytest.raises(ImageError, match="<bytes>: the file is empty"):
        open_image(b"")
    with pytest.raises(ImageError, match="'rb'"), (tmp_path / "text.jpg").open() as text:
        open_image(text)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got None"):
        open_image(None)  # type: ignore[arg-type]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_no_permission(tmp_path: Path) -> None:
    scene().save(tmp_path / "photo.png")
    (tmp_path / "photo.png").chmod(0)
    with pytest.raises(ImageError, match="cannot be read"):
        open_image(tmp_path / "photo.png")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_truncated_anywhere(tmp_path: Path, format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    scene_with_noise = Image.fromarray(noise)
    path = tmp_path / f"photo.{format.lower()}"
    scene_with_noise.save(path, format)
    whole = path.read_bytes()
    for share in (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9):
        path.write_bytes(whole[: max(1, int(share * len(whole)))])
        with pytest.raises(ImageError) as caught:
            open_image(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("progressive", [True, False])
@pytest.mark.parametrize("side", [32, 400])
def test_a_jpeg_that_lacks_only_its_end_mark(progressive: bool, side: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file := io.BytesIO(), "JPEG", progressive=progressive)
    whole = file.getvalue()
    assert whole[-2:] == b"\xff\xd9"
    image, size = open_reduced(whole[:-2], side)
    assert size == (96, 64) and image.tobytes() == open_reduced(whole, side)[0].tobytes()
    for cut in (12, 30, 300):
        with pytest.raises(ImageError, match="truncated or damaged"):
            open_reduced(whole[:-cut], side)


def test_libtiff_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    scene().save(file := io.BytesIO(), "TIFF", compression="tiff_lzw")
    data = file.getvalue()
    for start in range(8, len(data), 7):
        with suppress(ImageError):
            open_image(data[:start] + b"\xff\xff\xff" + data[start + 3 :])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_damaged_files_open_or_say_so(tmp_path: Path, format: str) -> None:
    scene().save(buffer := io.BytesIO(), format)
    rng = np.random.default_rng(1)
    for _ in range(60):
        data = bytearray(buffer.getvalue())
        for at in rng.integers(0, len(data), 8):
            data[at] = rng.integers(256)
        try:
            assert open_image(bytes(data), max_pixels=1_000_000).mode == "RGB"
        except ImageError as error:
            assert "<bytes>" in str(error)


def test_enormous(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_file(30_000, 30_000))  # a few bytes that would decode to 900 megapixels
    with pytest.raises(ImageError, match=r"bomb\.png: 30000 x 30000 is 900 megapixels; expected at most 200"):
        open_image(path)
    with pytest.raises(ImageError, match=r"expected at most 0\.001"):
        open_image(scene(), max_pixels=1000)
    assert open_image(scene(), max_pixels=48 * 32).size == (48, 32)


@pytest.mark.parametrize("size", [(199_000_000, 1), (1, 199_000_000), (100_001, 2)])
def test_sides_that_are_too_long(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=f"{size[0]} x {size[1]}; expected sides of at most 100000 pixels"):
        open_image(png_file(*size))


def test_a_format_that_takes_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    scene().save(file := io.BytesIO(), "WEBP")
    monkeypatch.setattr(images, "MEMORY", 20_000)
    with pytest.raises(ImageError, match=r"48 x 32 pixels of WEBP take 0\.0 GB of memory to decode; expected at most"):
        open_image(file.getvalue())
    scene().save(file := io.BytesIO(), "PNG")
    assert_same(open_image(file.getvalue()), scene(), tolerance=0)


@pytest.mark.parametrize(
    "image",
    [
        *(scene(50, 30).convert(mode) for mode in ("RGB", "RGBA", "L", "LA", "La", "PA", "P", "CMYK", "1", "YCbCr")),
        Image.fromarray(np.arange(1500, dtype=np.uint16).reshape(30, 50) * 43),
        Image.fromarray(np.arange(1500, dtype=np.float32).reshape(30, 50) - 3),
        Image.fromarray(np.arange(1500, dtype=np.int32).reshape(30, 50) * 99),
    ],
    ids=lambda image: image.mode,
)
def test_bands_are_the_whole(image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_image(image)
    monkeypatch.setattr(pixels, "BAND", 210)  # four rows
    assert open_image(image).tobytes() == whole.tobytes()
    assert pixels.to_rgb(image, 4, 3).tobytes() == whole.reduce((4, 3)).tobytes()


@pytest.mark.parametrize("size", [(2100, 2000), (9000, 20), (20, 9000)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_photo_is_scaled_down_as_it_is_converted(size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    scene(*size).save(file := io.BytesIO(), "PNG", exif=exif)
    whole = open_image(file.getvalue())
    image, original = open_reduced(file.getvalue(), 100)
    assert original == whole.size and max(image.size) < 200
    assert all(small >= min(100, large) for small, large in zip(image.size, original, strict=True))
    assert_same(image, whole.resize(image.size, Image.Resampling.BOX), tolerance=2)


def test_memory_is_shared_and_a_giant_is_not_overtaken() -> None:
    memory = _Memory(10)
    order: list[str] = []

    def decode(name: str, size: int) -> None:
        with memory.room(size):
            order.append(name)

    with memory.room(6):
        decode("fits", 4)
        waiting = [threading.Thread(target=decode, args=each) for each in (("giant", 99), ("small", 1))]
        for thread in waiting:
            thread.start()
            thread.join(0.1)
        assert order == ["fits"]
    for thread in waiting:
        thread.join()
    assert order == ["fits", "giant", "small"]


MEASURE = """
import resource, sys, threading
from captioner.images import Preprocess
threads = [threading.Thread(target=Preprocess(224).read, args=(sys.argv[1],)) for _ in range(3)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for thread in threads: thread.start()
for thread in threads: thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts kilobytes")
def test_large_photos_take_little_memory_beside_their_own_pixels(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(png_file(5000, 4000, depth=16, data=b"".join([bytes(10_001)] * 4000)))
    kilobytes = int(subprocess.check_output([sys.executable, "-c", MEASURE, path]))
    assert kilobytes < 3 * 40_000 + 250_000  # three times two bytes per pixel, and the bands


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF"])
def test_large_within_our_limit_is_silent(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow would refuse at 200 pixels
    scene().save(buffer := io.BytesIO(), format)
    assert_same(open_image(buffer.getvalue()), scene(), tolerance=6)
    assert Image.MAX_IMAGE_PIXELS == 100, "Pillow's own limit stands for everyone else"


def test_threads_leave_pillows_limit_as_it_was(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    scene().save(tmp_path / "photo.png")
    threads = [threading.Thread(target=lambda: [open_image(tmp_path / "photo.png") for _ in range(30)]) for _ in "1234"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == Image.MAX_IMAGE_PIXELS


def test_no_file_stays_open(tmp_path: Path) -> None:
    scene().save(tmp_path / "photo.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "photo.png").read_bytes()[:60])
    open_files = Path("/proc/self/fd")
    if not open_files.is_dir():
        pytest.skip("needs /proc")
    before = len(list(open_files.iterdir()))
    images = [open_image(tmp_path / "photo.png") for _ in range(5)]
    for _ in range(5):
        with pytest.raises(ImageError):
            open_image(tmp_path / "broken.png")
    assert len(list(open_files.iterdir())) == before
    assert images[0].getpixel((0, 0)) == (230, 20, 20)


def test_names_are_printable() -> None:
    assert printable("photos/dög 1.jpg") == "photos/dög 1.jpg"
    assert printable("a\nb\x1b[31m.jpg") == "a\\nb\\x1b[31m.jpg"
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\udce9"
    with pytest.raises(ImageError, match=r"absent\\x07\.jpg: no such file"):
        open_image("absent\a.jpg")


@pytest.mark.parametrize("address", ["https://example.org/dog.jpg", "s3://bucket/dog.jpg"])
def test_web_addresses(address: str) -> None:
    for source in (address, Path(address)):
        with pytest.raises(ImageError, match=f"^{address}: a web address; expected a file"):
            open_image(source)


def test_heic_opens_without_a_call() -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(scene()).save(file := io.BytesIO())
    assert_same(open_image(file.getvalue()), scene(), tolerance=6)


def test_find_images(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "sub/c.webp", "sub/deep/d.heic", ".git/e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    top = [tmp_path / "a.PNG", tmp_path / "b.jpg"]
    assert find_images([tmp_path]) == top
    assert find_images([str(tmp_path)], recursive=True) == [
        *top,
        tmp_path / "sub/c.webp",
        tmp_path / "sub/deep/d.heic",
    ]
    given = [tmp_path / "notes.txt", tmp_path / "absent.jpg", tmp_path / "b.jpg"]
    assert find_images([*given, tmp_path / "sub", tmp_path / "b.jpg"]) == [
        *given,
        tmp_path / "sub/c.webp",
        top[1],
    ]
    assert find_images([]) == []


def test_folders_that_cannot_be_listed_are_reported(tmp_path: Path, unlistable: Callable[[str], None]) -> None:
    for name in ("a.jpg", "closed/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    unlistable("closed")
    lines: list[str] = []
    assert find_images([tmp_path, "n" * 300], recursive=True, report=lines.append) == [
        tmp_path / "a.jpg",
        Path("n" * 300),
    ]
    assert lines == [f"{tmp_path}/closed: the folder cannot be listed (Permission denied); its photos are missing."]


def test_preprocess_values() -> None:
    flat = Image.new("RGB", (10, 20), (255, 0, 128))
    pixels = Preprocess(size=4)(flat)
    assert pixels.dtype == np.float32
    assert pixels.flags["C_CONTIGUOUS"]
    expected = (np.array([1.0, 0.0, 128 / 255]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(pixels, np.broadcast_to(expected[:, None, None], (3, 4, 4)), atol=1e-5)
    half = Preprocess(size=4, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))(flat)
    np.testing.assert_allclose(half[:, 0, 0], [1, -1, 256 / 255 - 1], atol=1e-6)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_right_size_is_not_resampled(resize: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    preprocess = Preprocess(size=24, resize=resize, mean=(0, 0, 0), std=(1, 1, 1))  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.rint(preprocess(Image.fromarray(noise)) * 255), noise.transpose(2, 0, 1))
    assert preprocess.box(24, 24) == (0, 0, 24, 24)


def test_resize_is_antialiased() -> None:
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(Preprocess(size=32).square(Image.fromarray(stripes)))
    assert np.abs(small.astype(int) - 127).max() <= 6


def test_boxes() -> None:
    assert Preprocess(64, "squash").box(640, 480) == (0, 0, 640, 480)
    assert Preprocess(64, "crop").box(640, 480) == (80, 0, 560, 480)
    assert Preprocess(64, "crop").box(480, 640) == (0, 80, 480, 560)
    assert Preprocess(64, "pad").box(640, 480) == (0, -80, 640, 560)
    assert Preprocess(64, "pad").box(480, 640) == (-80, 0, 560, 640)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(400, 300), (300, 400), (333, 517), (90, 601), (40, 31)])
def test_box_tells_where_the_square_comes_from(resize: str, size: tuple[int, int]) -> None:
    """A mark put in the photo is found, in the square, where `box` says that it is."""
    preprocess = Preprocess(size=112, resize=resize)  # type: ignore[arg-type]
    width, height = size
    left, top, right, bottom = preprocess.box(width, height)
    for x, y in [(0.5, 0.5), (0.3, 0.55), (0.7, 0.42)]:
        x, y = int(x * width), int(y * height)
        if not (left + 12 < x < right - 12 and top + 12 < y < bottom - 12):
            continue
        photo = np.zeros((height, width, 3), dtype=np.uint8)
        photo[y - 8 : y + 8, x - 8 : x + 8] = 255
        square = np.asarray(preprocess.square(Image.fromarray(photo)), dtype=float)[:, :, 0]
        if resize == "pad":  # the margins have the mean colour
            square[square == round(255 * 0.485)] = 0
        rows, columns = np.mgrid[:112, :112] + 0.5
        found_x = left + (square * columns).sum() / square.sum() * (right - left) / 112
        found_y = top + (square * rows).sum() / square.sum() * (bottom - top) / 112
        assert abs(found_x - x) < 0.02 * (right - left)
        assert abs(found_y - y) < 0.02 * (bottom - top)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_is_decoded_smaller(orientation: int, mode: str) -> None:
    """Two roads: open and scale down, or decode at a fraction of the size."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    scene(640, 400).convert(mode).save(file, "JPEG", exif=exif)
    whole = open_image(file.getvalue())
    image, size = open_reduced(file.getvalue(), 100)
    assert size == whole.size and sorted(image.size) == [100, 160]
    assert_same(image, whole.resize(image.size, Image.Resampling.BOX), tolerance=2)
    preprocess = Preprocess(40)  # twice its size is 80
    pixels, read_size = preprocess.read(file.getvalue())
    assert read_size == whole.size
    assert np.abs(pixels - preprocess(whole)).mean() < 0.03
    assert np.abs(pixels - preprocess(whole)).max() > 0  # it was another road


@pytest.mark.parametrize("size", [(640, 400), (400, 640)])
def test_a_photo_is_decoded_at_twice_the_size_that_the_cnn_sees(size: tuple[int, int]) -> None:
    """Fine noise shows at which size a JPEG was decoded: the input of the CNN must come from its real pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    for side in (50, 99, 100, 150, 200):
        image, original = Preprocess(side).open(file.getvalue())
        assert original == size and min(image.size) >= 2 * side
        whole = Preprocess(side)(open_image(file.getvalue()))
        assert np.abs(Preprocess(side).read(file.getvalue())[0] - whole).mean() < 0.05


def test_what_need_not_be_decoded_smaller_is_not(tmp_path: Path) -> None:
    for suffix, size in (("jpg", (350, 300)), ("png", (640, 400))):
        scene(*size).save(tmp_path / f"a.{suffix}")
        image, original = open_reduced(tmp_path / f"a.{suffix}", 200)
        assert image.size == original == size
        assert image.tobytes() == open_image(tmp_path / f"a.{suffix}").tobytes()
    image, original = open_reduced(scene(640, 400), 20)
    assert image.size == original == (640, 400)


def test_the_limit_counts_the_pixels_of_the_file() -> None:
    file = io.BytesIO()
    scene(640, 400).save(file, "JPEG")
    with pytest.raises(ImageError, match="640 x 400"):
        open_reduced(file.getvalue(), 20, max_pixels=100_000)


def test_pad_margins_are_the_mean_colour() -> None:
    pixels = Preprocess(size=32, resize="pad")(Image.new("RGB", (64, 32), "white"))
    assert np.abs(pixels[:, :8]).max() < 0.01
    assert np.abs(pixels[:, 24:]).max() < 0.01
    assert pixels[:, 8:24].min() > 2


def test_settings_round_trip_and_errors() -> None:
    preprocess = Preprocess(size=299, resize="pad", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess
    assert preprocess.to_dict()["mean"] == [0.5, 0.5, 0.5], "plain JSON"
    assert hash(Preprocess.from_dict({"mean": [0, 0, 0]})) == hash(Preprocess(mean=(0, 0, 0)))
    with pytest.raises(ValueError, match="unknown preprocessing setting 'colour'"):
        Preprocess.from_dict({"colour": 1})
    with pytest.raises(ValueError, match="expected squash, crop, pad"):
        Preprocess(resize="stretch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a whole number, 1 to"):
        Preprocess(size=0)
    with pytest.raises(ValueError, match="numbers above 0"):
        Preprocess(std=(0.2, 0.2, 0))
    with pytest.raises(ValueError, match="3 numbers: red"):
        Preprocess(mean=(0.5, 0.5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="open_image"):
        Preprocess()(Image.new("L", (4, 4)))
