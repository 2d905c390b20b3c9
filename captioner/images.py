"""Photo files and the input of a CNN: opening any photo as upright 8-bit RGB, listing photos, and the preprocessing
object that training, captioning, export and the web page share. Random augmentation belongs to training and is in
`data.augment`. Nothing here imports torch."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Only these decoders may open a file: some others of Pillow's run external programs (EPS) or are not for photos.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),  # only if pillow-heif is registered
}
ENDINGS: frozenset[str] = frozenset(ending for endings in FORMATS.values() for ending in endings)
MAX_PIXELS = 200_000_000
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Resize = Literal["squash", "crop", "pad"]
Source = str | Path | bytes | BinaryIO | Image.Image | np.ndarray

_pillow_limit_lock = threading.Lock()


class ImageError(ValueError):
    """A photo cannot be used. The message has the file, what happened and what was expected."""


class UnknownFormatError(ImageError):
    """The file is not a photo, or its format is not supported."""


class TooManyPixelsError(ImageError):
    """The photo has more pixels than the limit."""


def find_images(paths: Iterable[str | Path], recursive: bool = False) -> list[Path]:
    """The given files, in order, with each folder replaced by its photos (recognised by ending), sorted by name.

    A path that does not exist is kept, so that opening it gives the error. Hidden files in folders are skipped."""
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
            photos = sorted(name for name in files if Path(name).suffix.lower() in ENDINGS and name[0] != ".")
            found += [Path(folder, name) for name in photos]
    return found


def open_image(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The photo as an upright 8-bit RGB image: EXIF orientation is applied, transparency is shown over white, 16-bit
    values are scaled to 8 bits, and an animation gives its first frame.

    `source` is a path, the bytes of a file, a binary file, a Pillow image, or an array of integers, or floats in 0..1,
    with shape (height, width) or (height, width, 1, 3 or 4). Raises `ImageError` for a file that is missing, empty,
    damaged, truncated, not a photo, or has more than `max_pixels`."""
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source))
    if isinstance(source, Image.Image):
        return _upright_rgb(source, getattr(source, "filename", "") or "image", max_pixels)
    stream, name = _as_stream(source)
    with stream:
        return _upright_rgb(_identify(stream, name), name, max_pixels)


def open_reduced(source: Source, side: int, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, tuple[int, int]]:
    """The photo as `open_image` gives it, or a smaller copy, and its original (width, height). A large JPEG is decoded
    at 1/2, 1/4 or 1/8 of its size, which is faster, as long as both sides keep at least `side` pixels."""
    if isinstance(source, Image.Image | np.ndarray):
        image = open_image(source, max_pixels)
        return image, image.size
    stream, name = _as_stream(source)
    with stream:
        image = _identify(stream, name)
        _check_size(image, name, max_pixels)
        width, height = image.size
        image.draft("", (side, side))  # affects only JPEG; an empty mode keeps the photo's
        reduced = image.size
        upright = _upright_rgb(image, name, max_pixels)
    if reduced == (width, height):
        return upright, upright.size
    return upright, (width, height) if upright.size == reduced else (height, width)


def _as_stream(source: str | Path | bytes | BinaryIO) -> tuple[BinaryIO, str]:
    """An open, seekable, non-empty file, and its name for errors."""
    if isinstance(source, str | Path):
        return _open_path(Path(source)), str(source)
    if isinstance(source, bytes):
        data, name = source, "<bytes>"
    elif hasattr(source, "read"):
        data, name = _rest_of(source), str(getattr(source, "name", "<file>"))
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
    try:
        is_folder, size = path.is_dir(), path.stat().st_size
        stream = None if is_folder or not size else path.open("rb")
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file; expected the path of a photo.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: cannot be read ({reason}); expected a readable photo.") from error
    if is_folder:
        raise ImageError(f"{path}: is a folder; expected a photo. find_images lists the photos of a folder.")
    if stream is None:
        raise ImageError(f"{path}: the file is empty (0 bytes); expected a photo.")
    return stream


@contextmanager
def _no_pillow_limit() -> Iterator[None]:
    """Lift Pillow's limit, briefly and in one thread at a time. It is a global of the process, which warns at 89
    megapixels and refuses at 179. Our limit is an argument that is checked before anything is decoded."""
    with _pillow_limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _identify(stream: BinaryIO, name: str) -> Image.Image:
    """The image with its header read and no pixel decoded."""
    start = stream.read(32)
    Image.init()
    try:
        with _no_pillow_limit():
            return Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:
        if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
            raise UnknownFormatError(
                f"{name}: a HEIC photo; expected JPEG or another format that Pillow decodes. Convert it, or install "
                "pillow-heif and call pillow_heif.register_heif_opener() first."
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
    if width * height == 0:
        raise ImageError(f"{name}: the image is {width} x {height}; expected at least one pixel.")


def _upright_rgb(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    _check_size(image, name, max_pixels)
    try:
        if image.width * image.height > (Image.MAX_IMAGE_PIXELS or max_pixels):
            with _no_pillow_limit():  # some decoders check again; the lock also limits memory: one giant at a time
                image.load()
        else:
            image.load()
        return _to_rgb(_upright(image))
    except Exception as error:  # decoders raise OSError, SyntaxError, EOFError, struct.error, MemoryError, ...
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{name}: truncated or damaged ({reason}); expected a complete photo. Copy it again.")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF is no reason to refuse the photo
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(np.asarray(image), 65535))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_eight_bits(np.asarray(image), None))
    if image.has_transparency_data:
        if image.mode == "La":  # premultiplied grey: Pillow converts it only to LA
            image = image.convert("LA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, full: float | None) -> np.ndarray:
    """Grey values on the scale 0..full as uint8. Files of 32-bit integers or floats do not say which value is white.
    Without `full`, white is the smallest of 1 (floats only), 255 and 65535 that is at least every value; if there is
    none, or a value is negative, the smallest value becomes black and the largest white."""
    low, high = 0.0, full
    scales = (1.0, 255.0, 65535.0) if np.issubdtype(values.dtype, np.floating) else (255.0, 65535.0)
    values = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    if high is None:
        low, high = min(float(values.min()), 0.0), float(values.max())
        high = next((scale for scale in scales if low == 0 and high <= scale), high)
    scaled = (values - low) * (255.0 / max(high - low, 1e-12))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            f"array of shape {array.shape}: expected (height, width) or (height, width, 3 or 4)"
            + (", channels last: transpose it." if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ".")
        )
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if array.dtype == np.bool_:
        full = 1.0
    elif array.dtype == np.uint16:
        full = 65535.0
    else:
        full = 1.0 if np.issubdtype(array.dtype, np.floating) else 255.0
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= full):  # also false for NaN
        raise ImageError(f"array of {array.dtype}, values {low:g}..{high:g}: expected 0..{full:g}. Rescale it.")
    return Image.fromarray(_eight_bits(array, full))


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
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3:
                raise ValueError(f"{name} has {len(values)} values; expected 3: red, green, blue.")
            object.__setattr__(self, name, values)
        if self.resize not in get_args(Resize):
            raise ValueError(f"unknown resize {self.resize!r}; expected {', '.join(get_args(Resize))}.")
        if self.size < 1 or min(self.std) <= 0:
            raise ValueError(f"size ({self.size}) and std ({self.std}) must be positive.")

    def open(self, source: Source, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, tuple[int, int]]:
        """The photo as `open_reduced` gives it, with sides of at least twice the CNN's size (so that the resize still
        has pixels to average), and its original width and height."""
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
        pixels -= mean  # in place and plane by plane: ten times faster than one expression
        pixels /= std
        return pixels

    def square(self, image: Image.Image) -> Image.Image:
        """The photo resized for the CNN, before normalisation. A photo of this size is returned unchanged."""
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
