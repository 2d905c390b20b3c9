"""The settings of a training run, from which the command line is made: values, the stages they
spell, and the check that a number can be used at all. The strings below the fields are the command line's help. Nothing
here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from captioner.config import ModelConfig
from captioner.data.augment import AugmentConfig
from captioner.decoding import Decoding


@dataclass(frozen=True)
class Stage:
    """Some epochs of training; the CNN learns from `block` up, or not at all."""

    block: str | None
    epochs: int

    @property
    def name(self) -> str:
        return self.block or "decoder"


@dataclass(frozen=True)
class TrainConfig:
    """Train a model: CNN and RNN, in stages, on Flickr8k, Flickr30k, COCO or your own photos."""

    data: Path
    """Folder of the data set (its format is found from what lies in it)."""
    output: Path
    """Folder of the run: best/, last/, log.jsonl, curves.png, TensorBoard."""
    model: ModelConfig = field(default_factory=ModelConfig)
    weights: str = "DEFAULT"
    """The CNN's first weights: a name of torchvision's, a .safetensors or .pth file, a checkpoint of ours, or none."""
    stages: tuple[str, ...] = ("decoder:10", "features.14:3", "features.7:7")
    """What learns, for how many epochs: `decoder:N` over the frozen CNN, `BLOCK:N` with the CNN from that block up."""
    batch_size: int = 16
    """Photos a batch, each with all its captions."""
    learning_rate: float = 1e-3
    """Peak learning rate of the decoder alone."""
    joint_learning_rate: float = 4e-4
    """Peak learning rate of the decoder when the CNN learns too."""
    encoder_learning_rate: float = 1e-4
    """Peak learning rate of the CNN."""
    warmup: float = 0.05
    """Share of a stage's steps in which the learning rates rise; then they fall as a cosine."""
    weight_decay: float = 0.01
    """AdamW's weight decay (of matrices; never of biases, norms and embeddings)."""
    label_smoothing: float = 0.1
    """Share of the target given to all words alike."""
    clip: float = 5.0
    """Largest norm of the gradient."""
    train_batch_norm: bool = False
    """Let batch norm learn (only for a CNN that starts from nothing)."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    image_size: int = 0
    """Side of the square that the CNN sees, in pixels; 0 for the size that its weights were made for."""
    min_count: int = 5
    """A word must be seen so often in the training captions to be learned."""
    max_length: int = 40
    """Training captions are cut to so many words."""
    decoding: Decoding = field(default_factory=Decoding)
    patience: int = 4
    """Epochs without a better CIDEr-D before a stage ends early; 0 for never."""
    save_every: int = 200
    """Steps between saves of last/ (and at the end of each epoch)."""
    workers: int = 1
    """Processes that read photos; 0 reads them in the main one."""
    seed: int = 0
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, mps."""
    cache: Path | None = None
    """Where features of the frozen CNN are kept (by default in the run's folder)."""
    resume: bool = False
    """Go on with the run in --output, exactly where it was."""
    limit: int = 0
    """Use only so many photos of each split, to try things out; 0 for all."""


def check_settings(config: TrainConfig) -> None:
    """Raise ValueError for a number that no training can use. What a setting names is checked where it is looked up."""

    def check(good: Callable[[Any], bool], expected: str, *names: str) -> None:
        for name in names:
            value = attrgetter(name)(config)
            if not good(value):
                raise ValueError(f"--{name.replace('_', '-')} is {value!r}; expected {expected}.")

    check(lambda x: len(x) >= 1, "a stage or more, such as decoder:10", "stages")
    check(lambda x: x >= 1, "1 or more", "batch_size", "min_count", "max_length")
    check(lambda x: x >= 1, "1 or more", "model.embedding_size", "model.hidden_size")
    check(lambda x: x >= 0, "0 or more", "image_size", "weight_decay", "patience", "save_every")
    check(lambda x: x >= 0, "0 or more", "workers", "seed", "limit")
    check(lambda x: x > 0, "above 0", "learning_rate", "joint_learning_rate", "encoder_learning_rate")
    check(lambda x: x > 0, "above 0 (inf for no clipping)", "clip")
    check(lambda x: 0 <= x <= 1, "0 to 1", "warmup", "augment.colour")
    check(lambda x: 0 <= x < 1, "0 or more and below 1", "label_smoothing", "model.dropout")
    check(lambda x: 0 < x <= 1, "above 0 and at most 1 (no crop)", "augment.smallest_crop")


def parse_stage(text: str) -> Stage:
    """`decoder:10` or `features.14:5`."""
    name, colon, epochs = text.partition(":")
    if not (name and colon and epochs.isdigit() and int(epochs)):
        raise ValueError(
            f"stage {text!r} is not NAME:EPOCHS, such as decoder:10 (over the frozen CNN) or features.14:5 "
            "(the CNN learns from that block up)."
        )
    return Stage(None if name == "decoder" else name, int(epochs))
