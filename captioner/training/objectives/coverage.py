"""Attention that looks everywhere in the course of a caption: the "doubly stochastic" penalty of Xu et al. 2015, "Show,
Attend and Tell", section 4.2.1."""

from __future__ import annotations

from torch import Tensor


def coverage(attention: Tensor, real: Tensor, target: float = 1.0) -> Tensor:
    """Attention (N, T, R) and its real tokens (N, T) -> Σ_n Σ_i (target - Σ_t α_nti)², the second term of eq. 14: what
    each region is given over a caption should sum to one. Rows without a real token, which are padding, count nothing.
    """
    given = (attention.float() * real[..., None]).sum(1)  # (N, R)
    return ((target - given).square().sum(1) * real.any(1)).sum()
