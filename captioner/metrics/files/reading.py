"""Reading of text and JSON files. An error names the place of the problem, or lists the first problems and counts the
rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Id = int | str
SHOWN = 3  # problems that an error spells out


def raise_problems(path: Path, problems: Sequence[str], expected: str) -> None:
    if problems:
        more = [f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
        listing = "; ".join([*problems[:SHOWN], *more])
        raise ValueError(f"{path}: {expected}, but {_times(len(problems), 'problem')}: {listing}")


def _times(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shorten(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested deeply, or a number of thousands of digits
        return f"a value of type {type(value).__name__} that is too long to be shown"
    return text if len(text) <= 60 else f"{text[:57]}…"


def is_id(key: Any) -> bool:
    return isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool))


def _text(path: Path, expected: str) -> str:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected {expected}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected {expected}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; expected {expected}. Save it as UTF-8.") from None


def text_lines(path: Path, expected: str = "one caption per line") -> list[str]:
    """The lines of a UTF-8 file, without line ends and byte-order mark."""
    text = _text(path, expected)
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def parse_json(text: str) -> Any:
    """The value that a JSON text describes. ValueError for any text that is not JSON or cannot be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply to be read") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file. An error names the line and column where it is not JSON."""
    text = _text(path, "JSON")
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise ValueError(f"{path} is empty; expected JSON") from None
        where = f"line {error.lineno}, column {error.colno}"
        at_end = error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated string")
        cut = " The file seems to be cut off." if at_end else ""
        raise ValueError(f"{path}: not JSON at {where} ({error.msg}).{cut}") from None
    except ValueError as error:  # nested too deeply, or a number of thousands of digits
        raise ValueError(f"{path}: not JSON that can be read ({error})") from None
