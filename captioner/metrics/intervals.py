"""Bootstrap confidence intervals of scores, and the paired comparison of two sets of captions.

The bootstrap resamples images. BLEU is recomputed from the counts of the resampled images. CIDEr keeps the document
frequencies of the whole corpus, because they describe the references and not the captions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from captioner.metrics.scores import Scores

SAMPLES = 1000
CHUNK = 64  # resamples at a time, to bound memory


@dataclass(frozen=True)
class Difference:
    """One score of two sets of captions of the same images: the interval of b - a, and the p-value of a difference
    this large under the null hypothesis that the two are exchangeable."""

    name: str
    a: float
    b: float
    low: float
    high: float
    p: float

    @property
    def difference(self) -> float:
        return self.b - self.a


def _draws(images: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """The number of times that each resample draws each image, (≤ CHUNK, images) at a time."""
    random = np.random.default_rng(seed)
    for start in range(0, samples, CHUNK):
        size = min(CHUNK, samples - start)
        drawn = random.integers(images, size=(size, images)) + images * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images).astype(float)


def _bounds(resampled: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    tail = (1 - level) / 2
    return np.quantile(resampled, tail, axis=0), np.quantile(resampled, 1 - tail, axis=0)


def intervals(
    scores: Scores, samples: int = SAMPLES, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """The percentile bootstrap interval of each score (Efron 1979; for BLEU, Koehn 2004)."""
    table = scores.table()
    resampled = [scores.figures(drawn @ table, len(table)) for drawn in _draws(len(table), samples, seed)]
    low, high = _bounds(np.concatenate(resampled), level)
    return dict(zip(scores.names, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def compare(a: Scores, b: Scores, samples: int = SAMPLES, seed: int = 0, level: float = 0.95) -> list[Difference]:
    """Paired comparison of two sets of captions of the same images, for each score that both have.

    The interval is a paired bootstrap. p is two-sided, by approximate randomization (Noreen 1989): the two captions of
    each image are swapped at random, and p is the share of shuffles with a difference at least as large as observed.
    """
    place = {key: row for row, key in enumerate(b.ids)}
    if place.keys() != set(a.ids):
        raise ValueError("the two sets of captions are of different images; expected the same images")
    common = [part for part in a.parts if part in b.parts]
    a, b = a.take(common), b.take(common)
    table_a, table_b, count = a.table(), b.table()[[place[key] for key in a.ids]], len(a.ids)
    sum_a, sum_b = table_a.sum(axis=0), table_b.sum(axis=0)
    figures_a, figures_b = a.figures(sum_a, count), b.figures(sum_b, count)
    observed = figures_b - figures_a

    resampled = [
        b.figures(drawn @ table_b, count) - a.figures(drawn @ table_a, count) for drawn in _draws(count, samples, seed)
    ]
    low, high = _bounds(np.concatenate(resampled), level)

    random = np.random.default_rng([seed, 1])
    as_large = np.zeros(len(a.names))
    for start in range(0, samples, CHUNK):
        sides = random.integers(2, size=(min(CHUNK, samples - start), count)).astype(float)
        moved = sides @ (table_b - table_a)  # the amount that the swaps move from b to a
        shuffled = b.figures(sum_b - moved, count) - a.figures(sum_a + moved, count)
        as_large += (np.abs(shuffled) >= np.abs(observed) * (1 - 1e-9) - 1e-15).sum(axis=0)
    p = (1 + as_large) / (1 + samples)
    columns = (figures_a, figures_b, low, high, p)
    return [Difference(name, *map(float, values)) for name, *values in zip(a.names, *columns, strict=True)]
