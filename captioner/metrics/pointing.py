"""The pointing game: of the words that name an object in the photo, the share whose attention peaks inside the object's
mask. Words, maps and masks come as arrays; files are read elsewhere.

The pointing game is from Zhang et al. 2016 (https://arxiv.org/abs/1608.00507), here without their margin of 15 pixels.
Whether named objects are in the photo at all is measured as in Rohrbach et al. 2018 (CHAIR,
https://arxiv.org/abs/1809.02156). The attention of a model under teacher forcing on people's captions is measured as in
Liu et al. 2017 (https://arxiv.org/abs/1605.09553)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from captioner.metrics.categories import OTHER_WORDS, PLACES, WORDS

Box = tuple[float, float, float, float]


def object_words(words: Sequence[str], names: Collection[str]) -> Iterator[tuple[int, str]]:
    """The index of each word that names an object, and the object's name, one of `names`. A name of two words (traffic
    light) has the index of its second word."""
    i = 0
    while i < len(words):
        for size in (2, 1):
            text = " ".join(words[i : i + size])
            name = text if text in names else WORDS.get(text, text)
            is_plain = text in WORDS or text not in OTHER_WORDS  # "orange" is a colour
            if name in names and is_plain and i + size <= len(words):
                yield i + size - 1, name
                i += size - 1
                break
            if text in PLACES:
                i += 1
                break
        i += 1


def region_centres(grid: tuple[int, int], box: Box) -> tuple[np.ndarray, np.ndarray]:
    """x (h, w) and y (h, w), in the photo's pixels, of the centres of a grid of h x w regions that covers `box`."""
    left, top, right, bottom = box
    xs = left + (np.arange(grid[1]) + 0.5) * (right - left) / grid[1]
    ys = top + (np.arange(grid[0]) + 0.5) * (bottom - top) / grid[0]
    x, y = np.meshgrid(xs, ys)
    return x, y


def inside(mask: np.ndarray, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
    """Whether points, in pixels, lie in a mask (H, W). Points outside the photo do not."""
    height, width = mask.shape
    columns, rows = np.floor(x).astype(int), np.floor(y).astype(int)
    within = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return within & mask[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]


@dataclass
class Pointing:
    """Counts over the captions that were added."""

    named: int = 0  # words that name an object
    present: int = 0  # of these, words whose object is in the photo
    hits: int = 0  # of these, words whose attention peaks at a region with its centre in the mask
    centre: int = 0  # of the present, words whose mask holds the centre of the photo
    even: float = 0.0  # of the present, the expected hits of a random region

    def add(
        self,
        words: Sequence[str],
        attention: np.ndarray,
        box: Box,
        masks: Mapping[str, np.ndarray],
        names: Collection[str],
    ) -> None:
        """Add a caption of T words. Its maps (T, h, w) cover `box` of the photo; `masks` has the mask (H, W) of each
        object in the photo, and `names` the names of all objects of the data set."""
        for i, name in object_words(words, names):
            self.named += 1
            if name not in masks:
                continue
            mask, weights = masks[name], attention[i]  # (H, W), (h, w)
            x, y = region_centres((weights.shape[0], weights.shape[1]), box)
            hit = inside(mask, x, y)  # (h, w)
            self.present += 1
            self.hits += bool(hit.flat[weights.argmax()])
            self.centre += bool(inside(mask, mask.shape[1] / 2, mask.shape[0] / 2))
            self.even += float(hit.mean())

    def to_dict(self) -> dict[str, float]:
        """The figures as JSON-ready data, without shares if nothing was counted."""
        counts: dict[str, float] = {"object_words": self.named, "object_words_in_the_photo": self.present}
        if not self.present:
            return counts
        low, high = wilson_interval(self.hits, self.present)
        return counts | {
            "pointing": self.hits / self.present,
            "pointing_low": low,
            "pointing_high": high,
            "centre_of_the_photo": self.centre / self.present,
            "even_attention": self.even / self.present,
        }

    def __str__(self) -> str:
        if not self.present:
            return f"pointing: no word names an object in its photo ({self.named} object words in all)"
        figures = self.to_dict()
        return (
            f"pointing       {figures['pointing']:.3f}  {figures['pointing_low']:.3f} to {figures['pointing_high']:.3f}"
            f"  of {self.present} object words, attention peaks inside the object\n"
            f"  centre       {figures['centre_of_the_photo']:.3f}  if every word pointed at the centre of the photo\n"
            f"  random       {figures['even_attention']:.3f}  if every word pointed at a random region\n"
            f"named objects  {self.present / self.named:.3f}  of {self.named} object words, object is in the photo"
        )


def wilson_interval(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); (0, 1) if `count` is 0."""
    if not count:
        return 0.0, 1.0
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half
