"""Counted n-grams of many captions as flat arrays, which BLEU and CIDEr share.

A caption is a list of words. Its n-grams of order 1 to 4 become 64-bit hashes, so that counting, clipping and look-up
are array operations. (The chance of a collision within one data set is below one in a million.) Scores are not here.

Legend: a *row* is one caption; an *entry* is one distinct n-gram of one row; a *pair* is a candidate and one of
the references of its image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import chain

import numpy as np

ORDERS = 4
Tokens = Sequence[Sequence[str]]  # captions
References = Sequence[Sequence[Sequence[str]]]  # images, their captions


@lru_cache(maxsize=1 << 17)
def _word_code(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _mix(codes: np.ndarray) -> np.ndarray:
    """Spread 64-bit integers over their range (the finalizer of splitmix64)."""
    codes = (codes ^ (codes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    codes = (codes ^ (codes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return codes ^ (codes >> np.uint64(31))


def _occurrences(captions: Tokens) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The code, row and order of every n-gram of every caption, and the length of each caption."""
    lengths = np.fromiter(map(len, captions), np.int64, len(captions))
    total = int(lengths.sum())
    words = np.fromiter(map(_word_code, chain.from_iterable(captions)), np.uint64, total)
    rows = np.repeat(np.arange(len(captions)), lengths)
    at = np.arange(total)
    left = np.repeat(np.cumsum(lengths), lengths) - at  # words from here to the end of the caption
    codes = np.zeros(total, np.uint64)
    parts = []
    for order in range(ORDERS):
        here = left > order
        codes, rows, left, at = codes[here], rows[here], left[here], at[here]
        codes = _mix(codes * np.uint64(0x9E3779B97F4A7C15) + words[at + order] + np.uint64(order))
        parts.append((codes, rows, np.full(len(rows), order, np.int8)))
    codes, rows, orders = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return codes, rows, orders, lengths


def expand(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The concatenated ranges start, start + 1, … start + size - 1."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes - starts, sizes)


@dataclass(frozen=True)
class Ngrams:
    """The entries of some captions, sorted by row, then by id."""

    rows: np.ndarray
    ids: np.ndarray  # an index into `known`; other n-grams have ids from len(known) on
    orders: np.ndarray  # 0 for single words
    codes: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray  # one item per row: its number of words
    starts: np.ndarray  # one item per row, and one more: where its entries begin
    known: np.ndarray  # codes of the n-grams with an id, sorted

    @classmethod
    def count(cls, captions: Tokens, known: np.ndarray | None = None) -> Ngrams:
        """Count n-grams. `known`: the codes that define the ids; by default those of these captions."""
        codes, rows, orders, lengths = _occurrences(captions)
        if known is None:
            known, ids = np.unique(codes, return_inverse=True)
        else:
            ids = find(known, codes)
            new = np.flatnonzero(ids < 0)
            ids[new] = len(known) + np.unique(codes[new], return_inverse=True)[1]
        span = len(known) + len(codes)
        keys = rows * span + ids
        sorting = np.argsort(keys, kind="stable")  # a stable sort is fast because the rows are sorted
        keys = keys[sorting]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        entries = sorting[first]
        counts = np.diff(np.append(first, len(keys)))
        rows = rows[entries]
        starts = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=len(captions)))))
        return cls(
            rows.astype(np.int32),
            ids[entries].astype(np.int32),
            orders[entries],
            codes[entries],
            counts.astype(np.int32),
            lengths,
            starts,
            known,
        )


def find(table: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index in the sorted `table` of each wanted item; -1 where it is absent."""
    if not len(table):
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(table, wanted), len(table) - 1)
    return np.where(table[at] == wanted, at, -1)


@dataclass(frozen=True)
class Pairs:
    """Candidates paired with the references of their images; the pairs of a candidate are adjacent."""

    candidates: np.ndarray
    references: np.ndarray
    starts: np.ndarray  # one item per candidate: where its pairs begin

    @classmethod
    def of(cls, first: np.ndarray, sizes: np.ndarray) -> Pairs:
        """Candidate i with the `sizes[i]` references that begin at row `first[i]`."""
        return cls(np.repeat(np.arange(len(sizes)), sizes), expand(first, sizes), np.cumsum(sizes) - sizes)


@dataclass(frozen=True)
class Shared:
    """The n-grams that candidates share with their references: one item per shared n-gram of a pair."""

    pairs: np.ndarray
    ours: np.ndarray  # index of the candidate's entry
    theirs: np.ndarray  # index of the reference's entry

    @classmethod
    def of(cls, candidates: Ngrams, references: Ngrams, pairs: Pairs) -> Shared:
        """The shared n-grams. `candidates` must have been counted with the ids of `references`."""
        known = np.flatnonzero(candidates.ids < len(references.known))
        each = np.bincount(candidates.rows[known], minlength=len(candidates.lengths))
        sizes = each[pairs.candidates]
        ours = known[expand((np.cumsum(each) - each)[pairs.candidates], sizes)]
        pair = np.repeat(np.arange(len(sizes)), sizes)

        span = len(references.known)
        begins, ends = references.starts[pairs.references], references.starts[pairs.references + 1]
        used = expand(begins, ends - begins)  # entries of the references, pair by pair
        table = np.repeat(np.arange(len(sizes)), ends - begins) * span + references.ids[used]
        at = find(table, pair * span + candidates.ids[ours])
        hit = at >= 0
        return cls(pair[hit], ours[hit], used[at[hit]])
