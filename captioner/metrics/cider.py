"""CIDEr-D and plain CIDEr (Vedantam, Zitnick and Parikh 2015, arXiv 1411.5726), on tokens.

CIDEr (section 4 of the paper, equations 1 to 3) is the cosine between tf-idf vectors of n-grams,
averaged over references and over n = 1..4. CIDEr-D (equation 4) clips the candidate's weights at the reference's, and
multiplies by a Gaussian penalty of the difference in length (sigma 6), so that repeating words does not pay. What the
COCO toolkit's `cider.py` computes and prints as "CIDEr" is CIDEr-D, with clipping and penalty, as its authors confirm
(tylin/coco-caption issue 18). So every "CIDEr" in a table of COCO results is called CIDEr-D here. Both are ten times
the mean cosine, as in the code that the paper's authors published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from captioner.metrics.ngrams import ORDERS, Ngrams, Pairs, References, Shared, Tokens, find

SIGMA = 6.0


@dataclass(frozen=True)
class DocumentFrequencies:
    """The number of images whose references contain each n-gram."""

    codes: np.ndarray  # sorted
    logs: np.ndarray  # log of the frequency of each code
    images: int

    @classmethod
    def of(cls, references: References) -> DocumentFrequencies:
        sizes = np.fromiter(map(len, references), np.int64, len(references))
        return cls.of_counted(Ngrams.count([caption for image in references for caption in image]), sizes)

    @classmethod
    def of_counted(cls, references: Ngrams, sizes: np.ndarray) -> DocumentFrequencies:
        """The same from counted n-grams; image i has the next `sizes[i]` rows."""
        image = np.repeat(np.arange(len(sizes)), sizes)[references.rows]
        span = max(len(references.known), 1)
        occurrences = np.sort(image * span + references.ids)
        once = occurrences[np.diff(occurrences, prepend=-1) > 0]
        frequencies = np.bincount(once % span, minlength=len(references.known))
        return cls(references.known, np.log(frequencies), len(sizes))

    def idf(self, ngrams: Ngrams) -> np.ndarray:
        """log(images / frequency) of each entry. An n-gram in no reference counts as if one image had it."""
        at = ngrams.ids if ngrams.known is self.codes else find(self.codes, ngrams.codes)
        found = (at >= 0) & (at < len(self.codes))
        logs = np.zeros(len(at))
        logs[found] = self.logs[at[found]]
        return np.log(max(self.images, 1)) - logs


class Consensus:
    """References prepared for repeated scoring, as for a reward.

    `references`: one list of tokenized captions per image. `frequencies`: document frequencies of another corpus; by
    default those of these references. Raises ValueError for an image without a reference.
    """

    def __init__(self, references: References, frequencies: DocumentFrequencies | None = None):
        self.sizes = np.fromiter(map(len, references), np.int64, len(references))
        if len(self.sizes) and not self.sizes.min():
            raise ValueError(f"image {int(self.sizes.argmin())} has no reference caption; every image needs one.")
        self.first = np.cumsum(self.sizes) - self.sizes
        self.ngrams = Ngrams.count([caption for image in references for caption in image])
        self.frequencies = frequencies or DocumentFrequencies.of_counted(self.ngrams, self.sizes)
        self.weights = self.ngrams.counts * self.frequencies.idf(self.ngrams)
        self.norms = _norms(self.ngrams, self.weights)

    def cider_d(self, candidates: Tokens, images: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """CIDEr-D of each candidate against the references of `images[i]` (default: image i)."""
        ngrams, pairs = self.prepare(candidates, images)
        return self.score(ngrams, pairs, Shared.of(ngrams, self.ngrams, pairs), defended=True)

    def cider_plain(self, candidates: Tokens, images: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Plain CIDEr of each candidate against the references of `images[i]` (default: image i)."""
        ngrams, pairs = self.prepare(candidates, images)
        return self.score(ngrams, pairs, Shared.of(ngrams, self.ngrams, pairs), defended=False)

    def prepare(self, candidates: Tokens, images: Sequence[int] | np.ndarray | None = None) -> tuple[Ngrams, Pairs]:
        """The counted candidates, and their pairs with references."""
        chosen = np.arange(len(candidates)) if images is None else np.asarray(images, np.int64)
        return Ngrams.count(candidates, self.ngrams.known), Pairs.of(self.first[chosen], self.sizes[chosen])

    def score(self, ngrams: Ngrams, pairs: Pairs, shared: Shared, defended: bool) -> np.ndarray:
        """The scores of prepared candidates: CIDEr-D if `defended`, else plain CIDEr."""
        weights = ngrams.counts * self.frequencies.idf(ngrams)
        norms = _norms(ngrams, weights)
        ours, theirs = weights[shared.ours], self.weights[shared.theirs]
        products = np.bincount(
            shared.pairs * ORDERS + ngrams.orders[shared.ours],
            (np.minimum(ours, theirs) if defended else ours) * theirs,
            minlength=len(pairs.candidates) * ORDERS,
        ).reshape(-1, ORDERS)  # (pairs, orders)
        scale = norms[pairs.candidates] * self.norms[pairs.references]
        cosines = np.divide(products, scale, out=np.zeros(products.shape), where=scale > 0).mean(axis=1)
        if defended:
            difference = ngrams.lengths[pairs.candidates] - self.ngrams.lengths[pairs.references]
            cosines *= np.exp(-(difference**2) / (2 * SIGMA**2))
        return 10.0 * np.add.reduceat(cosines, pairs.starts) / np.bincount(pairs.candidates)


def _norms(ngrams: Ngrams, weights: np.ndarray) -> np.ndarray:
    """The norm of each caption's vector of each order, (rows, orders)."""
    size = len(ngrams.lengths) * ORDERS
    return np.sqrt(np.bincount(ngrams.rows * ORDERS + ngrams.orders, weights**2, minlength=size)).reshape(-1, ORDERS)


def cider_d(
    candidates: Tokens, references: References, frequencies: DocumentFrequencies | None = None
) -> tuple[float, np.ndarray]:
    """CIDEr-D, which the COCO toolkit prints as "CIDEr": the mean over images, and the score of each image."""
    scores = Consensus(references, frequencies).cider_d(candidates)
    return float(scores.mean()), scores


def cider_plain(
    candidates: Tokens, references: References, frequencies: DocumentFrequencies | None = None
) -> tuple[float, np.ndarray]:
    """Plain CIDEr, the paper's equations 1 to 3, without clipping and penalty: the mean, and the score of each
    image."""
    scores = Consensus(references, frequencies).cider_plain(candidates)
    return float(scores.mean()), scores
