"""Numbers of attention maps: known maps have known numbers, and dead attention is told from a working one."""

import json

import numpy as np
import pytest

from captioner.captioner import Captioner
from captioner.data.readers import read_dataset, select
from captioner.data.toy import make_toy
from captioner.evaluate import evaluate
from captioner.metrics.attention import attention_statistics, summary
from captioner.metrics.files.tables import format_scores


def one_region(*peaks, regions=9):
    return np.eye(regions)[list(peaks)]


def random_maps(words=6, regions=49, sharpness=3.0):
    logits = np.random.default_rng(0).normal(size=(words, regions)) * sharpness
    weights = np.exp(logits)
    return weights / weights.sum(1, keepdims=True)


def test_one_region_a_word():
    look = attention_statistics(one_region(0, 0, 4).reshape(3, 3, 3))
    assert look.entropy == pytest.approx((0, 0, 0))
    assert look.movement == pytest.approx((0, 1))
    assert look.mean_movement == pytest.approx(0.5)
    two_thirds_and_one = np.exp(-(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)))
    assert look.coverage == pytest.approx(two_thirds_and_one / 9)
    assert look.warning is None


def test_half_of_two_regions():
    """Half of the attention moves, and each map is one bit wide."""
    maps = np.array([[0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0]])
    look = attention_statistics(maps)
    assert look.entropy == pytest.approx((np.log(2), np.log(2)))
    assert look.entropy_share == pytest.approx(0.5)
    assert look.movement == pytest.approx((0.5,))
    everywhere = attention_statistics(one_region(*range(9)))
    assert everywhere.coverage == pytest.approx(1) and everywhere.warning is None


def test_dead_attention_is_told():
    even = attention_statistics(np.full((5, 7, 7), 1 / 49))
    assert even.warning is not None and "uniform" in even.warning
    assert even.entropy_share == pytest.approx(1) and even.coverage == pytest.approx(1)
    same = attention_statistics(random_maps()[:1].repeat(5, axis=0))
    assert same.warning is not None and "collapsed" in same.warning and same.mean_movement == 0
    nearly = 0.95 * random_maps()[:1] + 0.05 * random_maps()
    assert "collapsed" in (attention_statistics(nearly).warning or "")


def test_working_attention_is_not():
    assert attention_statistics(random_maps()).warning is None
    one_word_moves = random_maps()[:1].repeat(15, axis=0)
    one_word_moves[3] = random_maps()[1]
    assert attention_statistics(one_word_moves).warning is None
    slight = 0.7 * one_word_moves[:1].repeat(15, axis=0)  # of one word a fifth moves: far from the mean map, seldom
    slight[:, 0] += 0.3
    slight[3, 0], slight[3, 1] = slight[3, 0] - 0.2, slight[3, 1] + 0.2
    assert attention_statistics(slight).warning is None
    assert attention_statistics(random_maps(words=1)).warning is None, "a single word has nothing to be the same as"


@pytest.mark.parametrize("maps", [np.zeros((2, 4)), np.empty((0, 4)), np.empty((2, 0)), np.array([[1.5, -0.5]])])
def test_no_maps(maps):
    with pytest.raises(ValueError, match="not a stack of maps"):
        attention_statistics(maps)


def test_summary():
    dead, live = attention_statistics(np.full((3, 4), 0.25)), attention_statistics(one_region(0, 1))
    assert summary([]) == {}
    means = summary([dead, live, live, live])
    assert means["attention_warnings"] == 0.25
    assert means["attention_movement"] == pytest.approx(0.75)
    assert means["attention_entropy"] == pytest.approx(0.25)


def test_a_caption_knows_how_it_looked(tiny, photos):
    caption = Captioner.load(tiny, device="cpu").caption(photos / "b.jpg")
    look = caption.attention_statistics
    assert len(look.entropy) == len(caption.words) == len(look.movement) + 1
    assert look == attention_statistics(caption.attention)
    entry = json.loads(json.dumps(caption.to_dict()))["attention"]
    assert entry.keys() == {"entropy", "movement", "entropy_share", "mean_movement", "coverage", "warning"}
    assert len(entry["movement"]) == len(caption.words) - 1
    assert entry["coverage"] == pytest.approx(look.coverage, abs=1e-4) and entry["warning"] == look.warning


def test_evaluate_tells(tiny, tmp_path):
    make_toy(tmp_path / "toy", images=20)
    captioner = Captioner.load(tiny, device="cpu")
    records = select(read_dataset(tmp_path / "toy"), "val")
    scored, _ = evaluate(captioner, records, captioner.decoding, "val")
    looks = [caption.attention_statistics for caption in captioner.caption([record.path for record in records])]
    assert summary(looks).items() <= scored.habits.items()
    (line,) = [line for line in format_scores(scored).splitlines() if line.startswith("attention: ")]
    assert f"entropy {100 * scored.habits['attention_entropy']:.1f} %" in line
