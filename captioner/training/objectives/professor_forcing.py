"""Professor Forcing (Lamb et al. 2016): a discriminator learns to tell the hidden states under teacher forcing from
those of captions that the model generates. Besides predicting words, the model learns to make the two
indistinguishable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from captioner.data.datasets import Batch
from captioner.training.objectives import Loss
from captioner.training.objectives.cross_entropy import cross_entropy, forward_pass
from captioner.training.sampling import draw, inputs_of, through_end, without_dropout

if TYPE_CHECKING:
    from captioner.training.caption_run import CaptionRun

# Bounds of section 3 on the discriminator's accuracy. They are applied to the accuracy of the previous step, because
# that of the current one is known only at its end, and parts of a batch could decide differently.
FOOL_ABOVE = 0.75  # the discriminator trains the model only if it is right more often than this,
TRAIN_BELOW = 0.99  # and the discriminator learns only while it is right less often than this


class Discriminator(nn.Module):
    """Hidden states -> whether people wrote the caption: a bidirectional GRU, then at each step the same network of
    three layers, whose outputs are averaged over the caption (section 3 of the paper)."""

    def __init__(self, input_size: int, hidden_size: int = 256):
        super().__init__()
        self.recurrent = nn.GRU(input_size, hidden_size, batch_first=True, bidirectional=True)
        self.layers = nn.Sequential(
            nn.Linear(2 * hidden_size, hidden_size), nn.ReLU(),
            nn.Linear(hidden_size, hidden_size), nn.ReLU(),
            nn.Linear(hidden_size, 1),
        )  # fmt: skip

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """Hidden states (N, T, H) and mask (N, T), a prefix of each row and not empty -> logits (N,)."""
        lengths = real.sum(1)
        packed = pack_padded_sequence(hidden, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, total_length=hidden.shape[1])
        outputs = self.layers(states).squeeze(-1)  # (N, T)
        return (outputs * real).sum(1) / lengths

    def frozen(self, hidden: Tensor, real: Tensor) -> Tensor:
        """The same, with gradients only for the hidden states."""
        weights = {name: weight.detach() for name, weight in self.named_parameters()}
        return functional_call(self, weights, (hidden, real))


def discrimination(read: Tensor, written: Tensor) -> Tensor:
    """C_d of eq. 2, summed: logits (N,) of human captions and (M,) of generated captions."""
    return F.softplus(-read).sum() + F.softplus(written).sum()


def deception(read: Tensor, written: Tensor) -> Tensor:
    """C_f + C_t of eq. 4 and 5, summed: generated captions should look like human ones, and vice versa."""
    return F.softplus(-written).sum() + F.softplus(read).sum()


def recognised(read: Tensor, written: Tensor) -> Tensor:
    """Number of captions that the discriminator classifies correctly."""
    return (read > 0).sum() + (written <= 0).sum()


class ProfessorForcing(nn.Module):
    """The cross-entropy of human captions, plus the adversarial losses of model and discriminator. Both are in one sum,
    because neither has gradients for the other's weights. For each human caption the model generates one of the same
    photo: its words are sampled first, then read in one pass with gradients."""

    def __init__(self, discriminator: Discriminator, weight: float, label_smoothing: float, max_length: int):
        super().__init__()
        self.discriminator = discriminator
        self.weight, self.label_smoothing, self.max_length = weight, label_smoothing, max_length

    def forward(self, run: CaptionRun, batch: Batch) -> Loss:
        decoder, features = run.model.decoder, run.model.features(batch.images)
        memory = decoder.prepare(features)
        forward = forward_pass(decoder, features, memory, batch.inputs, batch.targets)
        real = forward.real  # (N, T)
        total = cross_entropy(forward.logits, batch.targets[real], self.label_smoothing)

        with without_dropout(decoder), torch.no_grad():
            words = draw(decoder, decoder.prepare(features), len(real) // len(batch.ids), self.max_length)
        free, _, _ = decoder.hidden_states(inputs_of(words), memory)
        rows, drawn = real.any(1), through_end(words)
        sides = (forward.hidden[rows], real[rows]), (free[rows], drawn[rows])
        read, written = (self.discriminator(states.detach(), mask) for states, mask in sides)
        accuracy = run.progress.figures.get("discriminator_accuracy", 0.5)
        if accuracy < TRAIN_BELOW:
            total = total + discrimination(read, written)
        if accuracy > FOOL_ABOVE:
            total = total + self.weight * deception(*(self.discriminator.frozen(*side) for side in sides))
        figures = {"discriminator_accuracy": (recognised(read, written), len(read) + len(written))}
        return Loss(total, real.sum(), figures, forward)


def build(run: CaptionRun) -> ProfessorForcing:
    config = run.config
    discriminator = Discriminator(config.model.hidden_size)
    weight = config.professor_forcing.weight
    return ProfessorForcing(discriminator, weight, config.label_smoothing, config.decoding.max_length)
