"""The captioning model: a CNN encoder and a word decoder as one module. Also the functions that build it, or a language
model (the decoder alone), from a config. Search, training and files are not here."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from captioner.config import ModelConfig, RecurrentConfig
from captioner.decoder import Decoder, Memory, State
from captioner.encoder import Encoder, Features


class CaptionModel(nn.Module):
    def __init__(self, encoder: Encoder, decoder: Decoder):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @property
    def device(self) -> torch.device:
        return self.decoder.embedding.weight.device

    def features(self, images: Tensor | Features) -> Features:
        """Preprocessed photos (B, 3, S, S) -> their features. Features, which may be cached, pass through."""
        return images if isinstance(images, Features) else self.encoder(images)

    def encode(self, images: Tensor | Features) -> Memory:
        """Preprocessed photos (B, 3, S, S), or their features -> what the decoder needs of them."""
        return self.decoder.prepare(self.features(images))

    def forward(
        self, images: Tensor | Features, tokens: Tensor, real: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, State]:
        """Photos (B, 3, S, S), or their cached features, and tokens (B·C, T) -> what `Decoder.forward` gives."""
        return self.decoder(tokens, self.encode(images), real=real)


def build_model(config: ModelConfig, vocabulary_size: int, weights: str | None = None) -> CaptionModel:
    """The model that the config describes. `weights` are the CNN's (see `Encoder`); the decoder starts at random."""
    encoder = Encoder(config.encoder, weights)
    sizes = (vocabulary_size, encoder.pooled_size, encoder.grid_size)
    decoder = Decoder(
        *sizes, attention=config.attention, feature_dropout=config.feature_dropout, **recurrent_settings(config)
    )
    return CaptionModel(encoder, decoder)


def build_language_model(config: RecurrentConfig, vocabulary_size: int) -> Decoder:
    """A randomly initialised decoder without weights for photos, to be called without `memory`."""
    return Decoder(vocabulary_size, 0, 0, **recurrent_settings(config))


def recurrent_settings(config: RecurrentConfig) -> dict[str, Any]:
    return {each.name: getattr(config, each.name) for each in fields(RecurrentConfig)}
