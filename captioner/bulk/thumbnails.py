"""Small copies of photos, for galleries. Those of photos in shards and at addresses are made when the photo is read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO, cast

from captioner.bulk.listing import Photo
from captioner.images import ImageError, open_reduced
from captioner.visualize.page import at_most

SIDE = 256  # pixels of the longer side


def thumbnail(photo: str | Path | bytes) -> bytes | None:
    """A WebP; None if the photo cannot be opened."""
    try:
        image, _ = open_reduced(photo, SIDE)
    except ImageError:
        return None
    at_most(image, SIDE).save(buffer := io.BytesIO(), "WEBP", quality=60, method=2)
    return buffer.getvalue()


class Shrinking:
    """A photo, read like an open file, that makes its thumbnail when it is read."""

    def __init__(self, photo: Photo):
        self.name, self.source = photo.name, cast("bytes | BinaryIO", photo.source)
        self.thumbnail: bytes | None = None

    def read(self) -> bytes:
        content = self.source if isinstance(self.source, bytes) else self.source.read()
        self.thumbnail = thumbnail(content)
        return content
