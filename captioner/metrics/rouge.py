"""ROUGE-L (Lin 2004, section 3) on tokens, as the COCO toolkit combines several references.

The longest common subsequence is found with the bit-parallel recurrence of Hyyrö (2004): one addition per word of the
reference, for any length of the candidate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from captioner.metrics.ngrams import References, Tokens

BETA = 1.2  # the toolkit's weight of recall against precision


def common_subsequence(places: dict[str, int], length: int, other: Sequence[str]) -> int:
    """The length of the longest common subsequence of `other` and a caption of `length` words.

    `places` maps each word of the caption to an integer; its bit i is set if word i of the caption is that word.
    """
    state = (1 << length) - 1
    for word in other:
        if word in places:
            met = state & places[word]
            state = (state + met) | (state - met)
    return length - (state & ((1 << length) - 1)).bit_count()


def rouge_l(candidates: Tokens, references: References) -> tuple[float, np.ndarray]:
    """ROUGE-L: the mean over images, and the score of each image from its best precision and its best recall."""
    scores = np.zeros(len(candidates))
    for image, (candidate, captions) in enumerate(zip(candidates, references, strict=True)):
        candidate = candidate or [""]  # the toolkit gives an empty caption one empty word
        places: dict[str, int] = {}
        for index, word in enumerate(candidate):
            places[word] = places.get(word, 0) | (1 << index)
        precision = recall = 0.0
        for caption in captions:
            caption = caption or [""]
            common = common_subsequence(places, len(candidate), caption)
            precision = max(precision, common / len(candidate))
            recall = max(recall, common / len(caption))
        if precision and recall:
            scores[image] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return float(scores.mean()), scores
