"""Confidence: the calibrated probability that a caption is right, by logistic regression on four signals that are known
once the caption is generated. `calibrate` fits it and config.json stores it; nothing here needs torch.

Shapes: B photos, D feature size, S signals."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from captioner.decoding import Hypothesis

UNSURE = 0.5  # a caption with a lower confidence is more likely wrong than right
LOWEST = 3  # words
LARGEST = 1e6  # numbers of a real fit are far smaller
SIGNALS = ("weakest", "total", "peak", "strangeness")
"""weakest: the mean of the three lowest log-probabilities. total: the log-probability of the caption. peak: the mean
over words of the logarithm of the largest attention weight; 0 without attention. strangeness: how far the photo's
features are from those of the training photos; see `Confidence.strangeness`."""


def is_unsure(confidence: float | None) -> bool:
    """Whether a caption is more likely wrong than right."""
    return confidence is not None and confidence < UNSURE


def why_left_out(confidence: float | None, least: float) -> str | None:
    """The reason why a caption is left out if its confidence is below `least`; otherwise None."""
    if confidence is None or confidence >= least:
        return None
    return f"confidence {math.floor(100 * confidence) / 100:.2f} is below {least:g}"


@dataclass(frozen=True, eq=False)
class Confidence:
    weights: np.ndarray  # (S,) in the order of SIGNALS
    bias: float
    direction: np.ndarray  # (D,); empty if the grid is unknown, as for a model without attention
    offset: float
    bar: float  # a caption is right if its CIDEr-D is at least this

    def strangeness(self, features: np.ndarray | None, photos: int) -> np.ndarray:
        """Mean grid features (B, D) of the photos, or None if they are unknown -> strangeness (B,): how far each image
        lies from typical photos towards images that are not photos, in standard deviations of photos. It is cut off at
        0, which is the value of at least half of all photos.

        The direction is that of linear discriminant analysis between training photos and drawings, screenshots,
        documents and noise: the product of features and direction is half the difference of two squared Mahalanobis
        distances."""
        if features is None or not len(self.direction):
            return np.zeros(photos)
        if features.shape[1] != len(self.direction):
            raise ValueError(
                f"the confidence was fitted to {len(self.direction)} features, but this model has {features.shape[1]}. "
                "Fit it again: captioner calibrate."
            )
        return np.maximum(features @ self.direction + self.offset, 0)

    def probability(self, signals: np.ndarray) -> np.ndarray:
        """Signals (..., S) -> (...) in [0, 1]."""
        return 1 / (1 + np.exp(-(signals @ self.weights + self.bias)))

    def of(self, hypothesis: Hypothesis, strangeness: float) -> float:
        return float(self.probability(np.array([*word_signals(hypothesis), strangeness])))

    def to_dict(self) -> dict[str, Any]:
        """For config.json; the direction is base64 of little-endian float32."""
        return {
            "weights": dict(zip(SIGNALS, self.weights.round(6).tolist(), strict=True)),
            "bias": round(self.bias, 6),
            "bar": self.bar,
            "direction": base64.b64encode(self.direction.astype("<f4").tobytes()).decode("ascii"),
            "offset": round(self.offset, 6),
        }

    def digest(self) -> str:
        """A hash that identifies this calibration, twelve characters."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Confidence:
        """Raises KeyError, TypeError or ValueError for anything that `to_dict` did not write."""
        direction = np.frombuffer(base64.b64decode(saved["direction"], validate=True), "<f4").astype(np.float32)
        weights = [saved["weights"][name] for name in SIGNALS]
        numbers = [*weights, *(saved[name] for name in ("bias", "offset", "bar")), *direction.tolist()]
        if not all(type(number) in (int, float) and abs(number) < LARGEST for number in numbers):
            raise ValueError(f"the confidence is not made of numbers between -{LARGEST:g} and {LARGEST:g}")
        return cls(np.array(weights, float), saved["bias"], direction, saved["offset"], saved["bar"])


def word_signals(hypothesis: Hypothesis) -> tuple[float, float, float]:
    """weakest, total and peak."""
    end = hypothesis.end_log_probability
    values = np.array(hypothesis.log_probabilities + ([] if end is None else [end]))
    attention = hypothesis.attention  # (T, R)
    has_maps = attention is not None and attention.size > 0
    peak = float(np.log(attention.max(axis=1)).mean()) if attention is not None and has_maps else 0.0
    return float(np.sort(values)[:LOWEST].mean()), float(values.sum()), peak
