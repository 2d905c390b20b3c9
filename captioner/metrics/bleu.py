"""BLEU-1 to BLEU-4 (Papineni et al. 2002) on tokens, equal to the COCO toolkit's to the last digit.

The toolkit takes the closest reference length (the shorter one in a tie), sums the counts over the corpus before the
division, and adds 1e-15 to each numerator and 1e-9 to each denominator. nltk's `corpus_bleu` gives the same figures,
except that it counts at least one n-gram of each order for a caption that is too short to have any. Many tutorials
report nltk's, so `nltk_bleu` computes it on request; it takes twice the time of all our scores together.
"""

from __future__ import annotations

import warnings

import numpy as np

from captioner.metrics.ngrams import ORDERS, Ngrams, Pairs, References, Shared, Tokens

BLEUS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
TINY, SMALL = 1e-15, 1e-9


def bleu(candidates: Tokens, references: References) -> tuple[np.ndarray, np.ndarray]:
    """BLEU-1..4 of the corpus (4,) and of each image (4, images)."""
    sizes = np.fromiter(map(len, references), np.int64, len(references))
    pairs = Pairs.of(np.cumsum(sizes) - sizes, sizes)
    theirs = Ngrams.count([caption for image in references for caption in image])
    ours = Ngrams.count(candidates, theirs.known)
    statistics = bleu_statistics(ours, theirs, pairs, Shared.of(ours, theirs, pairs))
    return bleu_of(statistics.sum(axis=0)), bleu_of(statistics).T


def bleu_statistics(ours: Ngrams, theirs: Ngrams, pairs: Pairs, shared: Shared) -> np.ndarray:
    """The summands of BLEU, (images, 2 + 2·4): words, closest reference length, then matched and all n-grams by
    order."""
    images = len(ours.lengths)
    lengths = theirs.lengths[pairs.references]
    distance = np.abs(lengths - ours.lengths[pairs.candidates])
    nearest_first = np.lexsort((lengths, distance, pairs.candidates))  # the shorter one in a tie
    closest = lengths[nearest_first[pairs.starts]]

    most = np.zeros(len(ours.counts), np.int64)  # the largest count of the n-gram in one reference
    np.maximum.at(most, shared.ours, theirs.counts[shared.theirs])
    size = images * ORDERS
    correct = np.bincount(ours.rows * ORDERS + ours.orders, np.minimum(ours.counts, most), minlength=size)
    guessed = np.maximum(ours.lengths[:, None] - np.arange(ORDERS), 0)
    columns = (ours.lengths[:, None], closest[:, None], correct.reshape(images, ORDERS), guessed)
    return np.concatenate(columns, axis=1).astype(float)


def bleu_of(statistics: np.ndarray) -> np.ndarray:
    """BLEU-1..4 (…, 4) of summed statistics (…, 10)."""
    length, closest = statistics[..., :1], statistics[..., 1:2]
    correct, guessed = statistics[..., 2 : 2 + ORDERS], statistics[..., 2 + ORDERS :]
    precisions = np.cumprod((correct + TINY) / (guessed + SMALL), axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (length + TINY) / (closest + SMALL)
    return precisions * np.exp(np.minimum(0, 1 - 1 / ratio))


def nltk_bleu(candidates: Tokens, references: References) -> np.ndarray:
    """BLEU-1..4 of the corpus (4,) by nltk. They equal `bleu`'s if no caption has fewer than four words."""
    from nltk.translate.bleu_score import corpus_bleu

    weights = [(1 / order,) * order for order in range(1, ORDERS + 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk warns where no n-gram of an order matches; that BLEU is nearly 0
        return np.array(corpus_bleu(references, candidates, weights), float)
