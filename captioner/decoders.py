"""Support for Pillow's decoders: a bound on the memory that all of them use together, no messages on standard error,
and HEIC if pillow-heif is installed. Photos are opened in `images`."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import Image

MEMORY = 1_800_000_000  # bytes that one photo may take while it is decoded
SHARED = 1_000_000_000  # bytes for all photos that are decoded at the same time
BYTES_PER_PIXEL = {"WEBP": 16, "AVIF": 14, "HEIF": 14, "TIFF": 12, "JPEG": 8}  # at most, while it is decoded


class _NoPillowLimit:
    """A context without Pillow's limit, which is a global of the process: it warns at 89 megapixels and refuses at 179.
    Our limit is an argument that is checked before anything is decoded. Several threads may enter the context at
    once."""

    def __init__(self) -> None:
        self._lock, self._inside, self._limit = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                Image.MAX_IMAGE_PIXELS = self._limit


class _Memory:
    """The memory for photos that are being decoded, `size` bytes in all. A photo waits until there is room for it, and
    later photos wait behind it. A photo that needs more than `size` is decoded alone."""

    def __init__(self, size: int):
        self._size = self._free = size
        self._first, self._changed = threading.Lock(), threading.Condition()

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        size = min(size, self._size)
        with self._first, self._changed:
            self._changed.wait_for(lambda: size <= self._free)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


def bytes_to_decode(image: Image.Image) -> int:
    """The memory in bytes that decoding the photo takes at most."""
    return image.width * image.height * BYTES_PER_PIXEL.get(image.format or "", 5)


def register_heic() -> None:
    """Let Pillow open HEIC, if pillow-heif is installed."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()


def _silence_libtiff() -> None:
    """libtiff prints lines to standard error that do not name the photo. Failures are raised as errors anyway."""
    with suppress(AttributeError, OSError):  # a Pillow without libtiff, or a system that hides it
        library = ctypes.CDLL(Image.core.__file__)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


_silence_libtiff()
no_pillow_limit, memory = _NoPillowLimit(), _Memory(SHARED)
