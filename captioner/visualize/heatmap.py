"""Heat maps as plain arrays: a map of attention or evidence, resampled to the photo's pixels, coloured and laid over
the photo. All renderers use these functions."""

from __future__ import annotations

from typing import Literal

import numpy as np

Box = tuple[float, float, float, float]
Kind = Literal["attention", "evidence"]
"""What a map shows per region: attention, a share of 1; or evidence, how much the word's log-probability falls without
the region, in nats. Evidence against a word is negative; it is kept in data, and drawn as zero."""

# From 0 to the top of the scale: violet, magenta, orange, pale yellow. Lightness rises throughout, for grey prints.
HEAT_COLOURS = ((44, 17, 96), (120, 28, 109), (188, 55, 84), (237, 105, 37), (251, 166, 47), (253, 231, 140))


def heat_map(weights: np.ndarray, width: int, height: int, box: Box | None = None) -> np.ndarray:
    """One map (h, w) as a smooth (height, width) array over the photo's pixels, zero outside the grid. `box`
    is the part of the photo that the grid covers, in its pixels (`Preprocess.box`); None is the whole photo.

    The square roots of the weights, which the colour scale shows, are interpolated by cubic convolution (Keys 1981, a =
    -1/2). The result is exact at the centre of each region, never negative, and has no visible edge at zero."""
    left, top, right, bottom = box or (0.0, 0.0, float(width), float(height))
    rows = _cubic_weights(height, weights.shape[0], top, bottom)  # (height, h)
    columns = _cubic_weights(width, weights.shape[1], left, right)  # (width, w)
    roots = np.sqrt(np.maximum(weights, 0).astype(np.float32))
    return np.maximum(rows @ roots @ columns.T, 0) ** 2  # (height, width)


def _cubic_weights(pixels: int, regions: int, start: float, stop: float) -> np.ndarray:
    """The weight of each region at the centre of each pixel, (pixels, regions). Border regions extend to the edge."""
    share = (np.arange(pixels) + 0.5 - start) / (stop - start)
    first = np.floor(share * regions - 0.5)
    t = share * regions - 0.5 - first
    near = (
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t**2 + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t**2,
    )
    weights = np.zeros((pixels, regions), dtype=np.float32)
    for offset, weight in enumerate(near, start=-1):
        region = np.clip(first + offset, 0, regions - 1).astype(int)
        np.add.at(weights, (np.arange(pixels), region), weight)
    weights[(share < 0) | (share > 1)] = 0
    return weights


def scale_top(maps: np.ndarray, kind: Kind = "attention") -> float:
    """The weight at the top of the colour scale of a caption's maps (T, h, w): the largest weight, but at least six
    times the uniform weight 1 / (h w) for attention, and at least 0.1 nats for evidence. Otherwise nearly uniform
    attention and negligible evidence would look sharp."""
    return float(max(maps.max(), 0.1 if kind == "evidence" else min(1.0, 6 / maps[0].size)))


def level(weights: np.ndarray, top: float) -> np.ndarray:
    """Weights 0 to `top` as levels 0 to 1 of the colour scale. The square root keeps small weights visible."""
    return np.sqrt(np.clip(weights / top, 0, 1))


def colours(levels: np.ndarray) -> np.ndarray:
    """The colour of each level (...), as (..., 3) float32 from 0 to 255."""
    steps = np.linspace(0, len(HEAT_COLOURS) - 1, 256)
    channels = [np.interp(steps, range(len(HEAT_COLOURS)), channel) for channel in zip(*HEAT_COLOURS, strict=True)]
    table = np.stack(channels, axis=-1).astype(np.float32)  # (256, 3)
    return table[np.rint(255 * levels).astype(np.uint8)]


def overlay(photo: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The photo (H, W, 3) in muted grey under the levels (H, W) of a heat map: (H, W, 3) uint8. The photo's light and
    shade stay visible everywhere."""
    grey = photo.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # (H, W)
    gain = min(max(200 / max(float(np.percentile(grey, 98)), 1.0), 1.0), 2.5)  # a dark photo is brightened first
    light = np.minimum(grey * (gain / 255), 1)[..., None]
    strength = 0.9 * levels.astype(np.float32)[..., None] ** 0.9
    heat = colours(levels) * (0.7 + 0.3 * light)
    return np.rint((30 + 150 * light) * (1 - strength) + heat * strength).astype(np.uint8)
