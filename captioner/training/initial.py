"""Initial weights from a captioner checkpoint, of a language model or a captioner. Tensors are matched by name, and the
rows of the embedding and output layers by word: words that both models know keep their rows. New words get random rows
around the mean of the known ones, with their spread, and the lowest of their biases. With larger rows, or a bias of 0,
new words would be in every caption (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models")."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captioner.checkpoint.manifest import LANGUAGE_MODEL, CheckpointError, find_checkpoint
from captioner.checkpoint.tensors import load_checkpoint
from captioner.config import ModelConfig, RecurrentConfig
from captioner.decoder import Decoder
from captioner.vocabulary import SPECIALS, Vocabulary

WORDS = ("embedding.weight", "output.weight", "output.bias", "bias")  # a row per word
PHOTOS = ("first", "attention", "combine")  # the decoder's parts that read features


class Initial(NamedTuple):
    """A checkpoint to start from."""

    directory: Path
    tensors: dict[str, Tensor]  # of the decoder, by its own names
    saved: dict[str, Any]  # its config.json

    @classmethod
    def load(cls, checkpoint: str | Path, level: str = "word") -> Initial:
        """Raises CheckpointError if there is no checkpoint, or if it is a language model of another level."""
        directory = find_checkpoint(checkpoint)
        tensors, saved = load_checkpoint(directory)
        if (found := saved.get("level", "word")) != level:
            raise CheckpointError(f"{directory} is a {found} model; expected a {level} model.")
        own = {name.removeprefix("decoder."): tensor for name, tensor in tensors.items() if name[:8] != "encoder."}
        return cls(directory, own, saved)

    @property
    def captions(self) -> bool:
        return self.saved.get("kind") != LANGUAGE_MODEL

    def has_encoder(self, name: str) -> bool:
        return self.captions and self.saved["model"]["encoder"] == name

    def vocabulary(self, words: Vocabulary) -> Vocabulary:
        """The words of the new data. If the checkpoint is a captioner, its other words follow."""
        if not self.captions:
            return words
        return Vocabulary([*words.words, *(word for word in self.saved["vocabulary"] if word not in words)])

    def place(self, decoder: Decoder, vocabulary: Vocabulary, config: RecurrentConfig) -> None:
        """Copy everything that fits from the checkpoint into a new decoder, and print what was copied.

        Raises ValueError if the recurrent parts differ in their sizes."""
        self._check(config)
        photos = isinstance(config, ModelConfig) and self.has_encoder(config.encoder)
        known = {word: row for row, word in enumerate((*SPECIALS, *self.saved["vocabulary"]))}
        both = [(row, known[word]) for row, word in enumerate((*SPECIALS, *vocabulary.words)) if word in known]
        ours, theirs = (list(rows) for rows in zip(*both, strict=True))
        unknown = [row for row, word in enumerate(vocabulary.words, len(SPECIALS)) if word not in known]
        new: set[str] = set()
        with torch.no_grad():
            for name, tensor in decoder.state_dict().items():
                part = name.partition(".")[0]
                source = self.tensors.get(name)
                if name in WORDS:
                    assert source is not None
                    rows = tensor[ours] = source[theirs].to(tensor.device)
                    tensor[unknown] = _like(rows[len(SPECIALS) :], tensor[unknown])
                elif source is None or source.shape != tensor.shape or (part in PHOTOS and not photos):
                    new.add(part)
                else:
                    tensor.copy_(source)
        self._print(vocabulary, len(both) - len(SPECIALS), known, sorted(new))

    def _check(self, config: RecurrentConfig) -> None:
        for each in fields(RecurrentConfig):
            theirs, ours = self.saved["model"][each.name], getattr(config, each.name)
            if each.name != "dropout" and theirs != ours:
                option = f"--model.{each.name.replace('_', '-')}"
                raise ValueError(
                    f"{self.directory} was trained with {option} {theirs}; here it is {ours}. Pass {option} {theirs}."
                )

    def _print(self, vocabulary: Vocabulary, kept: int, known: dict[str, int], new: list[str]) -> None:
        kind = "a captioner" if self.captions else "a language model"
        fresh = [word for word in vocabulary.words if word not in known]
        such = f", such as {', '.join(fresh[:3])}" if fresh else ""
        print(f"init    {self.directory}, {kind}: {kept} words kept, {len(fresh)} new{such}")
        if new:
            print(f"        at random: {', '.join(new)}")


def _like(known: Tensor, drawn: Tensor) -> Tensor:
    """Random rows `drawn`, shifted to the mean of the `known` ones and scaled to their spread; for biases, the lowest
    known one."""
    if not (len(known) and len(drawn)):
        return drawn
    if known.dim() == 1:
        return known.min().expand_as(drawn)
    mean = known.mean(0)
    spread = (known - mean).square().mean().sqrt() / drawn.square().mean().sqrt().clamp(min=1e-12)
    return mean + spread * drawn
