"""Professor Forcing (Lamb et al. 2016): a discriminator learns to tell the hidden states of captions that are read from
those of captions that the model writes, and the model learns to make them alike, beside predicting words."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

FOOL_ABOVE = 0.75  # the model learns from a discriminator only if it is right more often than this,
TRAIN_BELOW = 0.99  # and the discriminator learns only while it is right less often than this (section 3)


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
        """The same, with gradients for the hidden states only."""
        weights = {name: weight.detach() for name, weight in self.named_parameters()}
        return functional_call(self, weights, (hidden, real))


def discrimination(read: Tensor, written: Tensor) -> Tensor:
    """C_d of eq. 2, summed: logits (N,) of captions read and (M,) of captions written."""
    return F.softplus(-read).sum() + F.softplus(written).sum()


def deception(read: Tensor, written: Tensor) -> Tensor:
    """C_f + C_t of eq. 4 and 5, summed: written captions are to look read, and read ones written."""
    return F.softplus(-written).sum() + F.softplus(read).sum()


def accuracy(read: Tensor, written: Tensor) -> Tensor:
    """Share of captions that the discriminator takes for what they are."""
    return torch.cat([read > 0, written <= 0]).float().mean()
