"""Teacher forcing: the model reads human captions and predicts each next word. Validation reports the same loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from captioner.data.datasets import Batch
from captioner.decoder import Decoder, Memory
from captioner.encoder import Features
from captioner.training.objectives import Forward, Loss
from captioner.vocabulary import PAD

if TYPE_CHECKING:
    from captioner.training.caption_run import CaptionRun


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Summed cross-entropy in nats of logits (n, V) against word ids (n,) or probabilities (n, V). `label_smoothing` is
    the share of the target that is spread evenly over all words (Szegedy et al. 2016, section 7)."""
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing, reduction="sum")


def forward_pass(decoder: Decoder, features: Features, memory: Memory, inputs: Tensor, targets: Tensor) -> Forward:
    """The decoder reads `inputs` (N, T) and predicts the tokens of `targets` (N, T) that are not padding. `memory` is
    what it has prepared from `features`."""
    real = targets != PAD  # (N, T)
    hidden, attention, _ = decoder.hidden_states(inputs, memory)  # (N, T, H)
    return Forward(features, hidden, attention, decoder.logits(hidden[real]), targets, real)


class CrossEntropy(nn.Module):
    """The cross-entropy of human captions, summed over their real tokens."""

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, run: CaptionRun, batch: Batch) -> Loss:
        decoder, features = run.model.decoder, run.model.features(batch.images)
        forward = forward_pass(decoder, features, decoder.prepare(features), batch.inputs, batch.targets)
        total = cross_entropy(forward.logits, batch.targets[forward.real], self.label_smoothing)
        return Loss(total, forward.real.sum(), forward=forward)


def build(run: CaptionRun) -> CrossEntropy:
    return CrossEntropy(run.config.label_smoothing)
