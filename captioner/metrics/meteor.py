"""METEOR 1.5 (Denkowski and Lavie 2014) from the counts that its jar returns for each image. The jar matches stems,
synonyms and paraphrases (see `java`). The arithmetic is here, so that sums of counts can be scored too."""

from __future__ import annotations

import numpy as np

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75  # tuned for English by METEOR's authors
WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
COLUMNS = 23


def meteor_of(counts: np.ndarray) -> np.ndarray:
    """METEOR (…, 1) of summed counts (…, 23). The columns: the words of caption and reference; their function words;
    for each of the four kinds of match, the matched content and function words in both; chunks; the matched words of
    caption and reference."""
    words, function_words = counts[..., 0:2], counts[..., 2:4]
    matches = counts[..., 4:20].reshape(
        *counts.shape[:-1], 4, 2, 2
    )  # (…, kind, content or function, caption or reference)
    chunks, matched = counts[..., 20], counts[..., 21:23]

    weighted = np.einsum("k,...kcw->...cw", WEIGHTS, matches)
    found = DELTA * weighted[..., 0, :] + (1 - DELTA) * weighted[..., 1, :]
    total = DELTA * (words - function_words) + (1 - DELTA) * function_words
    ratios = np.divide(found, total, out=np.zeros_like(found), where=total > 0)
    precision, recall = ratios[..., 0], ratios[..., 1]

    scale = ALPHA * precision + (1 - ALPHA) * recall
    mean = np.divide(precision * recall, scale, out=np.zeros_like(scale), where=scale > 0)
    average = matched.mean(axis=-1)
    fragmentation = np.divide(chunks, average, out=np.zeros_like(average), where=average > 0)
    return (mean * (1 - GAMMA * fragmentation**BETA))[..., None]


def forgive_whole_matches(counts: np.ndarray) -> np.ndarray:
    """The counts of images (images, 23), with zero chunks where caption and reference match in full. METEOR gives such
    a caption no penalty, and leaves its chunk out of sums."""
    counts = counts.copy()
    counts[(counts[:, 20] == 1) & (counts[:, 21:23] == counts[:, 0:2]).all(axis=1), 20] = 0
    return counts
