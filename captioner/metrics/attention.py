"""Statistics of a caption's attention maps, and a warning if the maps carry no information about the words. Pictures of
the maps are in `visualize`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Total-variation distance: the share of the attention that must move to turn one map into another. Two maps that are
# closer than 0.1 look the same. For comparison: in each of 150 Flickr8k dev captions of the shipped model, the largest
# distance of a map from the mean map is at least 0.30, and from the uniform map at least 0.26.
SAME = 0.1


@dataclass(frozen=True)
class AttentionStatistics:
    """Statistics of the attention maps of a caption of T words over R regions."""

    entropy: tuple[float, ...]
    """The entropy of each word's map, in nats: 0 if one region has all attention, log R if the map is uniform."""
    movement: tuple[float, ...]
    """The total-variation distances between successive maps (T - 1 values): 0 if equal, 1 if disjoint."""
    entropy_share: float
    """The mean entropy divided by log R: 1 if all maps are uniform."""
    mean_movement: float
    """The mean of `movement`; 0 for a single word."""
    coverage: float
    """The share of the grid that the whole caption attends to: the perplexity of the mean map divided by R."""
    warning: str | None
    """A sentence if the maps carry no information about the words, else None."""

    def to_dict(self) -> dict[str, Any]:
        """The statistics as JSON-ready data, rounded."""
        return {
            "entropy": [round(value, 4) for value in self.entropy],
            "movement": [round(value, 4) for value in self.movement],
            "entropy_share": round(self.entropy_share, 4),
            "mean_movement": round(self.mean_movement, 4),
            "coverage": round(self.coverage, 4),
            "warning": self.warning,
        }


def attention_statistics(attention: np.ndarray) -> AttentionStatistics:
    """The statistics of one caption's maps (T, h, w) or (T, R). T is at least 1, and each map sums to 1. Raises
    ValueError for other arrays."""
    maps = np.asarray(attention, np.float64)
    if maps.size:
        maps = maps.reshape(len(maps), -1)  # (T, R)
    if not maps.size or (maps < 0).any() or not np.allclose(maps.sum(1), 1, atol=0.02):
        raise ValueError(
            f"attention of shape {np.shape(attention)} is not a stack of maps; expected at least one map of "
            "weights that are not negative and sum to 1."
        )
    maps = maps / maps.sum(1, keepdims=True)
    regions, mean = maps.shape[1], maps.mean(0)
    entropy, steps = entropies(maps), distances(maps[1:], maps[:-1])
    return AttentionStatistics(
        entropy=tuple(entropy.tolist()),
        movement=tuple(steps.tolist()),
        entropy_share=float(entropy.mean() / np.log(regions)) if regions > 1 else 0.0,
        mean_movement=float(steps.mean()) if len(steps) else 0.0,
        coverage=float(np.exp(entropies(mean)) / regions),
        warning=_warning(maps, mean),
    )


def entropies(maps: np.ndarray) -> np.ndarray:
    """The entropies (...) of maps (..., R), in nats."""
    return -(maps * np.log(np.where(maps > 0, maps, 1))).sum(-1)


def distances(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The total-variation distances (...) of maps (..., R), from 0 to 1."""
    return np.abs(maps - others).sum(-1) / 2


def _warning(maps: np.ndarray, mean: np.ndarray) -> str | None:
    if distances(maps, np.full_like(mean, 1 / len(mean))).max() < SAME:
        return "the attention is uniform: every word attends to the whole photo, so the maps carry no information."
    if len(maps) > 1 and distances(maps, mean).max() < SAME:
        return "the attention has collapsed: every word has the same map."
    return None


def summary(statistics: Sequence[AttentionStatistics]) -> dict[str, float]:
    """Means over captions, and `attention_warnings`, the share of captions with a warning. Empty without captions."""
    if not statistics:
        return {}
    return {
        "attention_entropy": float(np.mean([each.entropy_share for each in statistics])),
        "attention_movement": float(np.mean([each.mean_movement for each in statistics])),
        "attention_coverage": float(np.mean([each.coverage for each in statistics])),
        "attention_warnings": sum(each.warning is not None for each in statistics) / len(statistics),
    }
