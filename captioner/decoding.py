"""Search: from a model's step function to captions, greedy, by beam or sampled, for many photos at once; and
forced decoding, where the captions are given.

The search knows no model. A backend gives it a `Step`, which moves every hypothesis on by one word and
answers with a few candidates for each, chosen where the logits are; the search decides which live on.
`choose_words` makes that choice on NumPy, for backends whose logits are there. Words are ids: text, tensors
and photos are not here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from captioner.vocabulary import BOS, EOS, PAD, UNK


@dataclass(frozen=True)
class Decoding:
    """How captions are searched for."""

    method: Literal["beam", "sample"] = "beam"
    """beam looks for the most probable caption (greedily with a beam size of 1); sample draws at random."""
    beam_size: int = 3
    """Beam: hypotheses a photo that are kept at each step."""
    max_length: int = 20
    """Longest caption, in words."""
    length_penalty: float = 0.7
    """Captions rank by log-probability / length ** this, the end token counted; more favours longer ones."""
    no_repeat_ngram: int = 0
    """No sequence of so many words comes twice in a caption; 0 allows it."""
    temperature: float = 1.0
    """Sample: below 1 keeps closer to the probable words, above 1 strays further."""
    top_k: int = 0
    """Sample: draw from the so many most probable words only; 0 for all."""
    top_p: float = 1.0
    """Sample: draw from the fewest most probable words that together have this share of the probability."""
    seed: int = 0
    """Sample: a seed gives a photo the same captions, whatever other photos are captioned with it."""
    num_captions: int = 1
    """Captions a photo, best first."""
    alternatives: int = 0
    """Tell so many other probable words at each word."""

    def __post_init__(self) -> None:
        def check(name: str, good: bool, expected: str) -> None:
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {expected}.")

        for name in ("beam_size", "max_length", "num_captions"):
            check(name, getattr(self, name) >= 1, "1 or more")
        for name in ("no_repeat_ngram", "top_k", "seed", "alternatives"):
            check(name, getattr(self, name) >= 0, "0 or more")
        check("method", self.method in ("beam", "sample"), "'beam' (greedy: with beam_size=1) or 'sample'")
        check("length_penalty", 0 <= self.length_penalty < math.inf, "0 (no normalisation) or more")
        check("temperature", 0 < self.temperature < math.inf, "above 0 (greedy: method='beam', beam_size=1)")
        check("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (all words)")
        if self.method == "beam":
            fits = f"at most beam_size ({self.beam_size}): widen the beam, or pass method='sample'"
            check("num_captions", self.num_captions <= self.beam_size, fits)
            for name, unused in ("temperature", 1), ("top_k", 0), ("top_p", 1):
                check(name, getattr(self, name) == unused, f"{unused} with method='beam', or method='sample'")

    @property
    def rows(self) -> int:
        """K: rows that a photo has after the first step."""
        return self.beam_size if self.method == "beam" else self.num_captions


@dataclass(frozen=True)
class Choose:
    """What a step shall choose for each of its N rows: the `count` most probable words (all, if V is smaller)
    or, given uniforms (N, S) in [0, 1), S samples: each is the first word, from the most probable down, with
    which the sum of the probabilities that temperature, top_k, top_p leave of 1 exceeds its uniform."""

    count: int
    uniforms: np.ndarray | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    suppressed: Sequence[int] = ()  # words that no row may choose
    banned: np.ndarray | None = None  # (N, any) words that this row may not choose, filled up with PAD
    alternatives: int = 0  # report so many of the most probable words, too


class Choices(NamedTuple):
    """What a step answers, on NumPy; C is `count`, or S. Log-probabilities are natural and the model's own,
    over the whole vocabulary, whatever temperature and truncation; -inf for a word that may not be chosen.
    The search keeps these arrays: the next step must not overwrite them."""

    words: np.ndarray  # (N, C), the most probable first unless sampled
    log_probabilities: np.ndarray  # (N, C)
    attention: np.ndarray | None = None  # (N, R): where the model looked to choose this word
    alternatives: tuple[np.ndarray, np.ndarray] | None = None  # words and log-probabilities, both (N, A)


class Step(Protocol):
    """Moves every row on by one word; remembers the photos and the rows' recurrent states.

    words (N,): each row's last word. rows (N,): the row of the previous call whose state each row continues;
    None in the first call, which starts anew. images: indices, ascending, of the photos still under search.
    The first call has one row a photo, with BOS. Each later one has K rows a photo, side by side in the order
    of the photos, so N = len(images)·K: they can share the photo's memory uncopied, and it moves only when
    photos are done. (Of these rows some may be dead and repeat another; a step need not know.)"""

    def __call__(self, words: np.ndarray, rows: np.ndarray | None, images: np.ndarray, choose: Choose) -> Choices: ...


@dataclass(frozen=True)
class Hypothesis:
    """A caption as T word ids, the end token not among them."""

    words: list[int]
    log_probabilities: list[float]  # one a word
    end_log_probability: float | None  # None where the caption was cut off at the maximum length
    score: float  # log_probability / length ** length_penalty
    attention: np.ndarray | None = None  # (T, R)
    alternatives: list[list[tuple[int, float]]] | None = None  # (id, log-probability) at each word; maybe EOS

    @property
    def finished(self) -> bool:
        return self.end_log_probability is not None

    @property
    def log_probability(self) -> float:
        """Of the whole caption, its end token included."""
        return sum(self.log_probabilities) + (self.end_log_probability or 0.0)


class _Call(NamedTuple):
    """A call of the step and its answer. `rows` are the back-pointers, from a row to its parent."""

    words: np.ndarray  # (N,)
    rows: np.ndarray | None  # (N,)
    log_probabilities: np.ndarray  # (N,): of `words`
    choices: Choices


class _End(NamedTuple):
    """Where a hypothesis stopped: at this row of this call."""

    score: float
    call: int  # as many as it has words
    row: int
    log_probability: float | None  # of the end token


def search(step: Step, images: int, decoding: Decoding) -> list[list[Hypothesis]]:
    """For each of so many photos its `num_captions` best hypotheses, best first: finished ones, then, if
    they are too few, those cut off at `max_length`. (Fewer only where a tiny vocabulary has no more.)

    Beam search: each row proposes its K best words; what ends is set aside, the K best others live on. A
    photo is done when no live one can come to score above those set aside. Sampling: each row is a sample."""
    n, longest, penalty = decoding.num_captions, decoding.max_length, decoding.length_penalty
    # For sampling: a stream of numbers a sample, the same for every photo, so that no photo's captions depend
    # on the others'.
    streams = [np.random.default_rng((decoding.seed, k)).random(longest + 1) for k in range(decoding.rows)]
    calls: list[_Call] = []
    ends: list[list[_End]] = [[] for _ in range(images)]

    length = 0  # words that each hypothesis has
    alive = np.arange(images)  # (M,): photos under search
    live = np.zeros((images, 1))  # (M, W): log-probability of each row so far, -inf if dead; W = 1, later K
    words, rows, gained = np.full(images, BOS), None, np.zeros(images)  # (N,), N = M·W
    prefix = np.empty((images, 0), int)  # (N, length)
    while len(alive):
        choices = step(words, rows, alive, _order(decoding, prefix, [stream[length] for stream in streams]))
        if np.isnan(choices.log_probabilities).any():
            what = f"the model gave NaN for the log-probability of word {length + 1}; expected a number"
            raise ValueError(f"{what}. Look for NaN in its weights or an overflow in half precision.")
        calls.append(_Call(words, rows, gained, choices))

        # A photo's candidates side by side, (M, W·C). Sampling: W·C = K, and candidate k continues sample k.
        (M, W), C = live.shape, choices.words.shape[1]
        candidates = choices.words.reshape(M, W * C)
        gains = choices.log_probabilities.reshape(M, W * C).astype(float)
        parents = np.arange(M * W).repeat(C).reshape(M, W * C)
        totals = live.repeat(C, axis=1) + gains

        ending = (candidates == EOS) & (totals > -np.inf)
        for m, c in np.argwhere(ending):
            score = totals[m, c] / (length + 1) ** penalty
            ends[alive[m]].append(_End(score, length, parents[m, c], gains[m, c]))
        totals[(candidates == EOS) | (length == longest)] = -np.inf
        kept, survivors = _survivors(totals, decoding)

        going = np.isfinite(survivors).any(axis=1)  # (M,)
        if decoding.method == "beam":  # totals only fall, so no score above this bound is to be had
            bound = survivors.max(axis=1) / (longest + 1) ** penalty
            nth = [sorted([-math.inf] * n + [end.score for end in ends[i]])[-n] for i in alive]
            going &= bound > np.array(nth)
        cut = np.isfinite(live) & ~ending.reshape(M, W, C).any(axis=2) & ~going[:, None]
        for m, w in np.argwhere(cut):
            ends[alive[m]].append(_End(live[m, w] / max(length, 1) ** penalty, length, m * W + w, None))

        alive, live, kept = alive[going], survivors[going], kept[going]
        words, rows, gained = (_take(each[going], kept).reshape(-1) for each in (candidates, parents, gains))
        prefix = np.concatenate([prefix[rows], words[:, None]], axis=1)
        length += 1

    ranked = [sorted(each, key=lambda end: (end.log_probability is None, -end.score))[:n] for each in ends]
    return [[_read_back(calls, end, decoding.alternatives) for end in each] for each in ranked]


def force(step: Step, captions: Sequence[Sequence[Sequence[int]]], alternatives: int = 0) -> list[list[Hypothesis]]:
    """Forced decoding: in the place of a search, the model reads given captions, as word ids, equally many for each
    photo. Each comes back with what the model would have given its words and its end; its score is the sum."""
    count, given = len(captions[0]), [list(words) for each in captions for words in each]  # N captions
    lengths = np.array([*map(len, given)])
    padded = [words + [EOS] * (1 + max(lengths) - len(words)) for words in given]
    images = np.arange(len(captions))
    calls: list[_Call] = []
    ends: dict[int, _End] = {}

    words, rows, gained = np.full(len(images), BOS), None, np.zeros(len(images))
    own, totals = images.repeat(count), np.zeros(len(given))  # each caption's row (in the first call its photo's), (N,)
    for length, wanted in enumerate(np.array(padded).T):
        choices = step(words, rows, images, Choose(count=sys.maxsize, alternatives=alternatives and alternatives + 1))
        calls.append(_Call(words, rows, gained, choices))
        places = (choices.words[own] == wanted[:, None]).argmax(axis=1)  # (N,)
        words, rows, gained = wanted, own, choices.log_probabilities[own, places]
        totals += gained
        for n in np.flatnonzero(lengths == length).tolist():
            ends[n] = _End(totals[n], length, own[n], gained[n])
        own = np.arange(len(given))
    found = [_read_back(calls, ends[n], alternatives) for n in range(len(given))]
    return [found[start : start + count] for start in range(0, len(found), count)]


def _order(decoding: Decoding, prefix: np.ndarray, uniforms: Sequence[float]) -> Choose:
    """What the step shall choose for rows with these words (N, length) so far."""
    n, length = prefix.shape
    draws = (n, 1 if length else decoding.rows)  # at first a photo's only row draws for all its samples
    return Choose(
        count=decoding.rows,
        uniforms=np.resize(uniforms, draws) if decoding.method == "sample" else None,
        temperature=decoding.temperature,
        top_k=decoding.top_k,
        top_p=decoding.top_p,
        suppressed=(PAD, BOS, UNK) if length else (PAD, BOS, UNK, EOS),  # a caption has a word at least
        banned=_repeating(prefix, decoding.no_repeat_ngram),
        alternatives=decoding.alternatives and decoding.alternatives + 1,  # the word itself may be among them
    )


def _repeating(prefix: np.ndarray, n: int) -> np.ndarray | None:
    """(N, any): the words with which a row's last n words would be n words that it has already; else PAD."""
    length = prefix.shape[1]
    if n == 0 or length < n:
        return None
    ngrams = np.lib.stride_tricks.sliding_window_view(prefix, n, axis=1)  # (N, length - n + 1, n)
    tail = prefix[:, None, length - n + 1 :]  # (N, 1, n - 1)
    return np.where((ngrams[..., :-1] == tail).all(axis=-1), ngrams[..., -1], PAD)


def _survivors(totals: np.ndarray, decoding: Decoding) -> tuple[np.ndarray, np.ndarray]:
    """Candidates' totals (M, W·C) -> which of them are a photo's next K rows, and their totals, both (M, K).
    Where fewer can live on, dead rows, of total -inf, repeat a live one."""
    kept = np.tile(np.arange(totals.shape[1]), (len(totals), 1))
    if decoding.method == "beam":
        kept = np.argsort(-totals, axis=1, kind="stable")[:, : decoding.rows]
    survivors = _take(totals, kept)
    if (missing := decoding.rows - kept.shape[1]) > 0:  # V < K, in the first step
        survivors = np.pad(survivors, ((0, 0), (0, missing)), constant_values=-np.inf)
        kept = np.pad(kept, ((0, 0), (0, missing)))
    living = np.isfinite(survivors)
    return np.where(living, kept, _take(kept, living.argmax(axis=1)[:, None])), survivors


def _take(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values (N, any) at places (N, C) -> (N, C): numpy.take_along_axis without its overhead."""
    return values[np.arange(len(values))[:, None], places]


def _read_back(calls: list[_Call], end: _End, alternatives: int) -> Hypothesis:
    """Follow a hypothesis from its end to its beginning."""
    rows = [end.row]
    for call in calls[end.call : 0 : -1]:
        assert call.rows is not None
        rows.insert(0, call.rows[rows[0]])
    path = list(zip(calls, rows, strict=False))  # T + 1 pairs: its row in each call
    words = [int(call.words[row]) for call, row in path[1:]]
    asked = [(call.choices, row) for call, row in path[:-1]]  # what these words were chosen from
    maps = [choices.attention[row] for choices, row in asked if choices.attention is not None]
    others: list[list[tuple[int, float]]] = []
    for (choices, row), word in zip(asked, words, strict=True):
        if choices.alternatives is not None:
            pairs = zip(*(each[row].tolist() for each in choices.alternatives), strict=True)
            others.append([pair for pair in pairs if pair[0] != word and pair[1] > -math.inf][:alternatives])
    return Hypothesis(
        words,
        [float(call.log_probabilities[row]) for call, row in path[1:]],
        None if end.log_probability is None else float(end.log_probability),
        float(end.score),
        np.stack(maps) if maps else None,
        others if alternatives else None,
    )


def choose_words(logits: np.ndarray, choose: Choose, attention: np.ndarray | None = None) -> Choices:
    """Logits (N, V) -> what `choose` asks for. A backend whose logits are on a device does the same there."""
    logits = logits - logits.max(axis=1, keepdims=True)
    allowed = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    allowed[:, list(choose.suppressed)] = -np.inf
    if choose.banned is not None:
        np.put_along_axis(allowed, choose.banned, -np.inf, axis=1)

    def priced(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return words, _take(allowed, words)

    if choose.uniforms is None:
        words = choose_best(allowed, choose.count)
    else:
        words = choose_sampled(allowed, choose.uniforms, choose)
    others = priced(choose_best(allowed, choose.alternatives)) if choose.alternatives else None
    return Choices(*priced(words), attention, others)


def choose_best(log_probabilities: np.ndarray, count: int) -> np.ndarray:
    """Log-probabilities (N, V) -> the most probable words of each row (N, count), the most probable first."""
    start = max(log_probabilities.shape[1] - count, 0)
    best = np.argpartition(log_probabilities, start, axis=1)[:, start:]
    order = np.argsort(-_take(log_probabilities, best), axis=1)
    return _take(best, order)


def choose_sampled(log_probabilities: np.ndarray, uniforms: np.ndarray, choose: Choose) -> np.ndarray:
    """Log-probabilities (N, V), uniforms (N, S) -> S words a row (N, S), as `Choose` says."""
    order = choose_best(log_probabilities, choose.top_k or log_probabilities.shape[1])  # (N, V or top_k)
    scaled = _take(log_probabilities, order).astype(float) / choose.temperature
    masses = np.exp(scaled - np.maximum(scaled[:, :1], np.finfo(float).min))  # no NaN where no word is left
    masses[masses.cumsum(axis=1) - masses >= choose.top_p * masses.sum(axis=1, keepdims=True)] = 0
    sums = masses.cumsum(axis=1)
    places = np.stack([(sums <= u[:, None] * sums[:, -1:]).sum(axis=1) for u in uniforms.T], axis=1)
    return _take(order, np.minimum(places, order.shape[1] - 1))
