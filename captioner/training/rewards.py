"""Rewards of sampled captions, and the baselines that are subtracted from them. Sampling and the loss are in
`objectives/self_critical`.

Captions and references are scored with their end token as the last word. Otherwise a caption that stops too early, such
as "a man with a", is not penalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from captioner.metrics.bleu import bleu_of, bleu_statistics
from captioner.metrics.categories import OTHER_WORDS
from captioner.metrics.cider import Consensus
from captioner.metrics.ngrams import References, Shared
from captioner.metrics.pointing import object_words
from captioner.vocabulary import EOS, SPECIALS, Vocabulary

END = SPECIALS[EOS]


def kinds(words: Sequence[str]) -> set[str]:
    """The kinds of objects, of the 80 COCO categories, that a caption names."""
    return {name for _, name in object_words(words, OTHER_WORDS)}


class CaptionReward:
    """CIDEr-D, plus `bleu` times BLEU-4, of captions given as token ids (Rennie et al. 2017, "Self-critical Sequence
    Training for Image Captioning"), less `wrong_object` for each kind of object that the caption names and no reference
    does (what Rohrbach et al. 2018, "Object Hallucination in Image Captioning", count as CHAIR). The n-grams of the
    references and their document frequencies, which are those of the training captions, are counted once."""

    def __init__(self, references: References, vocabulary: Vocabulary, bleu: float = 0.0, wrong_object: float = 0.0):
        """`references`: the tokenized captions of each training photo. Words that are not in the vocabulary are kept,
        so that the unknown token never matches."""
        self.consensus = Consensus([[[*caption, END] for caption in of_photo] for of_photo in references])
        self.table = [vocabulary[index] for index in range(len(vocabulary))]
        self.bleu, self.wrong_object = bleu, wrong_object
        self.named = [set().union(*map(kinds, of_photo)) for of_photo in references] if wrong_object else []

    def __call__(self, tokens: np.ndarray, photos: Sequence[int] | np.ndarray) -> np.ndarray:
        """Captions (N, T) as token ids -> rewards (N,). Tokens after the first EOS are ignored. Caption n is scored
        against the references of `photos[n]`."""
        lengths = np.where((tokens == EOS).any(1), (tokens == EOS).argmax(1) + 1, tokens.shape[1])
        captions = [[self.table[i] for i in row[:n]] for row, n in zip(tokens.tolist(), lengths, strict=True)]
        ours, pairs = self.consensus.prepare(captions, photos)
        shared = Shared.of(ours, self.consensus.ngrams, pairs)
        rewards = self.consensus.score(ours, pairs, shared, defended=True)
        if self.bleu:
            rewards += self.bleu * bleu_of(bleu_statistics(ours, self.consensus.ngrams, pairs, shared))[:, 3]
        if self.wrong_object:
            wrong = [len(kinds(caption) - self.named[photo]) for caption, photo in zip(captions, photos, strict=True)]
            rewards -= self.wrong_object * np.array(wrong)
        return rewards


def leave_one_out(rewards: np.ndarray) -> np.ndarray:
    """Rewards (B, S) of S samples per photo -> advantages (B, S): each sample's baseline is the mean reward of the
    others (Luo 2020, arXiv 2003.09971). It does not depend on the sample, so the gradient stays unbiased."""
    samples = rewards.shape[1]
    if samples < 2:
        raise ValueError(f"the mean of the other samples as baseline needs 2 or more samples per photo; got {samples}.")
    return rewards - (rewards.sum(1, keepdims=True) - rewards) / (samples - 1)


def over_greedy(rewards: np.ndarray, greedy: np.ndarray) -> np.ndarray:
    """Rewards (B, S) and those of the greedy captions (B,) -> advantages (B, S) (Rennie et al. 2017, section 4)."""
    return rewards - greedy[:, None]
