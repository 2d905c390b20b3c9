"""Rewards and baselines of self-critical training against direct, slow forms."""

import numpy as np
import pytest

from captioner.metrics.bleu import bleu
from captioner.metrics.categories import WORDS as CATEGORY
from captioner.metrics.cider import cider_d
from captioner.training.rewards import CaptionReward, leave_one_out, over_greedy
from captioner.vocabulary import EOS, PAD, UNK, Vocabulary

REFERENCES = [
    [["a", "man", "with", "a", "dog"], ["a", "man", "walks", "a", "dog"], ["man", "and", "zyzzyva"]],
    [["two", "dogs", "play", "with", "a", "ball"], ["dogs", "with", "a", "ball"]],
    [["a", "red", "ball"], ["the", "ball", "is", "red"]],
]
WORDS = Vocabulary(["a", "man", "with", "dog", "dogs", "ball", "red", "two", "play", "walks", "and", "the", "is"])


def rows(*captions: str) -> np.ndarray:
    """Captions as ids, padded; "." is EOS."""
    ids = [[EOS if word == "." else WORDS.encode([word])[0] for word in caption.split()] for caption in captions]
    return np.array([[*row, *[PAD] * (9 - len(row))] for row in ids])


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_reward_is_the_score_of_the_caption_and_its_end(weight):
    """One by one through the public scores, with the end as a word."""
    captions = ["a man with a dog .", "two dogs play with a ball .", "a red ball", "a man with a .", "."]
    photos = [0, 1, 2, 0, 1]
    tokens = rows(*captions)
    tokens[2, 3:] = WORDS.encode(["a"])[0]  # never ends
    tokens[3, 6:] = WORDS.encode(["dog"])[0]  # whatever follows the end is ignored
    found = CaptionReward(REFERENCES, WORDS, weight)(tokens, photos)
    ended = [[[*caption, "<eos>"] for caption in of_photo] for of_photo in REFERENCES]
    for reward, caption, photo in zip(found, captions, photos, strict=True):
        words = caption.replace(".", "<eos>").split()
        words = words if words[-1] == "<eos>" else [*words, *["a"] * 6]
        candidates = [words if image == photo else ["nothing"] for image in range(3)]
        wanted = cider_d(candidates, ended)[1][photo] + weight * bleu(candidates, ended)[1][3, photo]
        assert reward == pytest.approx(wanted, abs=1e-9)


def test_a_caption_that_stops_early_or_never_gets_less():
    whole, early, endless = CaptionReward(REFERENCES, WORDS)(
        np.where(rows("a man with a dog .", "a man with a .", "a man with a dog") == PAD, 4, rows(
            "a man with a dog .", "a man with a .", "a man with a dog")), [0, 0, 0]
    )  # fmt: skip
    assert whole > early and whole > endless


def test_the_unknown_token_is_never_right():
    tokens = rows("man and .", "man and man .")
    unknown = tokens[1].copy()
    unknown[2] = UNK
    reward = CaptionReward(REFERENCES, WORDS)
    one_word = CaptionReward([[["<unk>"]]] * 2, WORDS)
    assert WORDS.encode(["zyzzyva"]) == [UNK]
    assert reward(unknown[None], [0]) < reward(tokens[:1], [0])
    assert one_word(rows("man ."), [0]) == 0


def test_wrong_objects_cost():
    """Each kind once per caption, however often it is named. Counted by hand, and by a table of words."""
    captions = {
        ("a man with a dog .", 0): 0,
        ("a man with a dog .", 1): 1,  # a person; of its references one says dogs
        ("a man with a dog .", 2): 2,
        ("dog and dogs and dog .", 2): 1,
        ("two dogs play with a ball .", 0): 1,
        ("two red .", 0): 0,
        ("a ball", 0): 1,  # never ends
        ("dog .", 0): 0,  # what follows the end is ignored: see below
    }
    photos = [photo for _, photo in captions]
    tokens = rows(*(caption for caption, _ in captions))
    tokens[-1, 2:] = WORDS.encode(["ball"])[0]
    plain, less = (CaptionReward(REFERENCES, WORDS, 0.5, cost)(tokens, photos) for cost in (0.0, 0.7))
    np.testing.assert_allclose(plain - less, 0.7 * np.array(list(captions.values())))
    for (caption, photo), difference in zip(captions, plain - less, strict=True):
        there = {CATEGORY.get(word) for reference in REFERENCES[photo] for word in reference}
        assert difference == pytest.approx(0.7 * len({CATEGORY.get(word) for word in caption.split()} - there - {None}))


def test_a_hot_dog_is_no_dog():
    words = Vocabulary(["a", "hot", "dog"])
    reward = CaptionReward([[["a", "dog"]], [["a", "hot", "dog"]]], words, wrong_object=100.0)
    tokens = np.array([[*words.encode(["a", "dog"]), EOS, EOS], [*words.encode(["a", "hot", "dog"]), EOS]])
    assert [(reward(tokens, [photo, photo]) < -50).tolist() for photo in (0, 1)] == [[False, True], [True, False]]


def test_baselines():
    rewards = np.random.default_rng(0).random((3, 4))
    greedy = np.random.default_rng(1).random(3)
    for b in range(3):
        for s in range(4):
            others = [rewards[b, other] for other in range(4) if other != s]
            assert leave_one_out(rewards)[b, s] == pytest.approx(rewards[b, s] - sum(others) / 3)
            assert over_greedy(rewards, greedy)[b, s] == rewards[b, s] - greedy[b]
    np.testing.assert_allclose(leave_one_out(rewards).sum(1), 0, atol=1e-12)
    with pytest.raises(ValueError, match="2 or more samples per photo; got 1"):
        leave_one_out(rewards[:, :1])
