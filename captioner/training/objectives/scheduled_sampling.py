"""Scheduled sampling (Bengio et al. 2015): in training the model reads some of its own words, as it does when it writes
captions. The paper reads a caption word by word and tosses a coin at each. Here are two parallel passes (Mihaylova and
Martins 2019; Duckworth et al. 2019): the first reads people's words and draws the model's, the second reads a mixture
of both. A whole caption remains one call."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mix(inputs: Tensor, drawn: Tensor, rate: float) -> Tensor:
    """Inputs (N, T), BOS first, and the words drawn after each of them (N, T) -> inputs of the second pass: each word
    is replaced, with probability `rate`, by the one that was drawn for its place. BOS is not."""
    replace = torch.rand(inputs[:, 1:].shape, device=inputs.device) < rate  # (N, T-1)
    return torch.cat([inputs[:, :1], torch.where(replace, drawn[:, :-1], inputs[:, 1:])], dim=1)


def linear(step: int, steps: int, rate: float) -> float:
    """The rate at `step` of `steps`: from 0 to `rate` in a line (the paper's linear decay, section 2.4, where ε = 1 -
    rate)."""
    return rate * min(1.0, step / max(1, steps))


def inverse_sigmoid(step: int, steps: int, rate: float) -> float:
    """The same with the paper's inverse sigmoid decay, ε = k / (k + exp(i / k)). k is chosen so that half of `rate` is
    reached at half of the steps."""
    k = half_point(steps / 2)
    return rate * (1 - k / (k + math.exp(min(step / k, 700))))


def half_point(step: float) -> float:
    """The k with k ln k = step, at which the inverse sigmoid is 1/2 there; at least e, for few steps."""
    k = max(step, math.e)
    for _ in range(50):  # Newton's method
        k = max(math.e, k - (k * math.log(k) - step) / (math.log(k) + 1))
    return k


SCHEDULES = {"linear": linear, "inverse-sigmoid": inverse_sigmoid}
