"""Losses. Each is a sum over tokens: the recipe divides by the number of tokens of the whole step, so that neither
padding nor the division of a batch among processes biases it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Summed cross-entropy in nats of logits (n, V) against word ids (n,); `label_smoothing` gives that share of the
    target to all words alike (Szegedy et al. 2016, section 7)."""
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing, reduction="sum")
