"""The photos in a request: the raw body, or the fields `photo` or `file` of a multipart form. Bytes are counted as they
arrive and stay in memory; Starlette's form parser would write large ones to temporary files. Nothing here decodes
photos."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from captioner.web.errors import Problem

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the response reports a malformed form

FIELDS = ("photo", "file")
MOST_FIELDS = 20  # bounds the time for parsing
PATIENCE = 5.0  # seconds that a body may stall in all
SLOWEST = 20_000  # bytes per second; slower bodies would block places in the queue
FORM_OVERHEAD = 64 * 1024  # bytes of a form around its photo


async def read_photos(
    content_type: str,
    content_length: str | None,
    chunks: AsyncIterator[bytes],
    max_bytes: int,
    seconds: float,
    most: int = 1,
) -> list[bytes]:
    """One to `most` photos: together at most `max_bytes` bytes, whatever the headers say, received within `seconds` and
    at `SLOWEST` or faster, with pauses of `PATIENCE` in all. Raises `Problem`."""
    kind, options = parse_options_header(content_type)
    is_form = kind == b"multipart/form-data"
    allowed = max_bytes + FORM_OVERHEAD * is_form
    size = f"more than {max_bytes / 1e6:g} MB"
    message = (
        f"the photo has {size}, the limit of this server. Save a smaller version."
        if most == 1
        else f"the photos have {size} together, the limit of this server. Send fewer at a time."
    )
    too_large = Problem(413, "too_many_bytes", message)
    if content_length is not None and int(content_length) > allowed:
        raise too_large
    try:
        body = await _at_most(allowed, chunks, seconds)
    except asyncio.TimeoutError as error:
        message = (
            f"the photo did not arrive within {seconds:g} seconds, or came at less than {SLOWEST // 1000} kB per "
            "second. Send it again, or send a smaller one."
        )
        raise Problem(408, "too_slow", message) from error
    if body is None:
        raise too_large
    photos = _from_form(body, options.get(b"boundary", b""), most) if is_form else [body]
    if sum(map(len, photos)) > max_bytes:
        raise too_large
    return photos


async def _at_most(limit: int, chunks: AsyncIterator[bytes], seconds: float) -> bytes | None:
    """All bytes; None if there are more than `limit`. Raises asyncio.TimeoutError."""
    body, now = bytearray(), asyncio.get_running_loop().time
    start = now()
    while len(body) <= limit:
        due = start + min(seconds, PATIENCE + len(body) / SLOWEST)
        try:
            body += await asyncio.wait_for(anext(chunks), due - now())
        except StopAsyncIteration:
            return bytes(body)
    return None


def _from_form(body: bytes, boundary: bytes, most: int) -> list[bytes]:
    """The photos of a form, in its order."""
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        message = f"the body is not a valid multipart form ({error}); expected a form with a field {FIELDS[0]!r}."
        raise Problem(400, "broken_form", message) from error
    if not form.complete:
        raise Problem(400, "broken_form", "the form is cut off; expected its closing boundary.")
    photos = [bytes(value) for name, value in form.fields if name in FIELDS]
    if len(photos) > most > 1:
        message = f"the form has {len(photos)} photos; this server takes at most {most} at a time."
        raise Problem(413, "too_many_photos", message)
    if not 1 <= len(photos) <= most:
        found = ", ".join(repr(name[:40]) for name, _ in form.fields[:10]) or "none"
        expected = "one field" if most == 1 else f"one to {most} fields"
        message = f"the form's fields are: {found}; expected {expected} {FIELDS[0]!r} with an image file."
        raise Problem(400, "no_photo", message)
    return photos


class _Form:
    """The fields of a form, collected by the parser's callbacks."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, bytearray]] = []
        self.complete = False
        self._header, self._value = bytearray(), bytearray()

    def callbacks(self) -> Any:
        names = ("on_part_begin", "on_header_field", "on_header_value", "on_header_end", "on_part_data", "on_end")
        return {name: getattr(self, name) for name in names}

    def on_part_begin(self) -> None:
        if len(self.fields) == MOST_FIELDS:
            raise Problem(400, "broken_form", f"the form has more than {MOST_FIELDS} fields, the limit of this server.")
        self.fields.append(("", bytearray()))

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self.fields[-1] = (options.get(b"name", b"").decode("utf-8", "replace"), self.fields[-1][1])
        self._header, self._value = bytearray(), bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.fields[-1][1].extend(memoryview(data)[start:end])

    def on_end(self) -> None:
        self.complete = True
