"""The picture of the vanishing gradient: the gradient of the last word's loss with respect to each earlier word. Takes
arrays, never a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from captioner.visualize.page import FAINT, INK, RULE, check_path, fonts, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"rnn": "#b8451b", "gru": "#2b7a5b", "lstm": "#1f4e79"}
LEAST = 1e-8  # smaller gradients are rounding errors


def gradient_shares(norms: np.ndarray) -> np.ndarray:
    """Norms (S,) or (seeds, S) divided by that of the last step: (seeds, S), at least LEAST."""
    norms = np.atleast_2d(norms)
    return np.maximum(norms / norms[:, -1:], LEAST)


def mean_shares(norms: np.ndarray) -> np.ndarray:
    """The geometric mean of `gradient_shares` over seeds (S,)."""
    return np.exp(np.log(gradient_shares(norms)).mean(0))


def save_gradients(path: str | Path, norms: Mapping[str, np.ndarray]) -> None:
    """Write `gradients_figure` as .png, .svg or .pdf."""
    check_path(path)
    save(gradients_figure(norms), path)


def gradients_figure(norms: Mapping[str, np.ndarray]) -> Figure:
    """One line per network: gradient norms (S,), or (seeds, S) with their range as a band. Each norm is divided by that
    of the last step, so that networks of different scales can be compared."""
    figure = new_figure(8, 4.6)
    axes = figure.add_axes((0.09, 0.12, 0.7, 0.72))
    ends = []
    for name, values in norms.items():
        shares = gradient_shares(values)
        mean = mean_shares(values)
        back = np.arange(1 - len(mean), 1)
        colour = COLOURS.get(name, INK)
        axes.plot(back, np.where(mean > LEAST, mean, np.nan), color=colour, lw=1.8, marker="o", ms=3)
        if len(shares) > 1:
            axes.fill_between(back, shares.min(0), shares.max(0), color=colour, alpha=0.15, lw=0)
        ends.append((mean, name, colour))
    axes.set_yscale("log")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=RULE, lw=0.5)
    axes.tick_params(which="both", length=0, labelsize=8, labelcolor=FAINT, labelfontfamily=fonts())
    axes.minorticks_off()
    axes.invert_xaxis()  # the last word at the left, so that lines end at their labels
    axes.set_xlabel("distance from the last word read, in words", size=9, color=FAINT, family=fonts())
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):.0f}"))
    figure.text(
        0.09,
        0.96,
        "How far back the gradient of the last word reaches",
        size=13,
        color=INK,
        va="top",
        family=fonts(),
    )
    what = "gradient norm with respect to each word's embedding, relative to that of the last word"
    figure.text(0.09, 0.9, what, size=9, color=FAINT, va="top", family=fonts())
    _name_ends(axes, ends)
    return figure


def _name_ends(axes: object, ends: list[tuple[np.ndarray, str, str]]) -> None:
    """Write the name and last value at the end of each line, moved apart where they would overlap."""
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    low, high = np.log(axes.get_ylim())
    places: list[float] = []
    for mean, name, colour in sorted(ends, key=lambda end: end[0][0]):
        place = (np.log(mean[0]) - low) / (high - low)
        place = max(place, places[-1] + 0.1) if places else place
        places.append(place)
        text = f"{name}\n{format_share(mean[0])}, {len(mean) - 1} words back"
        axes.text(
            1.02, place, text, transform=axes.transAxes, size=8.5, color=colour, va="center", family=fonts(),
            parse_math=False,
        )  # fmt: skip


def format_share(share: float) -> str:
    """A share as text: 0.026, 9.7·10⁻⁶ or < 10⁻⁸."""
    if share <= LEAST:
        return "< 10⁻⁸"
    if share >= 0.001:
        return f"{share:.2g}"
    digits, _, power = f"{share:.1e}".partition("e")
    return f"{digits}·10" + str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
