"""Heat maps as plain arrays: an attention map brought to the photo's pixels, coloured, and laid over the photo. Nothing
here draws a page; every renderer shares it."""

from __future__ import annotations

import numpy as np

Box = tuple[float, float, float, float]

# From nothing to all: violet, magenta, orange, pale yellow. Lightness rises throughout: it reads in grey too.
HEAT_COLOURS = ((44, 17, 96), (120, 28, 109), (188, 55, 84), (237, 105, 37), (251, 166, 47), (253, 231, 140))


def heat_map(weights: np.ndarray, width: int, height: int, box: Box | None = None) -> np.ndarray:
    """One attention map (h, w) as a smooth (height, width) array over the photo's pixels, zero where the grid does
    not reach. `box` is what the grid covers, in the photo's pixels (`Preprocess.box`); None is the whole photo.

    Cubic convolution (Keys 1981, a = -1/2) of the weights' square roots, which is what the colour scale shows: exact
    at the centre of each cell, never below zero, and without an edge where it is cut off there."""
    left, top, right, bottom = box or (0.0, 0.0, float(width), float(height))
    rows = _cubic_weights(height, weights.shape[0], top, bottom)  # (height, h)
    columns = _cubic_weights(width, weights.shape[1], left, right)  # (width, w)
    return np.maximum(rows @ np.sqrt(weights.astype(np.float32)) @ columns.T, 0) ** 2  # (height, width)


def _cubic_weights(pixels: int, cells: int, start: float, stop: float) -> np.ndarray:
    """(pixels, cells): what the centre of each pixel takes of each cell; the outermost cells go on to the edge."""
    share = (np.arange(pixels) + 0.5 - start) / (stop - start)
    first = np.floor(share * cells - 0.5)
    t = share * cells - 0.5 - first
    near = (
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t**2 + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t**2,
    )
    weights = np.zeros((pixels, cells), dtype=np.float32)
    for offset, weight in enumerate(near, start=-1):
        cell = np.clip(first + offset, 0, cells - 1).astype(int)
        np.add.at(weights, (np.arange(pixels), cell), weight)
    weights[(share < 0) | (share > 1)] = 0
    return weights


def scale_top(maps: np.ndarray) -> float:
    """The weight at the top of the colour scale of a caption's maps (T, h, w): the largest, but at least six times
    an even share, lest attention that looks everywhere alike be drawn as if it were sharp."""
    return float(max(maps.max(), min(1.0, 6 / maps[0].size)))


def level(weights: np.ndarray, top: float) -> np.ndarray:
    """Weights 0..top as levels 0..1 of the colour scale. The square root keeps faint attention visible."""
    return np.sqrt(np.clip(weights / top, 0, 1))


def colours(levels: np.ndarray) -> np.ndarray:
    """The colour of each level (...), as (..., 3) float32, 0..255."""
    steps = np.linspace(0, len(HEAT_COLOURS) - 1, 256)
    channels = [np.interp(steps, range(len(HEAT_COLOURS)), channel) for channel in zip(*HEAT_COLOURS, strict=True)]
    table = np.stack(channels, axis=-1).astype(np.float32)  # (256, 3)
    return table[np.rint(255 * levels).astype(np.uint8)]


def overlay(photo: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The photo (H, W, 3) in muted grey, lit by the levels (H, W) of a heat map: (H, W, 3) uint8. The photo's own
    light and shade stay visible in the hottest places."""
    grey = photo.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # (H, W)
    gain = min(max(200 / max(float(np.percentile(grey, 98)), 1.0), 1.0), 2.5)  # a dark photo is lifted first
    light = np.minimum(grey * (gain / 255), 1)[..., None]
    strength = 0.9 * levels.astype(np.float32)[..., None] ** 0.9
    heat = colours(levels) * (0.7 + 0.3 * light)
    return np.rint((30 + 150 * light) * (1 - strength) + heat * strength).astype(np.uint8)
