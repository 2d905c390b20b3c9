"""Properties of captions that scores do not show: how many are distinct, their length, copies of training captions, bad
endings. And the slices of images whose scores a table shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from captioner.metrics.ngrams import References, Tokens

# A caption that ends in one of these words ("a man with a") was cut off, or exploits a reward that does not penalise
# it.
_ENDINGS = (
    "a an the and or but of in on at to for from with by into onto over under near next through between behind "
    "beside above below before after while as that his her its their is are"
)
BAD_ENDINGS = frozenset(_ENDINGS.split())
SHORT, LONG = 8, 12  # words: at most SHORT is short, at least LONG is long
RARE_SHARE = 0.005  # a word is rare if at most this share of images has it in a reference


def habits(candidates: Tokens, training: Iterable[Sequence[str]] | None = None) -> dict[str, float]:
    """Figures of tokenized captions: `distinct` (share), `mean_length`, `words` (number of distinct words),
    `bad_endings` (share). With tokenized training captions, also `copied`: the share of captions that equal one of
    them."""
    kinds = Counter(map(tuple, candidates))
    count = max(len(candidates), 1)
    found = {
        "distinct": len(kinds) / count,
        "mean_length": sum(map(len, candidates)) / count,
        "words": float(len({word for caption in kinds for word in caption})),
        "bad_endings": sum(bool(words) and words[-1] in BAD_ENDINGS for words in candidates) / count,
    }
    if training is not None:
        known = set(map(tuple, training))
        found["copied"] = sum(number for caption, number in kinds.items() if caption in known) / count
    return found


def repeats(words: Sequence[str]) -> bool:
    """Whether a word follows itself, or a sequence of three words occurs twice."""
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(triples)) < len(triples) or any(a == b for a, b in pairwise(words))


def rare_words(references: References) -> frozenset[str]:
    """The words that occur in the references of at most RARE_SHARE of the images."""
    images = Counter(word for captions in references for word in {word for caption in captions for word in caption})
    return frozenset(word for word, count in images.items() if count <= RARE_SHARE * len(references))


def slices(
    candidates: Tokens, references: References, ids: Sequence[Any], unfinished: Collection[Any] = ()
) -> dict[str, np.ndarray]:
    """Named masks over images (images,): images by the length of the caption, images with a rare word that at least two
    of their references share, and images whose caption is unfinished."""
    lengths = np.fromiter(map(len, candidates), np.int64, len(candidates))
    rare = rare_words(references)
    with_rare = np.zeros(len(references), bool)
    for image, captions in enumerate(references):
        uses = Counter(word for caption in captions for word in rare.intersection(caption))
        with_rare[image] = any(count > 1 for count in uses.values())
    return {
        f"up to {SHORT} words": lengths <= SHORT,
        f"{SHORT + 1} to {LONG - 1} words": (lengths > SHORT) & (lengths < LONG),
        f"{LONG} words or more": lengths >= LONG,
        "rare words in references": with_rare,
        "unfinished": np.array([key in unfinished for key in ids], bool),
    }
