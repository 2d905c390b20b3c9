"""Word vectors: rows of text files against the numbers that were written, and the line that a fault is in."""

import gzip

import numpy as np
import pytest

from captioner.data.vectors import read_vectors
from captioner.vocabulary import SPECIALS, Vocabulary

WORDS = Vocabulary(["a", "dog", "naïve", "ball", "zebra"])
ROWS = {"the": [9, 9, 9], "naïve": [0.1, -2, 3e-2], "a": [1, 2, 3], "dog": [-0.5, 0.25, 0], "ball": [4, 5, 6]}
PLAIN = "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in ROWS.items()).encode()


def write(path, content: bytes):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        gzip.compress(PLAIN, mtime=0),
        b"5 3\n" + PLAIN.replace(b"\n", b" \n"),  # word2vec: a header, and a space at each line's end
        b"\xef\xbb\xbf" + PLAIN.replace(b"\n", b"\r\n"),
        PLAIN + b"a 7 7 7\n",  # the first line of a word counts
        b". . . 1 2 3\nat name@domain.com 1 2 3\non 2008 1 2 3\n" + PLAIN,  # words with spaces
        b"\xff\xfe\xc3 1 2 3\n" + PLAIN + b"dog\xc2\xa0s 1 2 3\nx\xc2\x85y 3 4 5\n",  # no UTF-8; spaces of Unicode
    ],
)
def test_rows_are_those_of_the_file(tmp_path, content):
    ids, vectors, share = read_vectors(write(tmp_path / "vectors.txt", content), WORDS, 3)
    assert [WORDS[index] for index in ids] == ["a", "dog", "naïve", "ball"]
    np.testing.assert_array_equal(vectors, np.array([ROWS[WORDS[index]] for index in ids], np.float32))
    assert share == 4 / 5 and vectors.dtype == np.float32


def test_specials_are_not_looked_up(tmp_path):
    content = b"".join(f"{word} 1 2 3\n".encode() for word in SPECIALS)
    ids, vectors, share = read_vectors(write(tmp_path / "vectors.txt", content), WORDS, 3)
    assert (len(ids), vectors.shape, share) == (0, (0, 3), 0)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "is empty"),
        (PLAIN + b"zebra 1 2\n", "line 6: a vector of 2 numbers, but the embedding size is 3"),
        (PLAIN + b"zebra 0.1 0.2 0.3 0.4\n", "line 6: a vector of 4 numbers"),
        (PLAIN + b"zebra 1 x 3\n", "line 6: could not convert"),
        (PLAIN + b"zebra 1 nan 3\n", "line 6 holds nan or inf"),
        (PLAIN + b"\n" + PLAIN, "line 6: a vector of 0 numbers"),
        (b"5 4\n" + PLAIN, "line 1: a vector of 4 numbers"),
        (b"6 3\n" + PLAIN, "ends at line 6, but its first line promises 6 words"),
        (gzip.compress(PLAIN, mtime=0)[:-12], "is damaged after line"),
        (gzip.compress(PLAIN, mtime=0)[:12] + bytes(50), "is damaged after line"),
        (gzip.compress(PLAIN + b"zebra " + b"1 " * 10_000_000, mtime=0), "line 6 is too long"),
        (b"PK\x03\x04 and so on", "is a zip archive"),
    ],
)
def test_the_line_of_a_fault_is_named(tmp_path, content, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_vectors(write(tmp_path / "vectors.txt", content), WORDS, 3)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_vectors(tmp_path / "none.txt", WORDS, 3)
