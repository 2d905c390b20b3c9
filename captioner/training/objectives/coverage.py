"""Attention that covers all regions over a caption: the "doubly stochastic" penalty of Xu et al. 2015, "Show, Attend
and Tell", section 4.2.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from captioner.data.datasets import Batch
from captioner.training.objectives import Forward

if TYPE_CHECKING:
    from captioner.training.caption_run import CaptionRun


def coverage(attention: Tensor, real: Tensor, target: float = 1.0) -> Tensor:
    """Attention (N, T, R) and its real tokens (N, T) -> Σ_n Σ_i (target - Σ_t α_nti)², the second term of eq. 14: the
    attention to each region should sum to one over a caption. Rows without a real token, which are padding, do not
    count.
    """
    given = (attention.float() * real[..., None]).sum(1)  # (N, R)
    return ((target - given).square().sum(1) * real.any(1)).sum()


class Coverage(nn.Module):
    """The penalty, times its weight λ."""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = weight

    def forward(self, run: CaptionRun, batch: Batch, forward: Forward) -> Tensor:
        assert forward.attention is not None
        return self.weight * coverage(forward.attention, forward.real)


def build(run: CaptionRun) -> Coverage:
    if run.model.decoder.attention is None:
        raise ValueError("coverage needs attention, but the model has none. Choose a --model.attention.")
    return Coverage(run.config.coverage)
