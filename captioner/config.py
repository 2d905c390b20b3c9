"""The typed settings from which the command line is made and which a checkpoint keeps; the strings below the fields are
the command line's help. Values only: what they mean is done elsewhere, and each is checked where it is used."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from captioner.decoding import Decoding

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


@dataclass(frozen=True)
class AugmentConfig:
    """How a training photo is varied in the joint stages (never when captioning)."""

    smallest_crop: float = 0.7
    """Least share of the photo that a random crop keeps; 1 for no crop."""
    flip: bool = True
    """Mirror half of the photos (and swap the words left and right)."""
    colour: float = 0.2
    """Change brightness, contrast and saturation by up to this share."""


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
