"""The picture of a caption: the photo, and one map of attention or evidence per word. Takes arrays, never a model."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from captioner.visualize.heatmap import Box, Kind, heat_map, level, overlay, scale_top
from captioner.visualize.page import FAINT, INK, amount, at_most, check_path, fonts, new_figure, percent, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Place = tuple[float, float, float, float]  # left, top, width, height in inches from the top left of the page

LEGENDS = {
    "attention": "attention per region of the grid",
    "evidence": "evidence: fall of log p(word) without the region",
}
PANEL_PIXELS = 480  # the longest side of a word's picture


def save_attention(path: str | Path, *args: Any, **kwargs: Any) -> None:
    """Write `attention_figure`, with the same arguments, as .png, .svg or .pdf."""
    check_path(path)
    save(attention_figure(*args, **kwargs), path)


def attention_figure(
    photo: Image.Image | np.ndarray,
    words: Sequence[str],
    attention: np.ndarray,
    box: Box | None = None,
    log_probabilities: Sequence[float] | None = None,
    title: str | None = None,
    grid: tuple[int, int] | None = None,
    columns: int | None = None,
    kind: Kind = "attention",
) -> Figure:
    """The photo, then one panel per word: a small copy of the photo under the word's heat map, and its probability.

    `attention` holds maps of `kind`: (T, h, w), or (T, R) with `grid` = (h, w); the default grid is a square. `box` is
    the part of the photo that the grid covers, in the photo's pixels (`Preprocess.box`); by default the whole photo.
    All maps share one colour scale, whose legend is below the photo. `columns` is the number of panels per row; by
    default it is chosen to fill a page about as wide as a screen. Raises ValueError if words, maps and probabilities do
    not match."""
    picture = photo if isinstance(photo, Image.Image) else Image.fromarray(photo)
    picture = picture.convert("RGB")
    maps = _as_maps(attention, len(words), grid, kind)
    if log_probabilities is not None and len(log_probabilities) != len(words):
        raise ValueError(f"{len(log_probabilities)} log-probabilities for {len(words)} words; expected one per word.")
    layout = _Layout(picture.width / picture.height, len(words), title or "", columns)
    figure = new_figure(layout.width, layout.height)
    _write(figure, layout, (0, 0), layout.title, layout.TITLE_SIZE)
    _show(figure, layout, layout.photo, np.asarray(at_most(picture, 2 * PANEL_PIXELS)))
    if not words:
        return figure

    small = np.asarray(at_most(picture, PANEL_PIXELS))  # heat maps are drawn at this size
    across, down = small.shape[1] / picture.width, small.shape[0] / picture.height
    left, top, right, bottom = box or (0, 0, picture.width, picture.height)
    small_box = (left * across, top * down, right * across, bottom * down)
    scale = scale_top(maps, kind)
    for index, (word, weights) in enumerate(zip(words, maps, strict=True)):
        x, y, _, height = place = layout.panel(index)
        heat = heat_map(weights, small.shape[1], small.shape[0], small_box)
        _show(figure, layout, place, overlay(small, level(heat, scale)))
        _write(figure, layout, (x, y + height + 0.07), word, min(10.5, 110 * layout.step / len(word or "-")))
        if log_probabilities is not None:
            probability = math.exp(min(log_probabilities[index], 0.0))
            _write(figure, layout, (x, y + height + 0.26), percent(probability), 8, FAINT)
    _legend(figure, layout, scale, kind)
    return figure


def _as_maps(attention: np.ndarray, words: int, grid: tuple[int, int] | None, kind: Kind) -> np.ndarray:
    """The checked maps (T, h, w)."""
    maps = np.asarray(attention, dtype=np.float64)
    if maps.ndim not in (2, 3) or len(maps) != words:
        raise ValueError(
            f"attention of shape {maps.shape} for {words} words; expected ({words}, R) or ({words}, h, w)."
        )
    if maps.ndim == 2:
        regions = maps.shape[1]
        height, width = grid or (math.isqrt(regions), math.isqrt(regions))
        if height * width != regions:
            hint = "" if grid else " Pass grid=(height, width)."
            raise ValueError(f"{regions} regions do not fill a grid of {height} x {width}.{hint}")
        maps = maps.reshape(words, height, width)  # (T, h, w)
    if not np.isfinite(maps).all() or (kind == "attention" and (maps < 0).any()):
        raise ValueError(f"{kind} has negative or non-finite weights; expected numbers from 0 to 1.")
    return maps


class _Layout:
    """The layout of the page. The photo takes two columns and two rows. Each word's panel takes one column and one row,
    first to the right of the photo, then below it."""

    MARGIN, GAP, LABEL, LEGEND = 0.3, 0.16, 0.56, 0.76
    TITLE_SIZE = 15

    def __init__(self, shape: float, words: int, title: str, columns: int | None):
        self.panel_width = float(np.clip(math.sqrt(2.2 * shape), 0.45, 5))
        self.panel_height = float(np.clip(self.panel_width / shape, 0.25, 3.6))
        self.panel_width = max(min(self.panel_width, self.panel_height * shape), 0.45)
        self.step = max(self.panel_width, 0.8)
        self.columns = self._columns(words) if columns is None else max(columns, 2)
        rows = self._rows(words, self.columns)
        inside = self._across(self.columns)
        line_length = int(inside * 72 / (0.6 * self.TITLE_SIZE))
        self.title = "\n".join(textwrap.wrap(title, max(line_length, 12)))
        self.head = (self.title.count("\n") + 1) * self.TITLE_SIZE * 1.3 / 72 + 0.12 if title else 0.0
        room_across, room_down = self._across(2), 2 * (self.panel_height + self.LABEL) - self.LEGEND
        scale = min(room_across / self.panel_width, room_down / self.panel_height)
        self.photo = (0.0, self.head, self.panel_width * scale, self.panel_height * scale)
        self.width = inside + 2 * self.MARGIN
        self.height = self.head + rows * (self.panel_height + self.LABEL) + 2 * self.MARGIN - 0.2

    def _across(self, columns: int) -> float:
        return columns * self.step + (columns - 1) * self.GAP

    @staticmethod
    def _rows(words: int, columns: int) -> int:
        return max(2, -(-(words + 4) // columns)) if columns > 2 else 2 + -(-words // 2)

    def _columns(self, words: int) -> int:
        """The number of columns that gives the page the shape of a screen and leaves few panels empty."""

        def cost(columns: int) -> float:
            rows = self._rows(words, columns)
            page = self._across(columns) / (rows * (self.panel_height + self.LABEL))
            return abs(math.log(page / 1.7)) + 1.2 * (columns * rows - 4 - words) / (words + 4)

        return min(range(2, words + 5), key=cost)

    def panel(self, index: int) -> Place:
        beside = 2 * (self.columns - 2)  # panels to the right of the photo
        if index < beside:
            row, column = index // (self.columns - 2), 2 + index % (self.columns - 2)
        else:
            row, column = 2 + (index - beside) // self.columns, (index - beside) % self.columns
        x = column * (self.step + self.GAP)
        y = self.head + row * (self.panel_height + self.LABEL)
        return x, y, self.panel_width, self.panel_height

    def on_page(self, x: float, y: float) -> tuple[float, float]:
        """The position as fractions of the page from its bottom left, as matplotlib expects."""
        return (x + self.MARGIN) / self.width, 1 - (y + self.MARGIN) / self.height


def _show(figure: Figure, layout: _Layout, place: Place, pixels: np.ndarray) -> None:
    """Draw pixels so that they fill a place exactly."""
    x, y, width, height = place
    left, bottom = layout.on_page(x, y + height)
    axes = figure.add_axes((left, bottom, width / layout.width, height / layout.height))
    axes.imshow(pixels, extent=(0, 1, 0, 1), aspect="auto", interpolation="antialiased")
    axes.set_axis_off()


def _write(
    figure: Figure,
    layout: _Layout,
    place: tuple[float, float],
    text: str,
    size: float,
    colour: str = INK,
    align: str = "left",
) -> None:
    figure.text(
        *layout.on_page(*place),
        text,
        size=size,
        color=colour,
        ha=align,
        va="top",
        family=fonts(),
        parse_math=False,
    )


def _legend(figure: Figure, layout: _Layout, top: float, kind: Kind) -> None:
    """The colour scale below the photo, drawn over grey."""
    x, y, width, height = layout.photo
    y += height + 0.13
    ramp = np.linspace(0, 1, 256)[None].repeat(2, axis=0)  # (2, 256) levels
    _show(figure, layout, (x, y, width, 0.09), overlay(np.full((2, 256, 3), 120, dtype=np.uint8), ramp))
    _write(figure, layout, (x, y + 0.14), "0", 8, FAINT)
    _write(figure, layout, (x + width / 2, y + 0.14), amount(top / 4, kind), 8, FAINT, "center")  # level(top / 4) = 1/2
    _write(figure, layout, (x + width, y + 0.14), amount(top, kind), 8, FAINT, "right")
    _write(figure, layout, (x, y + 0.32), LEGENDS[kind], 8, FAINT)
    _write(figure, layout, (x, y + 0.46), "below a word: its probability", 8, FAINT)
