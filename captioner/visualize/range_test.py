"""The picture of a learning-rate range test: the loss over the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from captioner.visualize.curves import TRAIN
from captioner.visualize.page import FAINT, INK, RULE, check_path, fonts, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = "#b8451b"


def save_range_test(
    path: str | Path, rates: np.ndarray, losses: np.ndarray, smooth: np.ndarray, marks: Mapping[str, float]
) -> None:
    """Write `range_test_figure` as .png, .svg or .pdf."""
    check_path(path)
    save(range_test_figure(rates, losses, smooth, marks), path)


def range_test_figure(rates: np.ndarray, losses: np.ndarray, smooth: np.ndarray, marks: Mapping[str, float]) -> Figure:
    """The loss of each step, drawn faintly, and the smoothed loss over the learning rate, all (n,). `marks` maps labels
    to the learning rates that are marked."""
    figure = new_figure(8, 4.2)
    axes = figure.add_axes((0.08, 0.14, 0.88, 0.66))
    figure.text(0.08, 0.96, "Learning-rate range test", size=13, color=INK, va="top", family=fonts())
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=RULE, lw=0.5)
    axes.set_axisbelow(True)
    axes.set_xscale("log")
    axes.tick_params(which="both", length=0, labelsize=8, labelcolor=FAINT, labelfontfamily=fonts())
    axes.set_xlabel("learning rate", size=9, color=FAINT, family=fonts())
    axes.set_ylabel("training loss", size=9, color=FAINT, family=fonts())
    axes.plot(rates, losses, color=TRAIN, lw=0.6, alpha=0.4)
    axes.plot(rates, smooth, color=TRAIN, lw=1.8)
    before = losses[: int(np.argmin(smooth)) + 1]
    margin = 0.1 * (before.max() - before.min() or 1)
    axes.set_ylim(before.min() - margin, before.max() + margin)  # a diverging loss leaves the picture
    axes.set_xlim(rates[0], rates[-1])
    for number, (name, rate) in enumerate(sorted(marks.items(), key=lambda mark: mark[1])):
        axes.axvline(rate, color=MARK, lw=1, ls=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"{name} {rate:.2g}", (rate, 1), (3, 3 + 11 * (len(marks) - 1 - number)), size=8, color=MARK,
            xycoords=axes.get_xaxis_transform(), textcoords="offset points", family=fonts(), annotation_clip=False,
        )  # fmt: skip
    return figure
