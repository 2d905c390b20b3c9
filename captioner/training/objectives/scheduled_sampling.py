"""Scheduled sampling (Bengio et al. 2015): in training the model reads some of its own words, as it does when it
generates captions. The paper goes word by word and tosses a coin at each. Here it is done in two parallel passes
(Mihaylova and Martins 2019; Duckworth et al. 2019): the first reads the human caption and samples the model's words,
the second reads a mixture of both. Each pass is one call for whole captions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from captioner.data.datasets import Batch
from captioner.decoder import Decoder, Memory
from captioner.training.objectives import Loss
from captioner.training.objectives.cross_entropy import cross_entropy, forward_pass
from captioner.training.sampling import allowed, drawn_from
from captioner.vocabulary import EOS, PAD

if TYPE_CHECKING:
    from captioner.training.caption_run import CaptionRun


def mix(inputs: Tensor, drawn: Tensor, rate: float) -> Tensor:
    """Inputs (N, T), BOS first, and the words drawn after each of them (N, T) -> inputs of the second pass: each word
    except BOS is replaced, with probability `rate`, by the word drawn at its position."""
    replace = torch.rand(inputs[:, 1:].shape, device=inputs.device) < rate  # (N, T-1)
    return torch.cat([inputs[:, :1], torch.where(replace, drawn[:, :-1], inputs[:, 1:])], dim=1)


def linear(step: int, steps: int, rate: float) -> float:
    """The rate at `step` of `steps`, rising linearly from 0 to `rate` (the paper's linear decay, section 2.4, where ε =
    1 - rate)."""
    return rate * min(1.0, step / max(1, steps))


def inverse_sigmoid(step: int, steps: int, rate: float) -> float:
    """The same with the paper's inverse sigmoid decay, ε = k / (k + exp(i / k)). k is chosen so that half of `rate` is
    reached after half of the steps."""
    k = half_point(steps / 2)
    return rate * (1 - k / (k + math.exp(min(step / k, 700))))


def half_point(step: float) -> float:
    """The k with k ln k = step, for which the inverse sigmoid is 1/2 at that step; at least e, for small `step`."""
    k = max(step, math.e)
    for _ in range(50):  # Newton's method
        k = max(math.e, k - (k * math.log(k) - step) / (math.log(k) + 1))
    return k


SCHEDULES = {"linear": linear, "inverse-sigmoid": inverse_sigmoid}


class ScheduledSampling(nn.Module):
    """The cross-entropy of human captions when some of the words read are the model's own. At rate 0 it is
    `cross_entropy`."""

    def __init__(self, rate: float, schedule: Literal["linear", "inverse-sigmoid"], label_smoothing: float):
        """`rate`: the share of the model's own words at the end of the stage."""
        super().__init__()
        self.rate, self.schedule = rate, SCHEDULES[schedule]
        self.label_smoothing = label_smoothing

    def forward(self, run: CaptionRun, batch: Batch) -> Loss:
        decoder, real = run.model.decoder, batch.targets != PAD  # (N, T)
        features = run.model.features(batch.images)
        memory = decoder.prepare(features)
        rate = self.schedule(run.stage_step, run.stage_steps, self.rate)
        inputs = batch.inputs
        if rate > 0:
            inputs = mix(inputs, self._draw(decoder, inputs, memory, real), rate)
        forward = forward_pass(decoder, features, memory, inputs, batch.targets)
        total = cross_entropy(forward.logits, batch.targets[real], self.label_smoothing)
        figures = {"rate": (torch.tensor(rate), 1)}
        return Loss(total, real.sum(), figures, forward)

    @torch.no_grad()
    def _draw(self, decoder: Decoder, inputs: Tensor, memory: Memory, real: Tensor) -> Tensor:
        """The word that the model draws after each input (N, T). It is never EOS, because nothing is read after EOS."""
        logits = allowed(decoder(inputs, memory, real=real)[0])  # (n, V)
        logits[:, EOS] = -torch.inf
        drawn = torch.full_like(inputs, PAD)
        drawn[real] = drawn_from(logits)[:, 0]
        return drawn


def build(run: CaptionRun) -> ScheduledSampling:
    config = run.config.scheduled_sampling
    return ScheduledSampling(config.rate, config.schedule, run.config.label_smoothing)
