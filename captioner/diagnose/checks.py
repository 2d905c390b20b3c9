"""From measurements to findings: one small function per check, with its limits and their reasons. Measurements are
taken in `measure`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from captioner.captioner import Caption
from captioner.diagnose.measure import MOST_WORDS, Losses
from captioner.encoder import Encoder
from captioner.images import Preprocess
from captioner.metrics.attention import AttentionStatistics
from captioner.metrics.habits import BAD_ENDINGS, repeats
from captioner.vocabulary import EOS, UNK, Vocabulary

Verdict = Literal["good", "look", "bad", "skipped"]

RARELY, OFTEN = 0.02, 0.1  # share of captions with a fault: good up to one in fifty, bad from one in ten
CLEAR = 3.0  # standard errors between a difference of losses and zero; high, as a dozen differences are tested
MATTERS = 0.05  # nats per word: 5 % of perplexity, about the progress of one epoch near the end of training


@dataclass(frozen=True)
class Finding:
    name: str
    figure: str
    """What was measured, as text."""
    verdict: Verdict
    advice: str = ""
    """What to try; empty if the verdict is good."""
    values: dict[str, float] = field(default_factory=dict)
    """The same figures, for programs."""


def learning(losses: Losses, frequencies: float) -> Finding:
    """Compares the loss with that of a model that knows only the frequency of each word."""
    return _finding(
        "has learned",
        f"loss {losses.mean:.2f} nats per word; with word frequencies alone {frequencies:.2f}",
        _grade(losses.mean / frequencies, 0.8, 1.0),
        "It predicts words hardly better than word frequencies alone. Train longer; look at the curves of the run; try "
        "a learning rate ten times larger or smaller. If the loss in training was good, this is not the run's best/.",
        {"loss": losses.mean, "frequencies": frequencies},
    )


def unigram_entropy(references: Sequence[Sequence[str]], vocabulary: Vocabulary) -> float:
    """The entropy of the words' frequencies in nats per word, with the end token counted as a word: the loss of a model
    that knows only these frequencies."""
    counts = Counter(index for words in references for index in vocabulary.encode(words[:MOST_WORDS]))
    counts[EOS] = len(references)
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values())


def overfitting(losses: Losses, trained: Losses | None, frequencies: float) -> Finding:
    """The share of what was learned (nats below the entropy of the words' frequencies) that is lost on new photos. The
    shipped model loses a fifth."""
    if trained is None:
        return _finding("over-fitting", "no training photos to compare with", "skipped")
    gap, learned = losses.mean - trained.mean, max(frequencies - trained.mean, 0.0)
    return _finding(
        "over-fitting",
        f"loss {trained.mean:.2f} on training photos, {losses.mean:.2f} on these",
        _grade(gap, max(learned / 4, MATTERS), max(learned / 2, 2 * MATTERS)),
        "It has memorised its training captions. Use best/, not last/; train for fewer epochs or with fewer CNN "
        "blocks; more --model.dropout or --model.feature-dropout; a smaller --augment.smallest-crop; a smaller model; "
        "more data.",
        {"training_loss": trained.mean, "loss": losses.mean},
    )


def looks_at_photo(other: Losses, other_grid: Losses, losses: Losses) -> Finding:
    """Whether the captions depend on the photo: with a wrong photo, the loss must rise."""
    (gap, error), (grid_gap, _) = other.above(losses), other_grid.above(losses)
    unclear = gap < CLEAR * error
    if len(losses.nats) < 2 or (unclear and gap > MATTERS):
        figure = f"a wrong photo costs {gap:+.2f} nats per word, +/- {error:.2f}: too few photos to tell"
        return _finding("looks at the photo", figure, "skipped")
    verdict = "bad" if unclear else _grade(-gap, -4 * MATTERS, -MATTERS)
    return _finding(
        "looks at the photo",
        f"a wrong photo costs {gap:+.2f} nats per word; a wrong grid alone {grid_gap:+.2f}",
        verdict,
        "The captions hardly depend on the photo. Are the photos paired with their own captions? Is the CNN "
        "pretrained (--weights)? Train it too (--stages decoder:5 features.7:5).",
        {"shuffled": gap, "shuffled_grid": grid_gap, "standard_error": error},
    )


def preprocessing(now: Preprocess, encoder: Encoder, losses: dict[str, Losses]) -> Finding:
    """Whether photos are preprocessed as in training: no other preprocessing may lower the loss."""
    stored = losses["as stored"]
    gains = {name: stored.above(other) for name, other in losses.items() if (other.nats != stored.nats).any()}
    if not gains:
        return _finding("preprocessing", "no other preprocessing changes the loss", "skipped")
    best, (gain, error) = max(gains.items(), key=lambda item: item[1][0])
    values = {name: -gain for name, (gain, _) in gains.items()}
    if gain >= MATTERS and gain > CLEAR * error:
        advice = (
            f"The preprocessing differs from that of training. With photos {best} the loss is lower: change "
            "`preprocess` in the checkpoint's config.json or, if it cannot express this, train again."
        )
        return _finding("preprocessing", f"with photos {best}: {-gain:+.2f} nats per word", "bad", advice, values)
    if not np.allclose([now.mean, now.std], [encoder.mean, encoder.std], atol=0.01):
        figure = f"mean {_triple(now.mean)}, std {_triple(now.std)}; {encoder.name} expects {_triple(encoder.mean)}, "
        advice = "Correct if you trained the CNN this way; otherwise train with the mean and std that it expects."
        return _finding("preprocessing", figure + _triple(encoder.std), "look", advice, values)
    return _finding(
        "preprocessing", f"no other is clearly better; the best, {best}: {-gain:+.2f} nats", "good", "", values
    )


def batch_norm(drift: dict[str, tuple[float, float]], running: Losses | None, batch: Losses | None) -> Finding:
    """Whether the running statistics fit the data. Bad: the data's own statistics would lower the loss, or the median
    layer's mean is 3 standard deviations off, or its variance by a factor of 16. Worth a look: 1 standard deviation, or
    a factor of 4. The shipped model has 0.1 and 2^1.1 on Flickr8k; a decoder trained over the same CNN on drawings,
    which are far from photos, has 0.5 and 2^1.7."""
    if running is None or batch is None:
        return _finding("batch norm", "this CNN has none", "skipped")
    gain, error = running.above(batch)
    off, wider = np.median(list(drift.values()), axis=0).tolist()
    furthest = max(drift, key=lambda name: max(drift[name][0], drift[name][1] / 2))
    helps = gain >= MATTERS and gain > CLEAR * error
    verdict: Verdict = (
        "bad" if helps else max(_grade(off, 1, 3), _grade(wider, 2, 4), key=["good", "look", "bad"].index)
    )
    return _finding(
        "batch norm",
        f"with the data's own statistics {-gain:+.2f} nats; median layer: mean {off:.1f} std off, variance "
        f"x {2**wider:.1f}",
        verdict,
        f"The running statistics do not fit these photos (least in {furthest}). If the preprocessing is bad, correct "
        "that first. Otherwise leave --train-batch-norm out or use larger batches, and start from pretrained weights.",
        {"gain": gain, "mean_drift": off, "variance_drift": wider},
    )


def unknown_words(references: Sequence[Sequence[str]], vocabulary: Vocabulary) -> Finding:
    """For comparison: words with at least five occurrences make up 97 % of the words of Flickr8k."""
    missing = Counter(word for words in references for word in words if vocabulary.encode([word]) == [UNK])
    share = sum(missing.values()) / max(1, sum(map(len, references)))
    some = ", ".join(word for word, _ in missing.most_common(5))
    return _finding(
        "unknown words",
        f"{share:.1%} of the words in the references" + (f": {some}, ..." if missing else ""),
        _grade(share, 0.05, OFTEN),
        "It cannot say these words. Train with a smaller --min-count, or on captions like these. Are they in another "
        "language, or already tokenized?",
        {"unknown": share},
    )


def distinct(captions: Sequence[Sequence[str]]) -> Finding:
    """For comparison: the shipped model writes 89 different captions for 100 photos of Flickr8k."""
    different = len(set(map(tuple, captions)))
    share = different / len(captions)
    return _finding(
        "distinct captions",
        f"{different} for {len(captions)} photos",
        _grade(-share, -0.5, -0.2),
        "Few different captions. If it looks at the photo, train longer, let the CNN learn, or decode with a smaller "
        "beam or by sampling (--method sample --top-p 0.9).",
        {"distinct": share},
    )


def same_caption(captions: Sequence[Sequence[str]]) -> Finding:
    """How often the most frequent caption is repeated."""
    caption, count = Counter(map(tuple, captions)).most_common(1)[0]
    share = (count - 1) / max(1, len(captions) - 1)
    return _finding(
        "the same caption",
        f'"{" ".join(caption)}" for {count} of {len(captions)} photos',
        _grade(share, OFTEN, 0.5),
        "Many photos get the same caption: training has just begun or has collapsed (see the loss), or the captions do "
        "not depend on the photo (see above).",
        {"others": share},
    )


def unfinished(captions: Sequence[Caption]) -> Finding:
    return _faults(
        "unfinished captions",
        "reach the maximum length without an end token",
        [not caption.finished for caption in captions],
        [],
        "Raise --max-length. If they never end, set --no-repeat-ngram 3, and check that the training captions were not "
        "truncated (max_length of the training).",
    )


def endings(captions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Finding:
    return _faults(
        "bad endings",
        'end in words such as "with a"',
        _bad_endings(captions),
        _bad_endings(references),
        "They are cut off (see unfinished captions), or a reward without the end token encouraged such endings.",
    )


def repetition(captions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Finding:
    return _faults(
        "repetition",
        "repeat a word in succession, or a trigram",
        [*map(repeats, captions)],
        [*map(repeats, references)],
        "Decode with --no-repeat-ngram 3; if greedy captions loop too, train longer.",
    )


def attention(looks: Sequence[AttentionStatistics]) -> Finding:
    """Whether the attention maps differ from word to word. `evaluate --pointing` measures whether they are right."""
    if not looks:
        return _finding("attention is alive", "this model has none", "skipped")
    warnings = Counter(look.warning for look in looks if look.warning is not None)
    share = sum(warnings.values()) / len(looks)
    moves = float(np.mean([look.mean_movement for look in looks]))
    entropy = float(np.mean([look.entropy_share for look in looks]))
    text, count = (warnings.most_common(1) or [("", 0)])[0]
    first = f" In {count / len(looks):.0%} of captions {text}" if count else ""
    return _finding(
        "attention is alive",
        f"{moves:.0%} of it moves from word to word; entropy {entropy:.0%} of the maximum; {share:.0%} warnings",
        _grade(share, OFTEN, 0.5),
        f"Do not trust its maps.{first} Train longer, with --model.attention general, over a finer grid "
        "(--image-size). If a wrong grid costs nothing (see above), the words do not depend on it.",
        {"warnings": share, "movement": moves, "entropy": entropy},
    )


def _bad_endings(captions: Sequence[Sequence[str]]) -> list[bool]:
    return [bool(words) and words[-1] in BAD_ENDINGS for words in captions]


def _faults(name: str, what: str, faulty: Sequence[bool], people: Sequence[bool], advice: str) -> Finding:
    """Judges the share of captions with a fault, minus that of human captions if there are any, minus one standard
    error, so that a single caption among a few dozen does not decide."""
    share, usual = (sum(group) / max(1, len(group)) for group in (faulty, people))
    error = math.sqrt(share * (1 - share) / len(faulty))
    figure = f"{share:.1%} {what}" + (f"; of human captions {usual:.1%}" if people else "")
    verdict = _grade(share - usual - error, RARELY, OFTEN)
    return _finding(name, figure, verdict, advice, {"share": share, "people": usual})


def _finding(
    name: str, figure: str, verdict: Verdict, advice: str = "", values: dict[str, float] | None = None
) -> Finding:
    return Finding(name, figure, verdict, advice if verdict in ("look", "bad") else "", values or {})


def _grade(value: float, look: float, bad: float) -> Verdict:
    """The verdict on a value for which smaller is better."""
    return "bad" if value >= bad else "look" if value > look else "good"


def _triple(values: Sequence[float]) -> str:
    return "/".join(f"{value:.3g}" for value in values)
