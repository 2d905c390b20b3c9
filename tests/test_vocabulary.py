"""The tokenizer beside the COCO toolkit's own, and the table of words."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from captioner.vocabulary import BOS, EOS, PAD, SPECIALS, UNK, Vocabulary, detokenize, tokenize

GOLDEN = json.loads((Path(__file__).parent / "golden" / "tokens.json").read_text(encoding="utf-8"))
DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.parametrize(("caption", "expected"), GOLDEN, ids=[caption[:30] for caption, _ in GOLDEN])
def test_tokens_are_those_of_the_java_tokenizer(caption, expected):
    assert tokenize(caption) == expected.split()


def test_plain_captions_take_a_shortcut_to_the_same_words():
    for caption, _ in GOLDEN:
        # A bracket at the end keeps a caption off the shortcut and adds one word.
        assert [*tokenize(caption.rstrip(". ")), "-lrb-"] == tokenize(caption.rstrip(". ") + " ("), caption


def test_stops_at_the_end():
    assert tokenize("A man on Main St.") == ["a", "man", "on", "main", "st."]
    assert tokenize("A man on his bench.") == ["a", "man", "on", "his", "bench"]
    assert tokenize("A man and plan B.")[-1] == "b."
    assert tokenize("it''s") == ["it", "s"]


@pytest.mark.parametrize("caption", ["", " ", "\n", "...", "?", "“ ”", "😀", "\x00"])
def test_captions_without_words(caption):
    assert tokenize(caption) == []


def test_unicode_survives():
    words = ["café", "naïve", "straße", "日本語", "привет", "हिन्दी", "עברית", "ไทย", "한국어"]
    assert tokenize(" ".join(words) + ".") == words
    assert Vocabulary(words).decode(Vocabulary(words).encode(words)) == words


def test_words_as_written():
    assert detokenize(["a", "dog", "'s", "ball"]) == "a dog's ball"
    assert detokenize(["they", "do", "n't", "-lrb-", "50", "%", "-rrb-"]) == "they don't (50%)"
    assert detokenize([]) == ""


@pytest.mark.parametrize(
    "caption",
    ["the dog's ball", "they don't see what we've got", "a t.v. on 8th ave. and st.", "5 o'clock (50%) for $5 at #41"],
)
def test_written_words_are_read_again(caption):
    assert detokenize(tokenize(caption)) == caption
    assert tokenize(detokenize(tokenize(caption))) == tokenize(caption)


@pytest.mark.parametrize(
    "piece", ["a", "a-", "a.", "'", "a,", "1.", "a/", "<a", "a@", "_a", "n't", "(", "a' ", "U.S.-"]
)
def test_time_grows_with_length_and_no_faster(piece):
    start = time.process_time()
    tokenize(piece * 3_000)
    assert time.process_time() - start < 1


def test_ids():
    v = Vocabulary(["dog", "a"])
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    assert [v[index] for index in range(len(v))] == [*SPECIALS, "dog", "a"]
    assert v.encode(["a", "cat", "dog"]) == [5, UNK, 4]
    assert v.encode(["<eos>", "<pad>", "dog"]) == [UNK, UNK, 4], "a word that reads like a special is none"
    assert v.decode([BOS, 5, PAD, UNK, 4, EOS, 5]) == ["a", "<unk>", "dog"]
    assert "dog" in v and "cat" not in v
    assert v.words == ("dog", "a")
    assert v == Vocabulary(("dog", "a")) and v != Vocabulary(["a", "dog"]) and v != ("dog", "a")


def test_function_words():
    vocabulary = Vocabulary(["a", "dog", "on", "2", "'s", "t-shirt", "above", "café"])
    assert vocabulary.decode(vocabulary.function_words) == ["a", "on", "2", "'s", "t-shirt", "above"]


def test_order_is_by_count_then_by_word():
    captions = [["b", "a"], ["c", "b", "a"], ["c", "<unk>", "<unk>"], ["rare"]]
    assert Vocabulary.build(captions, min_count=2).words == ("a", "b", "c")
    assert Vocabulary.build(reversed(captions), min_count=2) == Vocabulary.build(iter(captions), min_count=2)
    assert Vocabulary.build([["b"], ["a", "b"]], min_count=1).words == ("b", "a")
    assert Vocabulary.build([["a"] * 4]).words == () and Vocabulary.build([["a"] * 5]).words == ("a",)


@pytest.mark.parametrize("words", [["a", "a"], ["a", "<eos>"]])
def test_repeated_words_and_specials_are_refused(words):
    with pytest.raises(ValueError, match=words[-1]):
        Vocabulary(words)


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "least"), [("coco/captions_val2017.json", 24_990 / 25_014), ("flickr8k/Flickr8k.token.txt", 0.9995)]
)
def test_agreement_on_real_captions(name, least):
    ptb = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    from captioner.metrics.java import java_problem

    if not (DATA / name).exists() or java_problem("METEOR"):
        pytest.skip("needs the development data and Java")
    text = (DATA / name).read_text(encoding="utf-8")
    if name.endswith(".json"):
        captions = [annotation["caption"] for annotation in json.loads(text)["annotations"]]
    else:
        captions = [line.split("\t")[1] for line in text.split("\n") if "\t" in line]
    java = ptb.PTBTokenizer().tokenize({0: [{"caption": caption} for caption in captions]})[0]
    same = sum(tokenize(caption) == words.split() for caption, words in zip(captions, java, strict=True))
    assert same >= least * len(captions)
