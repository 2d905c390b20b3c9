"""Sidecars: a text file with the caption beside each photo, as programs that train image models expect."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from captioner.bulk.database import Row
from captioner.bulk.listing import path_of
from captioner.visualize.page import atomic_write


def sidecar(photo: str) -> Path:
    """The sidecar of a photo: photo.jpg -> photo.txt"""
    return Path(path_of(photo)).with_suffix(".txt")


def write(rows: Iterable[Row], overwrite: bool = False) -> None:
    """An existing file is kept unless `overwrite`. A photo that no longer exists gets none."""
    for row in rows:
        path = sidecar(row.path)
        if row.caption is not None and os.path.isfile(path_of(row.path)) and (overwrite or not path.exists()):
            with atomic_write(path) as partial:
                partial.write_text(row.caption + "\n", encoding="utf-8")
