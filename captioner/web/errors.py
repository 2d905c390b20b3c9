"""The one shape of an error: {"error": {"code": "too_many_bytes", "message": "..."}} and its HTTP status. Which errors
there are is decided where they happen."""

from __future__ import annotations

import math
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

SETTING = "wrong_setting"


class Problem(Exception):
    """What the client is told in place of an answer."""

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None):
        """`code` is a word for programs, `message` a sentence for people; `retry_after` counts seconds."""
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after

    def response(self) -> JSONResponse:
        headers = {} if self.retry_after is None else {"Retry-After": str(math.ceil(self.retry_after))}
        body = {"error": {"code": self.code, "message": self.message}}
        return JSONResponse(body, self.status, headers=headers)


def wrong_setting(error: RequestValidationError, known: list[str]) -> Problem:
    """The first of the settings that FastAPI refused, in words."""
    first: dict[str, Any] = error.errors()[0]
    name = str(first["loc"][-1])
    if first["type"] == "extra_forbidden":
        return Problem(422, SETTING, f"unknown setting {name!r:.60}; expected: {', '.join(known)}.")
    expected = first["msg"].removeprefix("Input should be ")
    return Problem(422, SETTING, f"{name} is {first['input']!r:.60}; expected {expected}.")
