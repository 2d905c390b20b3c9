"""A language model: the decoder without photos, and its vocabulary of words or characters. `captioner pretrain` trains
it; `captioner train --init` starts a captioner from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captioner.backends.torch_backend import choose_words
from captioner.checkpoint.manifest import AGAIN, CONFIG, LANGUAGE_MODEL, CheckpointError, find_checkpoint
from captioner.checkpoint.tensors import load_checkpoint, load_into
from captioner.config import RecurrentConfig
from captioner.data.text import Document, Level
from captioner.decoder import Decoder
from captioner.device import choose_device
from captioner.model import build_language_model
from captioner.step import Choose
from captioner.vocabulary import BOS, EOS, PAD, UNK, Vocabulary, detokenize, tokenize


class LanguageModel:
    """`LanguageModel.load("runs/text/best").write(200)`"""

    def __init__(
        self, decoder: Decoder, vocabulary: Vocabulary, config: RecurrentConfig, level: Level, document: Document
    ):
        self.decoder = decoder
        self.vocabulary = vocabulary
        self.config = config
        self.level = level
        self.document = document

    @classmethod
    def load(cls, checkpoint: str | Path, device: str = "auto") -> LanguageModel:
        """Raises CheckpointError (a ValueError) naming what is wrong with the directory."""
        directory = find_checkpoint(checkpoint)
        tensors, saved = load_checkpoint(directory)
        if saved.get("kind") != LANGUAGE_MODEL:
            raise CheckpointError(
                f"{directory} is a captioner, not a language model. Pass a checkpoint of captioner pretrain."
            )
        model = cls.build(saved, directory)
        load_into(model.decoder, tensors, directory)
        model.decoder.to(choose_device(device))
        return model

    @classmethod
    def build(cls, saved: Mapping[str, Any], source: Path) -> LanguageModel:
        """The model that a config.json describes, with random weights."""
        try:
            config, vocabulary = RecurrentConfig.from_dict(saved["model"]), Vocabulary(saved["vocabulary"])
            level, document = saved["level"], saved["document"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{source / CONFIG} describes no language model ({error}). {AGAIN}") from None
        return cls(build_language_model(config, len(vocabulary)), vocabulary, config, level, document)

    def to_config(self) -> dict[str, Any]:
        """The entries of a checkpoint's config.json that describe the model."""
        return {
            "kind": LANGUAGE_MODEL,
            "model": asdict(self.config),
            "level": self.level,
            "document": self.document,
            "vocabulary": list(self.vocabulary.words),
        }

    @torch.inference_mode()
    def write(
        self,
        length: int,
        prompt: str = "",
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str:
        """Sample `length` tokens (words and line ends, or characters) that continue the prompt. Returns the prompt and
        its continuation. When a document ends, a new one begins.

        Raises ValueError for sampling settings out of range, and for a prompt with unknown words or characters.
        """
        for name, value, good in (
            ("length", length, length >= 1),
            ("temperature", temperature, temperature > 0),
            ("top_k", top_k, top_k >= 0),
            ("top_p", top_p, 0 < top_p <= 1),
        ):
            if not good:
                raise ValueError(f"{name} is {value}; expected a number above 0{' and at most 1' * (name == 'top_p')}.")
        tokens = self._encode(prompt)
        uniforms = np.random.default_rng(seed).random((length, 1, 1))
        decoder = self.decoder.eval()
        device = decoder.embedding.weight.device
        state, fed = None, [BOS, *tokens]
        for uniform in uniforms:
            logits, _, state = decoder(torch.tensor([fed], device=device), None, state)  # (1, T, V)
            token = sample(logits[:, -1], Choose(uniforms=uniform, temperature=temperature, top_k=top_k, top_p=top_p))
            tokens.append(token)
            fed = [token]
            if token == EOS and not self._ends_lines:
                state, fed = None, [BOS]
        return self._decode(tokens)

    @property
    def _ends_lines(self) -> bool:
        """Whether EOS ends a line, after which the document continues."""
        return self.level == "word" and self.document == "file"

    def _encode(self, prompt: str) -> list[int]:
        tokens = list(prompt) if self.level == "character" else tokenize(prompt)
        unknown = [token for token in dict.fromkeys(tokens) if token not in self.vocabulary]
        if unknown:
            raise ValueError(f"the model does not know {', '.join(map(repr, unknown))}. Choose another prompt.")
        return self.vocabulary.encode(tokens)

    def _decode(self, tokens: list[int]) -> str:
        if self.level == "character":
            return "".join("\n" if token == EOS else self.vocabulary[token] for token in tokens)
        lines: list[list[str]] = [[]]
        for token in tokens:
            if token == EOS:
                lines.append([])
            else:
                lines[-1].append(self.vocabulary[token])
        return "\n".join(map(detokenize, lines))


def sample(logits: Tensor, choose: Choose) -> int:
    """Logits (1, V) -> a token. PAD, BOS and UNK are never sampled."""
    logits = logits.clone()
    logits[:, [PAD, BOS, UNK]] = -torch.inf
    return int(choose_words(logits, choose).words[0, 0])
