"""Teacher forcing: the model reads human captions and predicts each next word. Validation reports the same loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from captioner.data.datasets import Batch
from captioner.training.objectives import Forward, Loss
from captioner.vocabulary import PAD

if TYPE_CHECKING:
    from captioner.training.caption_run import CaptionRun


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Summed cross-entropy in nats of logits (n, V) against word ids (n,). `label_smoothing` is the share of the target
    that is spread evenly over all words (Szegedy et al. 2016, section 7)."""
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing, reduction="sum")


class CrossEntropy(nn.Module):
    """The cross-entropy of human captions, summed over their real tokens."""

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, run: CaptionRun, batch: Batch) -> Loss:
        real = batch.targets != PAD  # (N, T)
        features = run.model.features(batch.images)
        memory = run.model.decoder.prepare(features)
        hidden, attention, _ = run.model.decoder.hidden_states(batch.inputs, memory)  # (N, T, H)
        logits = run.model.decoder.logits(hidden[real])  # (n, V)
        total = cross_entropy(logits, batch.targets[real], self.label_smoothing)
        return Loss(total, real.sum(), forward=Forward(features, hidden, attention, logits, batch.targets, real))


def build(run: CaptionRun) -> CrossEntropy:
    return CrossEntropy(run.config.label_smoothing)
