"""The photo in a request: the raw body, or the field `photo` of a multipart form. Bytes are counted as they arrive and
stay in memory; Starlette's form parser would write large ones to temporary files. Nothing here decodes the photo."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from captioner.web.errors import Problem

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the response reports a broken form; no log line

FIELD = "photo"
MOST_FIELDS = 20  # to bound the time of parsing
PATIENCE = 5.0  # seconds that a body may stand still
SLOWEST = 20_000  # bytes per second; slower bodies would keep a place in the queue from others
FORM_OVERHEAD = 64 * 1024  # bytes of a form around its photo


async def read_photo(
    content_type: str, content_length: str | None, chunks: AsyncIterator[bytes], max_bytes: int, seconds: float
) -> bytes:
    """The photo: at most `max_bytes` bytes, whatever the headers say, within `seconds` and, but for `PATIENCE`, at
    `SLOWEST` or faster. Raises `Problem`."""
    kind, options = parse_options_header(content_type)
    is_form = kind == b"multipart/form-data"
    allowed = max_bytes + FORM_OVERHEAD * is_form
    message = f"the photo has more than {max_bytes / 1e6:g} MB, the limit of this server. Save it smaller."
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
    photo = _field(body, options.get(b"boundary", b"")) if is_form else body
    if len(photo) > max_bytes:
        raise too_large
    if not photo:
        raise Problem(400, "empty", "the photo is empty (0 bytes); expected the bytes of an image file.")
    return photo


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


def _field(body: bytes, boundary: bytes) -> bytes:
    """The field `photo` of a form."""
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        message = f"the body is not a valid multipart form ({error}); expected a form with a field {FIELD!r}."
        raise Problem(400, "broken_form", message) from error
    found = [value for name, value in form.fields if name == FIELD]
    if len(found) == 1 and form.complete:
        return bytes(found[0])
    if not form.complete:
        raise Problem(400, "broken_form", "the form is cut off; expected its closing boundary.")
    others = ", ".join(repr(name[:40]) for name, _ in form.fields[:10]) or "none"
    raise Problem(
        400, "no_photo", f"the form's fields are: {others}; expected one field {FIELD!r} with the image file."
    )


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
            raise Problem(400, "broken_form", f"the form has more than {MOST_FIELDS} fields; expected one, {FIELD!r}.")
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
