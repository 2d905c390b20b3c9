"""Sidecars: beside each photo a text file with its caption, as programs that train image models expect it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from captioner.bulk.database import Row
from captioner.visualize.page import atomic_write


def sidecar(photo: str) -> Path:
    """photo.jpg -> photo.txt"""
    return Path(photo).with_suffix(".txt")


def write(rows: Iterable[Row], overwrite: bool = False) -> None:
    """A file that is there already is kept, unless it may be overwritten."""
    for row in rows:
        path = sidecar(row.path)
        if row.caption is not None and (overwrite or not path.exists()):
            with atomic_write(path) as partial:
                partial.write_text(row.caption + "\n", encoding="utf-8")
