"""The search against brute force, a plain beam search in lists, and itself one photo at a time, over a small
fake model whose every word depends on the photo and on all words before."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from captioner.decoding import Decoding, Hypothesis, force, search
from captioner.step import Choices, Choose, choose_words
from captioner.vocabulary import BOS, EOS, PAD, UNK

WORDS = 4  # the first id that is a word


class Fake:
    """A recurrent model with random weights. As a step it holds the search to what `Step` promises, and keeps nothing
    from call to call but a log."""

    def __init__(self, photos=(0,), size: int = 8, seed: int = 0, end=0.0, rows: int | None = None):
        random = np.random.default_rng(seed)
        self.start, self.embed = random.normal(size=(100, 6)), random.normal(size=(size, 6))
        self.recur, self.out = random.normal(size=(6, 6)), 2 * random.normal(size=(size, 6))
        self.photos, self.size, self.rows = np.array(photos), size, rows
        self.end = np.broadcast_to(end, len(photos))  # added to the end token's logit, a photo each
        self.seen: list[list[int]] = []  # the photos at each step
        self.lowest = WORDS  # of the words that it is given

    def move(self, state, words):
        return np.tanh((self.recur * state[:, None]).sum(-1) + self.embed[words])

    def logits(self, state, end):
        logits = (self.out * state[:, None]).sum(-1)
        logits[:, EOS] += end
        return logits

    def after(self, photo: int, words) -> np.ndarray:
        """Log-probabilities (V,) of the word after these, by the plainest way."""
        state = self.start[self.photos[[photo]]]
        for word in [BOS, *words]:
            state = self.move(state, np.array([word]))
        x = self.logits(state, self.end[photo])[0]
        return x - np.log(np.exp(x).sum())

    def __call__(self, words, rows, state, images, choose):
        self.seen.append(images.tolist())
        if state is None:
            assert images.tolist() == rows.tolist() == list(range(len(self.photos))) and (words == BOS).all()
            hidden, photo, code = self.start[self.photos], images, np.zeros(len(images))
        else:
            hidden, photo, code = (part[rows] for part in state)
            code = code * self.size + words
            assert len(words) == len(images) * self.rows, "K rows per photo"
            assert (photo == images.repeat(self.rows)).all(), "a row stays with its photo"
            assert (np.diff(images) > 0).all() and (words >= self.lowest).all()
        hidden = self.move(hidden, words)
        attention = np.stack([photo, code], axis=1)  # says whose step this is, and after which words
        return choose_words(self.logits(hidden, self.end[photo]), choose, attention), (hidden, photo, code)


def run(model: Fake, decoding: Decoding, function_words=()) -> list[list[Hypothesis]]:
    model.rows, model.seen = decoding.rows, []
    return search(model, len(model.photos), decoding, function_words)


def same(one: list[Hypothesis], other: list[Hypothesis]) -> None:
    assert [h.words for h in one] == [h.words for h in other]
    assert [h.finished for h in one] == [h.finished for h in other]
    np.testing.assert_allclose([h.score for h in one], [h.score for h in other], rtol=1e-9)


def repeats(words, n: int, function_words=()) -> bool:
    if n == 1 and function_words:
        return repeats([w for w in words if w not in function_words], 1) or repeats(words, 2)
    ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return n > 0 and len(set(ngrams)) < len(ngrams)


def ranked(finished, cut, n: int) -> list[Hypothesis]:
    """Pairs of words and log-probability, as hypotheses that hold nothing else."""
    best = [sorted(part, key=lambda h: -h.score) for part in (finished, cut)]
    return (best[0] + best[1])[:n]


def bare(words, total: float, finished: bool, decoding: Decoding) -> Hypothesis:
    score = total / (len(words) + finished) ** decoding.length_penalty
    return Hypothesis(list(words), [], total if finished else None, score)


def brute_force(model: Fake, photo: int, decoding: Decoding, function_words=()) -> list[Hypothesis]:
    """Every caption there is, scored."""
    finished, cut, prefixes = [], [], [((), 0.0)]
    for length in range(decoding.max_length + 1):
        longer = []
        for words, total in prefixes:
            p = model.after(photo, words)
            if length:
                finished.append(bare(words, total + p[EOS], True, decoding))
            if length == decoding.max_length:
                cut.append(bare(words, total, False, decoding))
            longer += [((*words, w), total + p[w]) for w in range(WORDS, model.size)]
        n = decoding.no_repeat_ngram
        prefixes = [(words, total) for words, total in longer if not repeats(words, n, function_words)]
    return ranked(finished, cut, decoding.num_captions)


def plain_beam(model: Fake, photo: int, decoding: Decoding) -> list[Hypothesis]:
    """Beam search of one photo, in lists, that never stops early."""
    finished, cut, live = [], [], [((), 0.0)]
    for length in range(decoding.max_length + 1):
        proposed = []
        for words, total in live:
            p = model.after(photo, words)
            allowed = [w for w in range(WORDS, model.size) if not repeats((*words, w), decoding.no_repeat_ngram)]
            best = sorted(allowed + [EOS] * (length > 0), key=lambda w: -p[w])[: decoding.beam_size]
            proposed += [((*words, w), total + p[w]) for w in best if w != EOS]
            if EOS in best:
                finished.append(bare(words, total + p[EOS], True, decoding))
            elif length == decoding.max_length:
                cut.append(bare(words, total, False, decoding))
        live = sorted(proposed, key=lambda each: -each[1])[: decoding.beam_size]
    return ranked(finished, cut, decoding.num_captions)


@pytest.mark.parametrize("no_repeat", [0, 1, 2])
@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("end", [-2.0, 2.0])
def test_wide_beam_is_brute_force(penalty, no_repeat, end):
    model = Fake(photos=[3, 5], size=WORDS + 3, end=end)
    decoding = Decoding(beam_size=100, num_captions=4, max_length=4, length_penalty=penalty, no_repeat_ngram=no_repeat)
    for photo, found in enumerate(run(model, decoding)):
        same(found, brute_force(model, photo, decoding))


def test_function_words_may_come_twice():
    """Where no content word and no pair of words may."""
    model, function_words = Fake(photos=[3, 5], size=WORDS + 3, end=-2.0), (WORDS, WORDS + 1)
    decoding = Decoding(beam_size=100, num_captions=60, max_length=4, no_repeat_ngram=1)
    for photo, found in enumerate(run(model, decoding, function_words)):
        same(found, brute_force(model, photo, decoding, function_words))
        assert any(repeats(h.words, 1) for h in found)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("beam, captions, no_repeat", [(1, 1, 0), (2, 2, 0), (3, 1, 0), (4, 3, 2), (6, 6, 1)])
def test_beam_is_a_plain_one_that_never_stops_early(seed, penalty, beam, captions, no_repeat):
    model = Fake(photos=range(6), size=12, seed=seed, end=[-20, -2, 0, 1, 2, 3])
    decoding = Decoding(
        beam_size=beam,
        num_captions=captions,
        max_length=7,
        length_penalty=penalty,
        no_repeat_ngram=no_repeat,
    )
    for photo, found in enumerate(run(model, decoding)):
        same(found, plain_beam(model, photo, decoding))


def test_greedy_is_beam_of_one():
    model = Fake(photos=range(8), end=1.5)
    lengths = set()
    for photo, [found] in enumerate(run(model, Decoding(beam_size=1, max_length=6))):
        words: list[int] = []
        while len(words) < 7 and EOS not in words:
            p = model.after(photo, words)
            p[[PAD, BOS, UNK] + [EOS] * (not words)] = -np.inf
            words.append(int(p.argmax()))
        assert found.finished == (EOS in words)
        assert found.words == [w for w in words if w != EOS][:6]
        lengths.add(len(found.words))
    assert len(lengths) > 2


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(beam_size=3, num_captions=2, no_repeat_ngram=2, alternatives=2),
        Decoding(beam_size=1),
        Decoding(method="sample", num_captions=4, temperature=1.3, seed=7),
        Decoding(method="sample", top_k=3, top_p=0.9),
    ],
)
def test_batch_is_one_by_one(decoding):
    together = run(Fake(photos=range(20), end=1.0), decoding)
    assert len({len(found[0].words) for found in together}) > 3
    for photo, found in enumerate(together):
        [alone] = run(Fake(photos=[photo], end=1.0), decoding)
        same(found, alone)
        assert [h.alternatives is None for h in found] == [h.alternatives is None for h in alone]
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_allclose(one.attention[:, 1], other.attention[:, 1])


@pytest.mark.parametrize("method", ["beam", "sample"])
def test_what_a_hypothesis_tells_belongs_to_its_words(method):
    model = Fake(photos=[4, 9, 2], end=1.0)
    decoding = Decoding(method=method, num_captions=3, max_length=8, alternatives=2)
    for photo, hypotheses in enumerate(run(model, decoding)):
        assert len(hypotheses) == 3
        for h in hypotheses:
            code, total = 0, 0.0
            assert h.attention.shape == (len(h.words), 2)
            assert len(h.words) == len(h.log_probabilities) == len(h.alternatives)
            for t, word in enumerate(h.words):
                p = model.after(photo, h.words[:t])
                assert h.attention[t].tolist() == [photo, code]
                assert h.log_probabilities[t] == pytest.approx(p[word])
                p[[PAD, BOS, UNK] + [EOS] * (t == 0)] = -np.inf
                others = [w for w in np.argsort(-p).tolist() if w != word][:2]
                assert [w for w, _ in h.alternatives[t]] == others
                assert [q for _, q in h.alternatives[t]] == pytest.approx(p[others].tolist())
                code, total = code * model.size + word, total + h.log_probabilities[t]
            if h.finished:
                assert h.end_log_probability == pytest.approx(model.after(photo, h.words)[EOS])
                total += h.end_log_probability
            assert h.log_probability == pytest.approx(total)
            assert h.score == pytest.approx(total / (len(h.words) + h.finished) ** 0.7)


def test_alternatives_and_attention_only_where_there_are_any():
    def step(words, rows, state, images, choose):
        assert choose.alternatives == 0
        return choose_words(np.zeros((len(words), 9)), choose), None

    [[found]] = search(step, 1, Decoding())
    assert found.attention is None and found.alternatives is None
    assert search(step, 0, Decoding()) == []


@pytest.mark.parametrize("method, beam", [("beam", 1), ("beam", 3), ("sample", 3)])
def test_model_that_never_ends_still_answers(method, beam):
    captions = 1 if beam == 1 else 2
    decoding = Decoding(method=method, beam_size=beam, num_captions=captions, max_length=5)
    for found in run(Fake(photos=[1, 2], end=-np.inf), decoding):
        assert [h.finished for h in found] == [False] * captions
        assert [len(h.words) for h in found] == [5] * captions
        assert [h.end_log_probability for h in found] == [None] * captions
        assert found[0].score == pytest.approx(sum(found[0].log_probabilities) / 5**0.7)


def test_nothing_left_to_say_still_answers():
    model = Fake(size=WORDS + 2, end=-np.inf)  # two words, neither twice, and no end
    for decoding in (Decoding(beam_size=1), Decoding(), Decoding(method="sample")):
        [[found]] = run(model, replace(decoding, no_repeat_ngram=1))
        assert sorted(found.words) == [4, 5] and not found.finished
        [[found]] = run(Fake(size=WORDS), decoding)  # not one word
        assert found.words == [] and not found.finished and found.score == 0


def test_finished_come_before_cut_off():
    model = Fake(photos=range(12), end=-6.0)
    mixed = 0
    for found in run(model, Decoding(beam_size=4, num_captions=4, max_length=3)):
        finished = [h.finished for h in found]
        assert finished == sorted(finished, reverse=True) and len(found) == 4
        for part in (True, False):
            scores = [h.score for h in found if h.finished == part]
            assert scores == sorted(scores, reverse=True)
        mixed += len(set(finished)) == 2
    assert mixed > 2


@pytest.mark.parametrize("method", ["beam", "sample"])
def test_photos_drop_out_when_they_are_done(method):
    model = Fake(photos=range(4), end=[4, -30, 4, 1])
    answers = run(model, Decoding(method=method, max_length=12))
    assert [len(found[0].words) for found in answers] == [12, 12, 1, 2]
    assert [answers[photo][0].finished for photo in (1, 2, 3)] == [False, True, True]
    assert model.seen[0] == [0, 1, 2, 3] and [0, 1, 3] in model.seen and model.seen[-1] == [0, 1]
    assert len(model.seen) == 13
    for before, after in zip(model.seen, model.seen[1:], strict=False):
        assert set(after) <= set(before)


def test_a_sure_end_stops_the_search_at_once():
    steps = []

    def step(words, rows, state, images, choose):
        steps.append(images)
        end = 0.0 if state is None else 15.0
        return choose_words(np.tile([0, 0, end, 0, 9, 0, 0], (len(words), 1)), choose), "the words have begun"

    [[found]] = search(step, 1, Decoding())
    assert found.words == [4] and found.finished and len(steps) == 2


@pytest.mark.parametrize("method", ["beam", "sample"])
def test_dead_rows_never_win(method):
    """In a vocabulary of two words the beam is never full at first; of eight samples some end early."""
    model = Fake(photos=range(10), size=WORDS + 2, end=0.5)
    decoding = Decoding(method=method, beam_size=8, num_captions=8, max_length=5)
    for photo, found in enumerate(run(model, decoding)):
        assert len(found) == 8
        if method == "beam":
            assert len({tuple(h.words) for h in found}) == 8
        else:  # each sample is as if it were drawn alone
            alone = []
            for k in range(8):
                some = run(Fake(photos=[photo], size=WORDS + 2, end=0.5), replace(decoding, num_captions=k + 1))
                rest = [h.words for h in some[0]]
                for words in alone:
                    rest.remove(words)
                alone += rest
            assert sorted(alone) == sorted(h.words for h in found)


def test_num_captions():
    model = Fake(photos=range(5), end=1.0)
    many = run(model, Decoding(beam_size=5, num_captions=5))
    for n in range(1, 5):
        for few, all_of_them in zip(run(model, Decoding(beam_size=5, num_captions=n)), many, strict=True):
            same(few, all_of_them[:n])


def test_no_ngram_comes_twice():
    logits = np.tile([0.0, 0, -9, 0, 5, 4, 3], (9, 1))  # "a a a a ..."

    def step(words, rows, state, images, choose):
        return choose_words(logits[: len(words)], choose), None

    def words(**more):
        return search(step, 1, Decoding(beam_size=1, max_length=9, **more))[0][0].words

    assert words() == [4] * 9
    assert words(no_repeat_ngram=1) == [4, 5, 6]
    assert words(no_repeat_ngram=2) == [4, 4, 5, 4, 6, 4]
    for n in (1, 2, 3):
        assert not repeats(words(no_repeat_ngram=n), n)
        assert repeats(words(no_repeat_ngram=n + 1), n)
        sampled = search(step, 1, Decoding(method="sample", num_captions=9, no_repeat_ngram=n))[0]
        assert not any(repeats(h.words, n) for h in sampled)


def test_samples_follow_the_distribution():
    model = Fake(photos=[3], size=WORDS + 3, end=0.3)
    draws = 20_000
    decoding = Decoding(method="sample", num_captions=draws, max_length=2, temperature=0.8)
    [found] = run(model, decoding)

    def distribution(words):
        p = model.after(0, words)
        p[[PAD, BOS, UNK] + [EOS] * (not words)] = -np.inf
        p = np.exp(p / 0.8)
        return p / p.sum()

    first = np.bincount([h.words[0] for h in found], minlength=model.size)
    np.testing.assert_allclose(first / draws, distribution([]), atol=0.015)
    for word in range(WORDS, model.size):
        second = [([*h.words, EOS])[1] for h in found if h.words[0] == word]
        if len(second) > 3000:
            shares = np.bincount(second, minlength=model.size) / len(second)
            np.testing.assert_allclose(shares, distribution([word]), atol=0.03)


def test_a_seed_gives_its_samples():
    model = Fake(photos=range(4), end=0.5)

    def words(**more):
        found = run(model, Decoding(method="sample", num_captions=3, **more))
        return [[h.words for h in each] for each in found]

    assert words(seed=1) == words(seed=1)
    assert words(seed=1) != words(seed=2)
    longer, shorter = words(seed=1, max_length=15), words(seed=1, max_length=5)
    assert sorted(w[:5] for w in longer[0]) == sorted(shorter[0])
    nearly_greedy = words(temperature=1e-9)
    assert nearly_greedy == [[found[0].words] * 3 for found in run(model, Decoding(beam_size=1))]
    assert words(top_k=1) == nearly_greedy
    assert words(top_p=1e-9) == nearly_greedy


P = np.array([[0.05, 0.02, 0.03, 0.1, 0.3, 0.5]])  # from the most probable: 5, 4, 3, 0, 2, 1


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, {0.0: 5, 0.49: 5, 0.51: 4, 0.79: 4, 0.81: 3, 0.91: 0, 0.96: 2, 0.99: 1, 1 - 2**-53: 1}),
        ({"top_k": 2}, {0.0: 5, 0.62: 5, 0.63: 4, 1 - 2**-53: 4}),
        ({"top_p": 0.75}, {0.0: 5, 0.62: 5, 0.63: 4, 1 - 2**-53: 4}),
        ({"top_p": 0.85}, {0.55: 5, 0.56: 4, 0.88: 4, 0.89: 3, 1 - 2**-53: 3}),
        ({"top_k": 3, "top_p": 0.85}, {0.62: 5, 0.63: 4, 1 - 2**-53: 4}),  # 0.8 / 0.9 is enough
        ({"temperature": 0.5}, {0.69: 5, 0.71: 4, 0.95: 4, 0.97: 3}),
        ({"suppressed": (5, 3)}, {0.0: 4, 0.74: 4, 0.76: 0, 0.88: 2, 0.96: 1, 1 - 2**-53: 1}),
        ({"banned": np.array([[5, 3]])}, {0.0: 4, 0.74: 4, 0.76: 0}),
        ({"suppressed": (5,), "top_k": 1}, {0.0: 4, 1 - 2**-53: 4}),
    ],
)
def test_sampling_inverts_the_cumulative_distribution(options, expected):
    uniforms = np.array([list(expected)])
    choices = choose_words(np.log(P) + 3, Choose(uniforms=uniforms, **options))
    assert choices.words.tolist() == [list(expected.values())]
    np.testing.assert_allclose(choices.log_probabilities, np.log(P[0, choices.words]))  # the model's own


def test_best_words():
    logits = np.concatenate([np.log(P), np.log(P[:, ::-1])]).astype(np.float32) - 7
    choices = choose_words(logits, Choose(count=3, alternatives=2), np.ones((2, 4)))
    assert choices.words.tolist() == [[5, 4, 3], [0, 1, 2]]
    np.testing.assert_allclose(choices.log_probabilities, np.log([[0.5, 0.3, 0.1]] * 2), rtol=1e-5)
    others, theirs = choices.alternatives
    assert others.tolist() == [[5, 4], [0, 1]]
    np.testing.assert_allclose(theirs, np.log([[0.5, 0.3]] * 2), rtol=1e-5)
    assert choices.attention.shape == (2, 4)
    banned = np.array([[4, PAD], [5, 1]])
    choices = choose_words(logits, Choose(count=2, suppressed=(PAD,), banned=banned))
    assert choices.words.tolist() == [[5, 3], [2, 3]]
    choices = choose_words(logits, Choose(count=9, suppressed=(5,)))
    assert choices.words[0].tolist() == [4, 3, 0, 2, 1, 5] and choices.log_probabilities[0, -1] == -np.inf


def test_nan_is_an_error():
    def step(words, rows, state, images, choose):
        return Choices(np.full((1, 3), 5), np.full((1, 3), np.nan)), None

    for run in (lambda: search(step, 1, Decoding()), lambda: force(step, [[[5], [6], [7]]])):
        with pytest.raises(ValueError, match=r"NaN for the log-probability of word 1"):
            run()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"method": "greedy"}, "method is 'greedy'; expected 'beam'"),
        ({"beam_size": 0}, "beam_size is 0; expected at least 1"),
        ({"max_length": 0}, "max_length is 0; expected at least 1"),
        ({"length_penalty": -0.5}, "length_penalty is -0.5; expected at least 0 and at most 10"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram is -1"),
        ({"method": "sample", "temperature": 0}, "temperature is 0; expected above 0"),
        ({"method": "sample", "temperature": float("nan")}, "temperature is nan"),
        ({"method": "sample", "top_k": -1}, "top_k is -1"),
        ({"method": "sample", "top_p": 0.0}, "top_p is 0.0"),
        ({"method": "sample", "top_p": 1.5}, "top_p is 1.5; expected above 0 and at most 1"),
        ({"method": "sample", "seed": -1}, "seed is -1"),
        ({"num_captions": 0}, "num_captions is 0"),
        ({"alternatives": -1}, "alternatives is -1"),
        ({"length_penalty": float("inf")}, "length_penalty is inf"),
        ({"temperature": 0.7}, "temperature is 0.7, but only sampling uses it. Set method to 'sample', too"),
        ({"top_k": 5}, "top_k is 5, but"),
        ({"top_p": 0.9}, "top_p is 0.9, but"),
    ],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**wrong)


def test_given_settings_over_saved_ones():
    saved = Decoding(method="sample", temperature=0.5, top_k=3, top_p=0.9, seed=7, max_length=9)
    assert saved.override() == saved.override(beam_size=None, method=None) == saved
    assert saved.override(method="beam", beam_size=5) == Decoding(beam_size=5, seed=7, max_length=9)
    assert saved.override(method="sample", top_k=4) == replace(saved, top_k=4), "the same method drops nothing"
    assert Decoding().override(method="sample", top_p=0.5) == Decoding(method="sample", top_p=0.5)
    assert saved.override(max_length=4, alternatives=0).max_length == 4
    with pytest.raises(ValueError, match="top_k is 2, but only sampling"):
        saved.override(method="beam", top_k=2)
    with pytest.raises(TypeError, match="beams"):
        saved.override(beams=3)
    assert [Decoding(alternatives=n).for_display().alternatives for n in (0, 9)] == [4, 9]


def test_more_captions_than_beams_widen_the_beam():
    model = Fake(photos=range(5), end=1.0)
    wide = run(model, Decoding(beam_size=5, num_captions=5))
    for narrow, same_beam in zip(run(model, Decoding(beam_size=2, num_captions=5)), wide, strict=True):
        same(narrow, same_beam)


def test_a_sample_with_no_word_left_is_cut_off_while_others_go_on():
    def step(words, rows, state, images, choose):
        open_end = np.array([[9.0, 9, -np.inf, 9, 0, 0, 0]]).repeat(len(words), axis=0)
        open_end[words == 4, 4:] = -np.inf  # after word 4 the model is sure that nothing may follow
        return choose_words(open_end, choose), None

    [found] = search(step, 1, Decoding(method="sample", num_captions=20, max_length=6))
    assert len(found) == 20 and not any(h.finished for h in found)
    assert {len(h.words) for h in found} > {1, 2} and all(len(h.words) == 6 or h.words[-1] == 4 for h in found)


def test_a_dead_end_does_not_stop_the_search():
    """The probable word 4 leads nowhere; 5 6 ends, but is less probable than 4 alone."""
    after = {BOS: {4: 2.0, 5: 0.0}, 4: {}, 5: {6: 0.0}, 6: {EOS: 0.0}}

    def step(words, rows, state, images, choose):
        logits = np.array([[0.0, 0, -np.inf, 0, -np.inf, -np.inf, -np.inf]]).repeat(len(words), axis=0)
        for row, word in enumerate(words.tolist()):
            logits[row, list(after[word])] = list(after[word].values())
        return choose_words(logits, choose), None

    [[found]] = search(step, 1, Decoding(beam_size=2, length_penalty=0))
    assert found.words == [5, 6] and found.finished


def test_given_captions_are_read() -> None:
    """Against a model asked word by word; of different lengths; and a search's captions read again are the same."""
    model = Fake(photos=(3, 5), rows=3)
    model.lowest = EOS  # captions that are over go on with it
    captions = [[[4, 5, 6, 7], [7], [UNK, 4]], [[5, 5], [6], [4, 7, 4, 7]]]
    asked = []

    def step(*given):
        choices, state = model(*given)
        asked.append(choices.words.shape)
        return choices, state

    for photo, read in enumerate(force(step, captions, alternatives=2)):
        assert [each.words for each in read] == captions[photo]
        for each in read:
            after = [model.after(photo, each.words[:t]) for t in range(len(each.words) + 1)]
            expected = [float(p[word]) for p, word in zip(after, [*each.words, EOS], strict=True)]
            np.testing.assert_allclose([*each.log_probabilities, each.end_log_probability], expected, rtol=1e-9)
            assert each.score == pytest.approx(sum(expected)) == each.log_probability and each.finished
            assert each.attention is not None and (each.attention[:, 0] == photo).all()
            for reported, p, word in zip(each.alternatives, after, each.words, strict=False):
                best = [w for w in np.argsort(-p).tolist()[:3] if w != word][:2]
                assert [w for w, _ in reported] == best
    assert asked == [(2, 3), (6, 1), (6, 1), (6, 1), (6, 1)], "no other words leave the device"
    decoding = Decoding(beam_size=3, num_captions=3, max_length=5)
    found = run(model, decoding)
    model.rows = 3
    for searched, read in zip(found, force(model, [[h.words for h in each] for each in found]), strict=True):
        for one, other in zip(searched, read, strict=True):
            np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, rtol=1e-9)
            np.testing.assert_array_equal(one.attention, other.attention)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("beam_size", "3", "beam_size is '3'; expected a whole number."),
        ("beam_size", 2.5, "beam_size is 2.5; expected a whole number."),
        ("beam_size", True, "beam_size is True; expected a whole number."),
        ("length_penalty", "high", "length_penalty is 'high'; expected a number."),
        ("temperature", [1], "temperature is [1]; expected a number."),
        ("method", 7, "method is 7; expected a name."),
    ],
)
def test_settings_of_a_wrong_type(name, value, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        Decoding(**{name: value})
    assert Decoding(beam_size=np.int64(2), length_penalty=1).beam_size == 2
