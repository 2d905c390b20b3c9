"""The pointing game: the share of words naming an object in the photo whose map, such as the attention, peaks inside
the object's mask. Files are read elsewhere.

The pointing game is from Zhang et al. 2016 (https://arxiv.org/abs/1608.00507), here without their margin of 15 pixels.
Hallucination, the share of named objects that are not in the photo, is measured as in Rohrbach et al. 2018 (CHAIR,
https://arxiv.org/abs/1809.02156). The attention of a model under teacher forcing on human captions is measured as in
Liu et al. 2017 (https://arxiv.org/abs/1605.09553)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

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
    hits: Counter[str] = field(default_factory=Counter)  # by kind of map, words whose map peaks inside their object:
    # at a region with its centre in the mask
    centre: int = 0  # of the present, words whose mask holds the centre of the photo
    even: float = 0.0  # of the present, the expected hits of a random region

    def add(
        self,
        words: Sequence[str],
        maps: Mapping[str, np.ndarray],
        box: Box,
        masks: Mapping[str, np.ndarray],
        names: Collection[str],
    ) -> None:
        """Add a caption of T words. Its maps, such as {"attention": (T, h, w)}, cover `box` of the photo; `masks` has
        the mask (H, W) of each object in the photo, and `names` the names of all objects of the data set."""
        for i, name in object_words(words, names):
            self.named += 1
            if name not in masks:
                continue
            mask, grid = masks[name], next(iter(maps.values())).shape[1:]
            x, y = region_centres((grid[0], grid[1]), box)
            hit = inside(mask, x, y)  # (h, w)
            self.present += 1
            for kind, values in maps.items():
                self.hits[kind] += bool(hit.flat[values[i].argmax()])
            self.centre += bool(inside(mask, mask.shape[1] / 2, mask.shape[0] / 2))
            self.even += float(hit.mean())

    def to_dict(self) -> dict[str, float]:
        """The figures as JSON-ready data, without shares if nothing was counted."""
        counts: dict[str, float] = {"object_words": self.named, "object_words_in_the_photo": self.present}
        if not self.present:
            return counts
        for kind, hits in self.hits.items():
            low, high = wilson_interval(hits, self.present)
            share = {"": hits / self.present, "_low": low, "_high": high}
            counts |= {f"{kind}_pointing{end}": figure for end, figure in share.items()}
        return counts | {"centre_of_the_photo": self.centre / self.present, "random_region": self.even / self.present}

    def __str__(self) -> str:
        if not self.present:
            return f"pointing: no word names an object in its photo ({self.named} object words in all)"
        figures = self.to_dict()
        there, centre, random = self.present / self.named, figures["centre_of_the_photo"], figures["random_region"]
        lines = [f"named objects  {there:.3f}  of {self.named} object words, object is in the photo"]
        lines.append(f"pointing              of {self.present} object words whose object is in the photo")
        for kind in self.hits:
            share, low, high = (figures[f"{kind}_pointing{end}"] for end in ("", "_low", "_high"))
            lines.append(f"  {kind:<13}{share:.3f}  {low:.3f} to {high:.3f}, {kind} peaks inside the object")
        lines.append(f"  centre       {centre:.3f}  if every word pointed at the photo's centre")
        lines.append(f"  random       {random:.3f}  if every word pointed at a random region")
        return "\n".join(lines)


def wilson_interval(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); (0, 1) if `count` is 0."""
    if not count:
        return 0.0, 1.0
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half
