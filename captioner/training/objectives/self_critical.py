"""Self-critical training (Rennie et al. 2017): the gradient of the expected reward of the captions that the model
writes. It is a cross-entropy of drawn captions, each weighted by how much better it is than a baseline."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def policy_gradient(logits: Tensor, words: Tensor, advantages: Tensor) -> Tensor:
    """Summed -A log p(w) of logits (n, V) and the words drawn from them (n,), with their captions' advantages (n,): its
    gradient is that of the negative expected reward (REINFORCE, Williams 1992)."""
    return (F.cross_entropy(logits.float(), words, reduction="none") * advantages).sum()
