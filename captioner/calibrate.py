"""Calibration: fits the `Confidence` of a model on validation photos, which it was not trained on, and on synthetic
images, for which no caption is right. The confidence is computed in `confidence`; nothing here imports torch."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from captioner.captioner import Captioner
from captioner.checkpoint.manifest import CONFIG, find_own_checkpoint, read_json, write_json
from captioner.checkpoint.replace import replace_checkpoint
from captioner.confidence import SIGNALS, Confidence, word_signals
from captioner.data.readers import Record
from captioner.data.synthetic import synthetic_images
from captioner.decoding import Decoding, search
from captioner.images import Source
from captioner.metrics.calibration import Calibration
from captioner.metrics.scores import score_tokens
from captioner.vocabulary import tokenize

BAR = 0.4  # CIDEr-D of a right caption; below it, captions are mostly wrong when people read them
TRAINING_PHOTOS = 700  # of each data set: their features only
SYNTHETIC = 400
SYNTHETIC_WEIGHT = 0.15  # of all synthetic images together; all photos together have 1
SHRINKAGE = 0.3  # of the covariance towards a multiple of the identity
RIDGE = 1.0
BATCH = 16


class Observed(NamedTuple):
    """What is known of N photos once they have been captioned."""

    features: np.ndarray | None  # (N, D)
    signals: np.ndarray  # (N, 3): weakest, total, peak
    words: list[list[str]]


class DataSet(NamedTuple):
    training: Sequence[Record]
    validation: Sequence[Record]


def calibrate(
    captioner: Captioner, data: Mapping[str, DataSet], bar: float = BAR
) -> tuple[Confidence, dict[str, Calibration]]:
    """Fit the confidence on data sets, given by name. A caption counts as right if its CIDEr-D is at least `bar`. Also
    returns the calibration on each data set's validation photos, on which the confidence was fitted.

    A data set of n photos has the total weight sqrt(n), so that 1,000 photos of one kind do not drown out 60 of
    another. Data sets with a single reference per photo get a bias of their own in the fit, because a right caption
    often differs from the only reference; that bias is then discarded. Raises ValueError without validation photos, and
    ImageError for a photo that cannot be read."""
    if not data or not all(each.validation for each in data.values()):
        raise ValueError("there are no validation photos. Calibrate on data with a split val.")
    paths = [record.path for each in data.values() for record in _spread(each.training, TRAINING_PHOTOS)]
    training = _features(captioner, paths)
    synthetic = _observe(captioner, synthetic_images(SYNTHETIC), "synthetic images")
    observed = {
        name: _observe(captioner, [record.path for record in each.validation], name) for name, each in data.items()
    }
    scores = [_scores(observed[name].words, each.validation) for name, each in data.items()]
    right = np.concatenate([*(each >= bar for each in scores), np.zeros(SYNTHETIC, bool)])

    direction, offset = np.empty(0, np.float32), 0.0
    if training is not None and synthetic.features is not None:
        features = np.concatenate([each.features for each in observed.values() if each.features is not None])
        direction, offset = fit_direction(training, synthetic.features, features)
    unfitted = Confidence(np.zeros(len(SIGNALS)), 0.0, direction, offset, bar)
    signals = np.concatenate(
        [
            np.column_stack([each.signals, unfitted.strangeness(each.features, len(each.words))])
            for each in (*observed.values(), synthetic)
        ]
    )
    photos = len(right) - SYNTHETIC
    of_photos = photo_weights([len(each.validation) for each in data.values()])
    weights = np.concatenate([of_photos, np.full(SYNTHETIC, SYNTHETIC_WEIGHT * photos / SYNTHETIC)])
    single = [np.full(len(each.validation), len(each.validation[0].captions) == 1) for each in data.values()]
    fitted = fit_logistic(signals, right, weights, np.concatenate([*single, np.zeros(SYNTHETIC, bool)]), photos)
    confidence = Confidence(fitted[:-1], float(fitted[-1]), direction, offset, bar)
    figures, start = {}, 0
    for name, values in zip(data, scores, strict=True):
        rows = slice(start, start + len(values))
        figures[name] = Calibration(confidence.probability(signals[rows]), values, right[rows])
        start = rows.stop
    return confidence, figures


def photo_weights(counts: Sequence[int]) -> np.ndarray:
    """The weight of each photo of data sets with `counts` photos, in order. The mean weight is 1, and the sum over a
    data set is proportional to the square root of its count."""
    weights = np.concatenate([np.full(count, count**-0.5) for count in counts])
    return weights / weights.mean()


def fit_direction(training: np.ndarray, synthetic: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, float]:
    """Linear discriminant analysis between the features of training photos and of synthetic images, each (N, D):
    `direction` (D,) and `offset` of `Confidence`, with centre and scale taken from held-out photos."""
    covariance = (np.cov(training.T) + np.cov(synthetic.T)) / 2  # (D, D)
    size = len(covariance)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / size * np.eye(size)
    direction = np.linalg.solve(covariance, synthetic.mean(axis=0) - training.mean(axis=0))
    places = held_out @ direction
    unit = max(float(places.std()), 1e-6)
    return (direction / unit).astype(np.float32), float(-np.median(places) / unit)


def fit_logistic(
    signals: np.ndarray, right: np.ndarray, weights: np.ndarray, single: np.ndarray, photos: int
) -> np.ndarray:
    """Logistic regression by Newton's method: signals (N, S) -> the weights, followed by the bias (S + 1,). The first
    `photos` rows set the scale of the signals. Rows marked `single` get a second bias, which is not returned."""
    mean, scale = signals[:photos].mean(axis=0), signals[:photos].std(axis=0)
    scale[scale < 1e-6] = 1.0
    extra = single if single.any() and not single[:photos].all() else np.zeros(len(single))
    rows = np.column_stack([(signals - mean) / scale, extra, np.ones(len(signals))])  # (N, S + 2)
    weights = weights * photos / weights.sum()
    penalty = RIDGE * np.eye(rows.shape[1])
    penalty[-1, -1] = 0.0
    found = np.zeros(rows.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-(rows @ found)))
        gradient = rows.T @ (weights * (p - right)) + penalty @ found
        found -= np.linalg.solve(
            (rows.T * (weights * p * (1 - p))) @ rows + penalty + 1e-9 * np.eye(len(found)), gradient
        )
    per_signal = found[:-2] / scale
    return np.append(per_signal, found[-1] - per_signal @ mean)


def check_confidence(
    captions: Mapping[int | str, str],
    records: Sequence[Record],
    confidences: Mapping[int | str, float],
    bar: float,
    wrong: Collection[int | str] = (),
) -> Calibration:
    """The calibration on other photos. Captions of the ids in `wrong` count as wrong, whatever their score."""
    known = [record for record in records if record.id in captions]
    scores = _scores([tokenize(captions[record.id]) for record in known], known)
    right = (scores >= bar) & np.array([record.id not in wrong for record in known])
    return Calibration(np.array([confidences[record.id] for record in known]), scores, right)


def save_confidence(checkpoint: str | Path, confidence: Confidence, about: Mapping[str, Any]) -> None:
    """Add the confidence to a checkpoint's config.json; `about` says how it was fitted. The directory is replaced as a
    whole. Raises CheckpointError."""
    source = find_own_checkpoint(checkpoint)
    with replace_checkpoint(source) as writing:
        shutil.copytree(source, writing, dirs_exist_ok=True)
        entry = {**about, **confidence.to_dict()}
        write_json(writing / CONFIG, {**read_json(writing / CONFIG), "confidence": entry})


def _observe(captioner: Captioner, photos: Sequence[Source], name: str) -> Observed:
    decoding = Decoding(**{**vars(captioner.decoding), "num_captions": 1, "alternatives": 0})
    features, signals, words = [], [], []
    for memory, count in _encoded(captioner, photos, name):
        features.append(captioner.backend.grid_mean(memory))
        found = search(captioner.backend.step(memory), count, decoding, captioner.vocabulary.function_words)
        for best, *_ in found:
            signals.append(word_signals(best))
            words.append(captioner.vocabulary.decode(best.words))
    return Observed(_joined(features), np.array(signals), words)


def _features(captioner: Captioner, photos: Sequence[Source]) -> np.ndarray | None:
    return _joined([captioner.backend.grid_mean(m) for m, _ in _encoded(captioner, photos, "training photos")])


def _joined(features: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [each for each in features if each is not None]
    return np.concatenate(known) if known else None


def _encoded(captioner: Captioner, photos: Sequence[Source], name: str) -> Iterator[tuple[Any, int]]:
    """The backend's encoding of each batch of photos, and the number of photos in it."""
    waiting = iter(tqdm(photos, desc=name, unit="photo", disable=None))
    while batch := list(islice(waiting, BATCH)):
        yield captioner.backend.encode(np.stack([captioner.preprocess.read(photo)[0] for photo in batch])), len(batch)


def _scores(words: Sequence[list[str]], records: Sequence[Record]) -> np.ndarray:
    """The CIDEr-D of each caption, with the document frequencies of these records."""
    scores = score_tokens(words, [[tokenize(caption) for caption in record.captions] for record in records])
    return scores.images()[:, list(scores.names).index("CIDEr-D")]


def _spread(records: Sequence[Record], limit: int) -> list[Record]:
    """At most `limit` records, evenly spaced."""
    count = min(limit, len(records))
    return [records[i * len(records) // count] for i in range(count)]
