"""Text for language models: files become documents, documents become token ids, ids become batches. A long text is cut
into parallel streams, which are read segment by segment while the state is carried over; short documents are batched
whole. Every random choice is a function of the seed.

The inputs of a document are BOS, x_1, x_2, …, and its targets x_1, x_2, …, EOS. Each target is the next input, unless a
new document starts there. So a text is stored as its targets and the positions where documents start."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captioner.data.readers import read_captions, select
from captioner.vocabulary import BOS, EOS, PAD, SPECIALS, Vocabulary, tokenize

Level = Literal["word", "character"]
Document = Literal["file", "line"]

_ARTICLE = re.compile(r" = [^=].* =\s*$").match  # WikiText: a top-level heading
_JOINED = re.compile(r" @([-,.])@ ")  # WikiText writes 1,000 as 1 @,@ 000


@dataclass(frozen=True)
class Text:
    """The tokens of some documents, each of which ends in EOS."""

    tokens: tuple[str, ...]  # the distinct ones, in order of first occurrence
    ids: np.ndarray  # (n,) int32: 0 for EOS, else 1 + an index into `tokens`
    starts: np.ndarray  # (n,) bool: whether a document starts here

    @classmethod
    def of(cls, documents: Iterable[Iterable[str | None]]) -> Text:
        """Documents are sequences of tokens, with None for EOS. Empty ones are left out."""
        table: dict[str | None, int] = {None: 0}
        parts, lengths = [], []
        for document in documents:
            ids = [table.setdefault(token, len(table)) for token in document]
            if any(ids):
                if ids[-1]:
                    ids.append(0)
                parts.append(np.array(ids, np.int32))
                lengths.append(len(ids))
        starts = np.zeros(sum(lengths), bool)
        starts[np.cumsum([0, *lengths[:-1]])[: len(lengths)]] = True
        tokens = tuple(token for token in table if token is not None)
        return cls(tokens, np.concatenate(parts) if parts else np.zeros(0, np.int32), starts)

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, begin: int, end: int) -> Text:
        """The text from position `begin` to `end`. If `begin` is inside a document, a new document starts there."""
        starts = self.starts[begin:end].copy()
        starts[:1] = True
        return Text(self.tokens, self.ids[begin:end], starts)

    def vocabulary(self, min_count: int = 1) -> Vocabulary:
        """The tokens that occur at least `min_count` times, most frequent first."""
        counts = dict(zip(self.tokens, np.bincount(self.ids, minlength=len(self.tokens) + 1)[1:].tolist(), strict=True))
        frequent = [token for token, count in counts.items() if count >= min_count and token not in SPECIALS]
        return Vocabulary(sorted(frequent, key=lambda token: (-counts[token], token)))

    def encode(self, vocabulary: Vocabulary) -> np.ndarray:
        """The token ids of the text, (n,) int32, with EOS where a line or a document ends."""
        return np.array([EOS, *vocabulary.encode(self.tokens)], np.int32)[self.ids]


def read_documents(
    paths: Sequence[Path], level: Level = "word", document: Document = "file", split: str = "train"
) -> Iterator[list[str | None]]:
    """The documents of UTF-8 text files as tokens. At word level, None (EOS) ends each line. A path may also be the
    folder of a data set, whose captions in `split` are the lines.

    `document` is what counts as a document: a file, or a line (a sentence, a caption). In a file in WikiText's format,
    a document is an article. Words are the tokens of `tokenize`; characters include line breaks.
    Raises FileNotFoundError, and ValueError with the line's number for text that is not UTF-8.
    """
    for path in paths:
        tokens: list[str | None] = []
        for line in _captions(path, split) if path.is_dir() else _lines(path):
            if document == "line" or _ARTICLE(line):
                yield tokens
                tokens = []
            if level == "character":
                tokens.extend(line if document == "file" else line.rstrip("\n"))
            elif words := tokenize(_JOINED.sub(r"\1", line)):
                tokens.extend([*words, None])
        yield tokens


def _captions(folder: Path, split: str) -> Iterator[str]:
    return (f"{caption}\n" for entry in select(read_captions(folder), split) for caption in entry.captions)


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").replace("\r\n", "\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}, line {number} is not UTF-8 ({error.reason}). Convert the file.") from None


class Segment(NamedTuple):
    """A batch of text, all (B, T)."""

    inputs: Tensor
    targets: Tensor  # PAD at positions without a prediction
    starts: Tensor  # bool: the input is the BOS of a document; the state is reset before it

    def parts(self) -> Iterator[Segment]:
        """The segment, cut so that in each part documents start only in the first column."""
        columns = self.starts[:, 1:].any(0).nonzero().flatten().add(1).tolist()
        for begin, end in zip([0, *columns], [*columns, self.inputs.shape[1]], strict=True):
            yield Segment(*(part[:, begin:end] for part in self))


def reset(state: tuple[Tensor, ...] | None, starts: Tensor) -> tuple[Tensor, ...] | None:
    """The state, each part (L, B, H), with zeros for the rows (B,) where a document starts."""
    return state and tuple(part.masked_fill(starts[:, None], 0) for part in state)


class Streams:
    """A text as B contiguous streams of equal length; item (begin, end) is their columns in that range. The last stream
    may be shorter and is padded, so every token is predicted once per epoch."""

    def __init__(self, targets: np.ndarray, starts: np.ndarray, streams: int):
        """Targets (n,) and document starts (n,), as in `Text`."""
        inputs = np.where(starts, BOS, np.concatenate([[BOS], targets[:-1]]))
        self.length = -(-len(targets) // streams)
        padded = np.zeros((3, streams * self.length), np.int32)  # PAD is 0
        padded[:, : len(targets)] = inputs, targets, starts
        self.columns = padded.reshape(3, streams, self.length)

    def __getitem__(self, span: tuple[int, int]) -> Segment:
        inputs, targets, starts = torch.from_numpy(self.columns[:, :, slice(*span)].astype(np.int64))
        return Segment(inputs, targets, starts.bool())

    def spans(self, bptt: int, seed: Sequence[int] | None = None) -> list[tuple[int, int]]:
        """The segments of an epoch, in order: `bptt` columns each, the last one shorter.

        With a seed, such as (seed, epoch), lengths vary as in AWD-LSTM (Merity, Keskar and Socher 2018, section 4.1):
        the mean is bptt with probability 0.95, otherwise half of it; the length is drawn from a normal distribution
        with standard deviation 5, and is at least 5. A step over a segment of length T should then scale the learning
        rate by T / bptt.
        """
        spans, begin = [], 0
        random = None if seed is None else np.random.default_rng(seed)
        while begin < self.length:
            size = bptt
            if random is not None:
                size = max(5, round(random.normal(bptt if random.random() < 0.95 else bptt / 2, 5)))
            spans.append((begin, min(begin + size, self.length)))
            begin += size
        return spans


class Documents:
    """Short documents, such as captions, batched whole; item [i, j, …] has these documents as padded rows."""

    def __init__(self, targets: np.ndarray, starts: np.ndarray):
        self.documents = np.split(targets, np.flatnonzero(starts)[1:])

    def __getitem__(self, indices: Sequence[int]) -> Segment:
        chosen = [self.documents[index] for index in indices]
        targets = torch.full((len(chosen), max(map(len, chosen))), PAD)
        for row, document in enumerate(chosen):
            targets[row, : len(document)] = torch.from_numpy(document)
        inputs = torch.cat([torch.full((len(chosen), 1), BOS), targets[:, :-1]], dim=1)
        starts = torch.zeros_like(targets, dtype=torch.bool)
        starts[:, 0] = True
        return Segment(inputs, targets, starts)

    def batches(self, batch_size: int, seed: Sequence[int] | None = None) -> list[list[int]]:
        """The batches of an epoch: all documents once, the last batch smaller. With a seed, documents of similar length
        are batched together to reduce padding, and the batches are shuffled. Without one, documents are in order."""
        count = len(self.documents)
        order = np.arange(count)
        if seed is not None:
            random = np.random.default_rng(seed)
            lengths = np.array([len(document) for document in self.documents])
            order = np.argsort(lengths + random.uniform(0, 2, count), kind="stable")
        batches = [order[start : start + batch_size].tolist() for start in range(0, count, batch_size)]
        if seed is not None:
            random.shuffle(batches)
        return batches
