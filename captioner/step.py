"""One step of a search, the interface between search and model: what the search asks for and what the model proposes.
It also has the choice of words from logits for backends whose logits are NumPy arrays; the torch backend does this on
its device.

Shapes: N rows (hypotheses), P words proposed per row, V vocabulary, R image regions, A alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np


@dataclass(frozen=True)
class Choose:
    """Which words a step proposes for each of its N rows, P per row, in one of three ways:

    - the `count` most probable ones, the most probable first (P = count, or V if that is smaller);
    - one sample per given uniform number, by inverse transform sampling: the sample is the first word at which the
      cumulative distribution (the most probable word first, after temperature, top_k and top_p) exceeds the number;
    - the `wanted` words.
    """

    count: int = 0
    uniforms: np.ndarray | None = None  # (N, P) in [0, 1)
    wanted: np.ndarray | None = None  # (N, P)
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    suppressed: Sequence[int] = ()  # words that no row may propose
    banned: np.ndarray | None = None  # (N, any) words that this row may not propose, padded with PAD
    alternatives: int = 0  # A: also report this many of the most probable words


class Choices(NamedTuple):
    """What a step proposes. The log-probabilities are the model's own (natural, over the whole vocabulary), whatever
    the temperature and truncation; -inf for a word that may not be proposed. The search keeps these arrays: the next
    step must not overwrite them."""

    words: np.ndarray  # (N, P)
    log_probabilities: np.ndarray  # (N, P)
    attention: np.ndarray | None = None  # (N, R): where the model looked to choose this word
    alternatives: tuple[np.ndarray, np.ndarray] | None = None  # words and log-probabilities, both (N, A)


class Step(Protocol):
    """Advances every row by one word. Takes the state that the previous call returned and returns the new one; the
    state is opaque to the search.

    words (N,): the last word of each row. rows (N,): for each row, the row of the previous call that it continues.
    state: None in the first call, which has one row per photo, with the word BOS. images (B,): indices of the photos
    under search, ascending, a subset of those of the previous call. Later calls have K adjacent rows per photo, in the
    order of the photos, so N = B·K. The rows of a photo can share its features, which need to be copied only when
    photos have finished. Some rows may be dead and repeat another; a step need not know which."""

    def __call__(
        self, words: np.ndarray, rows: np.ndarray, state: Any, images: np.ndarray, choose: Choose
    ) -> tuple[Choices, Any]: ...


def choose_words(logits: np.ndarray, choose: Choose, attention: np.ndarray | None = None) -> Choices:
    """Logits (N, V) -> the words that `choose` asks for."""
    logits = logits - logits.max(axis=1, keepdims=True)
    allowed = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))  # log-probabilities
    allowed[:, list(choose.suppressed)] -= np.inf  # NaN stays NaN, for the search to see
    if choose.banned is not None:
        np.put_along_axis(allowed, choose.banned, take(allowed, choose.banned) - np.inf, axis=1)
    if choose.wanted is not None:
        words = choose.wanted
    elif choose.uniforms is not None:
        words = choose_sampled(allowed, choose.uniforms, choose)
    else:
        words = choose_best(allowed, choose.count)
    alternatives = None
    if choose.alternatives:
        most_probable = choose_best(allowed, choose.alternatives)
        alternatives = most_probable, take(allowed, most_probable)
    return Choices(words, take(allowed, words), attention, alternatives)


def choose_best(log_probabilities: np.ndarray, count: int) -> np.ndarray:
    """Log-probabilities (N, V) -> the most probable words of each row (N, count), the most probable first."""
    start = max(log_probabilities.shape[1] - count, 0)
    best = np.argpartition(log_probabilities, start, axis=1)[:, start:]
    order = np.argsort(-take(log_probabilities, best), axis=1)
    return take(best, order)


def choose_sampled(log_probabilities: np.ndarray, uniforms: np.ndarray, choose: Choose) -> np.ndarray:
    """Log-probabilities (N, V), uniforms (N, P) -> sampled words (N, P): see `Choose`."""
    order = choose_best(log_probabilities, choose.top_k or log_probabilities.shape[1])  # (N, V or top_k)
    scaled = take(log_probabilities, order).astype(float) / choose.temperature
    masses = np.exp(
        scaled - np.maximum(scaled[:, :1], np.finfo(float).min)
    )  # no NaN in a row where every word is banned
    masses[masses.cumsum(axis=1) - masses >= choose.top_p * masses.sum(axis=1, keepdims=True)] = 0
    sums = masses.cumsum(axis=1)
    places = np.stack([(sums <= u[:, None] * sums[:, -1:]).sum(axis=1) for u in uniforms.T], axis=1)
    return take(order, np.minimum(places, order.shape[1] - 1))


def all_but_one(regions: int) -> np.ndarray:
    """(R, R - 1): row r holds the indices of all regions but r."""
    return np.array([[each for each in range(regions) if each != r] for r in range(regions)])


def take(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values (N, any) at places (N, P) -> (N, P): numpy.take_along_axis without its overhead."""
    return values[np.arange(len(values))[:, None], places]
