"""What all pictures share: colours, fonts, a figure without pyplot, and a safe way to write a file. Matplotlib is
imported where it is used, because its import is slow."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from captioner.visualize.heatmap import Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, RULE = "#1d1d1f", "#76767c", "#d9d9de"
FONTS = ("Inter", "Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans", "Noto Sans CJK JP")
SUFFIXES = (".png", ".jpg", ".svg", ".pdf")
DPI = 200


def check_path(path: str | Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raise ValueError if a picture cannot be written to this path."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a file in it, such as {path / ('attention' + suffixes[0])}.")
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"cannot write {path.name!r}; expected a name that ends in {', '.join(suffixes)}.")


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


@functools.cache
def fonts() -> list[str]:
    """The installed fonts of FONTS, in order of preference; later ones supply missing glyphs."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return [name for name in FONTS if name in installed]


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format that the file's suffix names."""
    with atomic_write(path) as partial:
        figure.savefig(partial, format=partial.suffix[1:].lower(), dpi=DPI)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name in the same folder with the same suffix, and rename it to `path` when the block succeeds.
    A file is never left half-written. The folder is created if it does not exist."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def percent(share: float) -> str:
    """A probability in percent, with a no-break space: 63 %, 3.4 %, <0.1 %."""
    number = "<0.1" if share < 0.0005 else f"{100 * share:.{0 if share >= 0.0995 else 1}f}"
    return f"{number}\N{NO-BREAK SPACE}%"


def amount(weight: float, kind: Kind) -> str:
    """A weight of a map, for a legend: 6.3 % of the attention, 0.25 nats of evidence."""
    return percent(weight) if kind == "attention" else f"{weight:.2g}\N{NO-BREAK SPACE}nats"


def at_most(picture: Image.Image, pixels: int) -> Image.Image:
    """The picture, scaled down if its longer side exceeds `pixels`."""
    scale = pixels / max(picture.size)
    if scale >= 1:
        return picture
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)
