"""The typed settings from which the command line is made and which a checkpoint keeps; the strings below the fields are
the command line's help. Values only: what they mean is done elsewhere, and each is checked where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Attention = Literal["general", "dot", "concat", "none"]
Cell = Literal["lstm", "gru", "rnn"]


@dataclass(frozen=True)
class ModelConfig:
    """What the network is."""

    encoder: str = "mobilenet_v2"
    """Any torchvision classification CNN, by torchvision's name."""
    embedding_size: int = 300
    """Size of a word vector (and of the photo, as the first input)."""
    hidden_size: int = 512
    """Size of a recurrent layer."""
    cell: Cell = "lstm"
    """Kind of recurrent layer."""
    layers_below: int = 1
    """Recurrent layers below the attention."""
    layers_above: int = 1
    """Recurrent layers above it, which remember where the model looked."""
    attention: Attention = "general"
    """Luong's score; none is Show and Tell: the photo is seen once."""
    dropout: float = 0.4
    """Share of activations dropped in training."""
    tie_embeddings: bool = False
    """Predict words with the input embeddings."""
