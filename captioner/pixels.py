"""Conversion of an image in any of Pillow's modes, or of an array, to 8-bit RGB: 16-bit values are scaled, transparency
is composited over white. Large images are converted in bands of rows, which needs little memory beyond their own
pixels. Files are opened in `images`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

BAND = 4_000_000  # pixels that are converted at a time

# Factors from the samples of a PNG to those of the decoded image. Pillow scales the pixels, but not the transparent
# colour.
TRANSPARENT_SCALES = {"1": 255.0, "L;2": 85.0, "L;4": 17.0, "RGB;16B": 1 / 256}


def to_rgb(image: Image.Image, across: int = 1, down: int = 1) -> Image.Image:
    """The image as 8-bit RGB, reduced by integer factors: each pixel is the mean of across x down pixels."""
    scale = _scale(image)
    width, height = image.size
    rows = max(1, BAND // (width * down)) * down
    if rows >= height:
        return _shrink(_band_to_rgb(image, scale), across, down)
    whole = Image.new("RGB", (-(-width // across), -(-height // down)))
    for top in range(0, height, rows):
        band = _band_to_rgb(image.crop((0, top, width, min(top + rows, height))), scale)
        whole.paste(_shrink(band, across, down), (0, top // down))
    return whole


def scale_transparent_colour(image: Image.Image) -> None:
    """Convert the transparent colour of a PNG to the scale of the decoded pixels. Call it before the image is loaded,
    because only then are its bits per sample known."""
    colour, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    if colour is None or not tiles or (scale := TRANSPARENT_SCALES.get(str(tiles[0][3]))) is None:
        return
    grey = isinstance(colour, int)
    image.info["transparency"] = int(colour * scale) if grey else tuple(int(each * scale) for each in colour)


def from_array(array: np.ndarray) -> Image.Image:
    """Integers or floats (height, width) or (height, width, 1, 3 or 4) as an 8-bit image. Raises ValueError."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(
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
        raise ValueError(f"array of {array.dtype}, values {low:g}..{high:g}: expected 0..{full:g}. Rescale it.")
    return Image.fromarray(_eight_bits(array, 0.0, full))


def _band_to_rgb(image: Image.Image, scale: tuple[float, float] | None) -> Image.Image:
    if scale is not None:
        values = np.asarray(image)
        grey = _eight_bits(values, *scale)
        if (transparent := image.info.get("transparency")) is not None:
            grey[values == transparent] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        if image.mode == "La":  # premultiplied grey: Pillow converts it only to LA
            image = image.convert("LA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _scale(image: Image.Image) -> tuple[float, float] | None:
    """The values that are shown as black and as white, for greyscale of more than 8 bits; None for other images. Files
    of 32-bit integers or floats do not say which value is white. White is the smallest of 1 (floats only), 255 and
    65535 that no value exceeds. If all are exceeded or a value is negative, black is the smallest value and white the
    largest."""
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    if image.mode not in ("I", "F"):
        return None
    ranges = [(float(values.min()), float(values.max())) for values in map(_finite, _bands(image))]
    low, high = min(0.0, *(low for low, _ in ranges)), max(high for _, high in ranges)
    whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    return low, next((white for white in whites if low == 0 and high <= white), high)


def _bands(image: Image.Image) -> Iterator[np.ndarray]:
    width, height = image.size
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        yield np.asarray(image.crop((0, top, width, min(top + rows, height))))


def _finite(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)


def _eight_bits(values: np.ndarray, black: float, white: float) -> np.ndarray:
    scaled = (_finite(values) - black) * (255.0 / max(white - black, 1e-12))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _shrink(image: Image.Image, across: int, down: int) -> Image.Image:
    return image if across == down == 1 else image.reduce((across, down))
