"""What all pictures share: the colours and type of a page, a figure without pyplot or screen, and a safe way to write
any file. Matplotlib is imported where it is used, so that captioning does not wait for it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, RULE = "#1d1d1f", "#76767c", "#d9d9de"
FONTS = ("Inter", "Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans", "Noto Sans CJK JP")
SUFFIXES = (".png", ".svg", ".pdf")
DPI = 200


def check_path(path: str | Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raise now what would go wrong when a picture is written there."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a file in it, such as {path / ('attention' + suffixes[0])}.")
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"cannot draw {path.name!r}: its ending must be one of {', '.join(suffixes)}.")
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
    """A figure as a file, in the format of its ending."""
    with atomic_write(path) as partial:
        figure.savefig(partial, format=partial.suffix[1:].lower(), dpi=DPI)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Another name in the same folder, with the same ending, to write to; renamed when the block has run, so that a
    file is never half there."""
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def percent(share: float) -> str:
    """A probability as people read it, with a space that does not break: 63 %, 3.4 %, <0.1 %."""
    number = "<0.1" if share < 0.0005 else f"{100 * share:.{0 if share >= 0.0995 else 1}f}"
    return f"{number}\N{NO-BREAK SPACE}%"


def at_most(picture: Image.Image, pixels: int) -> Image.Image:
    """The picture, scaled down if its longer side has more pixels than that."""
    scale = pixels / max(picture.size)
    if scale >= 1:
        return picture
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)
