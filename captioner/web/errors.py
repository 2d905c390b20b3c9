"""The format of errors: {"error": {"code": "too_many_bytes", "message": "..."}} with an HTTP status. Each error is
defined where it occurs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

SETTING = "wrong_setting"


class Problem(Exception):
    """An error response."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None):
        """`code` is for programs, `message` for people; `headers` are added to the response."""
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})

    def body(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers=self.headers)


def wrong_address(error: HTTPException) -> Problem:
    """An unknown path, or a method that the path does not allow."""
    allowed = (error.headers or {}).get("Allow")
    if allowed is None:
        return Problem(error.status_code, "no_such_route", f"{error.detail}: see /docs.")
    return Problem(error.status_code, "wrong_method", f"{error.detail}; expected {allowed}: see /docs.", error.headers)


def wrong_setting(error: RequestValidationError, known: list[str]) -> Problem:
    """The first setting that FastAPI refused, as a sentence."""
    first: dict[str, Any] = error.errors()[0]
    name = str(first["loc"][-1])
    if first["type"] == "extra_forbidden":
        return Problem(422, SETTING, f"unknown setting {name!r:.60}; expected: {', '.join(known)}.")
    expected = first["msg"].removeprefix("Input should be ")
    return Problem(422, SETTING, f"{name} is {first['input']!r:.60}; expected {expected}.")
