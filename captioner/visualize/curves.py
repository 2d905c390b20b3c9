"""The picture of a training run: losses and scores over epochs, from the rows of its log."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from captioner.visualize.page import FAINT, INK, RULE, check_path, fonts, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, VALID = "#8a94a6", "#1f4e79"
SCORES = {"CIDEr-D": "#b8451b", "BLEU-4": "#2b7a5b", "perplexity": "#b8451b", "bits per character": "#b8451b"}
SETS = ("#7a4fa3", "#a07a1f", "#3a7f96", "#a34f75", "#5c6b2f")  # scores of one of several data sets
SMALLER_IS_BETTER = ("perplexity", "bits per character")
LOWER = "The training loss is measured with dropout and label smoothing, the validation loss without: it can be lower."
LABEL = 26  # points, the height of a label of two lines
HEIGHT = 5.6  # inches, of two panels


def save_curves(path: str | Path, log: Iterable[Mapping[str, Any]], title: str | None = None) -> None:
    """Write `training_curves` as .png, .svg or .pdf."""
    check_path(path)
    save(training_curves(log, title), path)


def training_curves(log: Iterable[Mapping[str, Any]], title: str | None = None) -> Figure:
    """Training and validation loss over the epochs of the run, and below them the validation scores. If a stage sampled
    captions in training, a third panel shows their mean reward and the share of distinct ones. Vertical lines mark the
    stages.

    `log` has the rows of a run in order: {"kind": "step" or "validation", "step", "epoch" (within its stage), "stage",
    "loss", "CIDEr-D", "BLEU-4", ...}. Missing and non-finite values are left out."""
    rows = [row for row in log if row.get("kind") in ("step", "validation")]
    places, stages = _epochs(rows)

    def values(kind: str, name: str, without: str = "") -> tuple[np.ndarray, np.ndarray]:
        chosen = (row["kind"] == kind and without not in row for row in rows)
        found = [row.get(name, math.nan) if wanted else math.nan for row, wanted in zip(rows, chosen, strict=True)]
        finite = np.isfinite(np.array(found, float))
        return places[finite], np.array(found, float)[finite]

    rewarded = any("reward" in row for row in rows)
    panels = 3 if rewarded else 2
    figure = new_figure(8, HEIGHT * panels / 2)
    all_axes = figure.subplots(panels, 1, sharex=True, gridspec_kw={"hspace": 0.16})
    axes_loss, axes_scores, *_ = all_axes
    figure.subplots_adjust(left=0.08, right=0.84, top=1 - 0.26 / panels, bottom=0.2 / panels)
    figure.text(
        0.08, 1 - 0.07 / panels, title or "Training", size=13, color=INK, va="top", family=fonts(), parse_math=False
    )
    for axes in all_axes:
        _plain(axes)
        for start, _ in stages:
            axes.axvline(start, color=RULE, lw=1, zorder=0)
    axes_scores.set_xlim(0, max(1.0, float(places.max(initial=1.0))))
    all_axes[-1].set_xlabel("epoch", size=9, color=FAINT, family=fonts())
    for start, name in stages:
        _note(axes_loss, name, (start, 1), (4, 4), 8, FAINT, xycoords=axes_loss.get_xaxis_transform())

    x, losses = values("step", "loss", without="reward")  # a reward-weighted loss is no cross-entropy
    thin = slice(None, None, 1 + len(x) // 2000)
    axes_loss.plot(x[thin], losses[thin], color=TRAIN, lw=0.6, alpha=0.3)
    axes_loss.plot(x[thin], _smooth(losses)[thin], color=TRAIN, lw=1.6)
    valid = values("validation", "loss")
    axes_loss.plot(*valid, color=VALID, lw=1.6, marker="o", ms=3, clip_on=False)
    if len(losses) > 100:  # the first losses are far higher than the rest and may be cut off
        both = np.concatenate([np.percentile(losses, (0.5, 95)), valid[1]])
        margin = 0.06 * (both.max() - both.min() or 1)
        axes_loss.set_ylim(both.min() - margin, both.max() + margin)
    _name_ends(axes_loss, {"training loss": (TRAIN, _smooth(losses)), "validation loss": (VALID, valid[1])})
    if len(losses) and len(valid[1]) and valid[1][-1] < _smooth(losses)[-1]:
        figure.text(0.08, 1 - 0.14 / panels, LOWER, size=8, color=FAINT, va="top", family=fonts())

    # With several data sets there is the mean of their scores, and one score for each, such as coco/CIDEr-D.
    own = list(dict.fromkeys(name for row in rows for name in row if name.endswith("/CIDEr-D")))
    colours = SCORES | {name: SETS[number % len(SETS)] for number, name in enumerate(own)}
    scores = {name: (colour, values("validation", name)) for name, colour in colours.items()}
    scores = {name: line for name, line in scores.items() if len(line[1][1])}
    for name, (colour, (x, y)) in scores.items():
        axes_scores.plot(x, y, color=colour, lw=1.0 if name in own else 1.6, marker="o", ms=3, clip_on=False)
        if len(y) > 1 and name not in own:
            best = int(np.argmin(y) if name in SMALLER_IS_BETTER else np.argmax(y))
            axes_scores.plot(x[best], y[best], "o", ms=9, mfc="none", mec=colour, clip_on=False)
            if best < len(y) - 1:  # the last value is labelled at the end of the line
                _note(axes_scores, f"best {y[best]:.3f}", (x[best], y[best]), (0, 9), 8, colour, ha="center")
    axes_scores.set_ylim(0, 1.12 * axes_scores.get_ylim()[1])
    labels = {name: f"mean {name}" if own else name for name in SCORES}
    labels |= {name: shorten(name.rpartition("/")[0], 20, placeholder="…") for name in own}
    _name_ends(axes_scores, {labels[name]: (colour, y) for name, (colour, (_, y)) in scores.items()})
    if rewarded:
        drawn = {"mean reward": (SCORES["CIDEr-D"], "reward"), "distinct captions": (VALID, "distinct")}
        for colour, name in drawn.values():
            x, y = values("step", name)
            all_axes[-1].plot(x, _smooth(y), color=colour, lw=1.6)
        all_axes[-1].set_ylim(0, 1.12 * all_axes[-1].get_ylim()[1])
        smooth = {label: (colour, _smooth(values("step", name)[1])) for label, (colour, name) in drawn.items()}
        _name_ends(all_axes[-1], smooth)
    return figure


def _epochs(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """The position of each row in epochs since the start of the run, and the start and name of each stage.

    Rows count epochs within a stage. An epoch ends with its validation. An unfinished epoch is assumed to be as long
    as the one before."""
    if not rows:
        return np.zeros(0), []
    names = [(str(row.get("stage", "")), int(row.get("epoch", 1))) for row in rows]
    starts = [0, *(index for index in range(1, len(rows)) if names[index] != names[index - 1])]
    steps = np.array([row["step"] for row in rows], dtype=float)
    places, stages = np.zeros(len(rows)), list[tuple[float, str]]()
    before, length = steps[0] - 1, 1.0
    for epoch, (start, stop) in enumerate(zip(starts, [*starts[1:], len(rows)], strict=True)):
        ended = rows[stop - 1]["kind"] == "validation" or stop < len(rows)
        length = max(steps[stop - 1] - before, 1.0 if ended else length)
        places[start:stop] = epoch + (steps[start:stop] - before) / length
        before = steps[stop - 1]
        if start == 0 or names[start][0] != names[start - 1][0] or names[start][1] <= names[start - 1][1]:
            stages.append((float(epoch), names[start][0]))
    return places, stages


def _smooth(values: np.ndarray) -> np.ndarray:
    """A moving average over one hundredth of the values on either side."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    places, side = np.arange(len(values)), len(values) // 100
    starts, stops = np.maximum(places - side, 0), np.minimum(places + side + 1, len(values))
    return (sums[stops] - sums[starts]) / (stops - starts)


def _plain(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=RULE, lw=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8, labelcolor=FAINT, labelfontfamily=fonts())
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _note(axes: Axes, text: str, place: tuple, offset: tuple, size: float, colour: str, **where: Any) -> None:
    where |= {"textcoords": "offset points", "annotation_clip": False, "parse_math": False}
    axes.annotate(text, place, offset, size=size, color=colour, family=fonts(), **where)


def _name_ends(axes: Axes, lines: Mapping[str, tuple[str, np.ndarray]]) -> None:
    """Write the name and last value at the right end of each line, moved apart where they would overlap."""
    ends = sorted((float(y[-1]), name, colour) for name, (colour, y) in lines.items() if len(y))
    low, high = axes.get_ylim()
    points = 72 * axes.get_window_extent().height / axes.figure.dpi / (high - low)  # per unit of y
    places = np.array([y * points for y, _, _ in ends])
    for _ in range(100):  # push neighbours apart
        overlap = np.maximum(0, LABEL - np.diff(places))
        if not overlap.any():
            break
        places[:-1] -= overlap / 2
        places[1:] += overlap / 2
    for (y, name, colour), place in zip(ends, places, strict=True):
        where = {"xycoords": axes.get_yaxis_transform(), "va": "center"}
        _note(axes, f"{name}\n{y:.3f}", (1, y), (8, place - y * points), 8.5, colour, **where)
