"""Rewards and baselines of self-critical training against direct, slow forms."""

import numpy as np
import pytest

from captioner.metrics.bleu import bleu
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


def test_baselines():
    rewards = np.random.default_rng(0).random((3, 4))
    greedy = np.random.default_rng(1).random(3)
    for b in range(3):
        for s in range(4):
            others = [rewards[b, other] for other in range(4) if other != s]
            assert leave_one_out(rewards)[b, s] == pytest.approx(rewards[b, s] - sum(others) / 3)
            assert over_greedy(rewards, greedy)[b, s] == rewards[b, s] - greedy[b]
    np.testing.assert_allclose(leave_one_out(rewards).sum(1), 0, atol=1e-12)
    with pytest.raises(ValueError, match="2 or more per photo; there is 1"):
        leave_one_out(rewards[:, :1])
