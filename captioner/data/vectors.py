"""Word vectors from text files: GloVe, word2vec or fastText (`.vec`), plain or gzip. A line is a word and its numbers,
separated by single spaces; word2vec starts with a line `COUNT SIZE` and ends each line with a space. Only words of the
vocabulary are kept. Words are compared as bytes, so that one damaged word does not make the file unreadable."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from captioner.vocabulary import SPECIALS, Vocabulary

LONGEST_WORD, LONGEST_NUMBER = 10_000, 100  # bytes


class Readable(Protocol):
    def readline(self, size: int) -> bytes: ...


class WordVectors(NamedTuple):
    ids: np.ndarray  # (n,) ids of the words found, ascending
    vectors: np.ndarray  # (n, E) float32
    share: float  # of the vocabulary's words, without special tokens


def read_vectors(path: str | Path, vocabulary: Vocabulary, size: int) -> WordVectors:
    """The vectors of a vocabulary's words from a file of vectors with `size` numbers. If a word occurs twice, the first
    line counts, because the files list frequent words first.

    Raises FileNotFoundError, and ValueError with the line's number for a line that is not a word and `size` finite
    numbers, for a damaged archive, and for fewer lines than the first line promises.
    """
    path = Path(path)
    wanted = {
        word.encode("utf-8", "surrogatepass"): index for index, word in enumerate(vocabulary.words, len(SPECIALS))
    }
    found: dict[int, np.ndarray] = {}
    promised, number, longest = None, 0, LONGEST_WORD + LONGEST_NUMBER * size
    with _open(path) as file:
        try:
            for number, line in enumerate(iter(partial(file.readline, longest), b""), 1):
                if len(line) == longest:
                    raise ValueError(f"{path}, line {number} is too long; expected a word and {size} numbers.")
                line = line.rstrip()
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                    promised = _header(line, path, size)
                    if promised is not None:
                        continue
                if line.count(b" ") == size:
                    word = line[: line.index(b" ")]
                else:
                    word = _word_with_spaces(line, path, number, size)
                index = wanted.pop(word, None)
                if index is not None:
                    found[index] = _numbers(line, path, number, size)
        except (EOFError, OSError, zlib.error) as error:  # raised by gzip; BadGzipFile is an OSError
            raise ValueError(f"{path} is damaged after line {number} ({error}). Download it again.") from None
    if not number:
        raise ValueError(f"{path} is empty; expected a word and {size} numbers per line.")
    if promised is not None and number - 1 < promised:
        raise ValueError(
            f"{path} ends at line {number}, but its first line promises {promised} words. Download it again."
        )
    ids = sorted(found)
    vectors = np.array([found[index] for index in ids], np.float32).reshape(-1, size)
    return WordVectors(np.array(ids, np.int64), vectors, len(ids) / max(1, len(vocabulary.words)))


@contextmanager
def _open(path: Path) -> Iterator[Readable]:
    with path.open("rb") as file:
        kind = file.peek(4)[:4]
        if kind == b"PK\x03\x04":
            raise ValueError(f"{path} is a zip archive; expected text or gzip. Unpack it first: unzip {path.name}")
        yield gzip.GzipFile(fileobj=file) if kind[:2] == b"\x1f\x8b" else file


def _header(line: bytes, path: Path, size: int) -> int | None:
    """The number of words that word2vec's first line `COUNT SIZE` promises; None for any other line."""
    count, space, numbers = line.partition(b" ")
    if not (space and count.isdigit() and numbers.isdigit() and size > 1):
        return None
    if int(numbers) != size:
        raise _wrong_size(path, 1, int(numbers), size)
    return int(count)


def _word_with_spaces(line: bytes, path: Path, number: int, size: int) -> bytes:
    """The word of a line whose number of spaces is not `size`. Some words in GloVe's 840B file contain spaces, such as
    ". . .". A word with spaces that contains a decimal fraction is refused, because the line has too many numbers."""
    fields = line.split(b" ")
    numbers = 0
    while numbers < len(fields) - 1 and _is_number(fields[-1 - numbers]):
        numbers += 1
    extra = fields[1 : len(fields) - size]
    if numbers < size or any(b"." in field and _is_number(field) for field in extra):
        raise _wrong_size(path, number, numbers, size)
    return b" ".join(fields[:-size])


def _numbers(line: bytes, path: Path, number: int, size: int) -> np.ndarray:
    try:
        values = np.array([float(field) for field in line.split(b" ")[-size:]], np.float32)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}; expected a word and {size} numbers.") from None
    if not np.isfinite(values).all():
        raise ValueError(f"{path}, line {number} holds nan or inf; expected {size} finite numbers.")
    return values


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _wrong_size(path: Path, line: int, found: int, size: int) -> ValueError:
    return ValueError(
        f"{path}, line {line}: a vector of {found} numbers, but the embedding size is {size}. Pass "
        "--model.embedding-size to match the file, or fix the line."
    )
