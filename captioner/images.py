"""Photo files and the input of a CNN: opening any photo as upright 8-bit RGB, listing photos, and the preprocessing
object that training, captioning, export and the web page share. Random augmentation belongs to training and is in
`data.augment`. Nothing here imports torch."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError

from captioner.decoders import MEMORY, bytes_to_decode, memory, no_pillow_limit, register_heic
from captioner.pixels import BAND, from_array, scale_transparent_colour, to_rgb

# Only these decoders may open a file: some of Pillow's other decoders run external programs (EPS) or are not for
# photos.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),  # only if pillow-heif is installed
}
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
ENDINGS: frozenset[str] = frozenset(ending for endings in FORMATS.values() for ending in endings)
MAX_PIXELS = 200_000_000
LONGEST = 100_000  # pixels of a side
REDUCED_FROM = 8192  # pixels of a side
LARGEST_SIDE = 4096  # pixels of a CNN's input
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Resize = Literal["squash", "crop", "pad"]
Source = str | Path | bytes | BinaryIO | Image.Image | np.ndarray

ADDRESS = re.compile(r"(https?|ftp|s3|gs|data|file):/?/?[^/]", re.IGNORECASE)
JPEG_END = b"\xff\xd9"
TURNS = {  # EXIF orientation: the operation that makes the photo upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = tuple(TURNS[orientation] for orientation in (5, 6, 7, 8))


def supported_formats() -> list[str]:
    """The formats that can be opened here: HEIF needs pillow-heif."""
    return [name for name in FORMATS if name != "HEIF" or find_spec("pillow_heif")]


class ImageError(ValueError):
    """A photo cannot be used. The message names the file, what happened and what was expected."""


class UnknownFormatError(ImageError):
    """The file is not a photo, or its format is not supported."""


class TooManyPixelsError(ImageError):
    """The photo has more pixels than the limit."""


class _CutJpegError(Exception):
    """A JPEG ends too early. Possibly only its end marker is missing."""


def printable(name: object) -> str:
    """A file name or a caption in printable form: control characters and bytes that could not be decoded are
    escaped."""
    text = str(name)
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def find_images(
    paths: Iterable[str | Path], recursive: bool = False, report: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """The given files, in order, with each folder replaced by its photos (recognised by ending), sorted by name.

    A path that does not exist is kept; opening it raises the error. Hidden files in folders are skipped. `report` is
    called with one line for each folder that cannot be listed."""

    def tell(error: OSError) -> None:
        report(f"{printable(error.filename)}: the folder cannot be listed ({error.strerror}); its photos are missing.")

    found: list[Path] = []
    for path in map(Path, paths):
        if not os.path.isdir(path):
            found.append(path)
            continue
        for folder, folders, files in os.walk(path, onerror=tell):
            folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
            photos = sorted(name for name in files if Path(name).suffix.lower() in ENDINGS and name[0] != ".")
            found += [Path(folder, name) for name in photos]
    return found


def open_image(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The photo as an upright 8-bit RGB image: EXIF orientation is applied, transparency is composited over white,
    16-bit values are scaled to 8 bits, and of an animation the first frame is taken.

    `source` is a path, the bytes of a file, a binary file, a Pillow image, or an array of integers, or floats in 0..1,
    with shape (height, width) or (height, width, 1, 3 or 4). Raises `ImageError` for a file that is missing, empty,
    damaged, truncated, not a photo, or has more than `max_pixels`."""
    return _open(source, max_pixels)[0]


def open_reduced(source: Source, side: int, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, tuple[int, int]]:
    """The photo as `open_image` gives it, or a smaller copy, and its original (width, height). A large JPEG is decoded
    at 1/2, 1/4 or 1/8 of its size, which is faster. A photo with many pixels is scaled down while it is converted,
    which takes less memory. Neither reduces a side below `side` pixels."""
    return _open(source, max_pixels, side)


def _open(source: Source, max_pixels: int, side: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    if isinstance(source, np.ndarray):
        try:
            image = to_rgb(from_array(source))
        except ValueError as error:
            raise ImageError(str(error)) from None
        return image, image.size
    if isinstance(source, Image.Image):
        return _decode(source, getattr(source, "filename", "") or "image", max_pixels)
    stream, name = _as_stream(source)
    with stream:
        try:
            return _decode(_identify(stream, name), name, max_pixels, side)
        except _CutJpegError:
            return _decode_with_end_mark(stream, name, max_pixels, side)


def _as_stream(source: str | Path | bytes | BinaryIO) -> tuple[BinaryIO, str]:
    """An open, seekable, non-empty file, and its name for errors."""
    if isinstance(source, str | Path):
        if ADDRESS.match(str(source)):
            address = re.sub(":/+", "://", printable(source), count=1)  # pathlib turns two slashes into one
            raise ImageError(f"{address}: a web address; expected a file. Download the photo first.")
        return _open_path(Path(source)), printable(source)
    if isinstance(source, bytes):
        data, name = source, "<bytes>"
    elif hasattr(source, "read"):
        data, name = _rest_of(source), printable(getattr(source, "name", "<file>"))
    else:
        raise TypeError(f"a photo is a path, bytes, a binary file, a Pillow image or an array; got {source!r:.80}")
    if not isinstance(data, bytes):
        raise ImageError(f"{name}: opened as text; expected a binary file. Open it with mode 'rb'.")
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes); expected a photo.")
    return io.BytesIO(data), name


def _rest_of(file: BinaryIO) -> bytes:
    """The rest of a file. A seekable file is left where it was, so it can be read again."""
    if getattr(file, "closed", False):
        raise ImageError(f"{getattr(file, 'name', '<file>')}: the file is closed; expected an open one, or its path.")
    start = file.tell() if hasattr(file, "seekable") and file.seekable() else None
    data = file.read()
    if start is not None:
        file.seek(start)
    return data


def _open_path(path: Path) -> BinaryIO:
    name = printable(path)
    try:
        is_folder, size = path.is_dir(), path.stat().st_size
        stream = None if is_folder or not size else path.open("rb")
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file; expected the path of a photo.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name}: cannot be read ({reason}); expected a readable photo.") from error
    if is_folder:
        raise ImageError(f"{name}: is a folder; expected a photo. find_images lists the photos of a folder.")
    if stream is None:
        raise ImageError(f"{name}: the file is empty (0 bytes); expected a photo.")
    return stream


def _identify(stream: BinaryIO, name: str) -> Image.Image:
    """The image with only its header read; no pixels are decoded."""
    start = stream.read(32)
    is_heic = start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS
    Image.init()
    if is_heic:
        register_heic()
    try:
        with no_pillow_limit:
            return Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:
        if is_heic and "HEIF" not in Image.OPEN:
            raise UnknownFormatError(
                f"{name}: a HEIC photo, which needs pillow-heif; expected it to be installed. Install it with: "
                "pip install 'captioner[heic]'. Or convert the photo to JPEG."
            ) from error
        known = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
        raise UnknownFormatError(f"{name}: not a photo, or its header is damaged; expected {known}.") from error
    except Exception as error:  # a damaged header makes decoders raise errors of any type
        raise _damaged(name, error) from error


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"{name}: {width} x {height} is {width * height / 1e6:,.0f} megapixels; expected at most "
            f"{max_pixels / 1e6:g}. Scale it down, or raise max_pixels."
        )
    if max_pixels <= MAX_PIXELS and (needed := bytes_to_decode(image)) > MEMORY:
        raise TooManyPixelsError(
            f"{name}: {width} x {height} pixels of {image.format} take {needed / 1e9:.1f} GB of memory to decode; "
            f"expected at most {MEMORY / 1e9:g}. Scale it down, or save it as PNG."
        )
    if max(width, height) > LONGEST:
        raise TooManyPixelsError(f"{name}: {width} x {height}; expected sides of at most {LONGEST} pixels. Crop it.")
    if width * height == 0:
        raise ImageError(f"{name}: the image is {width} x {height}; expected at least one pixel.")


def _decode(
    image: Image.Image, name: str, max_pixels: int, side: int | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """The upright RGB photo, whose sides may be reduced to `side` pixels, and its original width and height. Everything
    that takes much memory happens here."""
    _check_size(image, name, max_pixels)
    width, height = image.size
    format = image.format
    try:
        with memory.room(bytes_to_decode(image)), no_pillow_limit:
            scale_transparent_colour(image)
            if side is not None:
                image.draft("", (side, side))  # affects only JPEG; "" keeps the photo's mode
            image.load()
            turn = _turn(image)
            across, down = (1, 1) if side is None else _factors(image, side)
            reduced = to_rgb(image, across, down)
            upright = reduced if turn is None else reduced.transpose(turn)
            upright.info.clear()  # its EXIF orientation would be applied again
    except Exception as error:  # decoders raise OSError, SyntaxError, EOFError, struct.error, MemoryError, ...
        if format == "JPEG" and "truncated" in str(error):
            raise _CutJpegError(str(error)) from error
        raise _damaged(name, error) from error
    return upright, (height, width) if turn in SIDEWAYS else (width, height)


def _factors(image: Image.Image, side: int) -> tuple[int, int]:
    """The factors by which a large photo is scaled down, horizontally and vertically."""
    width, height = image.size
    if width * height <= BAND and max(width, height) <= REDUCED_FROM:
        return 1, 1
    return max(1, width // side), max(1, height // side)


def _decode_with_end_mark(
    stream: BinaryIO, name: str, max_pixels: int, side: int | None
) -> tuple[Image.Image, tuple[int, int]]:
    """Like `_decode`, for a truncated JPEG of which only the end marker is missing. If more is missing, the pixels
    depend on the bytes that are appended."""
    stream.seek(0)
    data = stream.read()
    found = []
    for filler in (b"\x00", b"\x55"):
        completed = io.BytesIO(data + 64 * filler + JPEG_END)
        found.append(_decode(_identify(completed, name), name, max_pixels, side))
    (one, size), (other, _) = found
    if ImageChops.difference(one, other).getbbox() is not None:
        raise _damaged(name, OSError("the end of the file is missing"))
    return one, size


def _damaged(name: str, error: Exception) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{name}: truncated or damaged ({reason}); expected a complete photo. Copy it again.")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The rotation or reflection that makes the photo upright."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF is no reason to refuse the photo
        return None


@dataclass(frozen=True)
class Preprocess:
    """From an RGB photo to the CNN's input: resized to a square, then normalised by mean and standard deviation.

    resize: `squash` shows the whole photo and changes its aspect ratio, `crop` shows the centre square, `pad` shows the
    whole photo with its aspect ratio between margins of the mean colour."""

    size: int = 224
    resize: Resize = "squash"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            match getattr(self, name):
                case [int() | float(), int() | float(), int() | float()] as values if all(abs(v) < 1e6 for v in values):
                    object.__setattr__(self, name, tuple(map(float, values)))
                case values:
                    raise ValueError(f"{name} is {values!r:.60}; expected 3 numbers: red, green, blue.")
        if self.resize not in get_args(Resize):
            raise ValueError(f"unknown resize {self.resize!r}; expected {', '.join(get_args(Resize))}.")
        if not isinstance(self.size, int) or not 1 <= self.size <= LARGEST_SIDE:
            raise ValueError(f"size is {self.size!r:.60}; expected a whole number, 1 to {LARGEST_SIDE:,}.")
        if min(self.std) < 1e-6:
            raise ValueError(f"std is {self.std}; expected numbers above 0.")

    def open(self, source: Source, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, tuple[int, int]]:
        """The photo as `open_reduced` gives it, with sides of at least twice the CNN's input size, so that the resize
        still averages pixels, and its original width and height."""
        return open_reduced(source, 2 * self.size, max_pixels)

    def read(self, source: Source, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, tuple[int, int]]:
        """The CNN's input (3, size, size) for a photo, and the photo's original width and height."""
        image, size = self.open(source, max_pixels)
        return self(image), size

    def __call__(self, image: Image.Image) -> np.ndarray:
        """(3, size, size) float32, normalised."""
        if image.mode != "RGB":
            raise ValueError(f"image of mode {image.mode}; expected RGB. Open photos with open_image.")
        planes = np.ascontiguousarray(np.asarray(self.square(image)).transpose(2, 0, 1))  # (3, S, S)
        mean, std = 255 * np.asarray([self.mean, self.std], dtype=np.float32)[:, :, None, None]
        pixels = planes.astype(np.float32)
        pixels -= mean  # in place, plane by plane: ten times faster than one expression
        pixels /= std
        return pixels

    def square(self, image: Image.Image) -> Image.Image:
        """The photo resized for the CNN, before normalisation. A photo that already has this size is returned
        unchanged."""
        if image.size == (self.size, self.size):
            return image
        if self.resize == "pad":
            left, top, width, height = self._placed(*image.size)
            margin = tuple(round(255 * value) for value in self.mean)
            square = Image.new("RGB", (self.size, self.size), margin)
            square.paste(image.resize((width, height), Image.Resampling.BILINEAR), (left, top))
            return square
        box = self.box(*image.size)
        return image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)  # antialiased

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """(left, top, right, bottom): the part of the original photo that the square shows, in its pixels. With `pad`
        it is larger than the photo, and left or top may be negative."""
        if self.resize == "squash":
            return 0.0, 0.0, float(width), float(height)
        if self.resize == "crop":
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            return left, top, left + side, top + side
        left_, top_, inner_width, inner_height = self._placed(width, height)
        across, down = width / inner_width, height / inner_height  # photo pixels per pixel of the square
        return -left_ * across, -top_ * down, (self.size - left_) * across, (self.size - top_) * down

    def _placed(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, width and height of the photo in the square of `pad`, in whole pixels."""
        scale = self.size / max(width, height)
        inner_width, inner_height = max(1, round(width * scale)), max(1, round(height * scale))
        return (self.size - inner_width) // 2, (self.size - inner_height) // 2, inner_width, inner_height

    def to_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown preprocessing setting {unknown[0]!r}; expected: {', '.join(known)}.")
        return cls(**values)
