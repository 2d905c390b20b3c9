"""Properties of words and characters that a unit of the recurrent network may follow. Each maps the tokens of a text to
one number per token, which depends on what is known once that token is read. Deliberately simple: closed lists of
words, no parser."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Properties = Mapping[str, Callable[[Sequence[str]], np.ndarray]]

COLOURS = "black blue brown dark gray green grey light orange pink purple red silver tan white yellow"
PREPOSITIONS = (
    "about above across against along among around at behind below beneath beside between by down for from in inside "
    "into near of off on onto out over past through to toward towards under up upon with without"
)
PLURALS = (
    "adults animals babies balls bicycles bikes birds boats boys buildings cars cats children clothes cows cyclists "
    "dogs elephants flowers friends girls guys hands horses kids leaves men mountains others people players puppies "
    "rocks sheep shirts skiers soldiers stairs steps toys trees women"
)
PEOPLE = (
    "adult adults baby biker boy boys child children climber couple crowd cyclist girl girls guy guys kid kids lady "
    "man men people person player players rider runner skateboarder skier snowboarder surfer team toddler woman women"
)
ANIMALS = "animal bear bird birds cat cats cow cows dog dogs elephant giraffe horse horses puppies puppy sheep zebra"


def _is_in(names: str) -> Callable[[Sequence[str]], np.ndarray]:
    known = frozenset(names.split())
    return lambda words: np.array([word in known for word in words], float)


def _since(names: str) -> Callable[[Sequence[str]], np.ndarray]:
    return lambda words: np.maximum.accumulate(_is_in(names)(words))


def _in_phrase(words: Sequence[str]) -> np.ndarray:
    here = _is_in(PREPOSITIONS)(words)
    return np.array([here[max(0, t - 2) : t + 1].max() for t in range(len(words))])


def _next(names: str) -> Callable[[Sequence[str]], np.ndarray]:
    return lambda words: np.append(_is_in(names)(words)[1:], 0.0)


OF_WORDS: Properties = {
    "how many words are written": lambda words: np.arange(len(words), dtype=float),
    "how near the end is": lambda words: -np.arange(len(words), 0, -1, dtype=float),
    "a colour was just said": _is_in(COLOURS),
    "a preposition, up to two words ago": _in_phrase,
    "a preposition was just said": _is_in(PREPOSITIONS),
    "an article was just said": _is_in("a an the"),
    "a plural noun comes next": _next(PLURALS),
    "a person was named": _since(PEOPLE),
    "an animal was named": _since(ANIMALS),
}


def _line_position(characters: Sequence[str]) -> np.ndarray:
    ends = np.array([character == "\n" for character in characters])
    places = np.arange(1, len(ends) + 1)
    return (places - np.maximum.accumulate(np.where(ends, places, 0))).astype(float)


def _to_line_end(characters: Sequence[str]) -> np.ndarray:
    return _line_position(characters[::-1])[::-1] * -1


def _inside(pattern: str) -> Callable[[Sequence[str]], np.ndarray]:
    """1 from the first to the second-to-last character of each match, because the match is over once its last character
    is read."""

    def property(characters: Sequence[str]) -> np.ndarray:
        found = np.zeros(len(characters))
        for match in re.finditer(pattern, "".join(characters)):
            found[match.start() : match.end() - 1] = 1
        return found

    return property


def _is(kind: Callable[[str], bool]) -> Callable[[Sequence[str]], np.ndarray]:
    return lambda characters: np.array([kind(character) for character in characters], float)


def _word_length(characters: Sequence[str]) -> np.ndarray:
    inside = np.array([character.isalpha() for character in characters])
    places = np.arange(1, len(inside) + 1)
    return (places - np.maximum.accumulate(np.where(inside, 0, places))).astype(float)


# Quotation marks and brackets count only if they are closed within the paragraph.
OF_CHARACTERS: Properties = {
    "position in the line": _line_position,
    "how near the end of the line is": _to_line_end,
    "inside quotation marks": _inside(r'"(?:(?!\n\s*\n)[^"])+"|“(?:(?!\n\s*\n)[^”])+”'),
    "inside brackets": _inside(r"\((?:(?!\n\s*\n)[^()])+\)|\[(?:(?!\n\s*\n)[^\[\]])+\]"),
    "in the indentation of a line": _inside(r"(?<![^\n]) +\S"),
    "in an indented line": _inside(r"(?<![^\n]) [^\n]+\n"),
    "letters of the word so far": _word_length,
    "a capital letter was just read": _is(str.isupper),
    "a digit was just read": _is(str.isdigit),
    "a sentence has just ended": _inside(r"[.!?]\s+\S"),
}
