"""The pictures of units: captions as rows of words, or a text line by line. Each word or character is coloured by the
activation of one unit after reading it. Takes words and arrays, never a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from captioner.visualize.page import FAINT, INK, check_path, fonts, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# From -1 through 0 to 1. Blue and orange are safe for colour-blind readers, and words stay legible on both.
COLOURS = ((84, 142, 214), (178, 207, 242), (255, 255, 255), (252, 205, 147), (240, 138, 36))
MARGIN, ROW, TITLE, AFTER, PADDING = 0.3, 0.26, 0.34, 0.22, 0.06  # inches
SIZE = 9.5  # points
MONOSPACED = "DejaVu Sans Mono"  # comes with matplotlib
LINE, ADVANCE, MARK = 0.185, 0.602, 8.0  # inches per line of text, width of a character in its size, its size in points
COLUMNS = 100  # longer lines of text are cut into several rows


def save_units(path: str | Path, *args: Any, **kwargs: Any) -> None:
    """Write `units_figure`, with the same arguments, as .png, .jpg, .svg or .pdf."""
    check_path(path)
    save(units_figure(*args, **kwargs), path)


def save_text_units(path: str | Path, *args: Any, **kwargs: Any) -> None:
    """Write `text_figure`, with the same arguments, as .png, .jpg, .svg or .pdf."""
    check_path(path)
    save(text_figure(*args, **kwargs), path)


def units_figure(captions: Sequence[Sequence[str]], units: Sequence[tuple[str, Sequence[np.ndarray]]]) -> Figure:
    """One panel per unit: a title, then one row per caption. `units` has the title of each panel and, for each caption,
    the activations (T,) after its words. White is 0; the strongest colours are the panel's largest absolute value."""
    for title, values in units:
        if [len(row) for row in values] != [len(words) for words in captions]:
            raise ValueError(f"{title}: expected one activation for each word of each caption.")
    widths = [[_width(word, SIZE) + 2 * PADDING for word in words] for words in captions]
    across = max(sum(row) for row in widths)
    across = max(across, *(_width(title, 10.5) + 1.9 for title, _ in units))
    panel = TITLE + ROW * len(captions) + AFTER
    page = (across + 2 * MARGIN, panel * len(units) - AFTER + 2 * MARGIN)
    figure, axes = _page(*page)
    for index, (title, values) in enumerate(units):
        top = MARGIN + index * panel
        largest = max((float(np.abs(row).max(initial=0.0)) for row in values), default=0.0) or 1.0
        _write(axes, MARGIN, top + TITLE / 2 - 0.04, title, 10.5, INK)
        _legend(axes, page[0] - MARGIN, top + TITLE / 2 - 0.04, largest)
        for row, (words, row_widths, row_values) in enumerate(zip(captions, widths, values, strict=True)):
            x, y = MARGIN, top + TITLE + row * ROW
            for word, width, value in zip(words, row_widths, row_values, strict=True):
                _box(axes, x, y + 0.015, width, ROW - 0.03, colour(float(value) / largest))
                _write(axes, x + PADDING, y + ROW / 2, word, SIZE, INK)
                x += width
    return figure


def text_figure(text: str, units: Sequence[tuple[str, np.ndarray]]) -> Figure:
    """One panel per unit: a title, then the text in lines, as in Karpathy, Johnson, Li 2015, figure 2. `units` has the
    title of each panel and the activations (T,) after the characters. The end of a line is a box without a
    character."""
    for title, values in units:
        if len(values) != len(text):
            raise ValueError(f"{title}: expected one activation for each character.")
    rows = rows_of(text)
    across = ADVANCE * MARK / 72
    columns = max(stop - start for start, stop in rows)
    width = max(columns * across, *(_width(title, 10.5) + 1.9 for title, _ in units)) + 2 * MARGIN
    panel = TITLE + LINE * len(rows) + AFTER
    figure, axes = _page(width, panel * len(units) - AFTER + 2 * MARGIN)
    for index, (title, values) in enumerate(units):
        top = MARGIN + index * panel
        largest = float(np.abs(values).max(initial=0.0)) or 1.0
        _write(axes, MARGIN, top + TITLE / 2 - 0.04, title, 10.5, INK)
        _legend(axes, width - MARGIN, top + TITLE / 2 - 0.04, largest)
        grid = np.ones((len(rows), columns, 3))
        for row, (start, stop) in enumerate(rows):
            grid[row, : stop - start] = [colour(float(value) / largest) for value in values[start:stop]]
            line = text[start:stop].replace("\t", " ").rstrip()
            place = (MARGIN, top + TITLE + (row + 0.5) * LINE)
            axes.text(
                *place, line, size=MARK, color=INK, va="center_baseline", family=[MONOSPACED, *fonts()],
                parse_math=False,
            )  # fmt: skip
        y = top + TITLE
        extent = (MARGIN, MARGIN + columns * across, y + LINE * len(rows), y)
        axes.imshow(grid, extent=extent, aspect="auto", interpolation="nearest", zorder=0)
    axes.set_xlim(0, width)
    axes.set_ylim(panel * len(units) - AFTER + 2 * MARGIN, 0)
    return figure


def rows_of(text: str) -> list[tuple[int, int]]:
    """The start and end of each row of a text. Rows end at line ends, and long lines are cut into several."""
    rows, start = [], 0
    for line in text.splitlines(keepends=True):
        stop = start + len(line)
        rows += [(at, min(at + COLUMNS, stop)) for at in range(start, stop, COLUMNS)]
        start = stop
    return rows


def _page(width: float, height: float) -> tuple[Figure, Any]:
    """A figure and its axes, in inches from the top left."""
    figure = new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return figure, axes


def colour(value: float) -> tuple[float, ...]:
    """The colour of an activation from -1 to 1: red, green and blue from 0 to 1."""
    steps = np.linspace(-1, 1, len(COLOURS))
    return tuple(float(np.interp(value, steps, channel)) / 255 for channel in zip(*COLOURS, strict=True))


def _width(text: str, size: float) -> float:
    """The width of a text in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    quoted = text.replace("$", r"\$")
    # Full stops on both sides make trailing spaces count.
    font = FontProperties(family=fonts())
    whole, stops = (TextPath((0, 0), each, size=size, prop=font).get_extents().width for each in (f".{quoted}.", ".."))
    return float(whole - stops) / 72


def _legend(axes: Any, right: float, middle: float, largest: float) -> None:
    steps = 41
    width = 0.8 / steps
    left = right - 0.8 - _width(f"{largest:.2f}", 8) - 0.06
    for step in range(steps):
        _box(axes, left + step * width, middle - 0.05, width * 1.05, 0.1, colour(2 * step / (steps - 1) - 1))
    low = f"\N{MINUS SIGN}{largest:.2f}"
    _write(axes, left - 0.06 - _width(low, 8), middle, low, 8, FAINT)
    _write(axes, left + 0.86, middle, f"{largest:.2f}", 8, FAINT)


def _box(axes: Any, x: float, y: float, width: float, height: float, colour: tuple[float, ...]) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="none"))


def _write(axes: Any, x: float, y: float, text: str, size: float, colour: str) -> None:
    axes.text(x, y, text, size=size, color=colour, va="center_baseline", family=fonts(), parse_math=False)
