"""From the bytes of a photo to its caption, for many clients and within limits. Nothing here knows HTTP; a client's
mistake is raised as a `Problem`."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from captioner.captioner import Caption, Captioner
from captioner.decoding import Decoding
from captioner.images import ImageError, TooManyPixelsError, UnknownFormatError
from captioner.visualize.view import caption_view
from captioner.web.batches import Batches
from captioner.web.errors import Problem

Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class Limits:
    """Limits of requests."""

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_requests: int = 16
    """Requests at a time: being received, waiting, or being captioned."""
    batch_size: int = 16
    """Photos per batch of the model, and the most in one request."""
    upload_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value!r}; expected more than 0.")


class CaptionService:
    """One model behind a queue. Two threads read photos, so that a huge photo does not block the others and memory
    stays bounded. A third runs the model on all waiting photos with the same decoding options."""

    def __init__(self, captioner: Captioner, limits: Limits):
        self.captioner, self.limits = captioner, limits
        self.inside = 0
        self.photos: Counter[str] = Counter()  # "captioned", or the code of the error
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="captioner-readers")
        self._batches: Batches[Decoding, tuple[np.ndarray, Size], Caption] = Batches(self._run, limits.batch_size)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the queue; it is taken before the photo is received, to bound memory."""
        if self.inside >= self.limits.max_requests:
            message = f"{self.inside} photos are waiting, which is the limit. Try again in a moment."
            raise Problem(503, "queue_full", message, {"Retry-After": "1"})
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def caption(self, photo: bytes, decoding: Decoding) -> dict[str, Any]:
        """The response to the bytes of an image file, as JSON-ready data."""
        try:
            read = await asyncio.get_running_loop().run_in_executor(self._readers, self._read, photo)
        except Problem as problem:
            self.photos[problem.code] += 1
            raise
        caption = await self._batches.submit(decoding, read)
        self.photos["captioned"] += 1
        return reply(caption, size=read[1])

    async def caption_each(self, photos: Sequence[bytes], decoding: Decoding) -> list[dict[str, Any]]:
        """The response for each photo, or the body of its error."""

        async def one(photo: bytes) -> dict[str, Any]:
            try:
                return await self.caption(photo, decoding)
            except Problem as problem:
                return problem.body()

        return await asyncio.gather(*map(one, photos))

    def _read(self, photo: bytes) -> tuple[np.ndarray, Size]:
        if not photo:
            raise Problem(400, "empty", "the photo is empty (0 bytes); expected the bytes of an image file.")
        stream = io.BytesIO(photo)
        stream.name = "the photo"  # for messages
        try:
            return self.captioner.preprocess.read(stream, self.limits.max_pixels)
        except TooManyPixelsError as error:
            most = f"{self.limits.max_pixels / 1e6:g} megapixels"
            message = f"the photo has more than {most}, the limit of this server. Scale it down."
            raise Problem(413, "too_many_pixels", message) from error
        except UnknownFormatError as error:
            raise Problem(415, "not_a_photo", str(error)) from error
        except ImageError as error:
            raise Problem(400, "broken_photo", str(error)) from error

    def _run(self, decoding: Decoding, read: Sequence[tuple[np.ndarray, Size]]) -> list[Caption]:
        memory = self.captioner.backend.encode(np.stack([pixels for pixels, _ in read]))
        return self.captioner.search(memory, len(read), decoding, [size for _, size in read])

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._batches.close()


def reply(caption: Caption, size: Size) -> dict[str, Any]:
    """The `caption_view` of the caption, with the views of its other captions."""
    view = caption_view(
        size,
        caption.text,
        caption.words,
        caption.log_probabilities,
        caption.log_probability,
        caption.finished,
        caption.attention,
        caption.box,
        caption.alternatives,
        confidence=caption.confidence,
    )
    if caption.other_captions:
        view["other_captions"] = [reply(other, size) for other in caption.other_captions]
    return view
