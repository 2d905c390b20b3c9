"""Search: from a model's step function to captions, by beam search, greedily or by sampling, for many photos at once.
Forced decoding is here, too: the captions are given, and the model scores them.

The search does not depend on a model. A backend gives it a `Step` (see step.py): a function that takes the last word of
every hypothesis, runs the model once, and proposes a few next words for each, with their log-probabilities. Words are
ids here; text, tensors and photos are handled elsewhere.

Shapes: B photos under search, K hypotheses per photo (the beam, or the samples), N = B·K rows of a step, P words
proposed per row, V vocabulary, R image regions, T words of a caption, A alternatives.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from captioner.step import Choices, Choose, Step, take
from captioner.vocabulary import BOS, EOS, PAD, UNK

ALTERNATIVES = 4  # per word, where captions are shown to people
SAMPLING = ("temperature", "top_k", "top_p")  # settings that beam search does not use
NUMBERS: dict[type, Any] = {int: numbers.Integral, float: numbers.Real}  # NumPy's, too
WORDS = {int: "a whole number", float: "a number", str: "a name"}
BOUNDS = {"ge": (operator.ge, "at least"), "gt": (operator.gt, "above"), "le": (operator.le, "at most")}


def _setting(default: Any, help: str, **bounds: float) -> Any:
    return field(default=default, metadata={"help": help, "bounds": bounds})


@dataclass(frozen=True)
class Decoding:
    """How captions are found. The command line and the web service take the same settings, made from these fields."""

    method: Literal["beam", "sample"] = _setting("beam", "Beam search for the most probable caption, or sampling.")
    beam_size: int = _setting(3, "Beam search: hypotheses kept per photo; 1 is greedy.", ge=1, le=10_000)
    max_length: int = _setting(20, "Longest caption, in words.", ge=1, le=1000)
    length_penalty: float = _setting(
        0.7, "Captions are ranked by log-probability / length ** this; higher favours longer ones.", ge=0, le=10
    )
    no_repeat_ngram: int = _setting(
        0,
        "No n-gram of this length occurs twice in a caption. 1: no content word ('dog', not 'a') and no pair of words "
        "occurs twice. 0: off.",
        ge=0,
        le=1000,
    )
    temperature: float = _setting(1.0, "Sampling: below 1 favours probable words, above 1 rare ones.", gt=0, le=100)
    top_k: int = _setting(0, "Sampling: draw from the k most probable words only; 0: from all.", ge=0, le=10**9)
    top_p: float = _setting(
        1.0, "Sampling: draw from the fewest words whose probabilities sum to p; 1: from all.", gt=0, le=1
    )
    seed: int = _setting(
        0, "Sampling: a photo gets the same captions from the same seed, in any batch.", ge=0, le=2**64 - 1
    )
    num_captions: int = _setting(
        1,
        "Captions per photo, best first. More than beam_size widens the beam, which can change the best one.",
        ge=1,
        le=100_000,
    )
    alternatives: int = _setting(0, "Other probable words to report for each word.", ge=0, le=1000)

    def __post_init__(self) -> None:
        for each in fields(self):
            value, bounds = getattr(self, each.name), each.metadata["bounds"]
            kind = type(each.default)
            if isinstance(value, bool) or not isinstance(value, NUMBERS.get(kind, kind)):
                raise ValueError(f"{each.name} is {value!r:.60}; expected {WORDS[kind]}.")
            if not all(BOUNDS[bound][0](value, limit) for bound, limit in bounds.items()):
                expected = " and ".join(f"{BOUNDS[bound][1]} {limit:,}" for bound, limit in bounds.items())
                raise ValueError(f"{each.name} is {value!r:.60}; expected {expected}.")
        if self.method not in ("beam", "sample"):
            raise ValueError(f"method is {self.method!r}; expected 'beam' (greedy: with beam_size 1) or 'sample'.")
        for name in SAMPLING if self.method == "beam" else ():
            if getattr(self, name) != getattr(Decoding, name):
                value = getattr(self, name)
                raise ValueError(f"{name} is {value!r}, but only sampling uses it. Set method to 'sample', too.")

    @property
    def rows(self) -> int:
        """K: hypotheses per photo after the first step."""
        return self.num_captions if self.method == "sample" else max(self.beam_size, self.num_captions)

    def override(self, **given: Any) -> Decoding:
        """A copy with the given settings changed; None means not given. If the method changes, settings that only
        sampling uses return to their defaults unless they are given."""
        given = {name: value for name, value in given.items() if value is not None}
        if given.get("method", self.method) != self.method:
            given = {name: getattr(Decoding, name) for name in SAMPLING} | given
        return replace(self, **given)

    def for_display(self) -> Decoding:
        """A copy with at least `ALTERNATIVES` alternatives per word, for captions that are shown to people."""
        return replace(self, alternatives=max(self.alternatives, ALTERNATIVES))


@dataclass(frozen=True)
class Hypothesis:
    """A caption as T word ids, without the end token."""

    words: list[int]
    log_probabilities: list[float]  # one per word
    end_log_probability: float | None  # of the end token; None if the caption was cut off
    score: float  # log_probability / length ** length_penalty, length with the end token; forced: the sum
    attention: np.ndarray | None = None  # (T, R)
    alternatives: list[list[tuple[int, float]]] | None = None  # at each word: (id, log-probability); may include EOS

    @property
    def finished(self) -> bool:
        return self.end_log_probability is not None

    @property
    def log_probability(self) -> float:
        """Of the whole caption, including its end token."""
        return sum(self.log_probabilities) + (self.end_log_probability or 0.0)


class _Call(NamedTuple):
    """One call of the step and its result. `rows` are the back-pointers: the parents' rows in the previous call."""

    words: np.ndarray  # (N,)
    rows: np.ndarray  # (N,)
    log_probabilities: np.ndarray  # (N,): of `words`
    choices: Choices


class _End(NamedTuple):
    """Where a hypothesis ended: at row `row` of call number `call`. Calls are numbered from 0 and each adds a word, so
    the hypothesis has `call` words."""

    score: float
    call: int
    row: int
    log_probability: float | None  # of the end token; None if the caption was cut off


class _Live(NamedTuple):
    """LIVE: the hypotheses under search, all of the same length."""

    images: np.ndarray  # (B,) the photos
    words: np.ndarray  # (B, K) last word
    rows: np.ndarray  # (B, K) parent's row in the last call
    log_probabilities: np.ndarray  # (B, K) of the last word
    totals: np.ndarray  # (B, K) log-probability of all words; -inf: a dead row
    prefixes: np.ndarray  # (B, K, length) all words


class _Candidates(NamedTuple):
    """EXPANDED: every live hypothesis with each word proposed for it; K·P per photo."""

    words: np.ndarray  # (B, K·P)
    rows: np.ndarray  # (B, K·P) parent's row
    log_probabilities: np.ndarray  # (B, K·P) of the word
    totals: np.ndarray  # (B, K·P) with the word; -inf: may not be chosen


def search(step: Step, images: int, decoding: Decoding, function_words: Sequence[int] = ()) -> list[list[Hypothesis]]:
    """The `num_captions` best hypotheses of each of `images` photos, best first. Finished hypotheses come before those
    that were cut off. There are fewer if the vocabulary is too small for that many different captions.

    Each round calls the step and expands the live hypotheses by the words that it proposes. Candidates that end become
    finished hypotheses; the best of the others become the new live ones, until the stop rule drops the photo. In
    sampling, every row is an independent sample, and a step proposes one word for it. If `no_repeat_ngram` is 1,
    `function_words` may still occur more than once."""
    streams = [np.random.default_rng((decoding.seed, k)) for k in range(decoding.rows)]
    uniforms = np.stack([stream.random(decoding.max_length + 1) for stream in streams], axis=1)  # (max_length + 1, K)
    ends: list[list[_End]] = [[] for _ in range(images)]  # FINISHED, and those cut off
    calls: list[_Call] = []
    state, live = None, _start(images)
    while len(live.images):
        length = live.prefixes.shape[2]
        choose = _choose(live, decoding, uniforms[length], function_words)
        words, rows = live.words.reshape(-1), live.rows.reshape(-1)  # (N,)
        choices, state = step(words, rows, state, live.images, choose)
        _check(choices, length)
        calls.append(_Call(words, rows, live.log_probabilities.reshape(-1), choices))

        candidates = _expand(live, choices)
        open_totals = _finish(live, candidates, decoding, ends)
        live = _select(live, candidates, open_totals, decoding)
        going = _going(live, decoding, ends)
        live = _Live(*(part[going] for part in live))
    best = [sorted(each, key=lambda end: (end.log_probability is None, -end.score)) for each in ends]
    return [[_trace(calls, end, decoding.alternatives) for end in each[: decoding.num_captions]] for each in best]


def _start(images: int) -> _Live:
    """One empty hypothesis per photo."""
    rows, zeros = np.arange(images)[:, None], np.zeros((images, 1))
    return _Live(np.arange(images), np.full((images, 1), BOS), rows, zeros, zeros, np.empty((images, 1, 0), int))


def _choose(live: _Live, decoding: Decoding, uniforms: np.ndarray, function_words: Sequence[int]) -> Choose:
    """The request to the step. Every photo gets the same uniform numbers (K,), so that its captions do not depend on
    the other photos of the batch."""
    B, K, length = live.prefixes.shape
    # In the first call a photo has one row, which draws the first words of all samples (B, P = K). Later each row draws
    # one word (N, 1).
    draws = np.tile(uniforms, (B, 1)).reshape(B * K, -1)
    return Choose(
        count=decoding.rows,
        uniforms=draws if decoding.method == "sample" else None,
        temperature=decoding.temperature,
        top_k=decoding.top_k,
        top_p=decoding.top_p,
        suppressed=(PAD, BOS, UNK) if length else (PAD, BOS, UNK, EOS),  # a caption has at least one word
        banned=_repeating(live.prefixes.reshape(B * K, length), decoding.no_repeat_ngram, function_words),
        alternatives=decoding.alternatives and decoding.alternatives + 1,  # the word itself may be among them
    )


def _repeating(prefixes: np.ndarray, n: int, function_words: Sequence[int]) -> np.ndarray | None:
    """Prefixes (N, length) -> for each row, the words (N, any) that would repeat one of its n-grams or, if n is 1, one
    of its content words or bigrams; padded with PAD."""
    length = prefixes.shape[1]
    if n == 0 or length < n:
        return None
    if n == 1:
        content = np.where(np.isin(prefixes, function_words), PAD, prefixes)
        pairs = _repeating(prefixes, 2, ())
        return content if pairs is None else np.concatenate([content, pairs], axis=1)
    ngrams = np.lib.stride_tricks.sliding_window_view(prefixes, n, axis=1)  # (N, length - n + 1, n)
    tail = prefixes[:, None, length - n + 1 :]  # (N, 1, n - 1)
    return np.where((ngrams[..., :-1] == tail).all(axis=-1), ngrams[..., -1], PAD)


def _check(choices: Choices, length: int) -> None:
    if np.isnan(choices.log_probabilities).any():
        what = f"the model gave NaN for the log-probability of word {length + 1}; expected a number"
        raise ValueError(f"{what}. Look for NaN in its weights or an overflow in half precision.")


def _expand(live: _Live, choices: Choices) -> _Candidates:
    """EXPAND. In the first round K is 1. In sampling P is 1 in every later round, so a photo always has one candidate
    per sample."""
    (B, K), P = live.words.shape, choices.words.shape[1]
    log_probabilities = choices.log_probabilities.reshape(B, K * P).astype(float)
    rows = np.arange(B * K).repeat(P).reshape(B, K * P)
    totals = live.totals.repeat(P, axis=1) + log_probabilities
    return _Candidates(choices.words.reshape(B, K * P), rows, log_probabilities, totals)


def _finish(live: _Live, candidates: _Candidates, decoding: Decoding, ends: list[list[_End]]) -> np.ndarray:
    """FINISH: adds to `ends` the candidates whose word is the end token, and the live hypotheses that are cut off
    because none of their candidates ends or can be continued. Returns the totals (B, K·P) of the candidates that can be
    continued, -inf for all others."""
    (B, K, length), penalty = live.prefixes.shape, decoding.length_penalty
    is_end = candidates.words == EOS
    finished = is_end & np.isfinite(candidates.totals)
    open_totals = np.where(is_end | (length == decoding.max_length), -np.inf, candidates.totals)
    for b, c in np.argwhere(finished):
        score = candidates.totals[b, c] / (length + 1) ** penalty
        end = _End(score, length, candidates.rows[b, c], candidates.log_probabilities[b, c])
        ends[live.images[b]].append(end)

    continued = (finished | np.isfinite(open_totals)).reshape(B, K, -1).any(axis=2)
    for b, k in np.argwhere(np.isfinite(live.totals) & ~continued):
        ends[live.images[b]].append(_End(live.totals[b, k] / max(length, 1) ** penalty, length, b * K + k, None))
    return open_totals


def _select(live: _Live, candidates: _Candidates, open_totals: np.ndarray, decoding: Decoding) -> _Live:
    """SELECT: beam search keeps the K best open candidates of each photo, sampling keeps every open candidate. If a
    photo has fewer than K, it is filled up with dead rows, which repeat a live row with a total of -inf."""
    B, K = len(live.images), decoding.rows
    if decoding.method == "beam":
        kept = np.argsort(-open_totals, axis=1, kind="stable")[:, :K]  # (B, K), or fewer if V < K
    else:
        kept = np.tile(np.arange(K), (B, 1))
    totals = take(open_totals, kept)
    missing = ((0, 0), (0, K - kept.shape[1]))
    kept, totals = np.pad(kept, missing), np.pad(totals, missing, constant_values=-np.inf)
    alive = np.isfinite(totals)
    kept = np.where(alive, kept, take(kept, alive.argmax(axis=1)[:, None]))

    words, rows = take(candidates.words, kept), take(candidates.rows, kept)
    parents = live.prefixes.reshape(live.words.size, live.prefixes.shape[2])[rows]  # (B, K, length)
    prefixes = np.concatenate([parents, words[:, :, None]], axis=2)  # (B, K, length + 1)
    return _Live(live.images, words, rows, take(candidates.log_probabilities, kept), totals, prefixes)


def _going(live: _Live, decoding: Decoding, ends: list[list[_End]]) -> np.ndarray:
    """STOP RULE: whether the search continues for each photo (B,). It continues while a row is alive, except that beam
    search stops once `num_captions` hypotheses are finished and no live one can score above the worst of these. Totals
    are never positive and only fall, so no score can exceed the present total / (max_length + 1) ** length_penalty."""
    going = np.isfinite(live.totals).any(axis=1)
    if decoding.method == "beam":
        bound = live.totals.max(axis=1) / (decoding.max_length + 1) ** decoding.length_penalty
        for b, image in enumerate(live.images):
            scores = sorted(end.score for end in ends[image] if end.log_probability is not None)
            if len(scores) >= decoding.num_captions:
                going[b] &= bound[b] > scores[-decoding.num_captions]
    return going


def _trace(calls: list[_Call], end: _End, alternatives: int) -> Hypothesis:
    """Follow the back-pointers of a hypothesis from its end to its beginning."""
    words, log_probabilities, attention, others = [], [], [], []
    row = end.row
    for t in range(end.call, 0, -1):
        call, choices = calls[t], calls[t - 1].choices  # the word was fed in call t and proposed in call t - 1
        word = int(call.words[row])
        words.append(word)
        log_probabilities.append(float(call.log_probabilities[row]))
        row = call.rows[row]
        if choices.attention is not None:
            attention.append(choices.attention[row])
        if choices.alternatives is not None:
            pairs = zip(*(part[row].tolist() for part in choices.alternatives), strict=True)
            others.append([pair for pair in pairs if pair[0] != word and pair[1] > -math.inf][:alternatives])
    return Hypothesis(
        words[::-1],
        log_probabilities[::-1],
        None if end.log_probability is None else float(end.log_probability),
        float(end.score),
        np.stack(attention[::-1]) if attention else None,
        others[::-1] if alternatives else None,
    )


def force(step: Step, captions: Sequence[Sequence[Sequence[int]]], alternatives: int = 0) -> list[list[Hypothesis]]:
    """Forced decoding: the model is fed given captions (word ids), the same number K per photo. Returns each with the
    log-probabilities of its words and of its end token; its score is their sum."""
    B, K = len(captions), len(captions[0])
    given = [list(words) for each in captions for words in each]  # N captions
    lengths = np.array([len(words) for words in given])
    padded = np.array([words + [EOS] * (1 + max(lengths) - len(words)) for words in given])  # (N, 1 + longest)
    images, own_rows = np.arange(B), np.arange(B * K)
    calls: list[_Call] = []
    ends: dict[int, _End] = {}

    words, rows, log_probabilities = np.full(B, BOS), images, np.zeros(B)
    totals, state = np.zeros(B * K), None
    for length, wanted in enumerate(padded.T):
        # In the first call a photo has one row, which is asked for the first words of all its captions (B, K).
        choose = Choose(wanted=wanted.reshape(len(words), -1), alternatives=alternatives and alternatives + 1)
        choices, state = step(words, rows, state, images, choose)
        _check(choices, length)
        calls.append(_Call(words, rows, log_probabilities, choices))
        words, rows = wanted, images.repeat(K) if length == 0 else own_rows
        log_probabilities = choices.log_probabilities.reshape(-1)
        totals += log_probabilities
        for n in np.flatnonzero(lengths == length).tolist():
            ends[n] = _End(totals[n], length, rows[n], log_probabilities[n])
    found = [_trace(calls, ends[n], alternatives) for n in range(B * K)]
    return [found[start : start + K] for start in range(0, B * K, K)]
