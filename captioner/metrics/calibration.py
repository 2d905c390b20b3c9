"""How well confidence is calibrated: of the captions with confidence 0.7, are 70 % right? Confidences and scores are
arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10
SAMPLES = 200  # of a perfectly calibrated model
ERRORS = ("calibration_error", "calibration_error_by_chance")


@dataclass(frozen=True)
class Calibration:
    """The confidences of N captions, their CIDEr-D, and which of them are right."""

    confidence: np.ndarray
    scores: np.ndarray
    right: np.ndarray

    def to_dict(self) -> dict[str, float]:
        more, less = self.halves()
        return {
            "mean_confidence": float(self.confidence.mean()),
            "right": float(self.right.mean()),
            "calibration_error": calibration_error(self.confidence, self.right),
            "calibration_error_by_chance": error_by_chance(self.confidence),
            "CIDEr-D_of_the_more_confident_half": more,
            "CIDEr-D_of_the_less_confident_half": less,
        }

    def halves(self) -> tuple[float, float]:
        order = np.argsort(-self.confidence, kind="stable")
        middle = (len(order) + 1) // 2
        return float(self.scores[order[:middle]].mean()), float(self.scores[order[middle:]].mean())

    def __str__(self) -> str:
        figures = self.to_dict()
        more, less = self.halves()
        mean, error, chance = (figures[name] for name in ("mean_confidence", *ERRORS))
        return (
            f"confidence     {mean:.3f}  on average; {figures['right']:.3f} of the captions are right\n"
            f"  error        {error:.3f}  expected calibration error, {BINS} bins ({chance:.3f} by chance)\n"
            f"  halves       {more:.3f}  CIDEr-D of the more confident half, {less:.3f} of the other"
        )


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """The expected calibration error (Naeini et al. 2015; Guo et al. 2017, eq. 3): the mean over the captions (N,) of
    the distance between mean confidence and share of right captions in their bin, one of `bins` of equal width."""
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(places, confidence - right, minlength=bins)  # (bins,) sums
    return float(np.abs(gaps).sum() / len(confidence))


def error_by_chance(confidence: np.ndarray, seed: int = 0) -> float:
    """The calibration error to expect if each caption is right with exactly its confidence: large for few captions."""
    random = np.random.default_rng(seed)
    draws = random.random((SAMPLES, len(confidence))) < confidence
    return float(np.mean([calibration_error(confidence, draw) for draw in draws]))
