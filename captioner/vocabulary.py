"""Words: the tokenizer that training, scoring and rewards share, and the vocabulary, which maps words to ids and back.

`tokenize` gives the tokens of the COCO caption evaluation: Penn Treebank rules as in Stanford's PTBTokenizer, lower
case, no punctuation. It was written from that program's observed output and needs neither Java nor a download. Files,
padding and tensors are not handled here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")

# Abbreviations keep their full stop everywhere, so the last word of "on 5th ave." is "ave.".
_ABBREVIATIONS = (
    "al cf co ct dr ft ga jr ky lt md mo mr ms mt ph rd rt sq sr st va vs vt wm adj adm adv ala apr aug ave bhd "
    "cie col cos cpl dak dec det drs ens esq est etc ext feb fla fri gen gov hon inc ind jan jos jul jun kan ltd "
    "maj mar mfg mme mon mrs mtg neb nev nov oct pfc plc pte pty pvt rep rev sen sep seq sfc sgt spc ste sys tel "
    "thu tue wed wis wyo alex ariz assn asst atty bldg blvd brig bros capt cmdr colo conn corp dept elec govs insp "
    "intl invt kans mich minn mlle mont msgr natl okla penn pres prof reps sens sept supt tenn tues univ wisc "
    "assoc attys calif comdr lieut profs thurs treas messrs bancorp"
)
_ABBREVIATED_NAMES = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"  # only capitalised: "Pa.", but not "her pa."
# After a single letter and a full stop, these words begin a new sentence, so the stop in "vitamin C. The" ends a
# sentence.
_SENTENCE_STARTS = (
    "A About After All An And As At But He Her Here However If In It Last Many More Now Once One Other Our She "
    "Since So Some Such That The Their Then There These They This We What When While Yet You"
)
_PARTS = {
    "cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"), "wanna": ("wan", "na"),
    "lemme": ("lem", "me"), "gimme": ("gim", "me"), "'tis": ("'t", "is"), "'twas": ("'t", "was"),
}  # fmt: skip
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_REWRITTEN = {
    "¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "£": "#", "€": "$", "¢": "cents",
    "&amp;": "&", "&lt;": "<", "&gt;": ">",
}  # fmt: skip


def _any(words: str) -> str:
    return "(?:" + words.replace(" ", "|") + ")"


# Combining accents and vowel signs are part of words, but \w does not match them.
_MARKS = (
    r"\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05c1\u05c2\u0610-\u061a\u064b-\u065e\u0670\u06d6-\u06dc\u06df-\u06e4"
    r"\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u17b4-\u17d3"
) + "".join(rf"\u{b:04x}-\u{b + 3:04x}\u{b + 0x3C:04x}-\u{b + 0x4D:04x}" for b in range(0x900, 0xD80, 0x80))
_FIGURES = r"\xb2\xb3\xb9\xbc-\xbe\u2070-\u2089\u2150-\u2182\u2460-\u249b\u2776-\u2793"  # ² ½ ③: \w, but not digits
_W = rf"(?:(?![_{_FIGURES}])[\w{_MARKS}])"  # a letter or a digit
_L = rf"(?:(?![\d_{_FIGURES}])[\w{_MARKS}])"  # a letter
_A = r"['\u2019\x92]"  # an apostrophe
_SHORT = rf"(?:s|m|d|re|ve|ll)(?!{_W})"  # what may follow an apostrophe
# Dropped: quotation marks, stops, dashes, invisible characters, emoji, and characters that Unicode added recently.
_SILENT = (
    r"\x00-\x20'\"`.,:;?!\-\x7f-\xa0\xab\xad\xbb\u200b-\u200f\u2010-\u2015\u2018-\u201b\u201c\u201d\u2026\u2028-\u202f"
    r"\u2039\u203a\u2060-\u206f\u20a1-\u20a3\u20a5-\u20ab\u20ad-\u20cf\ue000-\uf8ff\ufe00-\ufe0f\ufeff\U00010000-\U0010ffff"
)
# The alternatives are ordered so that the first match is the longest. Characters that no alternative matches are
# dropped.
_TOKEN = re.compile(
    rf"""
    (?:https?://|www\.)[^\s<>"'()|]*[^\s<>"'()|.,!?;:-] | {_W}[\w.-]{{0,64}}@{_W}[\w-]*(?:\.\w[\w-]*)*  # addresses
  | </?[a-z!][^>\s]{{0,80}}> | &(?:amp|lt|gt|\#\d+); | -[lr][rsc]b-
  | (?P<nothing>&(?:nbsp|quot|apos|mdash|ndash);)
  | (?:cannot|gonna|gotta|wanna|lemme|gimme|'tis|'twas)(?!{_W})
  | (?:{_W}+-)*{_L}+?(?=n{_A}t(?!{_W})) | (?P<short>n{_A}t(?!{_W}) | (?<!{_A}){_A}{_SHORT})       # do n't, dog 's
  | {_A}(?:till?|em|cause|n{_A}|n(?!{_W})|[2-9]0s(?!{_W})|\d\d(?![\w/']))                         # rock 'n' roll
  | (?:(?:[a-z0-9]+-)?[dlo]{_A}{_W}{{2,}} | (?-i:[A-HJ-XZn]){_A}{_L}{{2,}}
      | {_L}+[aeiouy]{_A}(?!{_SHORT})(?-i:[aeiouA-Z]){_L}*)(?:-{_W}+)*                            # O'Neil, d'oeuvre
  | c{_A}(?:mon|est)|ev{_A}ry|li{_A}l|nat{_A}l|s{_A}mores|nor{_A}easter|cont{_A}d\.|e{_A}er|o{_A}o(?!{_W})
  | (?:[dlj]|ol|dunkin|somethin|y(?={_A}{_W})){_A}(?!{_SHORT})
  | \d{{1,4}}-\d{{1,4}}/\d{{1,4}}
  | [a-z0-9]+(?:-[a-z]+){{0,2}}(?:/[a-z0-9]+(?:-[a-z]+){{0,2}}){{1,2}}                            # and/or, 3/4
  | {_W}(?:{_W}|[.,]){{0,40}}(?:[-\u2010\u2011](?:(?:{_L}\.){{2,}}|{_W}+))+(?:\.(?=[,;:]))?       # t-shirt, U.S.-made
  | (?P<initial>{_L})\.(?=\s+(?-i:{_any(_SENTENCE_STARTS)})(?:\s|$))
  | (?:{_L}\.)+(?!{_L}) | ph\.d\. | (?:{_any(_ABBREVIATIONS)}|(?-i:{_any(_ABBREVIATED_NAMES)}))\.(?!{_L})
  | (?:nos?|figs?|pp|art)\.(?=\s*\d)
  | (?:(?<!-)[-+])?(?:\d*(?:[.:,]\d+)+|(?<=[-+])\d+)                                              # 1,000 12:43 -5
  | (?-i:[A-Z]+(?:&[A-Z]+)+) | (?-i:[A-Z]{{1,2}})\$ | c\+\+ | [cf]\#(?!{_W})                      # B&W
  | {_W}+(?:_{_W}+)+(?:-{_W}+)*
  | {_L}{_W}*(?:[.!?]{_L}{_W}*)*(?:\.(?=[,;:]))? | {_W}+(?:\.(?=[,;:]))?  # word, ground.A
  | [:;=]-?(?:[()]|(?-i:[DPO])(?!{_W})) | (?:\#+|@)[a-z]+ | \#{{2,}} | [?!]{{2,}} | -{{5,}} | \*+ | _+ | <<|>>
  | [{_FIGURES}] | [^\w{_SILENT}]
    """,
    re.VERBOSE | re.IGNORECASE,
)
_PLAIN = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*(?: +[a-z0-9]+(?:-[a-z0-9]+)*)*").fullmatch
_NEEDS_STOP = frozenset(f"{_ABBREVIATIONS} {_ABBREVIATED_NAMES}".lower().split()).union("abcdefghijklmnopqrstuvwxyz")


def tokenize(caption: str) -> list[str]:
    """The words of a caption, as in the COCO caption evaluation: Penn Treebank rules, lower case, no punctuation."""
    # For most captions, plain words with a full stop at the end, splitting at spaces is enough.
    lowered = caption.lower().strip().replace(", ", " ")
    stopped = lowered.endswith(".")
    if stopped:
        lowered = lowered[:-1].rstrip()
    if _PLAIN(lowered):
        words = lowered.split()
        if _PARTS.keys().isdisjoint(words) and not (stopped and words[-1] in _NEEDS_STOP):
            return words
    words = []
    for match in _TOKEN.finditer(caption.replace("\xad", "")):
        kind, token = match.lastgroup, match[0].lower()
        if kind == "short":
            token = token.replace("\u2019", "'").replace("\x92", "'")
        elif kind == "initial":
            token = token[:-1]
        elif kind == "nothing":
            continue
        if not token[0].isalpha():
            token = _REWRITTEN.get(token, token)
            for bracket in _BRACKETS.keys() & set(token):
                token = token.replace(bracket, _BRACKETS[bracket])
        words.extend(_PARTS.get(token, (token,)))
    return words


# Scripts that are written without spaces between words, each with a mean word length that only unsegmented text
# reaches.
_UNSPACED = (
    (re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"), 3),  # kana, Han
    (re.compile(r"[\u0e00-\u0eff\u0f40-\u0fbc\u1000-\u109f\u1780-\u17ff]"), 9),  # Thai, Lao, Tibetan, Burmese, Khmer
)
UNSEPARATED = (
    "the words of the captions are not separated by spaces, so each phrase counts as one word; separate the words with "
    "a segmenter for the language first"
)


def words_are_separated(captions: Iterable[str]) -> bool:
    """Whether captions in scripts without spaces, such as Chinese, have been segmented with spaces between words,
    judged by the mean word length."""
    letters, words = [0, 0], [0, 0]
    for caption in captions:
        if caption.isascii():
            continue
        for word in caption.split():
            for script, (letter, _) in enumerate(_UNSPACED):
                if count := len(letter.findall(word)):
                    letters[script] += count
                    words[script] += 1
    return all(letters[script] <= most * words[script] for script, (_, most) in enumerate(_UNSPACED))


_WRITTEN = {word: bracket for bracket, word in _BRACKETS.items()}
_JOINED_LEFT = re.compile(r"'(?:s|m|d|re|ve|ll)|n't|[%)\]}]")


def detokenize(words: Sequence[str]) -> str:
    """The words as text: `["a", "dog", "'s", "ball"]` becomes "a dog's ball"."""
    text = ""
    for word in words:
        word = _WRITTEN.get(word, word)
        if text and not _JOINED_LEFT.fullmatch(word) and not text.endswith(("(", "[", "{", "#", "$")):
            text += " "
        text += word
    return text


# Words that do not name anything one can point at.
_NOT_CONTENT = (
    "a an the and or but of in on at to for from with by into onto over under near next through between behind beside "
    "above below before after while as that this these those his her its their it he she they i you we who which what "
    "where when is are be been being was were has have having had do does can will not no so just more most than then "
    "them him himself there some other another one two three four five several many few each all both very up down out "
    "off top side front back around across along inside outside toward towards against during about 's n't"
)
FUNCTION_WORDS = frozenset(_NOT_CONTENT.split())


class Vocabulary:
    """The mapping between words and ids. Ids 0 to 3 are the specials (see `SPECIALS`); `words` have the ids from 4
    on."""

    def __init__(self, words: Sequence[str]):
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"the vocabulary is {words!r:.60}; expected a list of words.")
        if re.search("[\ud800-\udfff]", "".join(words)):
            raise ValueError("the vocabulary has a lone surrogate (half a character); expected words that are text.")
        self.words = tuple(words)
        self._table = (*SPECIALS, *self.words)
        self._ids = {word: index for index, word in enumerate(self._table)}
        if len(self._ids) != len(self._table):
            repeated = [word for word, count in Counter(self._table).items() if count > 1]
            raise ValueError(
                f"words listed twice, or equal to a special token ({', '.join(SPECIALS)}): {', '.join(repeated[:5])}. "
                "Remove them from the list of words."
            )

    @classmethod
    def build(cls, captions: Iterable[Sequence[str]], min_count: int = 5) -> Vocabulary:
        """The vocabulary of tokenized captions: words that occur at least `min_count` times, most frequent first."""
        counts = Counter(word for caption in captions for word in caption)
        frequent = [word for word, count in counts.items() if count >= min_count and word not in SPECIALS]
        return cls(sorted(frequent, key=lambda word: (-counts[word], word)))

    @cached_property
    def function_words(self) -> list[int]:
        """The ids of words that are not content words: function words, numbers and signs."""
        others = (index for index, word in enumerate(self._table) if not word.isalpha() or word in FUNCTION_WORDS)
        return [index for index in others if index >= len(SPECIALS)]

    def encode(self, words: Iterable[str]) -> list[int]:
        """The ids of words, without BOS or EOS. Unknown words, and words equal to a special token, become UNK."""
        return [max(self._ids.get(word, UNK), UNK) for word in words]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words of ids, up to the first EOS. PAD and BOS are skipped, UNK becomes "<unk>"."""
        words = []
        for index in ids:
            if index == EOS:
                break
            if index not in (PAD, BOS):
                words.append(self._table[index])
        return words

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __getitem__(self, index: int) -> str:
        return self._table[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self.words)} words and {len(SPECIALS)} special tokens)"
