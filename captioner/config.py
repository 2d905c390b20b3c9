"""The settings of a model, which a checkpoint stores and from which the command line is made: the strings below the
fields are its help. A setting is checked where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Attention = Literal["general", "dot", "concat", "none"]
Cell = Literal["lstm", "gru", "rnn"]


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    """The architecture of a language model, and of the recurrent part of a captioner."""

    embedding_size: int = 300
    """Size of a word vector, and of the photo's embedding, which is the first input."""
    hidden_size: int = 512
    """Size of the hidden state of a recurrent layer."""
    cell: Cell = "lstm"
    """Type of the recurrent layers."""
    layers_below: int = 1
    """Recurrent layers below the attention."""
    layers_above: int = 1
    """Recurrent layers above the attention; their state carries what was attended to."""
    dropout: float = 0.4
    """Probability that an activation is dropped in training."""
    tie_embeddings: bool = False
    """Use the input embeddings as the output layer."""


@dataclass(frozen=True)
class ModelConfig(RecurrentConfig):
    """The architecture of the network."""

    encoder: str = "mobilenet_v2"
    """Any torchvision classification CNN, by torchvision's name."""
    attention: Attention = "general"
    """Luong's score function, or none: the photo is only the first input (Show and Tell)."""
