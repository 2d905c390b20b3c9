"""The settings of a model, which a checkpoint stores and from which the command line is made: the strings below the
fields are its help. A setting is checked where it is used, and where it is read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_type_hints

Config = TypeVar("Config", bound="RecurrentConfig")
Attention = Literal["general", "dot", "concat", "none"]
Cell = Literal["lstm", "gru", "rnn"]
EXPECTED = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
RANGES = {
    "embedding_size": (1, 65_536),
    "hidden_size": (1, 65_536),
    "layers_below": (1, 100),
    "layers_above": (0, 100),
    "dropout": (0, 1),
    "feature_dropout": (0, 1),
}


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

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
        """A config from a file that anyone may have written. Raises ValueError or TypeError."""
        config = cls(**values)
        for name, kind in get_type_hints(cls).items():
            value, names = getattr(config, name), get_args(kind)
            kinds = (int, float) if kind is float else str if names else kind
            if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"{name} is {value!r:.60}; expected {EXPECTED[str if names else kind]}.")
            if names and value not in names:
                raise ValueError(f"{name} is {value!r:.60}; expected one of: {', '.join(names)}.")
            number: Any = value
            if name in RANGES and not RANGES[name][0] <= number <= RANGES[name][1]:
                raise ValueError(f"{name} is {value!r:.60}; expected {RANGES[name][0]:,} to {RANGES[name][1]:,}.")
        return config


@dataclass(frozen=True)
class ModelConfig(RecurrentConfig):
    """The architecture of the network."""

    encoder: str = "mobilenet_v2"
    """Any torchvision classification CNN, by torchvision's name."""
    attention: Attention = "general"
    """Luong's score function, or none: the photo is only the first input (Show and Tell)."""
    feature_dropout: float = 0.0
    """Probability that a channel of the CNN's features is dropped in training, in all regions of a photo at once."""
