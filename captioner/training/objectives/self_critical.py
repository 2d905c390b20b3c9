"""Self-critical training (Rennie et al. 2017): the gradient of the expected reward of the captions that the model
generates. The loss is the cross-entropy of sampled captions, each weighted by how much its reward exceeds a baseline,
plus a small cross-entropy of human captions, which keeps the language natural.

Captions are sampled and scored without dropout and at the same temperature. Otherwise the log-probabilities of the
second pass would be those of another distribution than the one sampled from. At a temperature below 1 the samples are
closer to the captions that a search finds, so training improves those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captioner.data.datasets import Batch
from captioner.decoder import Decoder, Memory
from captioner.training.objectives import Forward, Loss
from captioner.training.objectives.cross_entropy import cross_entropy
from captioner.training.rewards import CaptionReward, leave_one_out, over_greedy
from captioner.training.sampling import allowed, draw, inputs_of, through_end, without_dropout
from captioner.vocabulary import PAD, tokenize

if TYPE_CHECKING:
    from captioner.training.caption_run import CaptionRun

COLLAPSED = 0.5  # share of a batch's photos whose first samples are distinct; a healthy model has over 0.9
MEMORY = 0.98  # decay of the moving average of that share: about fifty steps


def policy_gradient(logits: Tensor, words: Tensor, advantages: Tensor) -> Tensor:
    """The sum of -A log p(w) for logits (n, V), the words drawn from them (n,) and their captions' advantages (n,). Its
    gradient estimates that of the negative expected reward (REINFORCE, Williams 1992)."""
    return (F.cross_entropy(logits.float(), words, reduction="none") * advantages).sum()


class SelfCritical(nn.Module):
    """Samples captions of each photo, scores them, and makes those that beat the baseline more probable. The baseline
    is the mean reward of the photo's other samples (Luo 2020), or the reward of its greedy caption."""

    distinct: Tensor  # moving average of the share of distinct captions; a buffer, so it is resumed with the run

    def __init__(
        self,
        reward: CaptionReward,
        numbers: Mapping[int | str, int],
        samples: int,
        baseline: Literal["others", "greedy"],
        max_length: int,
        temperature: float,
        cross_entropy_weight: float,
        learning_rate_scale: float = 1.0,
    ):
        """`numbers`: record id -> the index of its photo in the reward."""
        super().__init__()
        self.reward, self.numbers = reward, numbers
        self.samples, self.baseline, self.max_length = samples, baseline, max_length
        self.temperature, self.cross_entropy_weight = temperature, cross_entropy_weight
        self.learning_rate_scale = learning_rate_scale
        self.register_buffer("distinct", torch.ones(()))

    def forward(self, run: CaptionRun, batch: Batch) -> Loss:
        decoder = run.model.decoder
        features = run.model.features(batch.images)
        with without_dropout(decoder):
            memory = decoder.prepare(features)
            tokens = draw(decoder, memory, self.samples, self.max_length, self.temperature)  # (B·S, T)
            greedy = draw(decoder, memory, 1, self.max_length, greedy=True) if self.baseline == "greedy" else None
            drawn = through_end(tokens)
            hidden, attention, _ = decoder.hidden_states(inputs_of(tokens), memory)  # (B·S, T, H)
            logits = allowed(decoder.logits(hidden[drawn]), self.temperature)  # (n, V)
            read = self._read(decoder, memory, batch) if self.cross_entropy_weight else None
        photos = [self.numbers[identity] for identity in batch.ids]
        rewards = self._rewards(tokens, photos)  # (B, S)
        others = leave_one_out(rewards) if greedy is None else over_greedy(rewards, self._rewards(greedy, photos)[:, 0])
        advantages = torch.from_numpy(others).to(logits).reshape(-1, 1).expand_as(tokens)  # (B·S, T)
        total = policy_gradient(logits, tokens[drawn], advantages[drawn])
        figures: dict[str, tuple[Tensor, Tensor | int]] = {
            "reward": (torch.tensor(rewards.sum()), rewards.size),
            "distinct": (self._watch(tokens.masked_fill(~drawn, PAD)[:: self.samples]) * len(photos), len(photos)),
        }
        if read is not None:
            total = total + self.cross_entropy_weight * read
            figures["cross_entropy"] = (read.detach(), (batch.targets != PAD).sum())
        return Loss(total, drawn.sum(), figures, Forward(features, hidden, attention, logits, tokens, drawn))

    def _read(self, decoder: Decoder, memory: Memory, batch: Batch) -> Tensor:
        """The summed cross-entropy of human captions, without label smoothing."""
        real = batch.targets != PAD  # (N, T)
        return cross_entropy(decoder(batch.inputs, memory, real=real)[0], batch.targets[real])

    def _rewards(self, tokens: Tensor, photos: list[int]) -> np.ndarray:
        """Captions (B·S, T) -> rewards (B, S)."""
        samples = len(tokens) // len(photos)
        return self.reward(tokens.cpu().numpy(), np.repeat(photos, samples)).reshape(-1, samples)

    def _watch(self, tokens: Tensor) -> Tensor:
        """The share of distinct captions among those of different photos (B, T); samples of one photo may well be
        equal. Raises ValueError once the share has been low for many steps."""
        share = tokens.new_tensor(len(torch.unique(tokens, dim=0)) / len(tokens), dtype=torch.float32)
        self.distinct.lerp_(share, 1 - MEMORY)
        if self.distinct < COLLAPSED:
            raise ValueError(
                f"self-critical training has collapsed: only {self.distinct:.0%} of the photos in a batch get captions "
                "that differ. best/ holds the best model so far. Try a smaller --self-critical.learning-rate-scale, or "
                "train longer with cross-entropy first."
            )
        return share


def build(run: CaptionRun) -> SelfCritical:
    config = run.config.self_critical
    records = run.training.records
    references = [[tokenize(caption) for caption in record.captions] for record in records]
    reward = CaptionReward(references, run.captioner.vocabulary, config.bleu, config.wrong_object)
    numbers = {record.id: number for number, record in enumerate(records)}
    max_length = run.config.decoding.max_length
    return SelfCritical(
        reward, numbers, config.samples, config.baseline, max_length, config.temperature, config.cross_entropy,
        config.learning_rate_scale,
    )  # fmt: skip
