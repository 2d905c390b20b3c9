"""What all pictures share: the colours and type of a page, a figure without pyplot or screen, and a safe way to write
it. Matplotlib is imported where it is used, so that captioning does not wait for it."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, RULE = "#1d1d1f", "#76767c", "#d9d9de"
FONTS = ("Inter", "Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans", "Noto Sans CJK JP")
SUFFIXES = (".png", ".svg", ".pdf")
DPI = 200


def check_path(path: str | Path) -> None:
    """Raise now what would go wrong when a picture is written there."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot draw {path.name!r}: its ending must be one of {', '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to put {path.name} in; make it first.")


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


@functools.cache
def fonts() -> list[str]:
    """Those of our fonts that this machine has, the first preferred, the others for signs that it lacks."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return [name for name in FONTS if name in installed]


def save(figure: Figure, path: str | Path) -> None:
    """Written beside and renamed, so that a picture is never half there."""
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(partial, format=path.suffix[1:].lower(), dpi=DPI)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
